//! What can go wrong between here and the hub.

use std::io;
use std::path::{Path, PathBuf};

/// A fault of the hub, of the way to it or of the cache. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// An id, a revision or a file name that cannot be one.
    #[error("`{name}` is no {what}: {rule}")]
    Name {
        /// What it should be.
        what: &'static str,
        /// What it is.
        name: String,
        /// What makes one.
        rule: &'static str,
    },
    /// `HF_ENDPOINT` is no address.
    #[error("`{0}` is no address of a hub: HF_ENDPOINT is to begin with http:// or https://")]
    Endpoint(String),
    /// The token cannot be sent.
    #[error("the hub's token holds characters that no token has: set HF_TOKEN anew, or log in again")]
    Token,
    /// The hub has no such repository, or does not show it.
    #[error(
        "no {repo} at {endpoint}: check the id; a private or gated repository shows only to who may read it (set \
         HF_TOKEN, or run `hf auth login`)"
    )]
    RepoNotFound {
        /// The repository.
        repo: String,
        /// The hub.
        endpoint: String,
    },
    /// The repository has no such revision.
    #[error("{repo} has no revision `{revision}` at {endpoint}: it is a branch, a tag or a full commit hash")]
    RevisionNotFound {
        /// The repository.
        repo: String,
        /// The revision.
        revision: String,
        /// The hub.
        endpoint: String,
    },
    /// The revision has no such file.
    #[error("{repo} has no file `{file}`")]
    EntryNotFound {
        /// The repository and the revision.
        repo: String,
        /// The file.
        file: String,
    },
    /// The repository is there, but not for this user.
    #[error("{repo}: the hub answers {status} ({reason}); {advice}")]
    Denied {
        /// The repository.
        repo: String,
        /// The HTTP status.
        status: u16,
        /// The hub's words.
        reason: String,
        /// The way out.
        advice: String,
    },
    /// Another answer than one that a hub gives.
    #[error("{address} answers {status} ({reason}); try again later")]
    Status {
        /// What was asked for.
        address: String,
        /// The HTTP status.
        status: u16,
        /// The server's words.
        reason: String,
    },
    /// An answer that is not a hub's.
    #[error("{address}: {message}; is HF_ENDPOINT the address of a hub?")]
    Protocol {
        /// What was asked for.
        address: String,
        /// What is wrong with the answer.
        message: String,
    },
    /// There is no connection.
    #[error(
        "no connection to {address} ({reason}): check the network; HF_ENDPOINT names another hub, HF_HUB_OFFLINE=1 uses \
         only what was downloaded before, and a local folder works in place of an id"
    )]
    Unreachable {
        /// The server.
        address: String,
        /// What the system says.
        reason: String,
    },
    /// The connection broke again and again.
    #[error("{what}: the connection broke {times} times ({reason}); {kept}")]
    Broken {
        /// What was being downloaded.
        what: String,
        /// How often.
        times: u32,
        /// The last break.
        reason: String,
        /// What is left of it.
        kept: String,
    },
    /// The content is not what the hub announced.
    #[error(
        "`{file}` of {repo} is damaged: {expected} was announced, {found} came; the partial file is removed, run again"
    )]
    Checksum {
        /// The file.
        file: String,
        /// The repository.
        repo: String,
        /// What the hub announced.
        expected: String,
        /// What came.
        found: String,
    },
    /// The file does not fit on the disk.
    #[error(
        "no room in {}: {needed}, {free}; make room, or let HF_HOME or HF_HUB_CACHE name a folder on another disk",
        folder.display()
    )]
    DiskFull {
        /// Where.
        folder: PathBuf,
        /// How much is needed.
        needed: String,
        /// How much there is.
        free: String,
    },
    /// The cache cannot be written or read.
    #[error(
        "{}: {source}; make it yours, or let HF_HOME or HF_HUB_CACHE name a folder that you may write",
        path.display()
    )]
    Permission {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file of the cache could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The cache lacks it, and the network is not to be used.
    #[error(
        "{what} of {repo} is not in the cache {} and HF_HUB_OFFLINE is set: unset it to download, copy the cache from a \
         machine that has it (HF_HOME names it), or give a local folder in place of the id",
        cache.display()
    )]
    Offline {
        /// A file, or the revision as a whole.
        what: String,
        /// The repository.
        repo: String,
        /// The cache.
        cache: PathBuf,
    },
}

impl HubError {
    /// Whether the hub was not asked, or could not be: what is missing may well be there.
    pub fn is_out_of_reach(&self) -> bool {
        matches!(self, Self::Offline { .. } | Self::Unreachable { .. })
    }

    /// The fault of a file operation.
    pub(super) fn at(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::Permission { path: path.into(), source }
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                let folder = path.parent().unwrap_or(path).to_path_buf();
                Self::DiskFull { folder, needed: "more is needed than there is".into(), free: source.to_string() }
            }
            _ => Self::Io { path: path.into(), source },
        }
    }
}

/// A number of bytes as people read it, and exactly.
pub(super) fn bytes(count: u64) -> String {
    let (unit, name) = match count {
        0..1_000 => return format!("{count} bytes"),
        1_000..1_000_000 => (1e3, "kB"),
        1_000_000..1_000_000_000 => (1e6, "MB"),
        _ => (1e9, "GB"),
    };
    format!("{:.1} {name} ({count} bytes)", count as f64 / unit)
}
