//! Rows in order, packed into a fixed number of batches.

use std::collections::HashSet;

use super::{Epoch, SamplerSettings};

/// Hashes of the texts of a row, by set and row.
pub type Hashes<'a> = &'a dyn Fn(usize, usize) -> &'a [u64];

/// Batches that are not full yet and that a row is tried in.
const LOOK_AHEAD: usize = 64;

/// A batch with room.
struct Open {
    place: usize,
    texts: HashSet<u64>,
}

/// Batches in the making, no text twice in any.
struct Packing<'a> {
    batch: usize,
    hashes: Hashes<'a>,
    batches: Vec<Vec<(usize, usize)>>,
    open: Vec<Open>,
    /// Batches that hold a row.
    begun: usize,
}

impl Packing<'_> {
    /// Puts a row into the first open batch with none of its texts, else into a new one; false where there is none. Where
    /// `give_up`, the oldest open batch makes room for a new one.
    fn place(&mut self, (set, row): (usize, usize), give_up: bool) -> bool {
        let texts = (self.hashes)(set, row);
        let fits = self.open.iter().position(|open| !texts.iter().any(|text| open.texts.contains(text)));
        let chosen = match fits {
            Some(chosen) => chosen,
            None => {
                if self.begun == self.batches.len() || (self.open.len() == LOOK_AHEAD && !give_up) {
                    return false;
                }
                if self.open.len() == LOOK_AHEAD {
                    self.open.remove(0);
                }
                self.open.push(Open { place: self.begun, texts: HashSet::new() });
                self.begun += 1;
                self.open.len() - 1
            }
        };
        let open = &mut self.open[chosen];
        open.texts.extend(texts);
        let rows = &mut self.batches[open.place];
        rows.push((set, row));
        if rows.len() == self.batch {
            self.open.remove(chosen);
        }
        true
    }
}

impl SamplerSettings {
    /// Packs rows into `batches` batches, which are no more than [`Self::batches`] gives for them.
    pub(super) fn pack(&self, order: Vec<(usize, usize)>, batches: usize, hashes: Hashes<'_>) -> Epoch {
        if !self.no_duplicates {
            let batches = order.chunks(self.batch).take(batches).map(<[_]>::to_vec).collect();
            return Epoch { batches, dropped: 0 };
        }
        // Rows that are too many whatever their texts are.
        let surplus = order.len().saturating_sub(batches.saturating_mul(self.batch));
        let mut packing =
            Packing { batch: self.batch, hashes, batches: vec![Vec::new(); batches], open: Vec::new(), begun: 0 };
        let waiting: Vec<(usize, usize)> = order.into_iter().filter(|row| !packing.place(*row, false)).collect();
        // What is left has texts that come often. While there is an empty batch, each of these rows finds a place: so no batch
        // stays empty, for the rows are more than fill all batches but one.
        let left = waiting.into_iter().filter(|row| !packing.place(*row, true)).count();
        Epoch { batches: packing.batches, dropped: left.saturating_sub(surplus) }
    }
}
