//! A mean in the order in which PyTorch adds on one thread, so that what is made of it agrees to the bit.

/// Values that PyTorch adds side by side.
const LANES: usize = 8;
/// Runs of lanes that it adds side by side.
const RUNS: usize = 4;
/// Partial sums of partial sums that it keeps.
const LEVELS: usize = 4;

/// Mean of `f32` values as `torch.Tensor.mean` has it on the CPU: cascade summation over four runs of eight lanes, then a
/// division.
pub fn mean(values: &[f32]) -> f32 {
    sum(values) / values.len().max(1) as f32
}

fn sum(values: &[f32]) -> f32 {
    if values.len() < LANES {
        let [sum] = rows(values.chunks_exact(1).map(|v| [v[0]]).collect());
        return sum;
    }
    let chunks = values.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().fold(0.0, |sum, v| sum + v);
    let lanes: [f32; LANES] = rows(chunks.map(|c| std::array::from_fn(|lane| c[lane])).collect());
    lanes.iter().fold(rest, |sum, v| sum + v)
}

fn add<const N: usize>(to: &mut [f32; N], values: &[f32; N]) {
    to.iter_mut().zip(values).for_each(|(t, v)| *t += v);
}

/// Sums of columns.
fn rows<const N: usize>(rows: Vec<[f32; N]>) -> [f32; N] {
    let groups = rows.chunks_exact(RUNS);
    let rest = groups.remainder();
    let mut runs = cascade(groups);
    for row in rest {
        add(&mut runs[0], row);
    }
    let [mut total, others @ ..] = runs;
    others.iter().for_each(|run| add(&mut total, run));
    total
}

/// Sums of every [`RUNS`]th row, in up to [`LEVELS`] levels of partial sums.
fn cascade<const N: usize>(groups: std::slice::ChunksExact<'_, [f32; N]>) -> [[f32; N]; RUNS] {
    let count = groups.len();
    let bits = count.max(1).next_power_of_two().trailing_zeros() as usize;
    let power = (bits / LEVELS).max(4);
    let step = 1 << power;
    let mut levels = [[[0f32; N]; RUNS]; LEVELS];
    for (i, group) in groups.enumerate() {
        levels[0].iter_mut().zip(group).for_each(|(sum, row)| add(sum, row));
        let done = i + 1;
        if done % step != 0 {
            continue;
        }
        for level in 1..LEVELS {
            let below = std::mem::replace(&mut levels[level - 1], [[0.0; N]; RUNS]);
            levels[level].iter_mut().zip(&below).for_each(|(sum, row)| add(sum, row));
            if done & ((step - 1) << (level * power)) != 0 {
                break;
            }
        }
    }
    let [mut total, others @ ..] = levels;
    for level in others {
        total.iter_mut().zip(&level).for_each(|(sum, row)| add(sum, row));
    }
    total
}
