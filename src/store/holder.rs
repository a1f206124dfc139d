//! Who holds a lock: read, never taken.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// Without a heartbeat for so long, a lock of another machine counts as abandoned.
const STALE: Duration = Duration::from_secs(60);

/// What a lock file says of its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The machine's name; empty where the lock is not legible.
    pub host: String,
    /// The process; 0 where the lock is not legible.
    pub pid: u32,
    /// Whether the lock is nobody's: its process is not there, or another machine's gave no sign for a minute.
    pub gone: bool,
}

/// Who holds the lock, if there is one.
pub fn holder(path: &Path) -> Option<Holder> {
    let text = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut parts = text.split_whitespace();
    let host = parts.next().unwrap_or_default().to_string();
    let pid = parts.next().and_then(|p| p.parse::<u32>().ok());
    let start = parts.next();
    let gone = match (pid, start) {
        (Some(pid), Some(start)) if host == this_host() && Path::new("/proc/self/stat").exists() => {
            started(pid) != start
        }
        _ => {
            let age = fs::metadata(path).and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
            age.is_some_and(|age| age > STALE)
        }
    };
    Some(Holder { host, pid: pid.unwrap_or(0), gone })
}

/// Whether a process of this number runs here; true where that cannot be known.
pub fn lives(pid: u32) -> bool {
    !Path::new("/proc/self/stat").exists() || !started(pid).is_empty()
}

fn this_host() -> String {
    rustix::system::uname().nodename().to_string_lossy().replace(' ', "-")
}

/// When a process started, in clock ticks since boot; empty if there is none.
fn started(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::folder::RunFolder;

    #[test]
    fn a_lock_that_is_held_has_a_living_holder_and_one_of_an_earlier_process_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(folder.path()).unwrap();
        let lock = run.lock("a").unwrap();
        let path = run.step("a").join("lock");
        let held = holder(&path).unwrap();
        assert_eq!((held.host.as_str(), held.pid, held.gone), (this_host().as_str(), std::process::id(), false));
        drop(lock);
        assert_eq!(holder(&path), None);
        fs::write(&path, format!("{} {} 1 0", this_host(), std::process::id())).unwrap();
        assert!(holder(&path).unwrap().gone);
        // Of another machine, or not legible: only time tells.
        for text in ["elsewhere 7 7", "", "\u{0}"] {
            fs::write(&path, text).unwrap();
            assert!(!holder(&path).unwrap().gone, "{text}");
            let old = std::time::SystemTime::now() - Duration::from_secs(120);
            fs::File::options().append(true).open(&path).unwrap().set_modified(old).unwrap();
            assert!(holder(&path).unwrap().gone, "{text}");
        }
        assert!(lives(std::process::id()) && !lives(u32::MAX - 1));
    }
}
