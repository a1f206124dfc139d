//! The cache on the disk, laid out as Python's `huggingface_hub` lays it out and shared with it: `refs/<revision>` holds a
//! commit hash, `blobs/<etag>` the content, `snapshots/<commit>/<path>` links to blobs. Our own addition is
//! `.listings/<commit>.json`, the names of a commit's files, which offline runs read; Python passes over it, and has
//! `trees/<commit>.json` for the same purpose, which is read too.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{HubError, Listing, Repo, RepoKind, names};
use crate::data::atomic;

/// The folder of one repository in the cache.
pub(super) struct CacheFolder {
    root: PathBuf,
    locks: PathBuf,
}

impl CacheFolder {
    pub(super) fn new(cache: &Path, repo: &Repo) -> Self {
        // hf-hub knows how a repository's folder is called; the operations on it are ours, as hf-hub's writes of `refs`
        // and links are neither atomic nor checked.
        let kind = match repo.kind {
            RepoKind::Model => hf_hub::RepoType::Model,
            RepoKind::Dataset => hf_hub::RepoType::Dataset,
        };
        let name = hf_hub::Repo::new(repo.id.clone(), kind).folder_name();
        Self { root: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// The folder of a commit's files.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The content with an etag.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// The commit that a revision stood for when it was last asked for.
    pub(super) fn commit_of(&self, revision: &str) -> Result<Option<String>, HubError> {
        let path = self.reference(revision);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_string()).filter(|c| names::is_commit(c))),
            // A folder is in the way where another revision's name goes on behind this one's and a slash.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => Ok(None),
            Err(e) => Err(HubError::at(&path, e)),
        }
    }

    /// Remembers a commit's files, and the commit as the revision's.
    pub(super) fn remember(&self, revision: &str, listing: &Listing) -> Result<(), HubError> {
        let fixed = revision == listing.commit;
        let known = || Ok::<_, HubError>(fixed || self.commit_of(revision)?.as_ref() == Some(&listing.commit));
        if self.remembered(&listing.commit).as_ref() == Some(listing) && known()? {
            return Ok(());
        }
        let _lock = self.lock("refs")?;
        let path = self.listing_path(&listing.commit);
        let text = serde_json::json!({ "files": listing.files }).to_string();
        atomic::write(&path, text.as_bytes()).map_err(|e| HubError::at(&path, e))?;
        if !fixed {
            let path = self.reference(revision);
            atomic::write(&path, listing.commit.as_bytes()).map_err(|e| HubError::at(&path, e))?;
        }
        Ok(())
    }

    /// A commit's files as we or Python remembered them; what lies damaged counts as forgotten.
    pub(super) fn remembered(&self, commit: &str) -> Option<Listing> {
        if !names::is_commit(commit) {
            return None;
        }
        let own = read_json(&self.listing_path(commit)).and_then(|v| listed(&v));
        let files = own.or_else(|| {
            let tree = read_json(&self.root.join("trees").join(format!("{commit}.json")))?;
            listed(&tree).filter(|_| tree.get("format_version").and_then(Value::as_u64) == Some(1))
        })?;
        files.iter().all(|name| names::check_file(name).is_ok()).then(|| Listing { commit: commit.into(), files })
    }

    /// A commit's files as far as they lie in the cache; none where there is no snapshot.
    pub(super) fn present(&self, commit: &str) -> Result<Option<Listing>, HubError> {
        let root = self.snapshot(commit);
        if !root.is_dir() {
            return Ok(None);
        }
        let mut files = Vec::new();
        collect(&root, "", &mut files)?;
        files.sort();
        Ok(Some(Listing { commit: commit.to_string(), files }))
    }

    /// Lets a snapshot's file be the blob; `fresh` where the blob was just downloaded.
    pub(super) fn link(&self, pointer: &Path, etag: &str, fresh: bool) -> Result<(), HubError> {
        let folder = pointer.parent().unwrap_or(pointer);
        fs::create_dir_all(folder).map_err(|e| HubError::at(folder, e))?;
        let depth = pointer.strip_prefix(&self.root).map_or(0, |inner| inner.components().count());
        let target = format!("{}blobs/{etag}", "../".repeat(depth.saturating_sub(1)));
        match symlink(&target, pointer) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && pointer.is_file() => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                // A link whose blob is gone.
                fs::remove_file(pointer).map_err(|e| HubError::at(pointer, e))?;
                symlink(&target, pointer).map_err(|e| HubError::at(pointer, e))
            }
            Err(_) => place(&self.blob(etag), pointer, fresh).map_err(|e| HubError::at(pointer, e)),
        }
    }

    /// Keeps other processes, and Python, from writing a blob; let go when dropped. None where the file system has no
    /// locks.
    pub(super) fn lock(&self, name: &str) -> Result<Option<File>, HubError> {
        let path = self.locks.join(format!("{name}.lock"));
        fs::create_dir_all(&self.locks).map_err(|e| HubError::at(&self.locks, e))?;
        loop {
            let options = OpenOptions::new().write(true).create(true).truncate(false).mode(0o664).clone();
            let file = options.open(&path).map_err(|e| HubError::at(&path, e))?;
            match acquire(&file, &path) {
                Ok(()) if is_at(&file, &path) => return Ok(Some(file)),
                // Its last holder removed it.
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Unsupported => return Ok(None),
                Err(e) => return Err(HubError::at(&path, e)),
            }
        }
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.root.join("refs").join(revision)
    }

    fn listing_path(&self, commit: &str) -> PathBuf {
        self.root.join(".listings").join(format!("{commit}.json"))
    }
}

