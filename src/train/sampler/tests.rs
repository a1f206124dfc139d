use std::collections::HashSet;

use super::*;

fn sets(sizes: &[(usize, f64)]) -> Vec<SetSize> {
    sizes.iter().map(|(rows, weight)| SetSize { rows: *rows, weight: *weight }).collect()
}

fn sampler(sizes: &[(usize, f64)], settings: SamplerSettings) -> Sampler {
    Sampler::new(&sets(sizes), settings, 11).unwrap()
}

fn plain(sampler: &Sampler, epoch: usize) -> Vec<Vec<(usize, usize)>> {
    let epoch = sampler.epoch(epoch, &|_, _| &[]);
    assert_eq!((epoch.batches.len(), epoch.dropped), (sampler.batches_per_epoch(), 0));
    assert!(epoch.batches.iter().all(|batch| !batch.is_empty()));
    epoch.batches
}

/// How often each row of a set is in an epoch.
fn uses(batches: &[Vec<(usize, usize)>], set: usize, rows: usize) -> Vec<usize> {
    let mut out = vec![0; rows];
    batches.iter().flatten().filter(|(s, _)| *s == set).for_each(|(_, row)| out[*row] += 1);
    out
}

fn all_mixings() -> [Mixing; 5] {
    use Stop::{AllExhausted, FirstExhausted};
    [
        Mixing::Proportional,
        Mixing::RoundRobin(FirstExhausted),
        Mixing::RoundRobin(AllExhausted),
        Mixing::Weighted { alpha: 0.5, stop: FirstExhausted },
        Mixing::Weighted { alpha: 0.5, stop: AllExhausted },
    ]
}

#[test]
fn one_set_is_shuffled_whole_whatever_the_mixing() {
    let expected = plain(&sampler(&[(103, 1.0)], SamplerSettings::new(8)), 3);
    // Today's order of a run: the rows shuffled by this generator, eight at a time.
    let mut order: Vec<usize> = (0..103).collect();
    order.shuffle(&mut generator(11, 1, 3));
    let chunks: Vec<Vec<(usize, usize)>> = order.chunks(8).map(|c| c.iter().map(|row| (0, *row)).collect()).collect();
    assert_eq!(expected, chunks);
    for mixing in all_mixings() {
        for one_set_per_batch in [false, true] {
            let settings = SamplerSettings { mixing, one_set_per_batch, ..SamplerSettings::new(8) };
            assert_eq!(plain(&sampler(&[(103, 1.0)], settings), 3), expected, "{settings:?}");
        }
    }
}

#[test]
fn the_last_batch_is_whole_part_or_left_out() {
    for (rows, skip_lone, drop_last, expected) in [
        (17, true, false, 4), // 17 = 4 · 4 + 1: the lone row is left out
        (17, false, false, 5),
        (18, true, false, 5),
        (18, true, true, 4),
        (16, true, true, 4),
        (1, true, false, 1), // all there is
        (4, true, true, 1),
    ] {
        let settings = SamplerSettings { skip_lone, drop_last, ..SamplerSettings::new(4) };
        let sampler = sampler(&[(rows, 1.0)], settings);
        assert_eq!(sampler.batches_per_epoch(), expected, "{rows} {settings:?}");
        assert_eq!(plain(&sampler, 0).len(), expected);
    }
}

#[test]
fn every_epoch_has_the_planned_batches_and_is_the_same_again() {
    for mixing in all_mixings() {
        for (one_set_per_batch, no_duplicates, drop_last) in
            (0..8).map(|bits| (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0))
        {
            let settings =
                SamplerSettings { mixing, one_set_per_batch, no_duplicates, drop_last, ..SamplerSettings::new(4) };
            let sampler = sampler(&[(33, 1.0), (10, 0.5), (21, 1.5)], settings);
            assert!(sampler.batches_per_epoch() > 0);
            let mut epochs = Vec::new();
            for epoch in 0..5 {
                let batches = plain(&sampler, epoch);
                assert!(batches.iter().all(|batch| batch.len() <= 4));
                assert!(!one_set_per_batch || batches.iter().all(|b| b.iter().all(|(set, _)| *set == b[0].0)));
                assert_eq!(batches, plain(&sampler.clone(), epoch), "{settings:?}");
                epochs.push(batches);
            }
            assert!(epochs.windows(2).all(|pair| pair[0] != pair[1]), "{settings:?}: epochs differ");
            let other = Sampler::new(&sets(&[(33, 1.0), (10, 0.5), (21, 1.5)]), settings, 12).unwrap();
            assert_ne!(plain(&other, 0), epochs[0], "{settings:?}: seeds differ");
        }
    }
}

