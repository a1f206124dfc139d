//! Which rows make which batch: a pure function of settings, seed and epoch, so that a run goes on from its place alone.

mod draw;
mod pack;

use rand::SeedableRng;
use rand::seq::SliceRandom;

pub use draw::{Drawn, draws, group, hard_negatives};
pub use pack::Hashes;

use super::TrainError;

/// Most rows of an epoch: more is a mistake in the weights.
const MOST_ROWS: f64 = 1e9;

/// A training set as the sampler sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SetSize {
    /// Rows.
    pub rows: usize,
    /// Share of the rows used in an epoch (0.5: every other row, the others in the next one; 2: each row twice); in
    /// [`Mixing::Weighted`], what the set's probability grows with.
    pub weight: f64,
}

/// How several sets share an epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mixing {
    /// All rows, shuffled together; or all batches, in an order drawn in proportion to what each set has left
    /// (sentence-transformers' `PROPORTIONAL`).
    Proportional,
    /// Sets take turns, by rows or by batches (sentence-transformers' `ROUND_ROBIN`, `datasets.interleave_datasets`).
    RoundRobin(Stop),
    /// Set i gives a share p_i ∝ weight_i^alpha of the rows or batches, in a drawn order: `interleave_datasets` with
    /// probabilities, with the expected number of draws of each set instead of a random one.
    Weighted {
        /// 0: all sets alike; 1: by weight.
        alpha: f64,
        /// Where the epoch ends.
        stop: Stop,
    },
}

/// Where an epoch of sets that do not end together ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// With the first set that has no more to give.
    FirstExhausted,
    /// When every set has given all it has; those that end earlier begin anew.
    AllExhausted,
}

/// What makes batches of rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerSettings {
    /// Rows a batch.
    pub batch: usize,
    /// How several sets share an epoch.
    pub mixing: Mixing,
    /// Whether a batch holds rows of one set only (FlagEmbedding's `same_task_within_batch`).
    pub one_set_per_batch: bool,
    /// Whether no text may be twice in a batch (sentence-transformers' `NO_DUPLICATES`). There are as many batches as without
    /// it; where texts repeat, some have fewer rows.
    pub no_duplicates: bool,
    /// Whether a last batch that is not full is left out.
    pub drop_last: bool,
    /// Whether a last batch of one row is left out: right where a row may come without hard negatives, for it then has nothing
    /// to be told apart from.
    pub skip_lone: bool,
}

impl SamplerSettings {
    /// Rows of all sets shuffled together, `batch` at a time.
    pub fn new(batch: usize) -> Self {
        Self {
            batch,
            mixing: Mixing::Proportional,
            one_set_per_batch: false,
            no_duplicates: false,
            drop_last: false,
            skip_lone: true,
        }
    }

    /// Batches that `rows` rows give.
    fn batches(&self, rows: usize) -> usize {
        if self.drop_last {
            return rows / self.batch;
        }
        let all = rows.div_ceil(self.batch);
        all - usize::from(all > 1 && rows % self.batch == 1 && self.skip_lone)
    }
}

/// The batches of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    /// Rows of each batch: (set, row).
    pub batches: Vec<Vec<(usize, usize)>>,
    /// Rows left out because every batch that they were tried in holds one of their texts.
    pub dropped: usize,
}

/// Makes the batches of every epoch.
#[derive(Debug, Clone)]
pub struct Sampler {
    settings: SamplerSettings,
    seed: u64,
    shares: Vec<Share>,
    batches: usize,
}

/// What a set gives to an epoch.
#[derive(Debug, Clone, Copy)]
struct Share {
    /// Rows of the set.
    rows: usize,
    /// Rows until the set begins anew.
    pass: usize,
    /// Rows (or batches, where a batch is of one set) in an epoch.
    given: usize,
}

/// A generator for one purpose at one place of a run: other seeds, purposes and places give other streams.
fn generator(seed: u64, purpose: u64, place: u64) -> rand_pcg::Pcg64 {
    rand_pcg::Pcg64::seed_from_u64(
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(purpose << 48).wrapping_add(place),
    )
}

