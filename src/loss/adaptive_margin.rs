//! Margins of ArcFace that change with training and differ by class.
//!
//! The margin of class c after t steps is `r(t)·clamp(end·f_c, smallest, largest)·g_c`:
//!
//! - `r(t) = (start + (end − start)·min(t / warm_up, 1)) / end`: margins rise linearly, as a full margin from the first step
//!   keeps a network from converging (Huang et al. 2020, "CurricularFace"; open-retrievals sets the margin anew at every
//!   step);
//! - `f_c = (n_c / mean n)^(−power)`, n_c examples of class c in the training set: rarer classes get larger margins (Ha et al.
//!   2020, "Google Landmark Recognition 2020 Competition Third Place Solution", power 1/4; Liu et al. 2019, "AdaptiveFace");
//! - `g_c = 1 − easing·(1 − max(cosine_c, 0))`, cosine_c the moving mean of the cosine of the class's examples with their
//!   class: a class that is not learned yet gets less of its margin. The moving mean is CurricularFace's, kept by class; the
//!   factor is this project's, and easing 0 is without it.

use std::f64::consts::PI;

use candle_core::{Result, bail};
use serde::{Deserialize, Serialize};

const NAME: &str = "adaptive margin";

/// How margins change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Radians, of a class of average size at the first step; not above `end`.
    pub start: f64,
    /// Radians, of a class of average size from step `warm_up` on; above 0.
    pub end: f64,
    /// Steps in which the margin rises.
    pub warm_up: u64,
    /// Radians after the warm-up, of the commonest classes; not above `end`.
    pub smallest: f64,
    /// Radians after the warm-up, of the rarest classes; not below `end`, at most π.
    pub largest: f64,
    /// How strongly frequency counts; 0 for not at all.
    pub power: f64,
    /// From 0 to 1: how much of its margin a class whose cosine is 0 or below is spared.
    pub easing: f64,
    /// Below 1: what of the moving mean is kept with every example.
    pub momentum: f64,
}

/// What a run must keep to go on exactly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Steps observed.
    pub step: u64,
    /// Examples seen, by class.
    pub seen: Vec<u64>,
    /// Moving mean of the cosine of the examples with their class, by class; 0 before the first.
    pub cosines: Vec<f32>,
}

/// The margins of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct AdaptiveMargin {
    settings: Settings,
    /// `clamp(end·f_c, smallest, largest)`, by class.
    bases: Vec<f64>,
    state: State,
}

impl AdaptiveMargin {
    /// Before the first step; `class_sizes[c]`: training examples of class c (a class without any is taken to have one).
    ///
    /// # Errors
    /// Where a setting is out of its range, or there is no class.
    pub fn new(settings: Settings, class_sizes: &[u64]) -> Result<Self> {
        let classes = class_sizes.len();
        Self::resume(settings, class_sizes, State { step: 0, seen: vec![0; classes], cosines: vec![0.0; classes] })
    }

    /// Where `state` left off.
    ///
    /// # Errors
    /// As [`Self::new`], and where the state is not of these classes.
    pub fn resume(settings: Settings, class_sizes: &[u64], state: State) -> Result<Self> {
        settings.check()?;
        let classes = class_sizes.len();
        if classes == 0 {
            bail!("{NAME}: no classes");
        }
        if state.seen.len() != classes || state.cosines.len() != classes {
            bail!("{NAME}: a state of {} and {} classes for {classes}", state.seen.len(), state.cosines.len());
        }
        if let Some(class) = state.cosines.iter().position(|cosine| !cosine.is_finite()) {
            bail!("{NAME}: the state's cosine of class {class} is {}", state.cosines[class]);
        }
        let sizes: Vec<f64> = class_sizes.iter().map(|&size| size.max(1) as f64).collect();
        let mean = sizes.iter().sum::<f64>() / classes as f64;
        let base = |size: f64| settings.end * (size / mean).powf(-settings.power);
        let bases = sizes.iter().map(|&size| base(size).clamp(settings.smallest, settings.largest)).collect();
        Ok(Self { settings, bases, state })
    }

