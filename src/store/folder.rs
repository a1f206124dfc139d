//! A run's folder on the disk: one folder a step, complete when its `status.json` says so, guarded by a lock.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::data::atomic;

/// A fault of the run's folder.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file's content is not what was written there.
    #[error("{}: {message}; remove the step's folder and run again: it is made anew", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A folder or file of results that is none.
    #[error("{}: {message}", path.display())]
    Results {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Another process works on the step.
    #[error("{}: another process ({holder}) works on this run; wait for it, or stop it", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
        /// Who holds it.
        holder: String,
    },
}

impl StoreError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }
}

/// A run's folder.
#[derive(Debug, Clone)]
pub struct RunFolder {
    root: PathBuf,
}

/// What `status.json` holds.
#[derive(Debug, Serialize, serde::Deserialize)]
struct Status {
    state: String,
    seconds: f64,
}

impl RunFolder {
    /// Makes the folder if it is not there.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let steps = root.join("steps");
        fs::create_dir_all(&steps).map_err(|e| StoreError::io(&steps, e))?;
        Ok(Self { root: root.into() })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a step.
    pub fn step(&self, id: &str) -> PathBuf {
        self.root.join("steps").join(id)
    }

    /// Whether a step is complete.
    pub fn is_complete(&self, id: &str) -> bool {
        read_json::<Status>(&self.step(id).join("status.json")).is_ok_and(|s| s.state == "complete")
    }

    /// Marks a step complete; its outputs are to be on the disk.
    ///
    /// # Errors
    /// The operating system's.
    pub fn complete(&self, id: &str, seconds: f64) -> Result<(), StoreError> {
        write_json(&self.step(id).join("status.json"), &Status { state: "complete".into(), seconds })
    }

    /// Takes the step's lock; it is let go when the guard is dropped.
    ///
    /// # Errors
    /// Where another living process holds it.
    pub fn lock(&self, id: &str) -> Result<Lock, StoreError> {
        let folder = self.step(id);
        fs::create_dir_all(&folder).map_err(|e| StoreError::io(&folder, e))?;
        Lock::take(&folder.join("lock"))
    }
}

/// Seconds between heartbeats, and without one after which a lock of another machine counts as abandoned.
const HEARTBEAT: Duration = Duration::from_secs(5);
const STALE: Duration = Duration::from_secs(60);

/// A lock file with a heartbeat.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    stop: Arc<AtomicBool>,
}

impl Lock {
    fn take(path: &Path) -> Result<Self, StoreError> {
        let own = format!("{} {} {}", host(), std::process::id(), started(std::process::id()));
        for _ in 0..3 {
            match appear(path, &own) {
                Ok(()) => return Ok(Self::beating(path)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    let holder = fs::read_to_string(path).unwrap_or_default();
                    if !abandoned(path, &holder) {
                        return Err(StoreError::Locked { path: path.into(), holder });
                    }
                    // Its process is gone: the lock is nobody's.
                    if let Err(e) = fs::remove_file(path)
                        && e.kind() != io::ErrorKind::NotFound
                    {
                        return Err(StoreError::io(path, e));
                    }
                }
                Err(e) => return Err(StoreError::io(path, e)),
            }
        }
        Err(StoreError::Locked { path: path.into(), holder: "several at once".into() })
    }

    fn beating(path: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, file) = (stop.clone(), path.to_path_buf());
        std::thread::spawn(move || {
            let mut waited = Duration::ZERO;
            while !flag.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
                waited += Duration::from_millis(100);
                if waited >= HEARTBEAT {
                    waited = Duration::ZERO;
                    if let Ok(open) = OpenOptions::new().append(true).open(&file) {
                        // A missed beat only makes the lock look older.
                        let _ = open.set_modified(SystemTime::now());
                    }
                }
            }
        });
        Self { path: path.into(), stop }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A lock that cannot be removed is found abandoned by the next process.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes the file with its content at once, so that a process killed on the way leaves no lock that names nobody; fails where
/// it is there already.
fn appear(path: &Path, content: &str) -> io::Result<()> {
    let draft = path.with_extension(format!("{}.tmp", std::process::id()));
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

/// Whether the holder's process is gone: seen in the process table on this machine, by a missing heartbeat elsewhere.
fn abandoned(path: &Path, holder: &str) -> bool {
    let mut parts = holder.split(' ');
    let (machine, pid, start) = (parts.next(), parts.next().and_then(|p| p.parse::<u32>().ok()), parts.next());
    if let (Some(machine), Some(pid), Some(start)) = (machine, pid, start)
        && machine == host()
        && Path::new("/proc/self/stat").exists()
    {
        return started(pid) != start;
    }
    let age = fs::metadata(path).and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
    age.is_some_and(|age| age > STALE)
}

fn host() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().replace(' ', "-")
}

/// When a process started, in clock ticks since boot: tells a process from a later one with the same number. Empty if there
/// is none.
fn started(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)).unwrap_or_default().to_string()
}

/// Reads a JSON file.
///
/// # Errors
/// Where it is missing or not of this form.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
    let text = fs::read_to_string(path).map_err(|e| StoreError::io(path, e))?;
    serde_json::from_str(&text).map_err(|e| StoreError::Content { path: path.into(), message: e.to_string() })
}

/// Writes a JSON file, whole or not at all.
///
/// # Errors
/// The operating system's.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), StoreError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| StoreError::Content { path: path.into(), message: e.to_string() })?;
    atomic::write(path, (text + "\n").as_bytes()).map_err(|e| StoreError::io(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_keeps_others_out_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(folder.path()).unwrap();
        let lock = run.lock("a").unwrap();
        assert!(matches!(run.lock("a"), Err(StoreError::Locked { .. })));
        drop(lock);
        assert!(run.lock("a").is_ok());
    }

    #[test]
    fn a_lock_of_a_dead_process_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(folder.path()).unwrap();
        std::fs::create_dir_all(run.step("a")).unwrap();
        // The same process number with another start: it is another process.
        let text = format!("{} {} 1", host(), std::process::id());
        std::fs::write(run.step("a").join("lock"), text).unwrap();
        assert!(run.lock("a").is_ok());
    }

    #[test]
    fn a_step_is_complete_when_its_status_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(folder.path()).unwrap();
        assert!(!run.is_complete("a"));
        run.complete("a", 1.0).unwrap();
        assert!(run.is_complete("a"));
        std::fs::write(run.step("a").join("status.json"), "{\"state\"").unwrap();
        assert!(!run.is_complete("a"));
    }
}