fn read_json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// The names under `files`: a list in our files, the keys of a map in Python's.
fn listed(document: &Value) -> Option<Vec<String>> {
    match document.get("files")? {
        Value::Array(names) => names.iter().map(|n| n.as_str().map(str::to_string)).collect(),
        Value::Object(entries) => Some(entries.keys().cloned().collect()),
        _ => None,
    }
}

fn acquire(file: &File, path: &Path) -> io::Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(fs::TryLockError::WouldBlock) => {
            tracing::info!("another process downloads the same file; waiting for {}", path.display());
            file.lock()
        }
        Err(fs::TryLockError::Error(e)) => Err(e),
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(there)) => (held.dev(), held.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// The blob itself as the snapshot's file, where the file system has no links: moved, or copied if another commit may have
/// it too.
fn place(blob: &Path, pointer: &Path, fresh: bool) -> io::Result<()> {
    if fresh {
        return fs::rename(blob, pointer);
    }
    atomic::write_with(pointer, |file| io::copy(&mut File::open(blob)?, file).map(|_| ()))
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<String>) -> Result<(), HubError> {
    for entry in fs::read_dir(folder).map_err(|e| HubError::at(folder, e))? {
        let entry = entry.map_err(|e| HubError::at(folder, e))?;
        let path = entry.path();
        let name = entry.file_name();
        let name = format!("{prefix}{}", name.to_string_lossy());
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            collect(&path, &format!("{name}/"), files)?;
        } else if path.is_file() && names::check_file(&name).is_ok() {
            files.push(name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_links_a_fresh_blob_is_moved_and_an_old_one_copied() {
        let folder = tempfile::tempdir().unwrap();
        let (blob, first, second) = (folder.path().join("b"), folder.path().join("1"), folder.path().join("2"));
        fs::write(&blob, "content").unwrap();
        place(&blob, &first, false).unwrap();
        assert!(blob.is_file());
        place(&blob, &second, true).unwrap();
        assert!(!blob.exists());
        assert_eq!(fs::read_to_string(first).unwrap(), "content");
        assert_eq!(fs::read_to_string(second).unwrap(), "content");
    }

    #[test]
    fn a_link_without_its_blob_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let repo = Repo { kind: RepoKind::Model, id: "org/name".into(), revision: None };
        let cache = CacheFolder::new(root.path(), &repo);
        let pointer = cache.snapshot("c").join("a/b/config.json");
        fs::create_dir_all(cache.blob("x").parent().unwrap()).unwrap();
        fs::write(cache.blob("new"), "content").unwrap();
        cache.link(&pointer, "old", true).unwrap();
        assert!(!pointer.is_file());
        cache.link(&pointer, "new", true).unwrap();
        assert_eq!(fs::read_to_string(&pointer).unwrap(), "content");
        assert_eq!(fs::read_link(&pointer).unwrap(), Path::new("../../../../blobs/new"));
    }
}
