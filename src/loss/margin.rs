//! False negatives: which negatives are so near to the anchor that they are likely positives.

use candle_core::{Result, bail};

/// How far below the positive a negative's cosine must lie to count as one (Moreira et al. 2024, "NV-Retriever":
/// `TopK-MarginPos` and `TopK-PercPos`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Margin {
    /// Cosines above `positive − margin` are left out.
    Absolute(f64),
    /// Cosines above `positive − margin·|positive|` are left out: with a positive above 0, above `positive·(1 − margin)`;
    /// below 0 the magnitude keeps the bound under the positive, as in sentence-transformers.
    Relative(f64),
}

impl Margin {
    /// The largest cosine that still counts as a negative.
    pub fn limit(self, positive: f32) -> f32 {
        match self {
            Self::Absolute(margin) => positive - margin as f32,
            Self::Relative(margin) => positive - positive.abs() * margin as f32,
        }
    }

    /// # Errors
    /// Where the margin is no finite number.
    pub(super) fn check(self, loss: &str) -> Result<()> {
        let (Self::Absolute(margin) | Self::Relative(margin)) = self;
        if !margin.is_finite() {
            bail!("{loss}: margin = {margin}: must be a finite number");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_margin_lies_below_a_negative_positive_too() {
        assert_eq!(Margin::Absolute(0.25).limit(0.5), 0.25);
        assert_eq!(Margin::Relative(0.25).limit(0.5), 0.375);
        assert_eq!(Margin::Relative(0.25).limit(-0.5), -0.625);
    }
}
