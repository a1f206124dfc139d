//! What goes when there is too much, and what is merged when there are too many.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;
use crate::encode::cache::handle::MERGE_COUNT;

const OTHER: Identity = Identity([9; 32]);

/// Sets a file's time to so many hours ago.
fn age(path: &Path, hours: u64) {
    File::open(path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(3600 * hours)).unwrap();
}

/// Bytes of a segment of one row.
fn one_row() -> u64 {
    let folder = TempDir::new().unwrap();
    let cache = open(folder.path());
    store(&cache, "", &["a"]);
    cache.stats().bytes
}

#[test]
fn the_least_recently_used_go_first() {
    let folder = TempDir::new().unwrap();
    let with = |identity| EmbeddingCache::open(&settings(folder.path(), 3 * one_row()), &identity, DIM).unwrap();
    let (cache, other) = (with(ID), with(OTHER));
    for (text, hours) in [("a", 5), ("b", 4)] {
        store(&cache, "", &[text]);
        age(files(folder.path(), &ID, ".seg").last().unwrap(), hours);
    }
    store(&other, "", &["c"]);
    age(&files(folder.path(), &OTHER, ".seg")[0], 3);
    // Handles that see those ages: using "a" makes it the youngest.
    let (cache, other) = (with(ID), with(OTHER));
    assert_eq!(fetch(&cache, "", &["a"]), [0usize; 0]);
    store(&cache, "", &["d"]);
    assert_eq!(fetch(&cache, "", &["a", "b", "d"]), [1]);
    assert_eq!(fetch(&other, "", &["c"]), [0usize; 0]);
    // Fetched just now, all three: the oldest of them goes, whichever it is, and never what was just written.
    store(&other, "", &["e"]);
    assert_eq!(fetch(&other, "", &["e"]), [0usize; 0]);
    let kept = [files(folder.path(), &ID, ".seg"), files(folder.path(), &OTHER, ".seg")].concat();
    assert_eq!(kept.len(), 3);
    // Two at once, of both identities, and the folder with the last of them.
    for path in kept {
        age(&path, if path.starts_with(folder.path().join("v1").join(OTHER.to_string())) { 9 } else { 8 });
    }
    let large: Vec<String> = (0..6).map(|i| i.to_string()).collect();
    let large: Vec<&str> = large.iter().map(String::as_str).collect();
    store(&with(ID), "", &large);
    let bytes = files(folder.path(), &ID, ".seg").iter().map(|p| fs::metadata(p).unwrap().len()).sum::<u64>();
    assert!(bytes <= 3 * one_row());
    assert!(!folder.path().join("v1").join(OTHER.to_string()).exists());
    assert_eq!(fetch(&with(ID), "", &large), [0usize; 0]);
    assert_eq!(fetch(&other, "", &["c", "e"]), [0, 1]);
}

#[test]
fn what_alone_is_beyond_the_limit_is_not_written() {
    let folder = TempDir::new().unwrap();
    let with = |limit| EmbeddingCache::open(&settings(folder.path(), limit), &ID, DIM).unwrap();
    store(&with(one_row()), "", &["a"]);
    let cache = with(one_row() - 1);
    store(&cache, "", &["b"]);
    assert_eq!(cache.take_warnings().len(), 1);
    assert_eq!(cache.take_warnings().len(), 0);
    assert_eq!(fetch(&cache, "", &["a", "b"]), [1]);
    let cache = with(one_row());
    store(&cache, "", &["b"]);
    assert_eq!(fetch(&cache, "", &["a", "b"]), [0]);
}

#[test]
fn whoever_finds_another_tidying_leaves_it_to_it() {
    let folder = TempDir::new().unwrap();
    let cache = EmbeddingCache::open(&settings(folder.path(), one_row()), &ID, DIM).unwrap();
    store(&cache, "", &["a"]);
    let lock = File::open(folder.path().join("v1/.lock")).unwrap();
    lock.lock().unwrap();
    store(&cache, "", &["b"]);
    assert_eq!(fetch(&cache, "", &["a", "b"]), [0usize; 0]);
    drop(lock);
    store(&cache, "", &["c"]);
    assert_eq!(fetch(&cache, "", &["a", "b", "c"]), [0, 1]);
}

#[test]
fn use_is_noted_at_most_once_a_minute() {
    let folder = TempDir::new().unwrap();
    store(&open(folder.path()), "", &["a"]);
    let path = files(folder.path(), &ID, ".seg").remove(0);
    let time = || fs::metadata(&path).unwrap().modified().unwrap();
    for (seconds, noted) in [(30, false), (90, true)] {
        let then = SystemTime::now() - Duration::from_secs(seconds);
        File::open(&path).unwrap().set_modified(then).unwrap();
        let cache = open(folder.path());
        assert_eq!(fetch(&cache, "", &["b"]), [0]);
        assert_eq!(time(), then);
        assert_eq!(fetch(&cache, "", &["a"]), [0usize; 0]);
        assert_eq!(time() != then, noted);
        // The handle does not ask the disk again.
        File::open(&path).unwrap().set_modified(then).unwrap();
        assert_eq!(fetch(&cache, "", &["a"]), [0usize; 0]);
        assert_eq!(time(), then);
    }
}

#[test]
fn small_segments_are_merged_and_keep_their_rows() {
    let folder = TempDir::new().unwrap();
    let (cache, idle) = (open(folder.path()), open(folder.path()));
    let texts: Vec<String> = (0..3 * MERGE_COUNT).map(|i| format!("text {i}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let (first, rest) = texts.split_at(MERGE_COUNT);
    for text in first {
        store(&cache, "p", &[text]);
    }
    assert_eq!(files(folder.path(), &ID, ".seg").len(), MERGE_COUNT);
    assert_eq!(fetch(&idle, "p", first), [0usize; 0]);
    // One of them is damaged, one is stored twice: by a handle that has seen nothing since it was opened.
    let path = files(folder.path(), &ID, ".seg").remove(0);
    let damaged = (0..first.len()).find(|&i| {
        let copy = TempDir::new().unwrap();
        let own = copy.path().join("v1").join(ID.to_string());
        fs::create_dir_all(&own).unwrap();
        fs::copy(&path, own.join(path.file_name().unwrap())).unwrap();
        fetch(&open(copy.path()), "p", &first[i..=i]).is_empty()
    });
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let cache = open(folder.path());
    let values: Vec<f32> = [first[9], rest[0]].iter().flat_map(|t| embed(t, DIM)).collect();
    crate::encode::cache::write::write(
        path.parent().unwrap(),
        &ID,
        crate::encode::cache::segment::Layout::new(DIM, 2).unwrap(),
        &crate::encode::cache::key::keys("p", &[first[9], rest[0]]),
        |i, out| {
            out.copy_from_slice(&values[i * DIM..][..DIM].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
        },
    )
    .unwrap();
    store(&cache, "p", &rest[1..2]);
    assert_eq!(files(folder.path(), &ID, ".seg").len(), 1);
    assert_eq!(cache.stats().segments, 1);
    assert_eq!(cache.stats().rows as usize, MERGE_COUNT - 1 + 2);
    assert_eq!(cache.take_warnings().len(), 1);
    for handle in [&cache, &idle, &open(folder.path())] {
        assert_eq!(fetch(handle, "p", &texts[..MERGE_COUNT + 2]), [damaged.unwrap()]);
    }
    for text in &rest[2..] {
        store(&idle, "p", &[text]);
    }
    assert!(files(folder.path(), &ID, ".seg").len() <= MERGE_COUNT);
    assert_eq!(fetch(&cache, "p", &texts), [damaged.unwrap()]);
}
