//! What the cache promises, checked on real folders.

mod damage;
mod limit;
mod processes;

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{CacheError, CacheSettings, EmbeddingCache, Identity, Stats};

const DIM: usize = 5;
const ID: Identity = Identity([0xa7; 32]);

fn settings(folder: &Path, limit: u64) -> CacheSettings {
    CacheSettings { folder: folder.into(), limit }
}

fn open(folder: &Path) -> EmbeddingCache {
    EmbeddingCache::open(&settings(folder, 1 << 40), &ID, DIM).unwrap()
}

/// Values that depend on the text only, so that whoever stores it stores the same.
fn embed(text: &str, dim: usize) -> Vec<f32> {
    let seed = text.bytes().fold(17u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
    (0..dim as u32).map(|i| seed.wrapping_mul(2_654_435_761).wrapping_add(i * 7919) as f32 / 1e9 - 2.0).collect()
}

fn store(cache: &EmbeddingCache, prompt: &str, texts: &[&str]) {
    let values: Vec<f32> = texts.iter().flat_map(|t| embed(t, DIM)).collect();
    cache.store(prompt, texts, &values).unwrap();
}

/// The positions missing; the others are checked to be right.
fn fetch(cache: &EmbeddingCache, prompt: &str, texts: &[&str]) -> Vec<usize> {
    let mut out = vec![f32::MAX; texts.len() * DIM];
    let missing = cache.fetch(prompt, texts, &mut out);
    for (i, (text, row)) in texts.iter().zip(out.chunks(DIM)).enumerate() {
        let expected = if missing.contains(&i) { vec![f32::MAX; DIM] } else { embed(text, DIM) };
        assert_eq!(row, expected, "{text}");
    }
    missing
}

/// The files of an identity with this ending, oldest first.
fn files(folder: &Path, identity: &Identity, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join("v1").join(identity.to_string())).unwrap();
    let mut files: Vec<_> = entries.map(|e| e.unwrap().path()).filter(|p| p.to_string_lossy().ends_with(end)).collect();
    files.sort_by_key(|p| fs::metadata(p).unwrap().modified().unwrap());
    files
}

#[test]
fn rows_come_back_to_the_bit() {
    let folder = TempDir::new().unwrap();
    let values = [0.0, -0.0, f32::MIN_POSITIVE / 2.0, f32::MAX, -1.0 / 3.0, 1.0, 2.0, f32::EPSILON, -5e-45, f32::MIN];
    open(folder.path()).store("query: ", &["α", ""], &values).unwrap();
    let cache = open(folder.path());
    let mut out = [7.0; 15];
    assert_eq!(cache.fetch("query: ", &["", "absent", "α"], &mut out), [1]);
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&out[..5]), bits(&values[5..]));
    assert_eq!(out[5..10], [7.0; 5]);
    assert_eq!(bits(&out[10..]), bits(&values[..5]));
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.rows, stats.segments), (2, 1, 2, 1));
    assert_eq!(stats.bytes, fs::metadata(&files(folder.path(), &ID, ".seg")[0]).unwrap().len());
}

#[test]
fn anything_else_is_a_miss() {
    let folder = TempDir::new().unwrap();
    store(&open(folder.path()), "a", &["bc"]);
    let cache = open(folder.path());
    assert_eq!(fetch(&cache, "a", &["bc"]), [0usize; 0]);
    assert_eq!(fetch(&cache, "ab", &["c"]), [0]);
    assert_eq!(fetch(&cache, "", &["abc"]), [0]);
    assert_eq!(fetch(&cache, "a", &["bc ", "b", "bc"]), [0, 1]);
    let other = EmbeddingCache::open(&settings(folder.path(), 1 << 20), &Identity([1; 32]), DIM).unwrap();
    assert_eq!(fetch(&other, "a", &["bc"]), [0]);
    let wider = EmbeddingCache::open(&settings(folder.path(), 1 << 20), &ID, 6).unwrap();
    assert_eq!(wider.fetch("a", &["bc"], &mut [0.0; 6]), [0]);
    // Both dimensions live side by side.
    wider.store("a", &["bc"], &embed("bc", 6)).unwrap();
    assert_eq!(wider.fetch("a", &["bc"], &mut [0.0; 6]), [0usize; 0]);
    assert_eq!(fetch(&cache, "a", &["bc"]), [0usize; 0]);
    assert!(cache.take_warnings().is_empty() && wider.take_warnings().is_empty());
}