#[test]
fn weights_are_shares_of_the_rows() {
    for one_set_per_batch in [false, true] {
        let settings = SamplerSettings { one_set_per_batch, skip_lone: false, ..SamplerSettings::new(8) };
        let sampler = sampler(&[(40, 1.0), (41, 0.5), (30, 2.0), (30, 1.5)], settings);
        for epoch in 0..4 {
            let batches = plain(&sampler, epoch);
            assert_eq!(uses(&batches, 0, 40), [1; 40]);
            assert_eq!(uses(&batches, 2, 30), [2; 30]);
            let (half, more) = (uses(&batches, 1, 41), uses(&batches, 3, 30));
            assert_eq!((half.iter().sum::<usize>(), half.iter().max()), (21, Some(&1)), "41 / 2, no row twice");
            assert_eq!((more.iter().sum::<usize>(), more.iter().min(), more.iter().max()), (45, Some(&1), Some(&2)));
        }
    }
}

#[test]
fn a_share_covers_all_rows_over_its_epochs() {
    for one_set_per_batch in [false, true] {
        for (rows, weight, epochs) in [(40, 0.5, 2), (41, 0.5, 2), (100, 0.1, 10), (100, 0.3, 4), (7, 0.01, 7)] {
            let settings = SamplerSettings { one_set_per_batch, skip_lone: false, ..SamplerSettings::new(4) };
            let sampler = sampler(&[(9, 1.0), (rows, weight)], settings);
            for start in [0, epochs, 5 * epochs] {
                let batches: Vec<_> = (start..start + epochs).flat_map(|epoch| plain(&sampler, epoch)).collect();
                let uses = uses(&batches, 1, rows);
                assert!(uses.iter().all(|n| (1..=2).contains(n)), "{rows} × {weight}: {uses:?}");
            }
        }
    }
    let sampler = sampler(&[(40, 0.5)], SamplerSettings::new(4));
    let halves = |epoch: usize| uses(&plain(&sampler, epoch), 0, 40);
    assert_ne!(halves(0), halves(2), "drawn anew");
}

#[test]
fn proportional_batches_come_in_any_order() {
    let settings = SamplerSettings { one_set_per_batch: true, ..SamplerSettings::new(10) };
    let sampler = sampler(&[(60, 1.0), (25, 1.0)], settings);
    assert_eq!(sampler.batches_per_epoch(), 9);
    // Drawing in proportion to what is left, the first batch is of the first set with a probability of 6 / 9.
    let first = (0..900).filter(|epoch| plain(&sampler, *epoch)[0][0].0 == 0).count();
    assert!(first.abs_diff(600) < 43, "three standard deviations: {first}");
    assert_eq!(uses(&plain(&sampler, 0), 1, 25), [1; 25]);
}

#[test]
fn sets_take_turns() {
    let turns = |batches: &[Vec<(usize, usize)>]| batches.iter().map(|b| b[0].0).collect::<Vec<_>>();
    let order = |stop, one_set_per_batch| {
        let settings =
            SamplerSettings { mixing: Mixing::RoundRobin(stop), one_set_per_batch, ..SamplerSettings::new(4) };
        sampler(&[(12, 1.0), (10, 1.0), (20, 1.0)], settings)
    };
    // Batches: 3, 3 and 5. sentence-transformers' RoundRobinBatchSampler gives min · sets.
    let batches = plain(&order(Stop::FirstExhausted, true), 0);
    assert_eq!(turns(&batches), [0, 1, 2, 0, 1, 2, 0, 1, 2]);
    assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 4, 4, 4, 4, 4, 2, 4]);
    assert_eq!((uses(&batches, 0, 12), uses(&batches, 1, 10)), (vec![1; 12], vec![1; 10]));
    let batches = plain(&order(Stop::AllExhausted, true), 0);
    assert_eq!(turns(&batches), [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]);
    assert_eq!(uses(&batches, 2, 20), [1; 20]);
    let again = uses(&batches, 0, 12);
    assert_eq!((again.iter().sum::<usize>(), again.iter().min(), again.iter().max()), (20, Some(&1), Some(&2)));
    // Row by row: datasets.interleave_datasets without probabilities gives min · sets or max · sets rows, set after set.
    for (stop, rows) in [(Stop::FirstExhausted, 30), (Stop::AllExhausted, 60)] {
        let batches = plain(&order(stop, false), 0);
        let rows_in_order: Vec<(usize, usize)> = batches.concat();
        assert_eq!(rows_in_order.len(), rows);
        assert!(rows_in_order.iter().enumerate().all(|(i, (set, _))| *set == i % 3));
        assert_eq!(uses(&batches, 1, 10), [rows / 30; 10]);
        let seldom = uses(&batches, 2, 20);
        assert_eq!((seldom.iter().sum::<usize>(), seldom.iter().max()), (rows / 3, Some(&1)));
    }
}

