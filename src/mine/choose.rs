//! From the nearest candidates of a query to its negatives.

use std::collections::HashMap;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::embeddings::Embeddings;
use super::nearest::Found;
use super::set::MiningSet;
use super::settings::{Rule, Sampling, Settings};

/// Why a candidate is refused, in the order in which that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Too near the positive: `score + margin > positive`.
    AbsoluteMargin,
    /// Too near the positive: `score > positive − |positive|·margin`.
    RelativeMargin,
    /// Above the bound.
    MaxScore,
    /// Below the bound.
    MinScore,
    /// Not below the positive.
    SemiHard,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::AbsoluteMargin, Self::RelativeMargin, Self::MaxScore, Self::MinScore, Self::SemiHard];

    /// The setting's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::AbsoluteMargin => "absolute_margin",
            Self::RelativeMargin => "relative_margin",
            Self::MaxScore => "max_score",
            Self::MinScore => "min_score",
            Self::SemiHard => "semi_hard",
        }
    }
}

/// What was mined for a query.
#[derive(Debug, Clone, PartialEq)]
pub struct Mined {
    /// Number of the query.
    pub query: usize,
    /// The negatives, best first, then those that fill up.
    pub negatives: Vec<Found>,
    /// How many fill up.
    pub topped_up: usize,
    /// The lowest cosine of the query with one of its positives: what margins are measured from.
    pub positive: f64,
    /// Candidates in range, before anything but positives and the query itself is taken out.
    pub in_range: usize,
    /// Of those: above the positive; above 95 % of it; above what the margins allow, where there are any.
    pub above: [usize; 3],
    /// Candidates refused, by [`Reason::ALL`].
    pub refused: [usize; 5],
}

/// `positive − |positive|·share`: the same distance below a positive of either sign (sentence-transformers #3819).
fn below(positive: f64, share: f64) -> f64 {
    positive - positive.abs() * share
}

/// What a query's candidates are chosen by.
pub(super) struct Choice<'a> {
    pub set: &'a MiningSet<'a>,
    pub embeddings: &'a Embeddings,
    pub settings: &'a Settings,
    pub range_max: usize,
}

