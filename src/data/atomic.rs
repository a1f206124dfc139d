//! Files that are either whole or absent: written to a temporary name, flushed to the disk, then renamed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Writes `bytes` to `path` so that a reader, or a process killed at any instant, never sees half of it. Missing parent
/// folders are made.
///
/// # Errors
/// The operating system's; the temporary file is removed.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// As [`write()`], with the content produced by `fill`.
///
/// # Errors
/// The operating system's or `fill`'s; the temporary file is removed.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a file name"))?;
    let temporary = parent.join(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    // Locked until it has its name.
    let result = create_locked(&temporary).and_then(|mut file| {
        fill(&mut file)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    });
    if result.is_err() {
        // The error that matters is the first one; a temporary file that cannot be removed either is left behind.
        let _ = fs::remove_file(&temporary);
        return result;
    }
    // Makes the rename itself durable; some file systems do not allow it, and the content is safe without.
    if let Ok(folder) = File::open(parent) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// A new file, locked, so that [`remove_abandoned`] knows it from one whose process is gone. Where the file system has no locks it has none.
fn create_locked(path: &Path) -> io::Result<File> {
    loop {
        // Emptied when it is locked: another process of this number, on another host, may be writing it.
        let file = File::options().write(true).create(true).truncate(false).open(path)?;
        if file.lock().is_err() {
            file.set_len(0)?;
            return Ok(file);
        }
        // Before the lock was had, it may have been renamed, or taken for an abandoned one.
        match fs::metadata(path) {
            Ok(there) if same_file(&there, &file.metadata()?) => {
                file.set_len(0)?;
                return Ok(file);
            }
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
}

#[cfg(unix)]
fn same_file(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn same_file(_: &fs::Metadata, _: &fs::Metadata) -> bool {
    true
}

/// Removes what processes that were killed in [`write()`] have left of the files that are in a folder now. What is nobody's known file, and what
/// cannot be read, locked or removed, stays.
pub fn remove_abandoned(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let writer = name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp")?.rsplit_once('.'));
        if writer.is_some_and(|(target, pid)| pid.parse::<u32>().is_ok() && folder.join(target).is_file())
            && let Ok(file) = File::options().write(true).open(entry.path())
            && file.try_lock().is_ok()
            // Nor one that got its name meanwhile, and another one its old one.
            && let (Ok(there), Ok(own)) = (fs::metadata(entry.path()), file.metadata())
            && same_file(&there, &own)
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_being_written_is_told_from_what_was_abandoned() {
        let folder = tempfile::tempdir().unwrap();
        let (path, abandoned) = (folder.path().join("table.csv"), folder.path().join(".table.csv.1.tmp"));
        let others = [".table.csv.tmp", "table.csv.1.tmp", ".notes.txt.1.tmp"].map(|name| folder.path().join(name));
        others.iter().for_each(|path| fs::write(path, "").unwrap());
        fs::write(&abandoned, "half").unwrap();
        fs::write(&path, "before").unwrap();
        write_with(&path, |file| {
            remove_abandoned(folder.path());
            file.write_all(b"whole")
        })
        .unwrap();
        assert!(!abandoned.exists() && others.iter().all(|path| path.exists()));
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
    }
}
