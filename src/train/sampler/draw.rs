//! Which of a row's texts are trained on: drawn anew whenever the row is used.

use rand::seq::{IndexedRandom, index};
use rand_pcg::Pcg64;

use super::{generator, purpose};
use crate::data::training::TrainingRow;

/// Texts drawn of a row, with a teacher's scores where it has them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Drawn {
    /// Number of the positive.
    pub positive: usize,
    /// Numbers of the negatives.
    pub negatives: Vec<usize>,
    /// Score of the positive.
    pub positive_score: Option<f32>,
    /// Scores of the negatives; none at all where the row has none.
    pub negative_scores: Vec<f32>,
}

impl Drawn {
    fn new(row: &TrainingRow, positive: usize, negatives: Vec<usize>) -> Self {
        let negative_scores = negatives.iter().filter_map(|i| row.negative_scores.get(*i).copied()).collect();
        Self { positive, positive_score: row.positive_scores.get(positive).copied(), negative_scores, negatives }
    }
}

/// The generator of the texts of one batch; `place` is the epoch, times 2^32, and the number of the batch in it. The rows of the
/// batch draw from it one after another.
pub fn draws(seed: u64, place: u64) -> Pcg64 {
    generator(seed, purpose::TEXTS, place)
}

fn positive(row: &TrainingRow, rng: &mut Pcg64) -> Option<usize> {
    let places: Vec<usize> = (0..row.positives.len()).collect();
    places.choose(rng).copied()
}

/// One positive and up to `most` negatives, none of them twice. None where the row has no positive.
pub fn hard_negatives(row: &TrainingRow, most: usize, rng: &mut Pcg64) -> Option<Drawn> {
    let positive = positive(row, rng)?;
    let negatives = index::sample(rng, row.negatives.len(), most.min(row.negatives.len())).into_vec();
    Some(Drawn::new(row, positive, negatives))
}

/// One positive and exactly `size - 1` negatives, as FlagEmbedding draws a group (`train_group_size`): where a row has fewer,
/// its list is repeated ⌈(size - 1) / length⌉ times and drawn from without putting back. None where the row has no positive, or
/// no negative to fill a group with.
pub fn group(row: &TrainingRow, size: usize, rng: &mut Pcg64) -> Option<Drawn> {
    let (wanted, there) = (size.saturating_sub(1), row.negatives.len());
    let positive = positive(row, rng)?;
    if wanted > 0 && there == 0 {
        return None;
    }
    let copies = if there < wanted { wanted.div_ceil(there) } else { 1 };
    let drawn = index::sample(rng, there * copies, wanted);
    Some(Drawn::new(row, positive, drawn.into_iter().map(|i| i % there.max(1)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(positives: usize, negatives: usize, scored: bool) -> TrainingRow {
        let texts = |name: &str, n: usize| (0..n).map(|i| format!("{name}{i}")).collect();
        let scores = |from: f32, n: usize| (0..if scored { n } else { 0 }).map(|i| from + i as f32).collect();
        TrainingRow {
            query: "q".into(),
            positives: texts("p", positives),
            negatives: texts("n", negatives),
            positive_scores: scores(100.0, positives),
            negative_scores: scores(0.0, negatives),
            ..Default::default()
        }
    }

    fn counts(places: &[usize], of: usize) -> Vec<usize> {
        (0..of).map(|i| places.iter().filter(|p| **p == i).count()).collect()
    }

    #[test]
    fn a_group_has_its_size() {
        // (negatives there, group size, most and fewest uses of one negative): the rule's bounds in each case.
        for (there, size, most, fewest) in [
            (7, 4, 1, 0), // more than enough: no negative twice
            (3, 4, 1, 1), // exactly enough: all of them
            (2, 4, 2, 1), // repeated twice, three of four: one is there twice
            (1, 4, 3, 3), // repeated three times
            (3, 8, 3, 1), // repeated three times, seven of nine
            (4, 1, 0, 0), // a group of the positive alone
            (0, 1, 0, 0),
        ] {
            let row = row(3, there, true);
            for place in 0..200 {
                let drawn = group(&row, size, &mut draws(1, place)).unwrap();
                assert_eq!(drawn.negatives.len(), size - 1);
                let counts = counts(&drawn.negatives, there);
                assert!(counts.iter().all(|n| (fewest..=most).contains(n)), "{there} of {size}: {counts:?}");
                assert_eq!(counts.iter().sum::<usize>(), size - 1);
                assert_eq!(drawn.positive_score, Some(100.0 + drawn.positive as f32));
                let scores: Vec<f32> = drawn.negatives.iter().map(|i| *i as f32).collect();
                assert_eq!(drawn.negative_scores, scores);
            }
        }
        assert_eq!(group(&row(1, 0, false), 2, &mut draws(1, 1)), None);
        assert_eq!(group(&row(0, 2, false), 2, &mut draws(1, 1)), None);
        let unscored = group(&row(1, 2, false), 3, &mut draws(1, 1)).unwrap();
        assert_eq!((unscored.positive_score, unscored.negative_scores.len()), (None, 0));
    }

    #[test]
    fn every_text_has_its_turn_and_none_is_preferred() {
        let row = row(3, 2, false);
        let (mut positives, mut twice) = (Vec::new(), Vec::new());
        for place in 0..3_000 {
            let drawn = group(&row, 4, &mut draws(5, place)).unwrap();
            positives.push(drawn.positive);
            twice.push(usize::from(counts(&drawn.negatives, 2)[1] == 2));
        }
        // Three standard deviations: 3 · √(3000 · p · (1 - p)).
        assert!(counts(&positives, 3).iter().all(|n| n.abs_diff(1_000) < 78), "{:?}", counts(&positives, 3));
        assert!(counts(&twice, 2)[1].abs_diff(1_500) < 83, "{:?}", counts(&twice, 2));
    }

    #[test]
    fn hard_negatives_are_those_there_are() {
        for (there, wanted, given) in [(5, 2, 2), (2, 5, 2), (0, 3, 0), (3, 0, 0)] {
            let drawn = hard_negatives(&row(2, there, true), wanted, &mut draws(3, 4)).unwrap();
            assert_eq!((drawn.negatives.len(), drawn.negative_scores.len()), (given, given));
            assert!(counts(&drawn.negatives, there).iter().all(|n| *n <= 1));
        }
        assert_eq!(hard_negatives(&row(0, 2, false), 1, &mut draws(1, 1)), None);
    }

    #[test]
    fn a_draw_is_decided_by_seed_and_place() {
        let row = row(4, 9, false);
        let drawn = |seed, place| group(&row, 5, &mut draws(seed, place)).unwrap();
        assert_eq!(drawn(1, 2), drawn(1, 2));
        assert!((0..9).any(|place| drawn(1, place) != drawn(1, 9)) && (0..9).any(|seed| drawn(seed, 2) != drawn(9, 2)));
    }
}
