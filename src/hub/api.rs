//! What the hub is asked and how its answers read.

use serde::Deserialize;

use super::client::{Client, Reply, header, reason};
use super::{HubError, Listing, Repo, RepoKind, names};

/// One repository at the hub.
pub(super) struct Api<'a> {
    pub(super) client: &'a Client,
    pub(super) repo: &'a Repo,
}

/// What a file is, before its content comes.
pub(super) struct Metadata {
    /// The name of its blob: a digest of the content.
    pub(super) etag: String,
    pub(super) size: Option<u64>,
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Api<'_> {
    /// The commit of the repository's revision and the names of its files.
    pub(super) fn listing(&self) -> Result<Listing, HubError> {
        let kind = match self.repo.kind {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
        };
        let (id, revision) = (&self.repo.id, names::encode_segment(self.repo.revision()));
        let address = format!("{}/api/{kind}/{id}/revision/{revision}", self.client.endpoint);
        let text = self.client.document(&address, &|reply| self.refused(reply, None))?;
        let answer: Answer = serde_json::from_slice(&text).map_err(|e| HubError::Protocol {
            address: address.clone(),
            message: format!("no listing of files ({e})"),
        })?;
        if !names::is_commit(&answer.sha) {
            return Err(HubError::Protocol { address, message: "its `sha` is no commit hash".into() });
        }
        let files: Vec<String> = answer.siblings.into_iter().map(|s| s.rfilename).collect();
        files.iter().try_for_each(|name| names::check_file(name))?;
        Ok(Listing { commit: answer.sha, files })
    }

    /// What a file is.
    pub(super) fn metadata(&self, commit: &str, name: &str) -> Result<Metadata, HubError> {
        let address = self.file_address(commit, name);
        let reply = self.client.head(&address)?;
        if !reply.status().is_success() && !reply.status().is_redirection() {
            return Err(self.refused(&reply, Some(name)));
        }
        let protocol = |message: String| HubError::Protocol { address: address.clone(), message };
        if let Some(other) = header(&reply, "x-repo-commit").filter(|c| *c != commit) {
            return Err(protocol(format!("it is of commit {other}, not {commit}")));
        }
        let etag = header(&reply, "x-linked-etag").or_else(|| header(&reply, "etag"));
        let etag =
            etag.and_then(names::blob_name).ok_or_else(|| protocol("no ETag that names a file's content".into()))?;
        // The length of a redirect is that of the redirect.
        let length = || header(&reply, "content-length").filter(|_| !reply.status().is_redirection());
        let size = header(&reply, "x-linked-size").or_else(length).and_then(|s| s.trim().parse().ok());
        Ok(Metadata { etag, size })
    }

    /// Where a file's content is.
    pub(super) fn file_address(&self, commit: &str, name: &str) -> String {
        format!("{}/resolve/{commit}/{}", self.page(), names::encode_path(name))
    }

    /// What an answer other than success means.
    pub(super) fn refused(&self, reply: &Reply, file: Option<&str>) -> HubError {
        let repo = self.repo.to_string();
        let endpoint = self.client.endpoint.clone();
        let status = reply.status().as_u16();
        match (status, header(reply, "x-error-code").unwrap_or_default(), file) {
            (_, "RevisionNotFound", _) => {
                HubError::RevisionNotFound { repo, revision: self.repo.revision().into(), endpoint }
            }
            (_, "EntryNotFound", Some(file)) => HubError::EntryNotFound { repo, file: file.into() },
            // The hub answers 401 for a repository that is not there, lest it tell which private ones are.
            (_, "RepoNotFound", _) | (404, _, None) => HubError::RepoNotFound { repo, endpoint },
            (404, _, Some(file)) => HubError::EntryNotFound { repo, file: file.into() },
            (401 | 403, code, _) => HubError::Denied { repo, status, reason: reason(reply), advice: self.advice(code) },
            _ => HubError::Status { address: self.page(), status, reason: reason(reply) },
        }
    }

    fn advice(&self, code: &str) -> String {
        let page = self.page();
        match (code, self.client.has_token()) {
            ("GatedRepo", true) => format!("accept its terms at {page}, as the user of the token in HF_TOKEN"),
            (_, true) => {
                format!("the token in HF_TOKEN does not open it: check it, and accept the terms at {page} if any")
            }
            (_, false) => {
                format!("set HF_TOKEN or run `hf auth login`, and accept the terms at {page} if it is a gated one")
            }
        }
    }

    /// The repository's page for people, which its files' addresses go on from.
    fn page(&self) -> String {
        let kind = match self.repo.kind {
            RepoKind::Model => "",
            RepoKind::Dataset => "datasets/",
        };
        format!("{}/{kind}{}", self.client.endpoint, self.repo.id)
    }
}