/// What draws are for; their places differ by it.
mod purpose {
    pub const ROWS: u64 = 1;
    pub const TEXTS: u64 = 2;
    pub const PORTION: u64 = 3;
    pub const SET: u64 = 4;
    pub const SETS: u64 = 5;
}

impl Sampler {
    /// Plans epochs of these sets. Nothing but their sizes need be known.
    ///
    /// # Errors
    /// Where a set is empty or fills no batch, a number is out of range, or an epoch would be without end.
    pub fn new(sets: &[SetSize], settings: SamplerSettings, seed: u64) -> Result<Self, TrainError> {
        let fault = |message: String| Err(TrainError::Data(message));
        if settings.batch == 0 {
            return fault("a batch needs at least one row".into());
        }
        if sets.is_empty() || sets.len() > usize::from(u16::MAX) {
            return fault(format!("{} training sets: between 1 and {} can be mixed", sets.len(), u16::MAX));
        }
        for (number, set) in (1..).zip(sets) {
            if set.rows == 0 {
                return fault(format!("training set {number} has no rows: leave it out"));
            }
            if !(set.weight.is_finite() && set.weight > 0.0) {
                return fault(format!("training set {number}: weight {}: must be above 0", set.weight));
            }
        }
        if let Mixing::Weighted { alpha, .. } = settings.mixing
            && !(alpha.is_finite() && alpha >= 0.0)
        {
            return fault(format!("mixing: alpha {alpha}: must be 0 or above"));
        }
        // One set is mixed with nothing.
        let settings = if sets.len() == 1 {
            SamplerSettings { mixing: Mixing::Proportional, one_set_per_batch: false, ..settings }
        } else {
            settings
        };
        let (shares, rows) = shares(sets, &settings)?;
        let batches = if settings.one_set_per_batch {
            shares.iter().map(|share| share.given).sum()
        } else {
            settings.batches(rows)
        };
        if batches == 0 {
            let batch = settings.batch;
            return fault(format!("{rows} rows fill no batch of {batch}: lower the batch size, or turn drop_last off"));
        }
        Ok(Self { settings, seed, shares, batches })
    }

    /// Batches of every epoch; at least one.
    pub fn batches_per_epoch(&self) -> usize {
        self.batches
    }

    /// The batches of an epoch, from 0. `hashes` gives those of a row's texts; it is asked only where no text may be twice in a
    /// batch. A row then goes into the first batch that has room and none of its texts.
    pub fn epoch(&self, epoch: usize, hashes: Hashes<'_>) -> Epoch {
        if self.settings.one_set_per_batch { self.sets_apart(epoch, hashes) } else { self.sets_mixed(epoch, hashes) }
    }

    fn sets_mixed(&self, epoch: usize, hashes: Hashes<'_>) -> Epoch {
        let mut order: Vec<(usize, usize)> = Vec::new();
        match self.settings.mixing {
            Mixing::Proportional => {
                for (set, share) in self.shares.iter().enumerate() {
                    order.extend(self.portion(set, epoch, share.given).into_iter().map(|row| (set, row)));
                }
                order.shuffle(&mut generator(self.seed, purpose::ROWS, epoch as u64));
            }
            Mixing::Weighted { .. } => {
                for set in 0..self.shares.len() {
                    order.extend(self.passes(set, epoch).into_iter().flatten().map(|row| (set, row)));
                }
                order.shuffle(&mut generator(self.seed, purpose::ROWS, epoch as u64));
            }
            Mixing::RoundRobin(_) => {
                let rows: Vec<Vec<usize>> =
                    (0..self.shares.len()).map(|set| self.passes(set, epoch).concat()).collect();
                for turn in 0..self.shares.first().map_or(0, |share| share.given) {
                    order.extend(rows.iter().enumerate().filter_map(|(set, rows)| Some((set, *rows.get(turn)?))));
                }
            }
        }
        self.settings.pack(order, self.batches, hashes)
    }

