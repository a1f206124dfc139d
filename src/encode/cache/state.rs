//! What a handle knows of its segments: which are there, and where each key's row is.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::key::{Key, KeyHashing};
use super::segment::Segment;

/// A row of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) slot: u32,
    pub(super) row: u32,
}

struct Held {
    name: String,
    segment: Arc<Segment>,
    /// Whether another segment, too, has some of its keys and is the one that the index names.
    shadowed: bool,
}

/// The segments and the index over them.
#[derive(Default)]
pub(super) struct State {
    slots: Vec<Option<Held>>,
    names: HashSet<String>,
    /// Names of files not to be looked at again.
    ignored: HashSet<String>,
    index: HashMap<Key, Place, KeyHashing>,
}

impl State {
    pub(super) fn place(&self, key: &Key) -> Option<Place> {
        self.index.get(key).copied()
    }

    pub(super) fn rows(&self) -> usize {
        self.index.len()
    }

    pub(super) fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.slots.iter().flatten().map(|held| &held.segment)
    }

    /// The segments by slot, to read from when the state is no longer locked.
    pub(super) fn slots(&self) -> Vec<Option<Arc<Segment>>> {
        self.slots.iter().map(|slot| slot.as_ref().map(|held| held.segment.clone())).collect()
    }

    /// Of the names listed those not known yet, and whether some that are known are not among them.
    pub(super) fn compare(&self, listed: &HashSet<String>) -> (Vec<String>, bool) {
        let new = listed.iter().filter(|name| !self.names.contains(*name) && !self.ignored.contains(*name));
        (new.cloned().collect(), !self.names.is_subset(listed))
    }

    pub(super) fn ignore(&mut self, name: String) {
        self.ignored.insert(name);
    }

    pub(super) fn add(&mut self, name: String, segment: Segment) {
        if !self.names.insert(name.clone()) {
            return;
        }
        let held = Held { name, segment: Arc::new(segment), shadowed: false };
        let slot = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(Some(held));
        } else {
            self.slots[slot] = Some(held);
        }
        self.enter(slot);
    }

    /// Lets go of the segments whose names do not pass, and gives their number.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) -> usize {
        self.ignored.retain(|name| keep(name));
        let mut gone = Vec::new();
        for (i, slot) in self.slots.iter_mut().enumerate() {
            if let Some(held) = slot.take_if(|held| !keep(&held.name)) {
                self.names.remove(&held.name);
                gone.push((i as u32, held.segment));
            }
        }
        let count = gone.len();
        if count == 0 {
            return 0;
        }
        for (slot, segment) in gone {
            for key in segment.keys() {
                if let Entry::Occupied(entry) = self.index.entry(key)
                    && entry.get().slot == slot
                {
                    entry.remove();
                }
            }
        }
        // What they stood before shows again.
        for slot in 0..self.slots.len() {
            if self.slots[slot].as_ref().is_some_and(|held| held.shadowed) {
                self.enter(slot);
            }
        }
        count
    }

    /// Enters a slot's keys where no other segment has them.
    fn enter(&mut self, slot: usize) {
        let Some(held) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return };
        let keys = held.segment.keys();
        self.index.reserve(keys.len());
        held.shadowed = false;
        for (row, key) in keys.enumerate() {
            let place = Place { slot: slot as u32, row: row as u32 };
            match self.index.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(place);
                }
                Entry::Occupied(entry) => held.shadowed |= entry.get().slot != place.slot,
            }
        }
    }
}