    /// Goes on where `state` left off.
    ///
    /// # Errors
    /// Where the state is not of these classes; nothing has changed then.
    pub fn restore(&mut self, state: State) -> Result<()> {
        let classes = self.bases.len();
        if state.seen.len() != classes || state.cosines.len() != classes || state.cosines.iter().any(|c| !c.is_finite())
        {
            bail!("{NAME}: a state of {} and {} classes for {classes}", state.seen.len(), state.cosines.len());
        }
        self.state = state;
        Ok(())
    }

    /// The margins of this step in radians, by class.
    pub fn margins(&self) -> Vec<f64> {
        let Settings { start, end, warm_up, easing, .. } = self.settings;
        let progress = if self.state.step < warm_up { self.state.step as f64 / warm_up as f64 } else { 1.0 };
        let risen = (start + (end - start) * progress) / end;
        let eased = |cosine: f32| 1.0 - easing * (1.0 - f64::from(cosine).clamp(0.0, 1.0));
        self.bases.iter().zip(&self.state.cosines).map(|(base, &cosine)| risen * base * eased(cosine)).collect()
    }

    /// Ends a step, in which these classes' examples had these cosines with their class
    /// ([`own_cosines`](super::arcface::own_cosines)), in the order of the batch.
    ///
    /// # Errors
    /// Where labels and cosines are not as many, a label is no class, or a cosine is no number. Nothing has changed then.
    pub fn observe(&mut self, labels: &[u32], cosines: &[f32]) -> Result<()> {
        if labels.len() != cosines.len() {
            bail!("{NAME}: {} labels for {} cosines", labels.len(), cosines.len());
        }
        let classes = self.bases.len();
        for (row, (&label, cosine)) in labels.iter().zip(cosines).enumerate() {
            if label as usize >= classes || !cosine.is_finite() {
                bail!("{NAME}: row {row} has label {label} of {classes} classes and cosine {cosine}");
            }
        }
        for (&label, &cosine) in labels.iter().zip(cosines) {
            let (seen, mean) = (&mut self.state.seen[label as usize], &mut self.state.cosines[label as usize]);
            let momentum = if *seen == 0 { 0.0 } else { self.settings.momentum as f32 };
            *mean = momentum * *mean + (1.0 - momentum) * cosine;
            *seen += 1;
        }
        self.state.step += 1;
        Ok(())
    }

    /// What to keep for [`Self::resume`].
    pub fn state(&self) -> &State {
        &self.state
    }
}

impl Settings {
    fn check(&self) -> Result<()> {
        let Self { start, end, smallest, largest, .. } = *self;
        // NaN fails every comparison.
        let in_order = 0.0 <= start && start <= end && 0.0 < end && 0.0 <= smallest && smallest <= end;
        if !(in_order && end <= largest && largest <= PI) {
            bail!(
                "{NAME}: start = {start}, end = {end}, smallest = {smallest}, largest = {largest}: must be 0 ≤ start ≤ end, \
                 end above 0, and 0 ≤ smallest ≤ end ≤ largest ≤ π"
            );
        }
        if !(self.power >= 0.0 && self.power.is_finite()) {
            bail!("{NAME}: power = {}: must be 0 or above", self.power);
        }
        if !(0.0..=1.0).contains(&self.easing) {
            bail!("{NAME}: easing = {}: must lie from 0 to 1", self.easing);
        }
        if !(0.0..1.0).contains(&self.momentum) {
            bail!("{NAME}: momentum = {}: must lie from 0 to below 1", self.momentum);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            start: 0.1,
            end: 0.4,
            warm_up: 10,
            smallest: 0.3,
            largest: 0.7,
            power: 0.25,
            easing: 0.0,
            momentum: 0.9,
        }
    }

