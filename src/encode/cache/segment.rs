//! A segment: an immutable file of keys and rows, mapped to memory and verified before use.
//!
//! | bytes | content |
//! |---|---|
//! | 0..8 | magic |
//! | 8..12 | version, u32 |
//! | 12..16 | dim, u32 |
//! | 16..24 | count of rows, u64 |
//! | 24..56 | identity |
//! | 56..64 | zeros |
//! | 64..96 | SHA-256 of all that comes before the rows, but these 32 bytes |
//! | 96..128 | zeros |
//! | 128.. | keys, 16 bytes each, in row order |
//! | | SHA-256 of each block of rows, 16 bytes each; zeros up to a multiple of 64 |
//! | | rows, f32 |
//!
//! All little-endian. Rows stay in the order in which they were stored: a corpus read again in its order then reads the
//! file in its order, which a sort by key would scatter.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::Identity;
use super::key::{KEY_BYTES, Key, short};

pub(super) const MAGIC: [u8; 8] = *b"EMBCACHE";
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER: usize = 128;
/// Where the header's checksum lies.
pub(super) const CHECKSUM: std::ops::Range<usize> = 64..96;

/// Large enough that checksums take no room worth naming, small enough that one row costs no long read.
const BLOCK_BYTES: usize = 64 << 10;

/// A segment's use is noted at most this often.
const TOUCH_EVERY: Duration = Duration::from_secs(60);

/// Where the parts of a segment lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) row_bytes: usize,
    pub(super) rows_per_block: usize,
    pub(super) blocks: usize,
    /// Start of the blocks' checksums.
    pub(super) checks: usize,
    /// Start of the rows.
    pub(super) rows: usize,
    /// Length of the file.
    pub(super) bytes: usize,
}

impl Layout {
    /// `None` where the numbers are beyond what a machine addresses.
    pub(super) fn new(dim: usize, count: usize) -> Option<Self> {
        let row_bytes = dim.checked_mul(size_of::<f32>()).filter(|&b| b > 0)?;
        let rows_per_block = (BLOCK_BYTES / row_bytes).max(1);
        let blocks = count.div_ceil(rows_per_block);
        let checks = count.checked_mul(KEY_BYTES)?.checked_add(HEADER)?;
        let rows = blocks.checked_mul(KEY_BYTES)?.checked_add(checks)?.checked_next_multiple_of(64)?;
        let bytes = count.checked_mul(row_bytes)?.checked_add(rows)?;
        Some(Self { row_bytes, rows_per_block, blocks, checks, rows, bytes })
    }
}

/// Why a file is not used.
#[derive(Debug)]
pub(super) enum Fault {
    /// It went away since it was listed.
    Absent,
    /// It is not ours, or whole and of another identity, dim or version.
    Foreign,
    /// It is ours, and broken.
    Damaged(&'static str),
    /// The operating system does not let it be read.
    Unreadable(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Absent,
            _ => Self::Unreadable(error),
        }
    }
}

/// A mapped file whose header and keys are verified; the rows are as they are read.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    map: Mmap,
    layout: Layout,
    verified: Box<[AtomicBool]>,
    /// Seconds since 1970 when the file's time was last set.
    touched: AtomicU64,
}

