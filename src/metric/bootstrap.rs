//! How a score moves with other examples: the bootstrap (Efron 1979), paired between models on one task.
//!
//! Only the examples are resampled. What the protocol itself draws (training rows, clustering samples) stays as it was, so
//! the replicates say how the score would move with other test rows, not with another seed. Clustering has no score by row:
//! there the experiments (or sets) are resampled, and the replicates cover the spread of those alone.
//!
//! A mean of few values (clustering has ten experiments, or a handful of sets) has a bootstrap that is too narrow: by
//! √((n−1)/n), since a resample's variance is divided by n, and again because the normal takes the place of Student's t
//! (Hesterberg 2015, "What teachers should know about the bootstrap", section 3.2). Up to [`FEW`] values, a replicate's
//! distance from the mean is therefore multiplied by √(n/(n−1)) · √((n−1)/χ²), with χ² drawn with n−1 degrees of freedom: the
//! resampled mean is nearly normal, and a normal over √(χ²/ν) is Student's t (Student 1908), so the replicates spread as
//! t with n−1 degrees of freedom about the mean. The factor is the same for all models, which leaves differences paired; of a
//! mean over several tasks the replicates are the sum of independent t's, as in Behrens and Fisher's problem.

use rayon::prelude::*;

use super::outcomes::Outcomes;

/// Most values for which Student's t takes the place of the plain bootstrap of a mean.
pub const FEW: usize = 30;

/// The score on `n` resamples with replacement of the examples.
///
/// Replicate `r` draws the same rows for every list of outcomes of one length and one `seed`, so two models' replicates on
/// one task are paired: subtract them index by index. The result does not depend on the number of threads. A replicate in
/// which the score is undefined (Spearman of a resample with one distinct value on a side; no outcomes at all) is NaN and
/// keeps its place, and intervals leave it out.
pub fn replicates(outcomes: &Outcomes, seed: u64, n: usize) -> Vec<f64> {
    match outcomes {
        Outcomes::PerExample(values) | Outcomes::PerExperiment(values) => {
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            (0..n)
                .into_par_iter()
                .map(|replicate| {
                    let mut rows = Rows::new(seed, replicate);
                    let drawn = resampled_mean(values, &mut rows);
                    if values.len() > FEW { drawn } else { mean + rows.stretch(values.len()) * (drawn - mean) }
                })
                .collect()
        }
        Outcomes::Pairs(pairs) => {
            let predicted = TieGroups::new(pairs.iter().map(|pair| f64::from(pair.0)).collect());
            let gold = TieGroups::new(pairs.iter().map(|pair| pair.1).collect());
            (0..n)
                .into_par_iter()
                .map_init(
                    || (predicted.scratch(), gold.scratch(), Vec::new()),
                    |(ranks, gold_ranks, drawn), replicate| {
                        let mut rows = Rows::new(seed, replicate);
                        drawn.clear();
                        drawn.extend((0..pairs.len()).map(|_| rows.draw(pairs.len())));
                        resampled_spearman(drawn, (&predicted, ranks), (&gold, gold_ranks))
                    },
                )
                .collect()
        }
        Outcomes::Ranked(pairs) => {
            let ranking = Ranking::new(pairs);
            (0..n)
                .into_par_iter()
                .map_init(
                    || vec![0; pairs.len()],
                    |counts, replicate| {
                        let mut rows = Rows::new(seed, replicate);
                        counts.fill(0);
                        (0..pairs.len()).for_each(|_| counts[rows.draw(pairs.len())] += 1);
                        ranking.average_precision(counts)
                    },
                )
                .collect()
        }
        Outcomes::Splits(parts) => {
            // Each split's rows are drawn by a seed of their own: the splits are independent samples.
            let drawn: Vec<Vec<f64>> =
                parts.iter().enumerate().map(|(i, part)| replicates(part, seed.wrapping_add(i as u64), n)).collect();
            (0..n).map(|r| drawn.iter().map(|of_part| of_part[r]).sum::<f64>() / drawn.len() as f64).collect()
        }
    }
}

/// Most blocks that are left out, one at a time, by [`without_blocks`].
const BLOCKS: usize = 200;

/// The score without each of up to 200 blocks of rows (every 200th row, from the first, from the second …), for the jackknife of scores that are no
/// mean; of means, nothing.
pub fn without_blocks(outcomes: &Outcomes) -> Vec<f64> {
    match outcomes {
        Outcomes::Pairs(pairs) => {
            let predicted = TieGroups::new(pairs.iter().map(|pair| f64::from(pair.0)).collect());
            let gold = TieGroups::new(pairs.iter().map(|pair| pair.1).collect());
            let (mut ranks, mut gold_ranks) = (predicted.scratch(), gold.scratch());
            let blocks = pairs.len().min(BLOCKS);
            (0..blocks)
                .map(|block| {
                    let kept: Vec<usize> = (0..pairs.len()).filter(|row| row % blocks != block).collect();
                    resampled_spearman(&kept, (&predicted, &mut ranks), (&gold, &mut gold_ranks))
                })
                .collect()
        }
        Outcomes::Ranked(pairs) => {
            let (ranking, blocks) = (Ranking::new(pairs), pairs.len().min(BLOCKS));
            (0..blocks)
                .map(|block| {
                    let counts: Vec<u32> = (0..pairs.len()).map(|row| u32::from(row % blocks != block)).collect();
                    ranking.average_precision(&counts)
                })
                .collect()
        }
        _ => Vec::new(),
    }
}

