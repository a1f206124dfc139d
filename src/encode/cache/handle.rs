//! A handle's work: lookups, stores, and keeping up with the folder.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use super::key::{Key, KeyHashing, keys};
use super::segment::{Fault, Layout, Segment};
use super::state::State;
use super::{CacheError, CacheSettings, Identity, Stats, folder, write};

/// More segments of an identity than this, each smaller than that, are merged into one.
pub(super) const MERGE_COUNT: usize = 64;
const MERGE_BYTES: u64 = 4 << 20;

/// Times that the folder is listed while others keep changing it; then what was seen has to do.
const MAX_LOOKS: usize = 3;

/// Warnings kept until someone takes them; more than that say nothing new.
const MAX_WARNINGS: usize = 64;

/// What a handle that is not disabled holds.
pub(super) struct Inner {
    /// The folder of all identities.
    root: PathBuf,
    /// That of this one.
    folder: PathBuf,
    identity: Identity,
    dim: usize,
    limit: u64,
    state: RwLock<State>,
    /// Held from listing the folder to entering what was found, so that an old listing never follows a new one.
    refreshing: Mutex<()>,
    warnings: Mutex<Vec<String>>,
    /// Whether a merge failed: the next would, too.
    unmergeable: AtomicBool,
    /// Whether it was said that a store is beyond the limit.
    too_large: AtomicBool,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Inner {
    pub(super) fn open(settings: &CacheSettings, identity: &Identity, dim: usize) -> Result<Self, CacheError> {
        if dim == 0 || u32::try_from(dim).is_err() {
            return Err(CacheError::Dim(dim));
        }
        let root = settings.folder.join("v1");
        let folder = root.join(identity.to_string());
        fs::create_dir_all(&folder).map_err(|e| CacheError::io(&folder, e))?;
        folder::remove_left_over(&folder);
        let inner = Self {
            root,
            folder,
            identity: *identity,
            dim,
            limit: settings.limit,
            state: RwLock::default(),
            refreshing: Mutex::default(),
            warnings: Mutex::default(),
            unmergeable: AtomicBool::default(),
            too_large: AtomicBool::default(),
            hits: AtomicU64::default(),
            misses: AtomicU64::default(),
        };
        inner.refresh()?;
        Ok(inner)
    }

    /// As [`EmbeddingCache::fetch()`](super::EmbeddingCache::fetch).
    pub(super) fn fetch(&self, prompt: &str, texts: &[&str], out: &mut [f32]) -> Vec<usize> {
        let missing = if texts.len().checked_mul(self.dim) == Some(out.len()) {
            self.copy(prompt, texts, out)
        } else {
            (0..texts.len()).collect()
        };
        self.hits.fetch_add((texts.len() - missing.len()) as u64, Ordering::Relaxed);
        self.misses.fetch_add(missing.len() as u64, Ordering::Relaxed);
        missing
    }

    pub(super) fn stats(&self) -> Stats {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        Stats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            rows: state.rows() as u64,
            segments: state.segments().count() as u64,
            bytes: state.segments().map(|s| s.bytes()).sum(),
        }
    }