    fn near(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-12), "{got:?} {want:?}");
    }

    /// Ends `steps` steps without examples.
    fn after(margin: &AdaptiveMargin, steps: usize) -> Vec<f64> {
        let mut margin = margin.clone();
        (0..steps).for_each(|_| margin.observe(&[], &[]).unwrap());
        margin.margins()
    }

    #[test]
    fn margins_rise_and_are_larger_where_examples_are_rare() {
        // The mean size is 100: factors (16/100)^(-1/4) = 1.5811, 1 and (184/100)^(-1/4) = 0.8586.
        let margin = AdaptiveMargin::new(settings(), &[16, 100, 184]).unwrap();
        let full = [0.4 * 0.16f64.powf(-0.25), 0.4, 0.4 * 1.84f64.powf(-0.25)];
        near(&after(&margin, 10), &full);
        near(&after(&margin, 25), &full);
        near(&after(&margin, 0), &full.map(|m| m / 4.0));
        near(&after(&margin, 5), &full.map(|m| m * 0.25 / 0.4));
        // Bounds hold after the warm-up.
        let narrow = Settings { smallest: 0.35, ..settings() };
        let margin = AdaptiveMargin::new(narrow, &[0, 100, 100_000]).unwrap();
        near(&after(&margin, 10), &[0.7, 0.7, 0.35]);
    }

    #[test]
    fn a_class_far_from_its_direction_is_eased() {
        let eased = Settings { easing: 0.5, start: 0.4, power: 0.0, ..settings() };
        let mut margin = AdaptiveMargin::new(eased, &[1, 1, 1]).unwrap();
        margin.observe(&[0, 0, 1], &[0.5, 1.0, -0.25]).unwrap();
        let mean = f64::from(0.9f32 * 0.5 + (1.0 - 0.9f32) * 1.0);
        near(&margin.margins(), &[0.4 * (1.0 - 0.5 * (1.0 - mean)), 0.2, 0.2]);
        assert_eq!(margin.state().seen, [2, 1, 0]);
        assert_eq!(margin.state().cosines[1], -0.25);
    }

    #[test]
    fn resumed_equals_uninterrupted() {
        let batch = |step: u32| {
            let labels: Vec<u32> = (0..7).map(|i| (i * i + step) % 3).collect();
            let cosines: Vec<f32> = (0..7).map(|i| ((i * 13 + step * 7) as f32 * 0.37).sin()).collect();
            (labels, cosines)
        };
        let new = || AdaptiveMargin::new(Settings { easing: 0.3, ..settings() }, &[3, 5, 8]).unwrap();
        let (mut whole, mut parted) = (new(), new());
        for step in 0..20 {
            let (labels, cosines) = batch(step);
            whole.observe(&labels, &cosines).unwrap();
            let kept = serde_json::to_string(parted.state()).unwrap();
            let state = serde_json::from_str(&kept).unwrap();
            parted = AdaptiveMargin::resume(Settings { easing: 0.3, ..settings() }, &[3, 5, 8], state).unwrap();
            parted.observe(&labels, &cosines).unwrap();
        }
        assert_eq!(whole, parted);
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        for wrong in [
            Settings { start: 0.5, ..settings() },
            Settings { start: f64::NAN, ..settings() },
            Settings { start: 0.0, end: 0.0, smallest: 0.0, ..settings() },
            Settings { smallest: 0.5, ..settings() },
            Settings { largest: 4.0, ..settings() },
            Settings { power: -1.0, ..settings() },
            Settings { easing: 1.1, ..settings() },
            Settings { momentum: 1.0, ..settings() },
        ] {
            assert!(AdaptiveMargin::new(wrong.clone(), &[1]).is_err(), "{wrong:?}");
        }
        assert!(AdaptiveMargin::new(settings(), &[]).is_err());
        let mut margin = AdaptiveMargin::new(settings(), &[1, 2]).unwrap();
        let before = margin.clone();
        assert!(AdaptiveMargin::resume(settings(), &[1], before.state().clone()).is_err());
        assert!(margin.observe(&[0, 2], &[0.5, 0.5]).is_err());
        assert!(margin.observe(&[0, 1], &[0.5, f32::NAN]).is_err());
        assert!(margin.observe(&[0], &[]).is_err());
        assert_eq!(margin, before);
    }
}
