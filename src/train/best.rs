//! Which evaluation was the best, and when to stop.

use serde::{Deserialize, Serialize};

/// What one number of an evaluation decides.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The number's name among an evaluation's: `loss`, `mrr`, `tasks`, or a task.
    pub metric: String,
    /// Least change that counts.
    pub min_delta: f64,
    /// Evaluations without improvement after which training stops; none goes to the end.
    pub patience: Option<usize>,
}

/// The best so far.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Best {
    /// Its optimizer step and value.
    pub at: Option<(usize, f64)>,
    /// Evaluations since.
    pub waited: usize,
}

impl Best {
    /// Takes an evaluation into account; says whether it is the best so far.
    pub fn see(&mut self, step: usize, value: f64, rule: &Rule) -> bool {
        let better = match self.at {
            None => value.is_finite(),
            Some((_, best)) if rule.metric == "loss" => value < best - rule.min_delta,
            Some((_, best)) => value > best + rule.min_delta,
        };
        if better {
            *self = Self { at: Some((step, value)), waited: 0 };
        } else {
            self.waited += 1;
        }
        better
    }

    /// Whether patience is at its end.
    pub fn is_over(&self, rule: &Rule) -> bool {
        rule.patience.is_some_and(|patience| self.waited >= patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_after_patience_without_improvement() {
        let rule = Rule { metric: "mrr".into(), min_delta: 0.01, patience: Some(2) };
        let mut best = Best::default();
        let seen: Vec<bool> =
            [0.5, 0.6, 0.605, 0.7, f64::NAN, 0.65].iter().enumerate().map(|(i, v)| best.see(i, *v, &rule)).collect();
        assert_eq!(seen, [true, true, false, true, false, false]);
        assert_eq!((best.at, best.is_over(&rule)), (Some((3, 0.7)), true));
    }

    #[test]
    fn a_loss_is_better_when_smaller_and_a_nan_never_is() {
        let rule = Rule { metric: "loss".into(), min_delta: 0.0, patience: None };
        let mut best = Best::default();
        assert!(!best.see(0, f64::NAN, &rule));
        assert!(best.see(1, 2.0, &rule) && !best.see(2, 2.0, &rule) && best.see(3, 1.0, &rule));
        assert!(!best.is_over(&rule));
    }
}