    fn sets_apart(&self, epoch: usize, hashes: Hashes<'_>) -> Epoch {
        let mut dropped = 0;
        let mut queues = Vec::with_capacity(self.shares.len());
        for (set, share) in self.shares.iter().enumerate() {
            let mut batches: Vec<Vec<(usize, usize)>> = Vec::with_capacity(share.given);
            for pass in self.passes(set, epoch) {
                let wanted = self.settings.batches(pass.len()).min(share.given - batches.len());
                let packed = self.settings.pack(pass.into_iter().map(|row| (set, row)).collect(), wanted, hashes);
                batches.extend(packed.batches);
                dropped += packed.dropped;
            }
            queues.push(batches.into_iter());
        }
        let mut turns: Vec<usize> = Vec::with_capacity(self.batches);
        if let Mixing::RoundRobin(_) = self.settings.mixing {
            let rounds = self.shares.first().map_or(0, |share| share.given);
            turns.extend((0..rounds).flat_map(|_| 0..self.shares.len()));
        } else {
            // All orders of the sets' batches are equally likely: the same as drawing in proportion to what is left.
            turns.extend(self.shares.iter().enumerate().flat_map(|(set, share)| std::iter::repeat_n(set, share.given)));
            turns.shuffle(&mut generator(self.seed, purpose::SETS, epoch as u64));
        }
        let batches = turns.into_iter().filter_map(|set| queues.get_mut(set)?.next()).collect();
        Epoch { batches, dropped }
    }

    /// The rows of a set in the order in which an epoch uses them, pass by pass: each a new order of the same rows, the last
    /// one as long as is needed.
    fn passes(&self, set: usize, epoch: usize) -> Vec<Vec<usize>> {
        let Some(share) = self.shares.get(set) else { return Vec::new() };
        let mut rng = generator(self.seed, purpose::SET, ((epoch as u64) << 16) | set as u64);
        let apart = self.settings.one_set_per_batch;
        let a_pass = if apart { self.settings.batches(share.pass) } else { share.pass };
        let mut left = share.given;
        // Where less than a pass is used, the next epoch uses the rest.
        let used = match left {
            left if left >= a_pass => share.pass,
            left if apart => left * self.settings.batch,
            left => left,
        };
        let rows = self.portion(set, epoch, used);
        let mut out = Vec::new();
        while left > 0 && a_pass > 0 {
            let mut pass = rows.clone();
            pass.shuffle(&mut rng);
            let given = left.min(a_pass);
            if given < a_pass {
                pass.truncate(if apart { given * self.settings.batch } else { given });
            }
            left -= given;
            out.push(pass);
        }
        out
    }

    /// `count` of a set's rows, in order: all of them as often as that goes, and for the rest others in every epoch until
    /// all have been used.
    fn portion(&self, set: usize, epoch: usize, count: usize) -> Vec<usize> {
        let rows = self.shares.get(set).map_or(1, |share| share.rows);
        let mut out: Vec<usize> = (0..count / rows).flat_map(|_| 0..rows).collect();
        let rest = count % rows;
        if rest > 0 {
            let epochs = rows.div_ceil(rest);
            let mut order: Vec<usize> = (0..rows).collect();
            let cycle = (epoch / epochs) as u64;
            order.shuffle(&mut generator(self.seed, purpose::PORTION, ((set as u64) << 32) | cycle));
            // The last epoch of a cycle takes what is missing from the beginning, which it has none of.
            let start = epoch % epochs * rest;
            let mut chosen: Vec<usize> = order.iter().cycle().skip(start).take(rest).copied().collect();
            chosen.sort_unstable();
            out.extend(chosen);
        }
        out
    }
}