/// Pairs in descending order of score, equal ones in one group.
struct Ranking {
    groups: Vec<Vec<(usize, bool)>>,
}

impl Ranking {
    fn new(pairs: &[(f32, bool)]) -> Self {
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        order.sort_by(|&a, &b| pairs[b].0.total_cmp(&pairs[a].0));
        let groups = order.chunk_by(|&a, &b| pairs[a].0 == pairs[b].0);
        Self { groups: groups.map(|group| group.iter().map(|&row| (row, pairs[row].1)).collect()).collect() }
    }

    /// Average precision of a resample that holds each row so often; NaN without a positive.
    fn average_precision(&self, counts: &[u32]) -> f64 {
        let (mut hits, mut seen, mut sum) = (0u32, 0u32, 0.0);
        for group in &self.groups {
            let found: u32 = group.iter().filter(|(_, positive)| *positive).map(|(row, _)| counts[*row]).sum();
            seen += group.iter().map(|(row, _)| counts[*row]).sum::<u32>();
            hits += found;
            if found > 0 {
                sum += f64::from(found) * f64::from(hits) / f64::from(seen);
            }
        }
        sum / f64::from(hits)
    }
}

/// Replicates of an error that is normal with this variance, known by so many degrees of freedom: `variance`'s root times
/// z √(ν/χ²), with a z for each `owner` and replicate and one χ² for all owners, as they share the estimate.
pub fn errors(variance: f64, freedom: usize, seed: u64, owner: usize, n: usize) -> Vec<f64> {
    (0..n)
        .map(|replicate| {
            let common =
                Rows::new(seed, replicate).stretch(freedom + 1) * (freedom as f64 / (freedom + 1) as f64).sqrt();
            let mut own = Rows::new(seed ^ (owner as u64 + 1).wrapping_mul(0x9e6c_63d0_876a_68de), replicate);
            variance.sqrt() * common * own.normal()
        })
        .collect()
}

/// A seed for the task of this name, the same on every machine and in every version: the 64-bit FNV-1a hash of the UTF-8
/// bytes.
pub fn task_seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// The rows of one replicate: SplitMix64 (Steele, Lea and Flood 2014) started from the seed and the replicate's number.
struct Rows {
    state: u64,
}

