//! A lock file with a heartbeat, for processes of one machine and of several that share a file system.
//!
//! The file names its holder: machine, process, when the process started, where its process numbers are valid, and a count
//! that the holder raises every few seconds. On the same machine a holder is gone when its process is; elsewhere, when
//! the count has stood still for a minute of the observer's own monotonic clock. No file times are compared, so clocks may
//! differ between machines, and be set.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::folder::StoreError;

/// Time between heartbeats, and without one after which a lock of another machine counts as abandoned.
const HEARTBEAT: Duration = Duration::from_secs(5);
const STALE: Duration = Duration::from_secs(60);

/// What was last read of locks of other machines, and since when it has not changed.
static SEEN: LazyLock<Mutex<HashMap<PathBuf, (String, Instant)>>> = LazyLock::new(Mutex::default);

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    own: String,
    stop: Arc<AtomicBool>,
    lost: Arc<AtomicBool>,
    beat: Option<std::thread::JoinHandle<()>>,
}

impl Lock {
    /// Takes the lock, from an abandoned holder, too.
    ///
    /// # Errors
    /// [`StoreError::Locked`] where a living process holds it; the operating system's.
    pub fn take(path: &Path) -> Result<Self, StoreError> {
        let fault = |source: io::Error| StoreError::Io { path: path.into(), source };
        let own = identity();
        for _ in 0..3 {
            match appear(path, &line(&own, 0)) {
                Ok(()) => return Ok(Self::beating(path, own)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(fault(e)),
            }
            let holder = match fs::read_to_string(path) {
                Ok(holder) => holder,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(fault(e)),
            };
            if !is_abandoned(path, &holder) {
                return Err(StoreError::Locked { path: path.into(), holder: holder_name(&holder) });
            }
            take_away(path, &holder).map_err(fault)?;
        }
        Err(StoreError::Locked { path: path.into(), holder: "several at once".into() })
    }

    /// Whether another process took the lock over, as happens to one that slept for minutes: what it guards is no longer ours.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    fn beating(path: &Path, own: String) -> Self {
        let (stop, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (flag, gone, file, name) = (stop.clone(), lost.clone(), path.to_path_buf(), own.clone());
        let beat = std::thread::spawn(move || {
            let (mut last, mut count) = (Instant::now(), 0u64);
            while !flag.load(Ordering::Relaxed) {
                std::thread::park_timeout(HEARTBEAT.saturating_sub(last.elapsed()));
                if last.elapsed() < HEARTBEAT {
                    continue;
                }
                last = Instant::now();
                match fs::read_to_string(&file) {
                    Ok(text) if is_of(&text, &name) => {
                        count += 1;
                        // A missed beat only makes the lock look older.
                        let _ = OpenOptions::new()
                            .write(true)
                            .open(&file)
                            .and_then(|mut open| open.write_all(line(&name, count).as_bytes()));
                    }
                    Ok(_) => gone.store(true, Ordering::Relaxed),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => gone.store(true, Ordering::Relaxed),
                    Err(_) => {}
                }
            }
        });
        Self { path: path.into(), own, stop, lost, beat: Some(beat) }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(beat) = self.beat.take() {
            beat.thread().unpark();
            let _ = beat.join();
        }
        // Not one that another process has taken over. A lock that cannot be removed is found abandoned by the next process.
        if fs::read_to_string(&self.path).is_ok_and(|text| is_of(&text, &self.own)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What a lock file says of its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The machine's name; empty where the lock is not legible.
    pub host: String,
    /// The process; 0 where the lock is not legible.
    pub pid: u32,
    /// Whether it is gone: a process of this machine that is not there, or one of another machine whose lock is as old as no
    /// clocks differ.
    pub gone: bool,
}

/// A lock of another machine without a sign for so long is told to be abandoned by those that do not wait and see.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// Who holds a lock, if there is one. A look, nothing more: [`Lock::take`] is what decides.
pub fn holder(path: &Path) -> Option<Holder> {
    let text = String::from_utf8_lossy(&fs::read(path).ok()?).to_string();
    let mut parts = text.split_whitespace();
    let host = parts.next().unwrap_or_default().to_string();
    let pid = parts.next().and_then(|p| p.parse().ok()).unwrap_or(0);
    let gone = if is_local(&text) {
        is_abandoned(path, &text)
    } else {
        let age = fs::metadata(path).and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
        age.is_some_and(|age| age > FORGOTTEN)
    };
    Some(Holder { host, pid, gone })
}

/// Removes a lock whose holder is gone, by a look at it.
///
/// # Errors
/// The operating system's.
pub fn remove_gone(path: &Path) -> io::Result<()> {
    let Ok(text) = fs::read_to_string(path) else { return Ok(()) };
    if holder(path).is_some_and(|holder| holder.gone) { take_away(path, &text) } else { Ok(()) }
}

/// Whether a process of this number runs here; true where that cannot be known.
pub fn lives(pid: u32) -> bool {
    !Path::new("/proc/self/stat").exists() || started(pid) != "0"
}

/// This process, as locks name it.
fn identity() -> String {
    let pid = std::process::id();
    format!("{} {pid} {} {}", host(), started(pid), place())
}

/// The count has a fixed width: a heartbeat writes over the last one.
fn line(identity: &str, count: u64) -> String {
    format!("{identity} {count:012}\n")
}

fn is_of(text: &str, identity: &str) -> bool {
    text.strip_prefix(identity).is_some_and(|rest| rest.starts_with(' '))
}

fn holder_name(text: &str) -> String {
    let mut parts = text.split_whitespace();
    match (parts.next(), parts.next()) {
        (Some(host), Some(pid)) => format!("process {pid} on {host}"),
        _ => "unknown".into(),
    }
}

/// Makes the file with its content at once, so that a process killed on the way leaves no lock that names nobody; fails where
/// it is there already.
fn appear(path: &Path, content: &str) -> io::Result<()> {
    static DRAFTS: AtomicU64 = AtomicU64::new(0);
    let draft = path.with_extension(format!("{}-{}.tmp", std::process::id(), DRAFTS.fetch_add(1, Ordering::Relaxed)));
    fs::write(&draft, content)?;
    let linked = fs::hard_link(&draft, path);
    // A draft that stays is no lock.
    let _ = fs::remove_file(&draft);
    match linked {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            // A file system without links: the content follows the name.
            OpenOptions::new().write(true).create_new(true).open(path)?.write_all(content.as_bytes())
        }
        other => other,
    }
}

/// Removes an abandoned lock, unless another process was quicker: those that find the same one abandoned take turns.
fn take_away(path: &Path, abandoned: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let guard = File::open(folder)?;
    // A file system without such locks leaves a window of microseconds, which the heartbeat of the one that loses it closes.
    let _ = rustix::fs::flock(&guard, rustix::fs::FlockOperation::LockExclusive);
    if fs::read_to_string(path).is_ok_and(|text| text == abandoned) {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Whether the holder's numbers are those of processes here: the same boot of the same machine, and the same container.
fn is_local(holder: &str) -> bool {
    let mut parts = holder.split_whitespace();
    parts.next().is_some_and(|machine| machine == host())
        && parts.nth(2).is_some_and(|of| of == place())
        && Path::new("/proc/self/stat").exists()
}

/// Whether the holder is gone: seen in the process table here, by a count that stands still elsewhere.
fn is_abandoned(path: &Path, holder: &str) -> bool {
    if is_local(holder) {
        let mut parts = holder.split_whitespace().skip(1);
        let pid = parts.next().and_then(|p| p.parse::<u32>().ok());
        return pid.is_none_or(|pid| parts.next() != Some(started(pid).as_str()));
    }
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = seen.entry(path.into()).or_insert_with(|| (holder.to_string(), Instant::now()));
    if known.0 != holder {
        *known = (holder.to_string(), Instant::now());
    }
    known.1.elapsed() > STALE
}

/// This machine's name.
pub fn machine() -> String {
    host()
}

fn host() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().replace(char::is_whitespace, "-")
}

/// Where process numbers are valid: a boot of the machine, and a namespace in it.
fn place() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = fs::read_link("/proc/self/ns/pid").map(|p| p.to_string_lossy().to_string()).unwrap_or_default();
    let digits: String = space.chars().filter(char::is_ascii_digit).collect();
    format!("{}-{digits}", boot.trim())
}

/// When a process started, in clock ticks since boot: tells a process from a later one with the same number. `0` if there
/// is none.
fn started(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let mut fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace()).into_iter().flatten();
    // A process that has ended and was not waited for holds nothing.
    match (fields.next(), fields.nth(18)) {
        (Some(state), Some(ticks)) if state != "Z" && state != "X" => ticks.to_string(),
        _ => "0".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_keeps_others_out_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = Lock::take(&path).unwrap();
        assert!(matches!(Lock::take(&path), Err(StoreError::Locked { .. })));
        assert_eq!(holder(&path).map(|h| (h.pid, h.gone)), Some((std::process::id(), false)));
        drop(lock);
        assert!(!path.exists());
        assert!(Lock::take(&path).is_ok());
    }

    #[test]
    fn a_lock_of_a_dead_process_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        // The same process number with another start: it is another process.
        fs::write(&path, format!("{} {} 1 {} 000000000007\n", host(), std::process::id(), place())).unwrap();
        assert!(holder(&path).unwrap().gone);
        assert!(Lock::take(&path).is_ok());
    }

