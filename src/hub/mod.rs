//! Models and data by id: listings and files of a Hugging Face hub, through the cache that Python's `huggingface_hub` uses.
//!
//! Of hf-hub this takes the names of the cache's folders (0.5, without features). Its clients are not used: that of 1.0
//! is asynchronous, brings some 230 crates, and neither resumes nor checks what it downloads, nor knows `HF_HUB_OFFLINE`.

mod api;
mod cache;
mod client;
mod download;
mod error;
mod names;
mod part;
mod settings;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

pub use error::HubError;
pub use settings::{DEFAULT_ENDPOINT, Patience, Settings};

use api::{Api, Metadata};
use cache::CacheFolder;
use client::Client;
use download::Download;

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RepoKind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

/// A repository at a revision.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Repo {
    /// What it holds.
    pub kind: RepoKind,
    /// `name` or `org/name`.
    pub id: String,
    /// A branch, a tag or a commit hash; `main` where there is none.
    pub revision: Option<String>,
}

impl Repo {
    /// The revision's name.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    fn check(&self) -> Result<(), HubError> {
        names::check_id(&self.id)?;
        names::check_revision(self.revision())
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            RepoKind::Model => "model",
            RepoKind::Dataset => "data set",
        };
        write!(f, "{kind} {}", self.id)?;
        self.revision.as_ref().map_or(Ok(()), |revision| write!(f, " (revision {revision})"))
    }
}

/// What a repository's revision stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The full commit hash.
    pub commit: String,
    /// The files' names, with slashes.
    pub files: Vec<String>,
}

/// Files of one commit on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder that they lie in.
    pub folder: PathBuf,
    /// The full commit hash.
    pub commit: String,
    /// The names of those that were wanted.
    pub files: Vec<String>,
}

/// Hears how a download goes. Files that are in the cache are not reported.
pub trait Progress: Sync {
    /// A file's download begins; its size, if the hub says it.
    fn starts(&self, file: &str, bytes: Option<u64>);
    /// So many of the file's bytes are here: those of an earlier download count; fewer than before where it starts anew.
    fn advances(&self, done: u64);
    /// The file's download is over, well or not.
    fn ends(&self);
}

/// Nobody listens.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn starts(&self, _file: &str, _bytes: Option<u64>) {}
    fn advances(&self, _done: u64) {}
    fn ends(&self) {}
}

/// A Hugging Face hub and its cache.
pub struct Hub {
    settings: Settings,
    client: Client,
}

impl Hub {
    /// A hub as the settings say; nothing is asked or written yet.
    pub fn new(settings: Settings) -> Self {
        Self { client: Client::new(&settings), settings }
    }

    /// The commit and the files of a repository's revision: from the hub, or from the cache when offline. A commit hash
    /// that was asked for before is not asked for again.
    ///
    /// # Errors
    /// Where the repository or the revision is not there or not for this user, there is no connection, or the cache lacks
    /// it when offline.
    pub fn listing(&self, repo: &Repo) -> Result<Listing, HubError> {
        repo.check()?;
        let cache = CacheFolder::new(&self.settings.cache, repo);
        let revision = repo.revision();
        if self.settings.offline {
            return self.cached_listing(repo, &cache);
        }
        let fixed = names::is_commit(revision);
        if let Some(listing) = cache.remembered(revision) {
            return Ok(listing);
        }
        let listing = match self.api(repo).listing() {
            // A commit does not change: what another program downloaded of it is as good as the hub's answer.
            // Not so of data sets: what lies there may be a part of what is read.
            Err(error @ HubError::Unreachable { .. }) if fixed && repo.kind == RepoKind::Model => {
                return cache.present(revision)?.ok_or(error);
            }
            answer => answer?,
        };
        match cache.remember(revision, &listing) {
            // A cache for reading only serves as long as nothing is to be downloaded.
            Err(e @ HubError::Permission { .. }) => tracing::warn!("offline runs will not know this listing: {e}"),
            outcome => outcome?,
        }
        Ok(listing)
    }

    /// The path of a commit's file; it is downloaded if the cache lacks it.
    ///
    /// # Errors
    /// As [`Self::listing`]; where the connection breaks for good (what came is kept, and the next call goes on from
    /// there), the content is not what was announced, or it does not fit on the disk.
    pub fn file(&self, repo: &Repo, commit: &str, name: &str, progress: &dyn Progress) -> Result<PathBuf, HubError> {
        repo.check()?;
        names::check_commit(commit)?;
        names::check_file(name)?;
        let cache = CacheFolder::new(&self.settings.cache, repo);
        let pointer = cache.snapshot(commit).join(name);
        if pointer.is_file() {
            return Ok(pointer);
        }
        if self.settings.offline {
            return Err(self.offline(repo, format!("`{name}`")));
        }
        let metadata = self.api(repo).metadata(commit, name)?;
        let download = Download { api: self.api(repo), commit, name, metadata: &metadata, progress };
        fetch(&cache, &pointer, &download)?;
        Ok(pointer)
    }

    /// All files of a revision whose names are `wanted`.
    ///
    /// # Errors
    /// As [`Self::listing`] and [`Self::file`].
    pub fn snapshot(
        &self,
        repo: &Repo,
        wanted: &dyn Fn(&str) -> bool,
        progress: &dyn Progress,
    ) -> Result<Snapshot, HubError> {
        let Listing { commit, mut files } = self.listing(repo)?;
        files.retain(|name| wanted(name));
        for name in &files {
            self.file(repo, &commit, name, progress)?;
        }
        let folder = CacheFolder::new(&self.settings.cache, repo).snapshot(&commit);
        Ok(Snapshot { folder, commit, files })
    }

    fn cached_listing(&self, repo: &Repo, cache: &CacheFolder) -> Result<Listing, HubError> {
        let missing = || self.offline(repo, format!("revision `{}`", repo.revision()));
        let commit = match repo.revision() {
            revision if names::is_commit(revision) => revision.to_string(),
            revision => cache.commit_of(revision)?.ok_or_else(missing)?,
        };
        match cache.remembered(&commit) {
            Some(listing) => Ok(listing),
            None if repo.kind == RepoKind::Model => cache.present(&commit)?.ok_or_else(missing),
            // Files that lie there may be a part of a split; a listing says so, and none is known.
            None => Err(self.offline(repo, format!("the list of files of `{commit}`"))),
        }
    }

    fn api<'a>(&'a self, repo: &'a Repo) -> Api<'a> {
        Api { client: &self.client, repo }
    }

    fn offline(&self, repo: &Repo, what: String) -> HubError {
        HubError::Offline { what, repo: repo.to_string(), cache: self.settings.cache.clone() }
    }
}

/// Brings a blob into the cache, unless it is there, and lets the snapshot's file be it.
fn fetch(cache: &CacheFolder, pointer: &Path, download: &Download<'_>) -> Result<(), HubError> {
    let Metadata { etag, size } = download.metadata;
    let lock = cache.lock(etag)?;
    if pointer.is_file() {
        return Ok(());
    }
    let blob = cache.blob(etag);
    let whole = |length: u64| size.is_none_or(|size| size == length);
    let fresh = !fs::metadata(&blob).is_ok_and(|m| m.is_file() && whole(m.len()));
    if fresh {
        // Without a lock two processes may be at it: each writes a file of its own.
        let mark = if lock.is_some() { String::new() } else { format!(".{}", std::process::id()) };
        download.run(&cache.blob(&format!("{etag}{mark}.incomplete")), &blob)?;
    }
    cache.link(pointer, etag, fresh)
}
