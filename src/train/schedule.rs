//! Learning-rate schedules with warm-up, as transformers' `get_*_schedule_with_warmup`.

/// Shape of the schedule after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Falls linearly to 0.
    Linear,
    /// Half a cosine to 0.
    Cosine,
    /// Stays.
    Constant,
}

/// A schedule over a known number of steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Shape after warm-up.
    pub shape: Shape,
    /// Steps of linear warm-up from 0.
    pub warmup: usize,
    /// All steps.
    pub steps: usize,
}

impl Schedule {
    /// `warmup` below 1 is a share of the steps (rounded up), otherwise a number of steps.
    pub fn new(shape: Shape, warmup: f64, steps: usize) -> Self {
        let warmup = if warmup < 1.0 { (warmup * steps as f64).ceil() } else { warmup.floor() } as usize;
        Self { shape, warmup: warmup.min(steps), steps }
    }

    /// Factor of the learning rate at step `step`, counted from 0.
    pub fn factor(&self, step: usize) -> f64 {
        if step < self.warmup {
            return step as f64 / self.warmup.max(1) as f64;
        }
        let rest = (self.steps - self.warmup).max(1) as f64;
        let progress = ((step - self.warmup) as f64 / rest).min(1.0);
        match self.shape {
            Shape::Linear => 1.0 - progress,
            Shape::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            Shape::Constant => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_as_in_transformers() {
        let s = Schedule::new(Shape::Linear, 2.0, 20);
        let factors: Vec<f64> = [0, 1, 2, 3, 19].into_iter().map(|i| s.factor(i)).collect();
        assert_eq!(factors, [0.0, 0.5, 1.0, 17.0 / 18.0, 1.0 - 17.0 / 18.0]);
    }

    #[test]
    fn a_share_is_rounded_up_and_cosine_ends_at_zero() {
        let s = Schedule::new(Shape::Cosine, 0.05, 30);
        assert_eq!(s.warmup, 2);
        assert!((s.factor(16) - 0.5).abs() < 1e-12);
        assert!(s.factor(30).abs() < 1e-12);
        assert_eq!(Schedule::new(Shape::Constant, 0.0, 5).factor(4), 1.0);
    }
}
