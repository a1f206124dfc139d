//! What a score is made of, so that it can be resampled: per-example values, per-experiment values, scored
//! pairs, or those of several splits.

use serde::{Deserialize, Serialize};

/// The parts of one main score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "values", rename_all = "snake_case")]
pub enum Outcomes {
    /// One value per evaluated row (classification: share of experiments that got the row right). The main score is their mean.
    PerExample(Vec<f64>),
    /// One value per experiment or per set (clustering). The main score is their mean.
    PerExperiment(Vec<f64>),
    /// (predicted similarity, gold score) per row; the main score is their Spearman correlation.
    Pairs(Vec<(f32, f64)>),
    /// (predicted similarity, whether the pair is a positive) per row; the main score is their average precision.
    Ranked(Vec<(f32, bool)>),
    /// Those of several splits, whose scores' mean is the main score.
    Splits(Vec<Outcomes>),
}

impl Outcomes {
    /// Whether they are at most `most` values (on every split) whose mean is the score.
    pub fn is_few(&self, most: usize) -> bool {
        match self {
            Self::PerExample(values) | Self::PerExperiment(values) => values.len() <= most,
            Self::Pairs(_) | Self::Ranked(_) => false,
            Self::Splits(parts) => parts.iter().all(|part| part.is_few(most)),
        }
    }

    /// Those of the mean of several models' scores on the same rows: row by row where the score is a mean. A correlation
    /// or an average precision of a mean has no rows of its own: there the first model's stay, and `None` where the rows differ.
    pub fn average(models: &[&Self]) -> Option<Self> {
        let first = *models.first()?;
        match first {
            Self::PerExample(values) | Self::PerExperiment(values) => {
                let mut sum = vec![0.0; values.len()];
                for model in models {
                    let (Self::PerExample(values) | Self::PerExperiment(values)) = model else { return None };
                    if values.len() != sum.len() {
                        return None;
                    }
                    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value / models.len() as f64);
                }
                Some(if matches!(first, Self::PerExample(_)) {
                    Self::PerExample(sum)
                } else {
                    Self::PerExperiment(sum)
                })
            }
            Self::Pairs(pairs) => {
                let same = models.iter().all(|m| matches!(m, Self::Pairs(own) if own.len() == pairs.len()));
                same.then(|| first.clone())
            }
            Self::Ranked(pairs) => {
                let same = models.iter().all(|m| matches!(m, Self::Ranked(own) if own.len() == pairs.len()));
                same.then(|| first.clone())
            }
            Self::Splits(parts) => {
                let part = |number: usize| {
                    let own = models.iter().map(|m| if let Self::Splits(own) = m { own.get(number) } else { None });
                    Self::average(&own.collect::<Option<Vec<_>>>()?)
                };
                (0..parts.len()).map(part).collect::<Option<Vec<_>>>().map(Self::Splits)
            }
        }
    }
}