    #[test]
    fn a_lock_of_another_machine_or_container_holds_while_nothing_is_known_of_it() {
        let folder = tempfile::tempdir().unwrap();
        for (name, holder) in
            [("a", format!("elsewhere 1 1 {} 000000000007\n", place())), ("b", format!("{} 1 1 x-1 0\n", host()))]
        {
            let path = folder.path().join(name);
            fs::write(&path, &holder).unwrap();
            // Its file times say that it is long dead, as a clock that was set would.
            File::options().write(true).open(&path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
            let error = Lock::take(&path).unwrap_err().to_string();
            assert!(error.contains("process 1 on"), "{error}");
        }
    }

    #[test]
    fn a_look_at_a_lock_says_whose_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert_eq!(holder(&path), None);
        // Of another machine, or not legible: only time tells.
        for text in ["elsewhere 7 7", "", "\u{0}"] {
            fs::write(&path, text).unwrap();
            assert!(!holder(&path).unwrap().gone, "{text}");
            let old = std::time::SystemTime::now() - Duration::from_secs(1_200);
            File::options().append(true).open(&path).unwrap().set_modified(old).unwrap();
            assert!(holder(&path).unwrap().gone, "{text}");
        }
        assert!(lives(std::process::id()) && !lives(u32::MAX - 1));
    }

    #[test]
    fn a_lock_that_was_taken_over_is_not_removed_by_its_first_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = Lock::take(&path).unwrap();
        fs::write(&path, "elsewhere 5 5 y-1 000000000001\n").unwrap();
        drop(lock);
        assert!(path.exists());
    }

    #[test]
    fn one_of_many_that_find_a_lock_abandoned_gets_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        for _ in 0..50 {
            fs::write(&path, format!("{} {} 1 {} 000000000007\n", host(), std::process::id(), place())).unwrap();
            let locks: Vec<_> = std::thread::scope(|scope| {
                let takers: Vec<_> = (0..4).map(|_| scope.spawn(|| Lock::take(&path))).collect();
                takers.into_iter().map(|taker| taker.join().unwrap()).collect()
            });
            assert_eq!(locks.iter().filter(|lock| lock.is_ok()).count(), 1);
        }
    }
}