#[test]
fn turns_that_end_early_go_on_with_other_rows_in_the_next_epoch() {
    for one_set_per_batch in [false, true] {
        let mixing = Mixing::RoundRobin(Stop::FirstExhausted);
        let settings = SamplerSettings { mixing, one_set_per_batch, ..SamplerSettings::new(5) };
        let sampler = sampler(&[(10, 1.0), (40, 1.0)], settings);
        let batches: Vec<_> = (0..4).flat_map(|epoch| plain(&sampler, epoch)).collect();
        assert_eq!((uses(&batches, 0, 10), uses(&batches, 1, 40)), (vec![4; 10], vec![1; 40]));
    }
}

#[test]
fn weighted_sets_give_their_share() {
    let of = |sizes: &[(usize, f64)], alpha, stop, one_set_per_batch| {
        let mixing = Mixing::Weighted { alpha, stop };
        let settings = SamplerSettings { mixing, one_set_per_batch, skip_lone: false, ..SamplerSettings::new(10) };
        let batches = plain(&sampler(sizes, settings), 0);
        let unit = |batch: &Vec<(usize, usize)>, set| {
            let rows = batch.iter().filter(|(s, _)| *s == set).count();
            if one_set_per_batch { rows.min(1) } else { rows }
        };
        (0..sizes.len()).map(|set| batches.iter().map(|b| unit(b, set)).sum()).collect::<Vec<usize>>()
    };
    use Stop::{AllExhausted, FirstExhausted};
    let three = [(100, 9.0), (100, 4.0), (100, 1.0)];
    // p = 9/14, 4/14, 1/14: the first ends after 100 / p = 155.6 rows, the last after 1,400.
    assert_eq!(of(&three, 1.0, FirstExhausted, false), [100, 44, 11]);
    assert_eq!(of(&three, 1.0, AllExhausted, false), [900, 400, 100]);
    // p = 3/6, 2/6, 1/6.
    assert_eq!(of(&three, 0.5, FirstExhausted, false), [100, 67, 33]);
    assert_eq!(of(&three, 0.5, AllExhausted, false), [300, 200, 100]);
    assert_eq!(of(&three, 0.0, FirstExhausted, false), [100, 100, 100]);
    // Ten batches each.
    assert_eq!(of(&three, 0.5, FirstExhausted, true), [10, 7, 3]);
    assert_eq!(of(&three, 0.5, AllExhausted, true), [30, 20, 10]);
    assert_eq!(of(&[(30, 1.0), (70, 1.0)], 1.0, FirstExhausted, false), [30, 30]);
    assert_eq!(of(&[(30, 1.0), (70, 1.0)], 1.0, AllExhausted, false), [70, 70]);
}

/// Checks an epoch without duplicates: the planned number of batches, none empty, no text twice, no row twice.
fn check_unique(sampler: &Sampler, rows: usize, hashes: &[Vec<u64>]) -> Epoch {
    let epoch = sampler.epoch(0, &|_, row| &hashes[row]);
    assert_eq!(epoch.batches.len(), sampler.batches_per_epoch());
    let mut seen = HashSet::new();
    for batch in &epoch.batches {
        assert!(!batch.is_empty());
        let mut texts = HashSet::new();
        for (_, row) in batch {
            assert!(seen.insert(*row), "row {row} is there twice");
            let own: HashSet<u64> = hashes[*row].iter().copied().collect();
            assert!(own.into_iter().all(|text| texts.insert(text)), "a text twice in a batch");
        }
    }
    assert_eq!(seen.len() + epoch.dropped, rows);
    epoch
}