impl Segment {
    pub(super) fn open(path: &Path, identity: &Identity, dim: usize) -> Result<Self, Fault> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.len() < HEADER as u64 {
            return Err(Fault::Damaged("shorter than a header"));
        }
        let mut header = [0; HEADER];
        file.read_exact(&mut header)?;
        if header[..8] != MAGIC || u32_at(&header, 8) != VERSION {
            return Err(Fault::Foreign);
        }
        let file_dim = u32_at(&header, 12) as usize;
        // Rows are indexed with 32 bits.
        let count = u32::try_from(u64_at(&header, 16)).map_err(|_| Fault::Damaged("impossible count"))? as usize;
        let layout = Layout::new(file_dim, count).ok_or(Fault::Damaged("impossible size"))?;
        if metadata.len() != layout.bytes as u64 {
            return Err(Fault::Damaged("its length is not what its header says"));
        }
        // SAFETY: segments get their name when they are complete and are never written again; unlinking leaves the map
        // whole. The length was checked just now, so only someone who truncates or overwrites the file by hand, or a
        // failing disk, could make a read fault or change under a reader.
        let map = unsafe { Mmap::map(&file) }?;
        let head = map.get(..layout.rows).ok_or(Fault::Damaged("shorter than its keys"))?;
        if head_checksum(head) != head[CHECKSUM] {
            return Err(Fault::Damaged("its keys fail their checksum"));
        }
        if head[24..56] != identity.0 || file_dim != dim {
            return Err(Fault::Foreign);
        }
        let verified = (0..layout.blocks).map(|_| AtomicBool::new(false)).collect();
        let touched = AtomicU64::new(seconds(metadata.modified()?));
        Ok(Self { path: path.into(), map, layout, verified, touched })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.layout.bytes as u64
    }

    /// The keys in row order.
    pub(super) fn keys(&self) -> impl ExactSizeIterator<Item = Key> + '_ {
        let bytes = self.map.get(HEADER..self.layout.checks).unwrap_or_default();
        bytes.as_chunks::<KEY_BYTES>().0.iter().map(|key| Key::from_bytes(*key))
    }

    /// Row `row` as little-endian `f32`s; `None` where its block fails its checksum.
    pub(super) fn row(&self, row: usize) -> Option<&[u8]> {
        self.verify(row / self.layout.rows_per_block).then_some(())?;
        let start = self.layout.rows + row * self.layout.row_bytes;
        self.map.get(start..start + self.layout.row_bytes)
    }

    /// Whether every block passes its checksum.
    pub(super) fn verify_all(&self) -> bool {
        (0..self.layout.blocks).all(|block| self.verify(block))
    }

    fn verify(&self, block: usize) -> bool {
        let Some(known) = self.verified.get(block) else { return false };
        if known.load(Ordering::Relaxed) {
            return true;
        }
        let size = self.layout.rows_per_block * self.layout.row_bytes;
        let start = self.layout.rows + block * size;
        let check = self.layout.checks + block * KEY_BYTES;
        let end = (start + size).min(self.layout.bytes);
        let (Some(rows), Some(expected)) = (self.map.get(start..end), self.map.get(check..check + KEY_BYTES)) else {
            return false;
        };
        let good = short(Sha256::new_with_prefix(rows)) == expected;
        known.store(good, Ordering::Relaxed);
        good
    }

    /// Notes in the file's time that it was used, for those who look for the least recently used.
    pub(super) fn touch(&self) {
        let now = SystemTime::now();
        let last = self.touched.load(Ordering::Relaxed);
        // A time in the future is set right.
        if seconds(now).abs_diff(last) < TOUCH_EVERY.as_secs()
            || self.touched.compare_exchange(last, seconds(now), Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return;
        }
        // A cache that belongs to another user can be read and not touched; its order of use is then a little off.
        let _ = File::open(&self.path).and_then(|file| file.set_modified(now));
    }

    /// Takes the file away; the map stays good.
    pub(super) fn remove(&self) {
        // A file that cannot be removed is not used either: who calls this lets go of it.
        let _ = fs::remove_file(&self.path);
    }
}

/// The checksum of the bytes before the rows, without the checksum's own.
pub(super) fn head_checksum(head: &[u8]) -> [u8; 32] {
    Sha256::new_with_prefix(&head[..CHECKSUM.start]).chain_update(&head[CHECKSUM.end..]).finalize().into()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn u32_at(header: &[u8; HEADER], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| header[at + i]))
}

fn u64_at(header: &[u8; HEADER], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| header[at + i]))
}