impl Rows {
    fn new(seed: u64, replicate: usize) -> Self {
        // One pass through the mixing function keeps the streams of neighbouring replicates apart.
        let mut start = Self { state: seed ^ (replicate as u64).wrapping_mul(0xd1b5_4a32_d192_ed03) };
        Self { state: start.next() }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Uniform on (0, 1).
    fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// A standard normal (Box and Muller 1958).
    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// The square of a standard normal, and that of another, independent one.
    fn squares(&mut self) -> (f64, f64) {
        let radius = -2.0 * self.uniform().ln();
        let cosine = (std::f64::consts::TAU * self.uniform()).cos().powi(2);
        (radius * cosine, radius * (1.0 - cosine))
    }

    /// √(n / χ²) with χ² of n−1 degrees of freedom; of one value there is nothing to stretch.
    fn stretch(&mut self, n: usize) -> f64 {
        if n < 2 {
            return 1.0;
        }
        let mut chi_squared = 0.0;
        for left in (1..n).rev().step_by(2) {
            let (one, other) = self.squares();
            chi_squared += if left > 1 { one + other } else { one };
        }
        (n as f64 / chi_squared).sqrt()
    }

    /// A row below `n`; the bias of the multiplication is below n / 2⁶⁴.
    fn draw(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

fn resampled_mean(values: &[f64], rows: &mut Rows) -> f64 {
    let sum: f64 = (0..values.len()).map(|_| values[rows.draw(values.len())]).sum();
    sum / values.len() as f64
}

/// Rows grouped by value, the groups in ascending order: all that ranking a resample needs.
struct TieGroups {
    of_row: Vec<u32>,
    groups: usize,
}

/// How often each group was drawn, and the centred rank that follows.
struct GroupRanks {
    counts: Vec<u32>,
    ranks: Vec<f64>,
}

impl TieGroups {
    fn new(values: Vec<f64>) -> Self {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_unstable_by(|&a, &b| values[a].total_cmp(&values[b]));
        let mut of_row = vec![0; values.len()];
        let mut groups = 0;
        for group in order.chunk_by(|&a, &b| values[a] == values[b]) {
            for &row in group {
                of_row[row] = groups as u32;
            }
            groups += 1;
        }
        Self { of_row, groups }
    }

    fn scratch(&self) -> GroupRanks {
        GroupRanks { counts: vec![0; self.groups], ranks: vec![0.0; self.groups] }
    }

    /// Fills in the average ranks, less their mean, of the drawn rows; returns their sum of squares.
    fn rank(&self, drawn: &[usize], to: &mut GroupRanks) -> f64 {
        to.counts.fill(0);
        for &row in drawn {
            to.counts[self.of_row[row] as usize] += 1;
        }
        let mean = (drawn.len() + 1) as f64 / 2.0;
        let (mut before, mut squares) = (0u32, 0.0);
        for (&count, rank) in to.counts.iter().zip(&mut to.ranks) {
            *rank = f64::from(before) + f64::from(count + 1) / 2.0 - mean;
            squares += f64::from(count) * *rank * *rank;
            before += count;
        }
        squares
    }
}

fn resampled_spearman(
    drawn: &[usize],
    (predicted, ranks): (&TieGroups, &mut GroupRanks),
    (gold, gold_ranks): (&TieGroups, &mut GroupRanks),
) -> f64 {
    let squares = predicted.rank(drawn, ranks);
    let gold_squares = gold.rank(drawn, gold_ranks);
    let product: f64 = drawn
        .iter()
        .map(|&row| ranks.ranks[predicted.of_row[row] as usize] * gold_ranks.ranks[gold.of_row[row] as usize])
        .sum();
    // 0/0 where a side is constant: NaN, as documented.
    product / (squares * gold_squares).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::average_precision::average_precision;
    use crate::metric::correlation::spearman;

    #[test]
    fn resampled_spearman_is_spearman_of_the_resample() {
        let pairs: Vec<(f32, f64)> = (0..60).map(|i| (((i * 37) % 23) as f32, ((i * 11) % 5) as f64)).collect();
        let values = replicates(&Outcomes::Pairs(pairs.clone()), 3, 20);
        for (replicate, value) in values.iter().enumerate() {
            let mut rows = Rows::new(3, replicate);
            let drawn: Vec<(f32, f64)> = (0..60).map(|_| pairs[rows.draw(60)]).collect();
            let x: Vec<f64> = drawn.iter().map(|pair| f64::from(pair.0)).collect();
            let y: Vec<f64> = drawn.iter().map(|pair| pair.1).collect();
            assert!((spearman(&x, &y).unwrap() - value).abs() < 1e-12);
        }
    }

    #[test]
    fn resampled_precision_is_that_of_the_resample_and_splits_are_averaged() {
        let pairs: Vec<(f32, bool)> = (0..40).map(|i| (((i * 17) % 11) as f32, i % 3 == 0)).collect();
        let ranked = Outcomes::Ranked(pairs.clone());
        let values = replicates(&ranked, 3, 20);
        for (replicate, value) in values.iter().enumerate() {
            let mut rows = Rows::new(3, replicate);
            let drawn: Vec<(f32, bool)> = (0..40).map(|_| pairs[rows.draw(40)]).collect();
            let positive: Vec<bool> = drawn.iter().map(|pair| pair.1).collect();
            let scores: Vec<f64> = drawn.iter().map(|pair| f64::from(pair.0)).collect();
            assert!((average_precision(&positive, &scores) - value).abs() < 1e-12);
        }
        let examples = Outcomes::PerExample(vec![0.0, 1.0]);
        let both = replicates(&Outcomes::Splits(vec![ranked, examples.clone()]), 3, 20);
        let other = replicates(&examples, 4, 20);
        assert!((0..20).all(|r| (both[r] - (values[r] + other[r]) / 2.0).abs() < 1e-12));
    }

    #[test]
    fn replicates_are_paired_and_the_same_for_any_number_of_threads() {
        let a = Outcomes::PerExample((0..50).map(f64::from).collect());
        let b = Outcomes::PerExample((0..50).map(|i| f64::from(i) + 1.0).collect());
        let (of_a, of_b) = (replicates(&a, 9, 100), replicates(&b, 9, 100));
        assert!(of_a.iter().zip(&of_b).all(|(a, b)| (b - a - 1.0).abs() < 1e-12));
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(one.install(|| replicates(&a, 9, 100)), of_a);
        assert_ne!(replicates(&a, 10, 100), of_a);
    }

    #[test]
    fn undefined_replicates_keep_their_place() {
        let values = replicates(&Outcomes::Pairs(vec![(0.1, 0.0), (0.2, 1.0)]), 1, 200);
        assert_eq!(values.len(), 200);
        assert!(values.iter().any(|value| value.is_nan()) && values.contains(&1.0));
        assert!(replicates(&Outcomes::PerExample(vec![]), 1, 2).iter().all(|value| value.is_nan()));
    }

    #[test]
    fn the_seed_of_a_name_is_fixed() {
        assert_eq!(task_seed(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(task_seed("a"), 0xaf63_dc4c_8601_ec8c);
    }
}
