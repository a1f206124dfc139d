//! Several processes and threads at once, killed writers and full disks.

use std::env;
use std::fs;
use std::process::{Command, Stdio};
use std::thread;

use tempfile::TempDir;

use super::*;

/// What tells a process of this test binary that it is a child, and what to do where.
const CHILD: &str = "CACHE_TEST_CHILD";

/// This binary, told to run `child` alone.
fn child(job: &str, folder: &Path) -> Command {
    let name = module_path!().split_once("::").unwrap().1.to_owned() + "::child_process";
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", &name, "--nocapture"]).env(CHILD, format!("{job} {}", folder.display()));
    command.stdout(Stdio::null());
    command
}

/// Not a test of its own: what the processes that the tests below start do.
#[test]
fn child_process() {
    let Ok(job) = env::var(CHILD) else { return };
    let (job, folder) = job.split_once(' ').unwrap();
    let folder = Path::new(folder);
    match job {
        "forever" => {
            let cache = open(folder);
            let texts: Vec<String> = (0..200_000).map(|i| format!("large {i}")).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            for round in 0.. {
                store(&cache, &round.to_string(), &texts);
            }
        }
        "full" => full_disk(folder),
        offset => busy(folder, offset.parse().unwrap(), 1 << 40),
    }
}

/// Stores and fetches overlapping texts in small steps; every row that is there must be right.
fn busy(folder: &Path, offset: usize, limit: u64) {
    let cache = EmbeddingCache::open(&settings(folder, limit), &ID, DIM).unwrap();
    let texts = busy_texts();
    for step in 0..60 {
        let from = (offset + step * 7) % 400;
        let texts: Vec<&str> = texts[from..from + 100].iter().map(String::as_str).collect();
        let missing = fetch(&cache, "p", &texts);
        let missing: Vec<&str> = missing.iter().map(|&i| texts[i]).collect();
        store(&cache, "p", &missing);
        if limit == 1 << 40 {
            assert_eq!(fetch(&cache, "p", &missing), [0usize; 0]);
        }
    }
    assert_eq!(cache.take_warnings(), [""; 0]);
}

fn busy_texts() -> Vec<String> {
    (0..499).map(|i| format!("text {i}")).collect()
}

#[test]
fn processes_at_once_agree() {
    let folder = TempDir::new().unwrap();
    let children: Vec<_> = (0..4).map(|i| child(&(i * 100).to_string(), folder.path()).spawn().unwrap()).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let texts = busy_texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let cache = open(folder.path());
    assert_eq!(fetch(&cache, "p", &texts), [0usize; 0]);
    assert_eq!(cache.stats().rows, 499);
    assert!(files(folder.path(), &ID, ".tmp").is_empty());
}

#[test]
fn threads_at_once_agree_within_a_limit() {
    let folder = TempDir::new().unwrap();
    let limit = 12_000;
    thread::scope(|scope| {
        for i in 0..4 {
            let folder = folder.path();
            scope.spawn(move || busy(folder, i * 100, limit));
        }
    });
    let cache = EmbeddingCache::open(&settings(folder.path(), limit), &ID, DIM).unwrap();
    store(&cache, "p", &["last"]);
    assert!(cache.stats().bytes <= limit);
    assert_eq!(fetch(&cache, "p", &["last"]), [0usize; 0]);
}

#[test]
fn threads_share_a_handle() {
    let folder = TempDir::new().unwrap();
    let cache = open(folder.path());
    thread::scope(|scope| {
        for i in 0..4 {
            let cache = &cache;
            scope.spawn(move || {
                for step in 0..50 {
                    let texts = [format!("{}", step), format!("{i} {step}")];
                    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                    store(cache, "", &texts);
                    assert_eq!(fetch(cache, "", &texts), [0usize; 0]);
                }
            });
        }
    });
    assert_eq!(cache.stats().rows, 250);
    assert_eq!(cache.stats().hits, 400);
    assert!(cache.take_warnings().is_empty());
}

#[test]
fn a_killed_writers_file_does_no_harm() {
    let folder = TempDir::new().unwrap();
    store(&open(folder.path()), "", &["a"]);
    let mut writer = child("forever", folder.path()).spawn().unwrap();
    while files(folder.path(), &ID, ".tmp").is_empty() {
        assert!(writer.try_wait().unwrap().is_none());
        thread::yield_now();
    }
    writer.kill().unwrap();
    writer.wait().unwrap();
    let cache = open(folder.path());
    assert_eq!(fetch(&cache, "", &["a", "b"]), [1]);
    store(&cache, "", &["b"]);
    assert_eq!(fetch(&cache, "", &["a", "b"]), [0usize; 0]);
    assert!(cache.take_warnings().is_empty());
    assert!(files(folder.path(), &ID, ".tmp").len() <= 1);
}

/// What is expected where `folder` has room for a few hundred kilobytes.
fn full_disk(folder: &Path) {
    let cache = open(folder);
    store(&cache, "", &["a", "b"]);
    let texts: Vec<String> = (0..50_000).map(|i| format!("text {i}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let error = cache.store("", &texts, &vec![0.5; texts.len() * DIM]).unwrap_err();
    assert!(error.to_string().contains("No space left"), "{error}");
    assert!(error.to_string().contains(&ID.to_string()), "{error}");
    assert!(files(folder, &ID, ".tmp").is_empty());
    assert_eq!(fetch(&cache, "", &["a", "text 0", "b"]), [1]);
    store(&cache, "", &["c"]);
    assert_eq!(fetch(&cache, "", &["a", "c", "b"]), [0usize; 0]);
    fs::write(folder.join("done"), "").unwrap();
    fs::copy(folder.join("done"), folder.parent().unwrap().join("done")).unwrap();
}

#[test]
fn a_full_disk_is_an_error_and_nothing_more() {
    let parent = TempDir::new().unwrap();
    let folder = parent.path().join("disk");
    fs::create_dir(&folder).unwrap();
    let inner = child("full", &folder);
    // A file system of its own, in a namespace of its own: it goes with the process.
    let mount = "mount -t tmpfs -o size=300k none \"$0\" && touch \"$0\".mounted && exec \"$@\"";
    let mut outer = Command::new("unshare");
    outer.args(["-rm", "sh", "-c", mount]).arg(&folder).arg(inner.get_program()).args(inner.get_args());
    let status = outer.env(CHILD, format!("full {}", folder.display())).stdout(Stdio::null()).status();
    if !parent.path().join("disk.mounted").exists() {
        eprintln!("not tested: no file system can be mounted here ({status:?})");
        return;
    }
    assert!(status.unwrap().success());
    assert!(parent.path().join("done").exists());
}

#[test]
fn folders_that_are_read_only_are_read() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    store(&open(folder.path()), "", &["a"]);
    let own = folder.path().join("v1").join(ID.to_string());
    fs::set_permissions(&own, fs::Permissions::from_mode(0o555)).unwrap();
    let cache = open(folder.path());
    assert_eq!(fetch(&cache, "", &["a", "b"]), [1]);
    match cache.store("", &["b"], &embed("b", DIM)) {
        Err(e) => assert!(e.to_string().contains("Permission denied"), "{e}"),
        // Permissions are nothing to root.
        Ok(()) => assert_eq!(fetch(&cache, "", &["a", "b"]), [0usize; 0]),
    }
    fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
}
