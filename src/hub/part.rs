//! A file that is being downloaded: what is there so far, and whether the whole is what was announced.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::error::bytes;
use super::{HubError, names};

/// The bytes that have come so far.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    /// How many.
    pub(super) len: u64,
}

impl Part {
    /// Opens what an earlier download left, or nothing.
    pub(super) fn open(path: &Path) -> Result<Self, HubError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| HubError::at(folder, e))?;
        }
        let options = OpenOptions::new().read(true).append(true).create(true).clone();
        let file = options.open(path).map_err(|e| HubError::at(path, e))?;
        let len = file.metadata().map_err(|e| HubError::at(path, e))?.len();
        Ok(Self { path: path.into(), file, len })
    }

    /// Where it lies.
    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// Drops what there is.
    pub(super) fn restart(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).map_err(|e| HubError::at(&self.path, e))?;
        self.len = 0;
        Ok(())
    }

    /// Adds bytes.
    pub(super) fn append(&mut self, more: &[u8]) -> Result<(), HubError> {
        self.file.write_all(more).map_err(|e| HubError::at(&self.path, e))?;
        self.len += more.len() as u64;
        Ok(())
    }

    /// Removes the file.
    pub(super) fn remove(&self) {
        // One that cannot be removed is tried again by the next download, and found damaged.
        let _ = fs::remove_file(&self.path);
    }

    /// Makes it the blob, once it is on the disk.
    pub(super) fn finish(&self, blob: &Path) -> Result<(), HubError> {
        self.file.sync_all().map_err(|e| HubError::at(&self.path, e))?;
        fs::rename(&self.path, blob).map_err(|e| HubError::at(blob, e))?;
        // Makes the rename itself durable; some file systems do not allow it, and the content is safe without.
        if let Some(folder) = blob.parent().and_then(|f| File::open(f).ok()) {
            let _ = folder.sync_all();
        }
        Ok(())
    }

    /// What was announced and what came, where they differ.
    pub(super) fn difference(&mut self, etag: &str, size: Option<u64>) -> Result<Option<(String, String)>, HubError> {
        if let Some(size) = size.filter(|&s| s != self.len) {
            return Ok(Some((bytes(size), bytes(self.len))));
        }
        let (name, found) = if names::is_hex(etag, 64) {
            ("sha256", self.digest(Sha256::new())?)
        } else if names::is_hex(etag, 40) {
            ("git sha1", self.digest(Sha1::new_with_prefix(format!("blob {}\0", self.len)))?)
        } else {
            // Another server's etag says nothing about the content.
            return Ok(None);
        };
        Ok((found != etag).then(|| (format!("{name} {etag}"), format!("{name} {found}"))))
    }

    /// The digest of what is on the disk, which also covers what an earlier process wrote.
    fn digest<D: Digest>(&mut self, mut digest: D) -> Result<String, HubError> {
        let fault = |e| HubError::at(&self.path, e);
        self.file.seek(SeekFrom::Start(0)).map_err(fault)?;
        let mut buffer = vec![0; 1 << 18];
        loop {
            let count = self.file.read(&mut buffer).map_err(fault)?;
            if count == 0 {
                break;
            }
            digest.update(buffer.get(..count).unwrap_or_default());
        }
        Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_git_and_sha256() {
        let folder = tempfile::tempdir().unwrap();
        let mut part = Part::open(&folder.path().join("a.incomplete")).unwrap();
        part.append(b"hello\n").unwrap();
        // `git hash-object` and `sha256sum` of the same bytes.
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let sha = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(part.difference(git, Some(6)).unwrap(), None);
        assert_eq!(part.difference(sha, None).unwrap(), None);
        assert_eq!(part.difference("other-1", None).unwrap(), None);
        assert!(part.difference(git, Some(7)).unwrap().is_some());
        let wrong = git.replace('c', "d");
        let (expected, found) = part.difference(&wrong, None).unwrap().unwrap();
        assert!(expected.contains(&wrong) && found.contains(git), "{expected} {found}");
    }
}