#[test]
fn no_text_is_twice_in_a_batch() {
    let settings = SamplerSettings { no_duplicates: true, skip_lone: false, ..SamplerSettings::new(10) };
    let epoch = |hashes: Vec<Vec<u64>>| {
        let sampler = sampler(&[(hashes.len(), 1.0)], settings);
        let sizes = |epoch: &Epoch| epoch.batches.iter().map(Vec::len).collect::<Vec<_>>();
        let epoch = check_unique(&sampler, hashes.len(), &hashes);
        (sizes(&epoch), epoch.dropped)
    };
    // Nothing to avoid: the plain batches, a row with the same text in itself among them.
    let distinct: Vec<Vec<u64>> = (0..95).map(|i| vec![2 * i, 2 * i + 1, 2 * i]).collect();
    let plain_batches = plain(&sampler(&[(95, 1.0)], SamplerSettings::new(10)), 0);
    let found = sampler(&[(95, 1.0)], settings).epoch(0, &|_, row| &distinct[row]);
    assert_eq!((found.batches, found.dropped), (plain_batches, 0));
    // Every query ten times: all rows find a place, in other batches.
    let (sizes, dropped) = epoch((0..1_000).map(|i| vec![i % 100, 1_000 + i]).collect());
    assert!(dropped <= 20 && sizes.iter().filter(|n| **n == 10).count() >= 95, "{dropped} {sizes:?}");
    // All the same: a row a batch.
    assert_eq!(epoch(vec![vec![7]; 95]), (vec![1; 10], 85));
    // More batches than are looked ahead.
    assert_eq!(epoch(vec![vec![7]; 5_000]), (vec![1; 500], 4_500));
    // Half the same: each batch has one of them at most.
    let (sizes, dropped) = epoch((0..4_000).map(|i| vec![if i % 2 == 0 { 0 } else { i }]).collect());
    assert_eq!((sizes.iter().sum::<usize>() + dropped, sizes.len()), (4_000, 400));
    assert_eq!(dropped, 2_000 - 400, "the others are all used");
    // Chains: each row shares a text with its neighbours.
    let (_, dropped) = epoch((0..2_000).map(|i| vec![i, i + 1]).collect());
    assert!(dropped <= 20, "{dropped}");
    // Rows of many texts of which few are free.
    epoch((0..3_000).map(|i| (0..8).map(|k| (i * 7 + k * k * 13) % 97).collect()).collect());
    // Nothing in common with a row that has no texts.
    assert_eq!(epoch(vec![vec![]; 30]), (vec![10; 3], 0));
}

#[test]
fn duplicates_are_avoided_in_every_mixing() {
    for mixing in all_mixings() {
        for one_set_per_batch in [false, true] {
            let settings =
                SamplerSettings { mixing, one_set_per_batch, no_duplicates: true, ..SamplerSettings::new(6) };
            let sampler = sampler(&[(50, 2.0), (80, 1.0), (30, 0.7)], settings);
            let hashes: Vec<Vec<Vec<u64>>> =
                [50, 80, 30].iter().map(|n| (0..*n).map(|row| vec![row % 17, 1_000 + row]).collect()).collect();
            let epoch = sampler.epoch(2, &|set, row| &hashes[set][row]);
            assert_eq!(epoch.batches.len(), sampler.batches_per_epoch());
            for batch in &epoch.batches {
                let texts: Vec<u64> = batch.iter().flat_map(|(set, row)| hashes[*set][*row].clone()).collect();
                assert_eq!(texts.iter().collect::<HashSet<_>>().len(), texts.len(), "{settings:?}");
                assert!(!batch.is_empty());
            }
        }
    }
}

#[test]
fn unusable_settings_are_told() {
    let error = |sizes: &[(usize, f64)], settings| {
        Sampler::new(&sets(sizes), settings, 1).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let usual = SamplerSettings::new(8);
    let weighted = |stop| SamplerSettings { mixing: Mixing::Weighted { alpha: 1.0, stop }, ..usual };
    for (sizes, settings, expected) in [
        (&[][..], usual, "0 training sets"),
        (&[(4, 1.0), (0, 1.0)], usual, "training set 2 has no rows"),
        (&[(4, 0.0)], usual, "training set 1: weight 0: must be above 0"),
        (&[(4, f64::NAN)], usual, "weight NaN"),
        (&[(4, 1e300)], usual, "an epoch would have"),
        (&[(4, 1.0)], SamplerSettings { batch: 0, ..usual }, "a batch needs"),
        (&[(7, 1.0)], SamplerSettings { drop_last: true, ..usual }, "7 rows fill no batch of 8"),
        (
            &[(9, 1.0), (14, 0.5)],
            SamplerSettings { drop_last: true, one_set_per_batch: true, ..usual },
            "training set 2 gives 7 rows, less than a batch of 8",
        ),
        (&[(4, 1.0), (4, 1e-12)], weighted(Stop::AllExhausted), "stop: first_exhausted"),
        (
            &[(4, 1.0), (4, 1.0)],
            SamplerSettings { mixing: Mixing::Weighted { alpha: -1.0, stop: Stop::AllExhausted }, ..usual },
            "alpha -1: must be 0 or above",
        ),
    ] {
        let error = error(sizes, settings);
        assert!(error.contains(expected), "{expected}: {error}");
    }
    assert_eq!(error(&[(4, 1.0), (4, 1e-12)], weighted(Stop::FirstExhausted)), "");
}
