//! Second-order iterative stratification of multilabel rows (Sechidis et al. 2011; Szymański and Kajdanowicz 2017), as mteb
//! cuts a long evaluation split.

use std::collections::HashMap;

use super::random::RandomState;

const FOLDS: usize = 2;

/// The rows kept, ascending: the fold that wants `wanted / rows.len()` of every pair of labels. Their number is near
/// `wanted`, not exactly that. All rows where there are not more than `wanted`.
///
/// `rows` has the label columns of every row, ascending and without repeats; `seed` starts NumPy's `RandomState`.
pub fn iterative_stratification(rows: &[Vec<usize>], wanted: usize, seed: u32) -> Vec<usize> {
    if rows.len() <= wanted {
        return (0..rows.len()).collect();
    }
    let share = wanted as f64 / rows.len() as f64;
    let shares = [share, 1.0 - share];
    let mut random = RandomState::new(seed);
    let mut fold_wants = shares.map(|share| rows.len() as f64 * share);
    let mut fold_of: Vec<Option<usize>> = vec![None; rows.len()];

    let (mut combinations, of_row) = combinations(rows, &shares);
    while let Some(chosen) = next_combination(&combinations) {
        while let Some(row) = combinations[chosen].rows.pop() {
            if fold_of[row].is_some() {
                continue;
            }
            let fold = most_wanting(&combinations[chosen].wants, &mut random);
            fold_of[row] = Some(fold);
            fold_wants[fold] -= 1.0;
            for &other in &of_row[row] {
                combinations[other].left -= 1;
                combinations[other].wants[fold] -= 1.0;
            }
        }
    }
    for row in (0..rows.len()).rev().filter(|&row| rows[row].is_empty()) {
        let open: Vec<usize> = (0..FOLDS).filter(|&fold| fold_wants[fold] > 0.0).collect();
        let drawn = random.bounded(open.len().saturating_sub(1) as u64) as usize;
        let fold = open.get(drawn).copied().unwrap_or_default();
        fold_of[row] = Some(fold);
        fold_wants[fold] -= 1.0;
    }
    (0..rows.len()).filter(|&row| fold_of[row] == Some(0)).collect()
}

struct Combination {
    /// Rows with both columns, ascending; placed ones stay until they are popped.
    rows: Vec<usize>,
    /// How many of `rows` are not placed yet.
    left: usize,
    /// 1 for a column with itself, else 2.
    columns: usize,
    /// How many more rows each fold wants.
    wants: [f64; FOLDS],
}

/// The pairs of columns in order of appearance, and the pairs of every row.
fn combinations(rows: &[Vec<usize>], shares: &[f64; FOLDS]) -> (Vec<Combination>, Vec<Vec<usize>>) {
    let mut found: Vec<Combination> = Vec::new();
    let mut number: HashMap<(usize, usize), usize> = HashMap::new();
    let mut of_row = Vec::with_capacity(rows.len());
    for (row, columns) in rows.iter().enumerate() {
        let mut pairs = Vec::with_capacity(columns.len() * (columns.len() + 1) / 2);
        for (i, &first) in columns.iter().enumerate() {
            for &second in &columns[i..] {
                let at = *number.entry((first, second)).or_insert(found.len());
                if at == found.len() {
                    let columns = if first == second { 1 } else { 2 };
                    found.push(Combination { rows: Vec::new(), left: 0, columns, wants: [0.0; FOLDS] });
                }
                found[at].rows.push(row);
                found[at].left += 1;
                pairs.push(at);
            }
        }
        of_row.push(pairs);
    }
    for combination in &mut found {
        combination.wants = shares.map(|share| combination.left as f64 * share);
    }
    (found, of_row)
}

/// The first combination with rows left, given up only for a later one with more columns and fewer rows.
fn next_combination(combinations: &[Combination]) -> Option<usize> {
    let mut held: Option<usize> = None;
    for (at, combination) in combinations.iter().enumerate().filter(|(_, combination)| combination.left > 0) {
        let better = held.is_none_or(|held| {
            combination.columns > combinations[held].columns && combination.left < combinations[held].left
        });
        if better {
            held = Some(at);
        }
    }
    held
}

fn most_wanting(wants: &[f64; FOLDS], random: &mut RandomState) -> usize {
    let most = wants.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let tied: Vec<usize> = (0..FOLDS).filter(|&fold| wants[fold] == most).collect();
    if tied.len() == 1 { tied[0] } else { tied[random.bounded(tied.len() as u64 - 1) as usize] }
}
