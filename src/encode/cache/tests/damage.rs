//! Broken, foreign and left-over files, and folders that cannot be written to.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;
use crate::encode::cache::segment::{HEADER, Layout};

/// Rows in the segment that gets damaged: several blocks of them.
const ROWS: usize = 10_000;

fn texts() -> Vec<String> {
    (0..ROWS).map(|i| format!("text {i}")).collect()
}

/// Stores a large segment and a small one, damages the large one's file, and gives what a new handle does not have of
/// the large one, whether its file is still there afterwards, and the number of warnings.
fn after(damage: impl FnOnce(&mut Vec<u8>)) -> (Vec<usize>, bool, usize) {
    let folder = TempDir::new().unwrap();
    let texts = texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let writer = open(folder.path());
    store(&writer, "", &texts);
    let path = files(folder.path(), &ID, ".seg").remove(0);
    store(&writer, "", &["small"]);
    drop(writer);
    let mut bytes = fs::read(&path).unwrap();
    damage(&mut bytes);
    fs::write(&path, bytes).unwrap();
    let cache = open(folder.path());
    assert_eq!(fetch(&cache, "", &["small"]), [0usize; 0]);
    let missing = fetch(&cache, "", &texts);
    assert_eq!(fetch(&cache, "", &["small"]), [0usize; 0]);
    let (there, warnings) = (path.exists(), cache.take_warnings());
    // What was lost can be stored again.
    if !missing.is_empty() {
        let again: Vec<&str> = missing.iter().map(|&i| texts[i]).collect();
        store(&cache, "", &again);
        assert_eq!(fetch(&cache, "", &again), [0usize; 0]);
    }
    (missing, there, warnings.len())
}

fn all() -> Vec<usize> {
    (0..ROWS).collect()
}

#[test]
fn a_whole_file_is_used() {
    assert_eq!(after(|_| {}), (vec![], true, 0));
}

#[test]
fn truncated_and_empty_files_are_removed() {
    let layout = Layout::new(DIM, ROWS).unwrap();
    for length in [0, 1, HEADER - 1, HEADER, HEADER + 16, layout.rows, layout.bytes - 1] {
        assert_eq!(after(|bytes| bytes.truncate(length)), (all(), false, 1), "{length}");
    }
    assert_eq!(after(|bytes| bytes.push(0)), (all(), false, 1));
}

#[test]
fn flipped_bits_are_found() {
    let layout = Layout::new(DIM, ROWS).unwrap();
    // Not ours any more, for all one can tell: left alone.
    for at in [0, 7, 8, 11] {
        assert_eq!(after(|bytes| bytes[at] ^= 1), (all(), true, 0), "{at}");
    }
    let keys = layout.checks - 1;
    let checks = layout.checks + layout.blocks * 16 - 1;
    for at in [12, 15, 16, 20, 23, 24, 55, 60, 64, 95, 96, HEADER, keys, layout.checks, checks, layout.rows - 1] {
        assert_eq!(after(|bytes| bytes[at] ^= 0x40), (all(), false, 1), "{at}");
    }
}

#[test]
fn only_the_block_with_a_flipped_bit_is_lost_at_once() {
    let layout = Layout::new(DIM, ROWS).unwrap();
    assert_eq!(layout.blocks, 4);
    // Blocks read before the bad one were good; the segment goes when it is met.
    let row = layout.rows_per_block + 3;
    let (missing, there, warnings) = after(|bytes| bytes[layout.rows + row * layout.row_bytes] ^= 4);
    assert_eq!((missing, there, warnings), ((layout.rows_per_block..ROWS).collect(), false, 1));
    let (missing, ..) = after(|bytes| *bytes.last_mut().unwrap() ^= 0x80);
    assert_eq!(missing, (3 * layout.rows_per_block..ROWS).collect::<Vec<_>>());
}

#[test]
fn foreign_files_are_left_alone() {
    let folder = TempDir::new().unwrap();
    let cache = open(folder.path());
    store(&cache, "", &["a"]);
    let segment = files(folder.path(), &ID, ".seg").remove(0);
    let other = Identity([9; 32]);
    let own = segment.parent().unwrap();
    let others = folder.path().join("v1").join(other.to_string());
    let hex = "0123456789abcdef0123456789abcdef";
    fs::write(own.join("notes.seg"), "").unwrap();
    fs::write(own.join(format!("{hex}.seg")), [b'x'; 500]).unwrap();
    fs::create_dir(own.join(format!("1{}.seg", &hex[1..]))).unwrap();
    fs::create_dir(&others).unwrap();
    fs::copy(&segment, others.join(format!("{hex}.seg"))).unwrap();
    let cache = open(folder.path());
    assert_eq!(fetch(&cache, "", &["a"]), [0usize; 0]);
    let there = EmbeddingCache::open(&settings(folder.path(), 1 << 20), &other, DIM).unwrap();
    assert_eq!(fetch(&there, "", &["a"]), [0]);
    store(&there, "", &["b"]);
    assert_eq!(files(folder.path(), &ID, ".seg").len(), 4);
    assert_eq!(files(folder.path(), &other, ".seg").len(), 2);
    assert!(cache.take_warnings().is_empty() && there.take_warnings().is_empty());
}

#[test]
fn left_over_files_go_when_their_process_is_gone() {
    let folder = TempDir::new().unwrap();
    let other = folder.path().join("v1").join(Identity([9; 32]).to_string());
    let own = folder.path().join("v1").join(ID.to_string());
    fs::create_dir_all(&other).unwrap();
    fs::create_dir_all(&own).unwrap();
    let make = |folder: &Path, digit: &str, minutes: u64| {
        let path = folder.join(format!("{}.tmp", digit.repeat(32)));
        fs::write(&path, "half a segment").unwrap();
        let file = File::open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(60 * minutes)).unwrap();
        (path, file)
    };
    let (young, old, held) = (make(&own, "1", 50).0, make(&own, "2", 70).0, make(&own, "3", 70));
    let elsewhere = make(&other, "4", 70).0;
    held.1.lock().unwrap();
    let cache = open(folder.path());
    assert!(young.exists() && !old.exists() && held.0.exists() && elsewhere.exists());
    store(&cache, "", &["a"]);
    assert!(young.exists() && held.0.exists() && !elsewhere.exists());
    // An empty folder goes, too.
    assert!(!other.exists());
    drop(held.1);
    store(&cache, "", &["b"]);
    assert!(young.exists() && !held.0.exists());
    assert_eq!(fetch(&cache, "", &["a", "b"]), [0usize; 0]);
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error_with_its_path() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = EmbeddingCache::open(&settings(&file, 1 << 20), &ID, DIM).unwrap_err();
    assert!(matches!(&error, CacheError::Io { path, .. } if path.starts_with(&file)), "{error}");
    assert!(error.to_string().contains("Not a directory"), "{error}");
    // The same when it comes between.
    let cache = open(folder.path());
    store(&cache, "", &["a"]);
    fs::remove_dir_all(folder.path().join("v1")).unwrap();
    fs::write(folder.path().join("v1"), "").unwrap();
    let error = cache.store("", &["b"], &[1.0; DIM]).unwrap_err();
    assert!(error.to_string().contains("Not a directory"), "{error}");
    // What is mapped stays of use.
    assert_eq!(fetch(&cache, "", &["a", "b"]), [1]);
}