#[test]
fn rows_span_many_blocks_and_odd_sizes() {
    for dim in [1, 3, 384, 20_000] {
        let folder = TempDir::new().unwrap();
        let texts: Vec<String> = (0..if dim > 1000 { 5 } else { 1000 }).map(|i| format!("text {i}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let values: Vec<f32> = texts.iter().flat_map(|t| embed(t, dim)).collect();
        let cache = EmbeddingCache::open(&settings(folder.path(), 1 << 30), &ID, dim).unwrap();
        cache.store("", &texts, &values).unwrap();
        let mut out = vec![0.0; values.len()];
        assert_eq!(cache.fetch("", &texts, &mut out), [0usize; 0]);
        assert_eq!(out, values);
    }
}

#[test]
fn repeated_and_no_texts() {
    let folder = TempDir::new().unwrap();
    let cache = open(folder.path());
    store(&cache, "", &[]);
    assert_eq!(fetch(&cache, "", &[]), [0usize; 0]);
    assert_eq!(files(folder.path(), &ID, "").len(), 0);
    assert_eq!(fetch(&cache, "", &["x", "y", "x"]), [0, 1, 2]);
    store(&cache, "", &["x", "y", "x"]);
    assert_eq!(cache.stats().rows, 2);
    assert_eq!(fetch(&cache, "", &["x", "x", "y", "z", "x"]), [3]);
    // What is there already makes no new segment.
    store(&cache, "", &["y", "x"]);
    assert_eq!(files(folder.path(), &ID, "").len(), 1);
}

#[test]
fn a_second_handle_sees_the_first_ones_rows() {
    let folder = TempDir::new().unwrap();
    let (first, second) = (open(folder.path()), open(folder.path()));
    assert_eq!(fetch(&second, "", &["a", "b"]), [0, 1]);
    store(&first, "", &["a"]);
    assert_eq!(fetch(&second, "", &["a", "b"]), [1]);
    store(&second, "", &["b"]);
    assert_eq!(fetch(&first, "", &["a", "b"]), [0usize; 0]);
    // And lets go of them with the files.
    fs::remove_dir_all(folder.path().join("v1")).unwrap();
    assert_eq!(fetch(&first, "", &["a", "b"]), [0, 1]);
    assert_eq!(first.stats().rows, 0);
    store(&first, "", &["a"]);
    assert_eq!(fetch(&second, "", &["a", "b"]), [1]);
}

#[test]
fn a_row_in_two_segments_outlives_either() {
    for gone in 0..2 {
        let folder = TempDir::new().unwrap();
        let (first, second) = (open(folder.path()), open(folder.path()));
        store(&first, "", &["a", "b"]);
        // The second has not looked since, and stores the same again.
        store(&second, "", &["b", "c"]);
        let third = open(folder.path());
        assert_eq!(fetch(&third, "", &["a", "b", "c"]), [0usize; 0]);
        fs::remove_file(&files(folder.path(), &ID, ".seg")[gone]).unwrap();
        assert_eq!(fetch(&third, "", &["a", "b", "c"]), [[0], [2]][gone]);
    }
}

#[test]
fn what_is_not_a_finite_row_a_text_is_refused() {
    let folder = TempDir::new().unwrap();
    let cache = open(folder.path());
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = [1.0; 2 * DIM];
        values[DIM] = bad;
        assert!(matches!(cache.store("", &["a", "b"], &values), Err(CacheError::NotFinite(1))));
    }
    let error = cache.store("", &["a"], &[1.0; DIM + 1]).unwrap_err();
    assert_eq!(error.to_string(), "6 values are not 1 embeddings of 5");
    assert_eq!(files(folder.path(), &ID, "").len(), 0);
    store(&cache, "", &["a"]);
    assert_eq!(cache.fetch("", &["a"], &mut [0.0; DIM + 1]), [0]);
    assert!(matches!(EmbeddingCache::open(&settings(folder.path(), 1), &ID, 0), Err(CacheError::Dim(0))));
}

#[test]
fn a_limit_of_nothing_reads_and_writes_nothing() {
    let folder = TempDir::new().unwrap();
    store(&open(folder.path()), "", &["a"]);
    let missing = folder.path().join("missing");
    for cache in [
        EmbeddingCache::open(&settings(folder.path(), 0), &ID, DIM).unwrap(),
        EmbeddingCache::open(&settings(&missing, 0), &ID, DIM).unwrap(),
        EmbeddingCache::disabled(),
    ] {
        store(&cache, "", &["b"]);
        assert_eq!(fetch(&cache, "", &["a", "b"]), [0, 1]);
        assert_eq!(cache.stats(), Stats::default());
    }
    assert!(!missing.exists());
    assert_eq!(files(folder.path(), &ID, "").len(), 1);
}
