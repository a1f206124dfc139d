//! Numbers of ranges and distributions, short enough to be read in a label.

use super::super::node::{Node, Value};

/// Significant digits of a number that a range or a distribution gives, where they are enough.
pub(super) const DIGITS: usize = 3;

/// Most significant digits: what a double holds for certain.
const MOST_DIGITS: usize = 15;

/// The number that a node holds; numbers with an exponent and no point are text in some YAML, and read all the same.
pub(super) fn of(node: &Node) -> Option<f64> {
    let value = match &node.value {
        Value::Int(i) => *i as f64,
        Value::Float(f) => *f,
        Value::Text(text) => text.parse().ok()?,
        _ => return None,
    };
    value.is_finite().then_some(value)
}

/// The decimal number of so many significant digits nearest to `value`.
pub(super) fn rounded(value: f64, digits: usize) -> f64 {
    format!("{value:.*e}", digits.clamp(1, MOST_DIGITS) - 1).parse().unwrap_or(value)
}

/// The steps between the ends of a range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Spacing {
    /// So many values with equal differences, both ends among them.
    Linear(usize),
    /// So many values with equal ratios, both ends among them.
    Log(usize),
    /// This far apart, from the first.
    Step(f64),
}

/// Values of a range `from < to`. The ends are as given; what lies between is rounded to three significant digits, or to as
/// many as keep the values apart.
pub(super) fn range(from: f64, to: f64, spacing: Spacing) -> Vec<f64> {
    let raw: Vec<f64> = match spacing {
        Spacing::Step(step) => {
            // A hair more, so that 0.1 to 0.5 by 0.1 has five values.
            let count = ((to - from) / step + 1e-9).floor() as usize;
            return (0..=count).map(|i| rounded(from + i as f64 * step, 12)).collect();
        }
        Spacing::Linear(count) => (0..count).map(|i| from + (to - from) * share(i, count)).collect(),
        Spacing::Log(count) => (0..count).map(|i| from * (to / from).powf(share(i, count))).collect(),
    };
    let last = raw.len().saturating_sub(1);
    let at = |digits: usize| -> Vec<f64> {
        let end = |i: usize, value: &f64| match i {
            0 => from,
            i if i == last => to,
            _ => rounded(*value, digits),
        };
        raw.iter().enumerate().map(|(i, value)| end(i, value)).collect()
    };
    let apart = |values: &Vec<f64>| values.windows(2).all(|pair| pair[0] < pair[1]);
    (DIGITS..MOST_DIGITS).map(at).find(apart).unwrap_or(raw)
}

fn share(i: usize, count: usize) -> f64 {
    i as f64 / (count.max(2) - 1) as f64
}

/// Digits of numbers drawn from `from` to `to`: three, or as many as tell a hundred values of the range apart.
pub(super) fn digits_for(from: f64, to: f64) -> usize {
    let narrow = (from.abs().max(to.abs()) / (to - from)).log10().floor();
    DIGITS + (narrow.max(0.0) as usize).min(MOST_DIGITS - DIGITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_short_and_exact_at_their_ends() {
        assert_eq!(range(1e-5, 1e-3, Spacing::Log(5)), [1e-5, 3.16e-5, 1e-4, 3.16e-4, 1e-3]);
        assert_eq!(range(8.0, 64.0, Spacing::Log(4)), [8.0, 16.0, 32.0, 64.0]);
        assert_eq!(range(0.0, 1.0, Spacing::Linear(4)), [0.0, 0.333, 0.667, 1.0]);
        assert_eq!(range(0.12345, 0.5, Spacing::Linear(2)), [0.12345, 0.5]);
        assert_eq!(range(0.1, 0.5, Spacing::Step(0.1)), [0.1, 0.2, 0.3, 0.4, 0.5]);
        assert_eq!(range(1.0, 10.0, Spacing::Step(4.0)), [1.0, 5.0, 9.0]);
    }

    #[test]
    fn narrow_ranges_have_as_many_digits_as_keep_their_values_apart() {
        assert_eq!(range(100.0, 101.0, Spacing::Linear(5)), [100.0, 100.2, 100.5, 100.8, 101.0]);
        assert_eq!((digits_for(0.5, 1.0), digits_for(100.0, 101.0)), (3, 5));
    }
}
