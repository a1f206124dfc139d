//! What is mined: ranks, bounds, margins and draws, with the names and defaults of the libraries that they come from.

use std::fmt;

/// Whose counting of ranks and whose pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// sentence-transformers' `mine_hard_negatives`: positives are among the candidates, and ranks are counted among those that
    /// bounds and margins leave.
    SentenceTransformers,
    /// FlagEmbedding's `hn_mine`: a candidate pool stands alone, and ranks are those of the search, with positives, the query and
    /// what bounds and margins refuse taken out afterwards.
    HnMine,
}

impl Rule {
    /// `sentence-transformers` or `hn-mine`.
    pub fn name(self) -> &'static str {
        match self {
            Self::SentenceTransformers => "sentence-transformers",
            Self::HnMine => "hn-mine",
        }
    }
}

/// Which of the candidates in range become negatives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// The best.
    Top,
    /// Any, with equal chances.
    Random,
}

impl Sampling {
    /// `top` or `random`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Top => "top",
            Self::Random => "random",
        }
    }
}

/// How negatives are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Whose counting of ranks.
    pub rule: Rule,
    /// Best candidates that are passed over.
    pub range_min: usize,
    /// Rank (from 0) that is no longer looked at. None: sentence-transformers' own, see [`Self::range_max`].
    pub range_max: Option<usize>,
    /// Negatives a query.
    pub num_negatives: usize,
    /// No negative scores above this cosine.
    pub max_score: Option<f64>,
    /// No negative scores below this cosine.
    pub min_score: Option<f64>,
    /// A negative scores at most the positive less this.
    pub absolute_margin: Option<f64>,
    /// A negative scores at most the positive less this share of its magnitude: `positive − |positive|·margin`.
    pub relative_margin: Option<f64>,
    /// A negative scores below the positive.
    pub semi_hard: bool,
    /// Which of those in range.
    pub sampling: Sampling,
    /// Seed of the draws; each query has a stream of its own.
    pub seed: u64,
    /// Random candidates are added where fewer than `num_negatives` are left. They keep to the margins, `max_score` and
    /// `semi_hard`, not to the range and `min_score`.
    pub top_up: bool,
    /// Queries searched at a time; None: as many as fit into some MB. The result is the same.
    pub block: Option<usize>,
}

/// A setting with a value that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: {message}")]
pub struct SettingsError {
    /// The setting.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl SettingsError {
    fn new(key: &'static str, value: impl fmt::Display, message: impl Into<String>) -> Self {
        Self { key, value: value.to_string(), message: message.into() }
    }
}

impl Settings {
    /// The defaults of a rule: sentence-transformers' 3 best, or `hn_mine`'s 15 drawn from ranks 10 to 210 and topped up.
    pub fn new(rule: Rule) -> Self {
        let hn_mine = rule == Rule::HnMine;
        Self {
            rule,
            range_min: if hn_mine { 10 } else { 0 },
            range_max: hn_mine.then_some(210),
            num_negatives: if hn_mine { 15 } else { 3 },
            max_score: None,
            min_score: None,
            absolute_margin: None,
            relative_margin: None,
            semi_hard: false,
            sampling: if hn_mine { Sampling::Random } else { Sampling::Top },
            seed: 42,
            top_up: hn_mine,
            block: None,
        }
    }

    /// The end of the range. Where none is set it is sentence-transformers': `range_min + num_negatives + most_positives`, with ten
    /// times `num_negatives` where a margin, `max_score` or `semi_hard` may refuse some. `most_positives` is the number of positives
    /// of the query that has most.
    pub fn range_max(&self, most_positives: usize) -> usize {
        self.range_max.unwrap_or_else(|| {
            let refusing = self.absolute_margin.is_some()
                || self.relative_margin.is_some()
                || self.max_score.is_some()
                || self.semi_hard;
            let negatives = self.num_negatives.saturating_mul(if refusing { 10 } else { 1 });
            self.range_min.saturating_add(negatives).saturating_add(most_positives)
        })
    }

    /// That every setting can be what it is.
    ///
    /// # Errors
    /// The first setting that cannot.
    pub fn check(&self) -> Result<(), SettingsError> {
        if self.num_negatives == 0 {
            return Err(SettingsError::new("num_negatives", 0, "must be at least 1"));
        }
        if let Some(range_max) = self.range_max {
            if self.range_min >= range_max {
                let message = format!("must be below range_max, which is {range_max}");
                return Err(SettingsError::new("range_min", self.range_min, message));
            }
            let width = range_max - self.range_min;
            if self.num_negatives > width && !self.top_up {
                let message = format!(
                    "only {width} candidates are in the range {} to {range_max}: widen it or ask for fewer",
                    self.range_min
                );
                return Err(SettingsError::new("num_negatives", self.num_negatives, message));
            }
        }
        let within = |key, value: Option<f64>, low: f64, high: f64, what: &str| match value {
            Some(value) if !(low..=high).contains(&value) => {
                Err(SettingsError::new(key, value, format!("must be {low} to {high}: {what}")))
            }
            _ => Ok(()),
        };
        within("max_score", self.max_score, -1.0, 1.0, "scores are cosines")?;
        within("min_score", self.min_score, -1.0, 1.0, "scores are cosines")?;
        within("absolute_margin", self.absolute_margin, -2.0, 2.0, "it is a difference of two cosines")?;
        let share = "it is the share of the positive's score by which a negative must be lower, such as 0.05";
        within("relative_margin", self.relative_margin, 0.0, 1.0, share)?;
        if let (Some(low), Some(high)) = (self.min_score, self.max_score)
            && low > high
        {
            return Err(SettingsError::new("min_score", low, format!("is above max_score, which is {high}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_settings_are_named() {
        let base = Settings::new(Rule::SentenceTransformers);
        base.check().unwrap();
        Settings::new(Rule::HnMine).check().unwrap();
        for (settings, expected) in [
            (Settings { num_negatives: 0, ..base.clone() }, "num_negatives = 0: must be at least 1"),
            (Settings { range_min: 5, range_max: Some(5), ..base.clone() }, "range_min = 5: must be below range_max"),
            (Settings { range_max: Some(2), ..base.clone() }, "num_negatives = 3: only 2 candidates"),
            (Settings { max_score: Some(80.0), ..base.clone() }, "max_score = 80: must be -1 to 1"),
            (Settings { min_score: Some(f64::NAN), ..base.clone() }, "min_score = NaN"),
            (Settings { absolute_margin: Some(f64::INFINITY), ..base.clone() }, "absolute_margin = inf"),
            (Settings { relative_margin: Some(95.0), ..base.clone() }, "relative_margin = 95: must be 0 to 1"),
            (Settings { min_score: Some(0.5), max_score: Some(0.4), ..base.clone() }, "min_score = 0.5: is above"),
        ] {
            let error = settings.check().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        // Numbers without a bound do not overflow.
        let large = Settings { range_min: usize::MAX, num_negatives: usize::MAX, max_score: Some(1.0), ..base };
        assert_eq!(large.range_max(usize::MAX), usize::MAX);
    }
}
