//! Writes a segment so that it is whole or absent.

use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::BuildHasher;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::key::{KEY_BYTES, Key, short};
use super::segment::{CHECKSUM, HEADER, Layout, MAGIC, VERSION, head_checksum};
use super::{CacheError, Identity};

/// Writes the segment of `keys` to `folder`, which is made if need be, and gives its path. `row` puts the bytes of the
/// row with the number given, `layout.row_bytes` of them, into the slice.
pub(super) fn write(
    folder: &Path,
    identity: &Identity,
    layout: Layout,
    keys: &[Key],
    row: impl FnMut(usize, &mut [u8]),
) -> Result<PathBuf, CacheError> {
    let name = unique_name();
    let mut temporary = Temporary::create(folder, folder.join(format!("{name}.tmp")))?;
    fill(&mut temporary.file, identity, layout, keys, row)
        .and_then(|()| temporary.file.sync_all())
        .map_err(|source| CacheError::io(&temporary.path, source))?;
    let path = folder.join(format!("{name}.seg"));
    // The folder is not synchronised: a segment that a crash of the machine makes unseen is encoded anew.
    fs::rename(&temporary.path, &path).map_err(|source| CacheError::io(&path, source))?;
    temporary.renamed = true;
    Ok(path)
}

fn fill(
    file: &mut File,
    identity: &Identity,
    layout: Layout,
    keys: &[Key],
    mut row: impl FnMut(usize, &mut [u8]),
) -> io::Result<()> {
    let mut head = vec![0; layout.rows];
    head[..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head[12..16].copy_from_slice(&((layout.row_bytes / size_of::<f32>()) as u32).to_le_bytes());
    head[16..24].copy_from_slice(&(keys.len() as u64).to_le_bytes());
    head[24..56].copy_from_slice(&identity.0);
    for (bytes, key) in head[HEADER..layout.checks].as_chunks_mut::<KEY_BYTES>().0.iter_mut().zip(keys) {
        *bytes = key.to_bytes();
    }
    // The head is complete when the rows are written, and takes its room before them.
    file.seek(SeekFrom::Start(layout.rows as u64))?;
    let mut buffer = vec![0; layout.rows_per_block * layout.row_bytes];
    for (block, check) in
        head[layout.checks..].as_chunks_mut::<KEY_BYTES>().0.iter_mut().take(layout.blocks).enumerate()
    {
        let first = block * layout.rows_per_block;
        let count = layout.rows_per_block.min(keys.len() - first);
        let bytes = &mut buffer[..count * layout.row_bytes];
        for (i, bytes) in bytes.chunks_exact_mut(layout.row_bytes).enumerate() {
            row(first + i, bytes);
        }
        *check = short(Sha256::new_with_prefix(&*bytes));
        file.write_all(bytes)?;
    }
    let checksum = head_checksum(&head);
    head[CHECKSUM].copy_from_slice(&checksum);
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&head)
}

/// A file that goes away unless it was renamed.
struct Temporary {
    path: PathBuf,
    file: File,
    renamed: bool,
}

impl Temporary {
    fn create(folder: &Path, path: PathBuf) -> Result<Self, CacheError> {
        let make = || {
            fs::create_dir_all(folder).map_err(|source| CacheError::io(folder, source))?;
            File::create_new(&path).map_err(|source| CacheError::io(&path, source))
        };
        // Another process that removes empty folders can get in between once.
        let file = make().or_else(|_| make())?;
        // Says to those who remove left-over files that the writer lives. A file system without locks has the file's
        // age instead.
        let _ = file.try_lock();
        Ok(Self { path, file, renamed: false })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // One that cannot be removed now is removed as left over, later.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// 128 bits, in hexadecimal, that no other process and no other call comes up with.
fn unique_name() -> String {
    let seed = (std::process::id(), SystemTime::now());
    // Each state has its own random keys.
    format!("{:016x}{:016x}", RandomState::new().hash_one(seed), RandomState::new().hash_one(seed))
}