/// What each set gives to an epoch, and the rows of an epoch where sets are mixed in a batch.
///
/// # Errors
/// Where a set fills no batch of its own, or an epoch would be without end.
fn shares(sets: &[SetSize], settings: &SamplerSettings) -> Result<(Vec<Share>, usize), TrainError> {
    let endless = |rows: f64| {
        let message = format!(
            "an epoch would have {rows:.0} rows: give the sets weights that differ less, or end an epoch with the first set \
             that is used up (stop: first_exhausted)"
        );
        Err(TrainError::Data(message))
    };
    let weighted = matches!(settings.mixing, Mixing::Weighted { .. });
    let used = |set: &SetSize| if weighted { set.rows as f64 } else { (set.rows as f64 * set.weight).round().max(1.0) };
    let total: f64 = sets.iter().map(used).sum();
    if total > MOST_ROWS {
        return endless(total);
    }
    let passes: Vec<usize> = sets.iter().map(|set| used(set) as usize).collect();
    let unit = |rows: usize| if settings.one_set_per_batch { settings.batches(rows) } else { rows };
    let units: Vec<usize> = passes.iter().map(|rows| unit(*rows)).collect();
    if let Some(set) = units.iter().position(|units| *units == 0) {
        let (number, rows, batch) = (set + 1, passes[set], settings.batch);
        return Err(TrainError::Data(format!(
            "training set {number} gives {rows} rows, less than a batch of {batch}, and drop_last leaves it out: lower the batch \
             size, mix sets in a batch, or turn drop_last off"
        )));
    }
    let longest = units.iter().copied().max().unwrap_or(0);
    let shortest = units.iter().copied().min().unwrap_or(0);
    let given = match settings.mixing {
        Mixing::Proportional => units.clone(),
        Mixing::RoundRobin(Stop::FirstExhausted) => vec![shortest; sets.len()],
        Mixing::RoundRobin(Stop::AllExhausted) => vec![longest; sets.len()],
        Mixing::Weighted { alpha, stop } => {
            // By the largest weight, so that no power overflows.
            let most = sets.iter().map(|set| set.weight).fold(0.0, f64::max);
            let powers: Vec<f64> = sets.iter().map(|set| (set.weight / most).powf(alpha)).collect();
            let sum: f64 = powers.iter().sum();
            let shares: Vec<f64> = powers.iter().map(|power| power / sum).collect();
            let ends = units.iter().zip(&shares).map(|(units, share)| *units as f64 / share);
            let end = match stop {
                Stop::FirstExhausted => ends.fold(f64::INFINITY, f64::min),
                Stop::AllExhausted => ends.fold(0.0, f64::max),
            };
            let rows = if settings.one_set_per_batch { end * settings.batch as f64 } else { end };
            if !rows.is_finite() || rows > MOST_ROWS {
                return endless(rows);
            }
            // A hair's breadth of rounding must not cost a unit.
            let end = if stop == Stop::FirstExhausted { (end + 1e-6).floor() } else { (end - 1e-6).ceil() };
            apportion(end as usize, &shares)
        }
    };
    let rows = if settings.one_set_per_batch { 0 } else { given.iter().sum() };
    let in_rows =
        given.iter().sum::<usize>() as f64 * if settings.one_set_per_batch { settings.batch as f64 } else { 1.0 };
    if in_rows > MOST_ROWS {
        return endless(in_rows);
    }
    let shares = sets.iter().zip(passes).zip(given);
    Ok((shares.map(|((set, pass), given)| Share { rows: set.rows, pass, given }).collect(), rows))
}

/// `total` in whole parts as near to the shares as can be: the largest remainders get what is left over.
fn apportion(total: usize, shares: &[f64]) -> Vec<usize> {
    let exact: Vec<f64> = shares.iter().map(|share| share * total as f64).collect();
    let mut parts: Vec<usize> = exact.iter().map(|part| (part + 1e-9).floor() as usize).collect();
    let mut order: Vec<usize> = (0..shares.len()).collect();
    let remainder = |i: usize| exact[i] - parts[i] as f64;
    let remainders: Vec<f64> = (0..shares.len()).map(remainder).collect();
    order.sort_by(|a, b| remainders[*b].total_cmp(&remainders[*a]).then(a.cmp(b)));
    let left = total.saturating_sub(parts.iter().sum());
    for place in order.into_iter().take(left) {
        parts[place] += 1;
    }
    parts
}

#[cfg(test)]
mod tests;
