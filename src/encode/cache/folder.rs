//! The cache's folder on the disk: what lies in it, who may tidy it, and what goes when it is too large.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A temporary file older than this, that no living process holds, is left over.
const LEFT_OVER: Duration = Duration::from_secs(3600);

/// The file that whoever tidies holds.
const LOCK: &str = ".lock";

/// Whether a name is `digits` of lower-case hexadecimal and `end`: names made here, and no others, are ever touched.
fn is_ours(name: &str, digits: usize, end: &str) -> bool {
    name.strip_suffix(end)
        .is_some_and(|hex| hex.len() == digits && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

/// The names of files in `folder` that are ours and end so; none where there is no folder.
fn names(folder: &Path, end: &str) -> io::Result<HashSet<String>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(HashSet::new()),
        entries => entries?,
    };
    let mut names = HashSet::new();
    for entry in entries {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && is_ours(&name, 32, end)
            && entry.file_type().is_ok_and(|t| t.is_file())
        {
            names.insert(name);
        }
    }
    Ok(names)
}

/// The names of the segments in an identity's folder.
pub(super) fn segments(folder: &Path) -> io::Result<HashSet<String>> {
    names(folder, ".seg")
}

/// Removes the temporary files that processes no longer living left in an identity's folder.
pub(super) fn remove_left_over(folder: &Path) {
    for name in names(folder, ".tmp").unwrap_or_default() {
        let path = folder.join(name);
        let Ok(file) = File::open(&path) else { continue };
        let age =
            file.metadata().and_then(|m| m.modified()).ok().and_then(|t| SystemTime::now().duration_since(t).ok());
        if age.is_some_and(|age| age > LEFT_OVER) && !matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            // Whoever comes next tries again.
            let _ = fs::remove_file(&path);
        }
    }
}

/// The right to tidy the folder, while it lives.
pub(super) struct Turn {
    _file: File,
}

impl Turn {
    /// `None` where another process tidies now, or the folder cannot be written to.
    pub(super) fn take(root: &Path) -> Option<Self> {
        let file = File::options().create(true).truncate(false).write(true).open(root.join(LOCK)).ok()?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => None,
            // A file system without locks: two who tidy at once remove more than need be, which harms nobody.
            Ok(()) | Err(TryLockError::Error(_)) => Some(Self { _file: file }),
        }
    }
}

/// Removes the least recently used segments of all identities under `root` until they take no more than `limit` bytes,
/// but never `keep`; and what is left over.
pub(super) fn bound(root: &Path, limit: u64, keep: &Path) -> io::Result<()> {
    let mut files: Vec<(SystemTime, PathBuf, u64)> = Vec::new();
    let mut folders = Vec::new();
    for entry in fs::read_dir(root)? {
        let Ok(entry) = entry else { continue };
        if entry.file_name().to_str().is_some_and(|name| is_ours(name, 64, "")) {
            folders.push(entry.path());
        }
    }
    for folder in &folders {
        remove_left_over(folder);
        for name in segments(folder).unwrap_or_default() {
            let path = folder.join(name);
            // Another process may have merged it away.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            files.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), path, metadata.len()));
        }
    }
    let mut total = files.iter().map(|(.., bytes)| bytes).sum::<u64>();
    files.sort_unstable();
    for (_, path, bytes) in files.iter().filter(|(_, path, _)| path != keep) {
        if total <= limit {
            break;
        }
        match fs::remove_file(path) {
            // Another user's: the next oldest goes in its place.
            Err(e) if e.kind() != io::ErrorKind::NotFound => continue,
            _ => total -= bytes,
        }
    }
    for folder in folders.iter().filter(|folder| keep.parent() != Some(folder)) {
        // Only succeeds on an empty one, which is what is wanted.
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}

/// Removes the segments of all identities under `root`, and what is left over; `dry_run` counts alone. Gives how many there
/// were, and their bytes. Who has one mapped keeps it.
pub(super) fn clear(root: &Path, dry_run: bool) -> io::Result<(usize, u64)> {
    let entries = match fs::read_dir(root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        entries => entries?,
    };
    let (mut count, mut bytes) = (0, 0);
    for folder in entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(|name| is_ours(name, 64, "")))
    {
        let folder = folder.path();
        for name in segments(&folder)? {
            let path = folder.join(name);
            let Ok(metadata) = fs::metadata(&path) else { continue };
            (count, bytes) = (count + 1, bytes + metadata.len());
            if dry_run {
                continue;
            }
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        if !dry_run {
            remove_left_over(&folder);
            // Only succeeds on an empty one, which is what is wanted.
            let _ = fs::remove_dir(&folder);
        }
    }
    Ok((count, bytes))
}
