//! mteb's `stratified_subsampling`: a smaller split with the class shares of the whole one.

use super::random::Generator;

/// The distinct label texts of all splits in code point order: mteb numbers the classes by their place in this list.
pub fn class_names<'a>(labels: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<String> = labels.into_iter().map(str::to_owned).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The rows of the subsample, in its order; all rows in file order where `samples` is not below their number.
///
/// `classes` has the class number of every row of the split; `seed` starts NumPy's `default_rng`. The shares follow
/// scikit-learn's `StratifiedShuffleSplit` with `test_size = samples` and the rest as training rows.
pub fn stratified_subsample(classes: &[usize], samples: usize, seed: u32) -> Vec<usize> {
    let rows = classes.len();
    if samples >= rows {
        return (0..rows).collect();
    }
    let mut by_class = vec![Vec::new(); classes.iter().max().map_or(0, |&last| last + 1)];
    for (row, &class) in classes.iter().enumerate() {
        by_class[class].push(row);
    }
    // Classes without rows must not take part: scikit-learn numbers only those that occur.
    by_class.retain(|rows| !rows.is_empty());
    let counts: Vec<usize> = by_class.iter().map(Vec::len).collect();

    let mut random = Generator::new(seed);
    let kept_out = quota(&counts, rows - samples, &mut random);
    let left: Vec<usize> = counts.iter().zip(&kept_out).map(|(&count, &out)| count.saturating_sub(out)).collect();
    let taken = quota(&left, samples, &mut random);

    let (mut rest, mut sample) = (Vec::with_capacity(rows - samples), Vec::with_capacity(samples));
    for (class, rows) in by_class.iter().enumerate() {
        let order = random.permutation(rows.len());
        let mut shuffled = order.iter().map(|&at| rows[at]);
        rest.extend(shuffled.by_ref().take(kept_out[class]));
        sample.extend(shuffled.take(taken[class]));
    }
    random.shuffle(&mut rest);
    random.shuffle(&mut sample);
    sample
}

/// `draws` divided over the classes in proportion to `counts`, the missing ones to the largest remainders
/// (scikit-learn's `_approximate_mode`).
fn quota(counts: &[usize], draws: usize, random: &mut Generator) -> Vec<usize> {
    let total = counts.iter().sum::<usize>() as f64;
    let wanted: Vec<f64> = counts.iter().map(|&count| draws as f64 * count as f64 / total).collect();
    let mut shares: Vec<usize> = wanted.iter().map(|share| share.floor() as usize).collect();
    let mut missing = draws.saturating_sub(shares.iter().sum());
    let remainders: Vec<f64> = wanted.iter().map(|share| share - share.floor()).collect();
    let mut distinct = remainders.clone();
    distinct.sort_by(|a, b| b.total_cmp(a));
    distinct.dedup();
    for value in distinct {
        if missing == 0 {
            break;
        }
        let equal: Vec<usize> = (0..counts.len()).filter(|&class| remainders[class] == value).collect();
        let add = equal.len().min(missing);
        for at in random.choice_without_replacement(equal.len(), add) {
            shares[equal[at]] += 1;
        }
        missing -= add;
    }
    shares
}