impl Choice<'_> {
    /// Chooses among the nearest candidates, best first.
    pub fn of_query(&self, query: usize, nearest: &[Found]) -> Mined {
        let positives = self.embeddings.cosines(query, self.set.positives(query).iter().copied());
        let positive = positives.iter().map(|found| found.score).fold(f64::INFINITY, f64::min);
        let (others, range) = self.others(query, nearest);
        let in_range = &others[range];
        let mut refused = [0; 5];
        let mut left = Vec::with_capacity(others.len());
        for found in &others {
            match self.refuses(positive, found.score) {
                Some(reason) => refused[reason as usize] += 1,
                None => left.push(*found),
            }
        }
        if self.settings.rule == Rule::SentenceTransformers {
            left.truncate(self.range_max);
            left.drain(..self.settings.range_min.min(left.len()));
        }
        let mut random = self.random(query);
        let mut negatives = self.sampled(left, &mut random);
        let mined = negatives.len();
        if self.settings.top_up {
            self.top_up(query, positive, &mut negatives, &mut random);
        }
        let topped_up = negatives.len() - mined;
        let above = self.above(positive, in_range);
        Mined { query, topped_up, positive, in_range: in_range.len(), above, refused, negatives }
    }

    /// The candidates that are no texts of the query itself, from the best on, and those of them that are in range.
    fn others(&self, query: usize, nearest: &[Found]) -> (Vec<Found>, std::ops::Range<usize>) {
        let excluded = |found: &Found| self.set.is_excluded(query, found.document);
        let positive = |found: &Found| self.set.is_positive(query, found.document);
        match self.settings.rule {
            Rule::SentenceTransformers => {
                // As many for every query, however many positives are among them.
                let looked_at = self.range_max.saturating_add(self.set.most_positives());
                let candidates = nearest.iter().filter(|found| !excluded(found)).take(looked_at);
                let others: Vec<Found> = candidates.filter(|found| !positive(found)).copied().collect();
                let end = self.range_max.min(others.len());
                let start = self.settings.range_min.min(end);
                (others, start..end)
            }
            Rule::HnMine => {
                let ranks = nearest.iter().take(self.range_max).skip(self.settings.range_min);
                let others: Vec<Found> = ranks.filter(|found| !positive(found) && !excluded(found)).copied().collect();
                let all = 0..others.len();
                (others, all)
            }
        }
    }

    /// Why a candidate of this score is refused, if it is.
    fn refuses(&self, positive: f64, score: f64) -> Option<Reason> {
        let settings = self.settings;
        Reason::ALL.into_iter().find(|reason| match reason {
            Reason::AbsoluteMargin => settings.absolute_margin.is_some_and(|margin| score + margin > positive),
            Reason::RelativeMargin => settings.relative_margin.is_some_and(|share| score > below(positive, share)),
            Reason::MaxScore => settings.max_score.is_some_and(|bound| score > bound),
            Reason::MinScore => settings.min_score.is_some_and(|bound| score < bound),
            Reason::SemiHard => settings.semi_hard && score >= positive,
        })
    }

    /// How many candidates score above the positive, above 95 % of it, and above what the margins allow.
    fn above(&self, positive: f64, in_range: &[Found]) -> [usize; 3] {
        let count = |is: &dyn Fn(f64) -> bool| in_range.iter().filter(|found| is(found.score)).count();
        let margin =
            |score| matches!(self.refuses(positive, score), Some(Reason::AbsoluteMargin | Reason::RelativeMargin));
        [count(&|score| score > positive), count(&|score| score > below(positive, 0.05)), count(&margin)]
    }

    /// The best, or any in the order of their scores.
    fn sampled(&self, mut left: Vec<Found>, random: &mut Pcg64) -> Vec<Found> {
        let wanted = self.settings.num_negatives;
        if self.settings.sampling == Sampling::Top || left.len() <= wanted {
            left.truncate(wanted);
            return left;
        }
        let mut places: Vec<usize> = Draws::new(left.len()).by(random).take(wanted).collect();
        places.sort_unstable();
        places.into_iter().map(|place| left[place]).collect()
    }

    /// Random candidates until there are enough, or all were looked at.
    fn top_up(&self, query: usize, positive: f64, negatives: &mut Vec<Found>, random: &mut Pcg64) {
        let wanted = self.settings.num_negatives;
        if negatives.len() >= wanted {
            return;
        }
        for place in Draws::new(self.set.candidates()).by(random) {
            let document = place as u32;
            let taken = negatives.iter().any(|found| found.document == document);
            if taken || self.set.is_positive(query, document) || self.set.is_excluded(query, document) {
                continue;
            }
            let score = self.embeddings.cosine(query, document);
            if matches!(self.refuses(positive, score), None | Some(Reason::MinScore)) {
                negatives.push(Found { document, score });
                if negatives.len() == wanted {
                    return;
                }
            }
        }
    }

    /// The draws of a query: other seeds and queries give other streams.
    fn random(&self, query: usize) -> Pcg64 {
        Pcg64::seed_from_u64(self.settings.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(query as u64))
    }
}

/// Numbers below `n` in a random order, made as they are asked for (Fisher and Yates, with the swapped places alone in memory).
struct Draws {
    n: usize,
    next: usize,
    swapped: HashMap<usize, usize>,
}

impl Draws {
    fn new(n: usize) -> Self {
        Self { n, next: 0, swapped: HashMap::new() }
    }

    fn by(mut self, random: &mut Pcg64) -> impl Iterator<Item = usize> {
        std::iter::from_fn(move || {
            if self.next == self.n {
                return None;
            }
            let place = random.random_range(self.next..self.n);
            let first = self.swapped.remove(&self.next).unwrap_or(self.next);
            let drawn = if place == self.next { first } else { self.swapped.insert(place, first).unwrap_or(place) };
            self.next += 1;
            Some(drawn)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_permutations_with_equal_chances() {
        let mut counts = [[0u32; 6]; 6];
        for seed in 0..6_000 {
            let drawn: Vec<usize> = Draws::new(6).by(&mut Pcg64::seed_from_u64(seed)).collect();
            let mut sorted = drawn.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4, 5]);
            drawn.iter().enumerate().for_each(|(place, &number)| counts[place][number] += 1);
        }
        // 1,000 expected; five standard deviations are 144.
        assert!(counts.iter().flatten().all(|&count| count.abs_diff(1_000) < 145), "{counts:?}");
    }

    #[test]
    fn a_share_is_taken_off_the_magnitude() {
        assert_eq!((below(0.5, 0.1), below(-0.5, 0.1), below(0.0, 0.1)), (0.45, -0.55, 0.0));
    }
}
