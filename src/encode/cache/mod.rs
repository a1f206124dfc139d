//! Embeddings on the disk, by content: what was encoded once, for any task of any run, is not encoded again.
//!
//! A cache is a folder, `v1/<identity>/<unique>.seg`, of immutable segments. A segment gets its name when it is complete,
//! so that readers need no lock and any number of processes may read and write at once; a lock is held only to tidy:
//! to remove the least recently used beyond the limit, and to merge small segments. Nothing here is needed for a right
//! result: whatever is damaged, removed or unreadable is encoded anew.

mod folder;
mod handle;
mod key;
mod segment;
mod state;
#[cfg(test)]
mod tests;
mod write;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use self::handle::Inner;

/// What turns text into embeddings: a SHA-256 over weights, adapter, tokenizer, pooling, maximal length and arithmetic.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity(pub [u8; 32]);

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Identity({self})")
    }
}

/// Where a cache lies and how large it may grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSettings {
    /// The folder, made if it is not there.
    pub folder: PathBuf,
    /// Bytes that all identities may take together; 0: no cache, nothing is read or written.
    pub limit: u64,
}

/// A fault of the cache. The caller has its embeddings all the same and goes on without the cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A file or folder could not be made, written or read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A dimension that no embedding has.
    #[error("embeddings of {0} values cannot be cached")]
    Dim(usize),
    /// The values are not a row a text.
    #[error("{values} values are not {texts} embeddings of {dim}")]
    Shape {
        /// Number of texts.
        texts: usize,
        /// Values an embedding has.
        dim: usize,
        /// Values given.
        values: usize,
    },
    /// An embedding holds an infinity or a NaN.
    #[error("the embedding of text {0} (from 0) is not finite")]
    NotFinite(usize),
}

impl CacheError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }
}

/// Removes all that the cache holds, of every identity; `dry_run` counts alone. Gives the number of segments and their
/// bytes. Processes that use the cache go on: they encode anew what they miss.
///
/// # Errors
/// The operating system's.
pub fn clear(settings: &CacheSettings, dry_run: bool) -> io::Result<(usize, u64)> {
    // Without a folder there is no cache, and the relative path would lie who knows where.
    if settings.folder.as_os_str().is_empty() {
        Ok((0, 0))
    } else {
        folder::clear(&settings.folder.join("v1"), dry_run)
    }
}

/// What a handle did, and what it sees on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Texts that were there.
    pub hits: u64,
    /// Texts that were not.
    pub misses: u64,
    /// Different texts of this identity on the disk when last looked at.
    pub rows: u64,
    /// Segments of this identity on the disk when last looked at.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The cache of one identity's embeddings. Threads share it by reference, processes by the folder.
pub struct EmbeddingCache {
    /// `None`: disabled.
    inner: Option<Inner>,
}

impl EmbeddingCache {
    /// A cache that has nothing and takes nothing.
    pub fn disabled() -> Self {
        Self { inner: None }
    }

    /// Opens the part of the cache that holds `identity`'s embeddings of `dim` values, and makes it if it is not there.
    /// Files that are damaged are removed, others that do not belong there ignored. With a limit of 0: disabled.
    ///
    /// # Errors
    /// [`CacheError::Dim`] where `dim` is 0 or beyond 32 bits; [`CacheError::Io`] where the folder cannot be made or
    /// listed.
    pub fn open(settings: &CacheSettings, identity: &Identity, dim: usize) -> Result<Self, CacheError> {
        if settings.limit == 0 {
            return Ok(Self::disabled());
        }
        Ok(Self { inner: Some(Inner::open(settings, identity, dim)?) })
    }

    /// Copies to `out`, `[texts, dim]`, the rows of the texts that are there under `prompt`, bit for bit as they were
    /// stored, and gives the positions of the others in ascending order, whose rows are left as they are. A text that
    /// occurs twice and is not there is named twice. Rows that other processes stored meanwhile are seen. Where `out`
    /// is not `[texts, dim]`, or the cache disabled, no text is there.
    pub fn fetch(&self, prompt: &str, texts: &[&str], out: &mut [f32]) -> Vec<usize> {
        self.inner.as_ref().map_or_else(|| (0..texts.len()).collect(), |inner| inner.fetch(prompt, texts, out))
    }

    /// Adds the embeddings, `[texts, dim]`, of the texts under `prompt` that are not there yet, as one segment; then
    /// removes what is beyond the limit, the least recently used first. A segment that alone is beyond the limit is not
    /// written, with a warning the first time.
    ///
    /// # Errors
    /// [`CacheError::Shape`] and [`CacheError::NotFinite`] for the values, [`CacheError::Io`] for the disk; nothing of
    /// the call is stored then.
    pub fn store(&self, prompt: &str, texts: &[&str], embeddings: &[f32]) -> Result<(), CacheError> {
        self.inner.as_ref().map_or(Ok(()), |inner| inner.store(prompt, texts, embeddings))
    }

    /// What this handle did so far; all 0 when disabled.
    pub fn stats(&self) -> Stats {
        self.inner.as_ref().map(Inner::stats).unwrap_or_default()
    }

    /// Takes what is worth a line in the log since the last call: files that were damaged, stores too large to keep.
    pub fn take_warnings(&self) -> Vec<String> {
        self.inner.as_ref().map(Inner::take_warnings).unwrap_or_default()
    }
}

impl fmt::Debug for EmbeddingCache {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("EmbeddingCache").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