    pub(super) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *locked(&self.warnings))
    }

    /// Copies the rows that are there to `out` and gives the positions of the others.
    fn copy(&self, prompt: &str, texts: &[&str], out: &mut [f32]) -> Vec<usize> {
        if texts.is_empty() {
            return Vec::new();
        }
        // A folder that cannot be listed now still leaves the segments that are mapped.
        let _ = self.refresh();
        let keys = keys(prompt, texts);
        let (places, slots) = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            (keys.iter().map(|key| state.place(key)).collect::<Vec<_>>(), state.slots())
        };
        let mut used = vec![false; slots.len()];
        let mut damaged = vec![false; slots.len()];
        let mut missing = Vec::new();
        for (i, (place, out)) in places.iter().zip(out.chunks_exact_mut(self.dim)).enumerate() {
            let row = place.and_then(|place| {
                let slot = place.slot as usize;
                let segment = slots.get(slot)?.as_ref().filter(|_| !damaged[slot])?;
                let row = segment.row(place.row as usize);
                used[slot] = true;
                damaged[slot] = row.is_none();
                row
            });
            let Some(row) = row else {
                missing.push(i);
                continue;
            };
            for (value, bytes) in out.iter_mut().zip(row.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        for (slot, segment) in slots.iter().enumerate() {
            if let Some(segment) = segment {
                if damaged[slot] {
                    self.discard(segment);
                } else if used[slot] {
                    segment.touch();
                }
            }
        }
        missing
    }

    /// As [`EmbeddingCache::store()`](super::EmbeddingCache::store).
    pub(super) fn store(&self, prompt: &str, texts: &[&str], embeddings: &[f32]) -> Result<(), CacheError> {
        let shape = CacheError::Shape { texts: texts.len(), dim: self.dim, values: embeddings.len() };
        if texts.len().checked_mul(self.dim) != Some(embeddings.len()) || u32::try_from(texts.len()).is_err() {
            return Err(shape);
        }
        if let Some(i) = embeddings.iter().position(|value| !value.is_finite()) {
            return Err(CacheError::NotFinite(i / self.dim));
        }
        let keys = keys(prompt, texts);
        let (mut new, mut rows) = (Vec::new(), Vec::new());
        {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            let mut seen = HashSet::<Key, KeyHashing>::default();
            for (row, key) in keys.into_iter().enumerate() {
                if state.place(&key).is_none() && seen.insert(key) {
                    new.push(key);
                    rows.push(row);
                }
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let layout = Layout::new(self.dim, new.len()).ok_or(shape)?;
        if layout.bytes as u64 > self.limit {
            if !self.too_large.swap(true, Ordering::Relaxed) {
                let bytes = layout.bytes;
                self.warn(format!("{bytes} bytes of embeddings at once are not cached: the limit is {}", self.limit));
            }
            return Ok(());
        }
        let path = write::write(&self.folder, &self.identity, layout, &new, |i, bytes| {
            let row = &embeddings[rows[i] * self.dim..][..self.dim];
            for (bytes, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(row) {
                *bytes = value.to_le_bytes();
            }
        })?;
        // What cannot be listed now is found by the next fetch.
        let _ = self.refresh();
        self.tidy(&path);
        Ok(())
    }

    /// Brings the state up to what lies in the folder.
    fn refresh(&self) -> Result<(), CacheError> {
        let _refreshing = locked(&self.refreshing);
        for _ in 0..MAX_LOOKS {
            if self.look()? {
                break;
            }
        }
        Ok(())
    }

    /// Lists the folder and enters what it finds; `false` where something went away meanwhile, so that another look is
    /// due. A merge puts its file there before it takes the others away: whoever misses some finds their rows then.
    fn look(&self) -> Result<bool, CacheError> {
        let list = || folder::segments(&self.folder).map_err(|e| CacheError::io(&self.folder, e));
        let compare =
            |listed: &HashSet<String>| self.state.read().unwrap_or_else(PoisonError::into_inner).compare(listed);
        let mut listed = list()?;
        let (mut new, some_gone) = compare(&listed);
        if some_gone {
            listed = list()?;
            new = compare(&listed).0;
        }
        let opened: Vec<_> = new
            .into_iter()
            .map(|name| {
                let segment = Segment::open(&self.folder.join(&name), &self.identity, self.dim);
                (name, segment)
            })
            .collect();
        if opened.is_empty() && !some_gone {
            return Ok(true);
        }
        let mut settled = true;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for (name, segment) in opened {
            let path = self.folder.join(&name);
            match segment {
                Ok(segment) => state.add(name, segment),
                Err(Fault::Absent) => settled = false,
                Err(Fault::Foreign) => state.ignore(name),
                Err(Fault::Unreadable(e)) => {
                    self.warn(format!("{}: {e}; it is ignored", path.display()));
                    state.ignore(name);
                }
                Err(Fault::Damaged(reason)) => {
                    self.warn(format!("{}: {reason}; it is removed", path.display()));
                    // One that cannot be removed is ignored.
                    let _ = fs::remove_file(&path);
                    state.ignore(name);
                }
            }
        }
        state.retain(|name| listed.contains(name));
        Ok(settled)
    }

    /// Removes and forgets a segment whose rows fail their checksum.
    fn discard(&self, segment: &Segment) {
        let name = segment.path().file_name().and_then(|name| name.to_str()).unwrap_or_default();
        segment.remove();
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have found it, too.
        if state.retain(|other| other != name) > 0 {
            self.warn(format!("{}: its rows fail their checksum; it is removed", segment.path().display()));
        }
        state.ignore(name.into());
    }

    /// Keeps the cache within its limit and its segments few, unless another process is at it.
    fn tidy(&self, written: &Path) {
        let Some(_turn) = folder::Turn::take(&self.root) else { return };
        // A folder that cannot be listed grows no further: nothing is stored there either.
        let _ = folder::bound(&self.root, self.limit, written);
        if self.refresh().is_err() {
            return;
        }
        match self.merge() {
            Ok(false) => {}
            // What cannot be listed now is found by the next fetch.
            Ok(true) => _ = self.refresh(),
            Err(e) => {
                self.unmergeable.store(true, Ordering::Relaxed);
                self.warn(format!("small segments are not merged: {e}"));
            }
        }
    }

    /// Merges the small segments if they are many, and says whether it did. The state is to be fresh: a merge of what was
    /// removed would bring it back.
    fn merge(&self) -> Result<bool, CacheError> {
        if self.unmergeable.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut small: Vec<_> = state.segments().filter(|s| s.bytes() < MERGE_BYTES).cloned().collect();
        drop(state);
        if small.len() <= MERGE_COUNT {
            return Ok(false);
        }
        small.retain(|segment| {
            let whole = segment.verify_all();
            if !whole {
                self.discard(segment);
            }
            whole
        });
        let (mut new, mut rows) = (Vec::new(), Vec::new());
        let mut seen = HashSet::<Key, KeyHashing>::default();
        for segment in &small {
            for (row, key) in segment.keys().enumerate() {
                if seen.insert(key) {
                    new.push(key);
                    rows.push((segment, row));
                }
            }
        }
        let Some(layout) = Layout::new(self.dim, new.len()).filter(|_| !new.is_empty()) else { return Ok(false) };
        write::write(&self.folder, &self.identity, layout, &new, |i, bytes| {
            let (segment, row) = rows[i];
            // Verified above, so that each is there.
            if let Some(row) = segment.row(row) {
                bytes.copy_from_slice(row);
            }
        })?;
        // Only now: a reader sees a row twice rather than not at all.
        for segment in &small {
            segment.remove();
        }
        Ok(true)
    }

    fn warn(&self, warning: String) {
        let mut warnings = locked(&self.warnings);
        if warnings.len() < MAX_WARNINGS {
            warnings.push(warning);
        }
    }
}

/// What is guarded is consistent after each step, so a thread that panicked elsewhere leaves it usable.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
