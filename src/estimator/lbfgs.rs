//! L-BFGS as SciPy runs it: L-BFGS-B 3.0 (Byrd, Lu, Nocedal and Zhu 1995) without bounds, with the line search of Moré and
//! Thuente (1994) from MINPACK-2. It follows SciPy's path evaluation by evaluation, because scikit-learn stops it early and
//! the point where it stops decides predictions.

use std::collections::VecDeque;

/// When to stop, and how much to remember.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Pairs of steps and gradient changes kept.
    pub memory: usize,
    /// Iterations at most.
    pub max_iterations: usize,
    /// Evaluations in one line search at most.
    pub max_line_search: usize,
    /// Stop once no component of the gradient is larger.
    pub gradient_tolerance: f64,
    /// Stop once an iteration lowers the value by no more than this share of it.
    pub value_tolerance: f64,
}

impl Default for Settings {
    /// scikit-learn's settings for logistic regression.
    fn default() -> Self {
        Self {
            memory: 10,
            max_iterations: 100,
            max_line_search: 50,
            gradient_tolerance: 1e-4,
            value_tolerance: 64.0 * f64::EPSILON,
        }
    }
}

/// The state after one iteration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Iteration {
    /// The objective.
    pub value: f64,
    /// The largest absolute component of the gradient.
    pub max_gradient: f64,
    /// Evaluations so far, the one at the start included.
    pub evaluations: usize,
}

/// Where the search ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Minimum {
    /// The point.
    pub point: Vec<f64>,
    /// The objective there.
    pub value: f64,
    /// Evaluations in all.
    pub evaluations: usize,
    /// One entry an iteration.
    pub iterations: Vec<Iteration>,
}

/// Minimises `objective`, which takes a point, writes the gradient and returns the value, from `start`.
pub fn minimise(mut objective: impl FnMut(&[f64], &mut [f64]) -> f64, start: Vec<f64>, settings: &Settings) -> Minimum {
    let mut point = start;
    let mut gradient = vec![0.0; point.len()];
    let mut value = objective(&point, &mut gradient);
    let mut evaluations = 1;
    let mut iterations: Vec<Iteration> = Vec::new();
    let mut memory: VecDeque<Pair> = VecDeque::with_capacity(settings.memory);
    let mut before = point.clone();
    let mut gradient_before = gradient.clone();

    while iterations.len() < settings.max_iterations {
        if iterations.is_empty() && largest(&gradient) <= settings.gradient_tolerance {
            break;
        }
        let direction = descent_direction(&gradient, &memory);
        before.copy_from_slice(&point);
        gradient_before.copy_from_slice(&gradient);
        let (value_before, slope_before) = (value, dot(&gradient, &direction));
        let first_step =
            if iterations.is_empty() { (1.0 / dot(&direction, &direction).sqrt()).min(STEP_MAX) } else { 1.0 };

        let mut accepted = None;
        if slope_before < 0.0 {
            let mut search = LineSearch::new(value, slope_before, first_step);
            for _ in 0..settings.max_line_search {
                let step = search.step;
                for ((x, x0), d) in point.iter_mut().zip(&before).zip(&direction) {
                    *x = step * d + x0;
                }
                value = objective(&point, &mut gradient);
                evaluations += 1;
                if search.advance(value, dot(&gradient, &direction)) {
                    accepted = Some(step);
                    break;
                }
            }
        }
        let Some(step) = accepted else {
            point.copy_from_slice(&before);
            gradient.copy_from_slice(&gradient_before);
            value = value_before;
            if memory.is_empty() {
                break;
            }
            memory.clear();
            continue;
        };

        let max_gradient = largest(&gradient);
        iterations.push(Iteration { value, max_gradient, evaluations });
        if max_gradient <= settings.gradient_tolerance {
            break;
        }
        let scale = value_before.abs().max(value.abs()).max(1.0);
        if value_before - value <= settings.value_tolerance * scale {
            break;
        }
        let s: Vec<f64> = direction.iter().map(|d| step * d).collect();
        let y: Vec<f64> = gradient.iter().zip(&gradient_before).map(|(new, old)| new - old).collect();
        let curvature = dot(&s, &y);
        if curvature > f64::EPSILON * (-step * slope_before) {
            if memory.len() == settings.memory {
                memory.pop_front();
            }
            let scale = curvature / dot(&y, &y);
            memory.push_back(Pair { s, y, curvature, scale });
        }
    }
    Minimum { point, value, evaluations, iterations }
}

/// A step, the change of the gradient over it, sᵀy and sᵀy / yᵀy.
struct Pair {
    s: Vec<f64>,
    y: Vec<f64>,
    curvature: f64,
    scale: f64,
}

/// −H·g by the two-loop recursion (Nocedal 1980).
fn descent_direction(gradient: &[f64], memory: &VecDeque<Pair>) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut weights = Vec::with_capacity(memory.len());
    for pair in memory.iter().rev() {
        let weight = dot(&pair.s, &direction) / pair.curvature;
        add_scaled(&mut direction, -weight, &pair.y);
        weights.push(weight);
    }
    if let Some(newest) = memory.back() {
        for value in &mut direction {
            *value *= newest.scale;
        }
    }
    for (pair, weight) in memory.iter().zip(weights.into_iter().rev()) {
        let correction = weight - dot(&pair.y, &direction) / pair.curvature;
        add_scaled(&mut direction, correction, &pair.s);
    }
    direction
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    super::product::inner_product(a, b)
}

fn add_scaled(to: &mut [f64], factor: f64, values: &[f64]) {
    for (to, value) in to.iter_mut().zip(values) {
        *to += factor * value;
    }
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest, value| value.abs().max(largest))
}

const STEP_MAX: f64 = 1e10;
const DECREASE: f64 = 1e-3;
const CURVATURE: f64 = 0.9;
const INTERVAL_TOLERANCE: f64 = 0.1;

/// A step with the value and slope there.
#[derive(Clone, Copy)]
struct Trial {
    step: f64,
    value: f64,
    slope: f64,
}

/// MINPACK-2's `dcsrch`: [`LineSearch::step`] is the step to try next.
struct LineSearch {
    step: f64,
    start: Trial,
    bracketed: bool,
    first_stage: bool,
    best: Trial,
    other: Trial,
    low: f64,
    high: f64,
    width: f64,
    width_before: f64,
}

impl LineSearch {
    fn new(value: f64, slope: f64, first_step: f64) -> Self {
        let start = Trial { step: 0.0, value, slope };
        Self {
            step: first_step,
            start,
            bracketed: false,
            first_stage: true,
            best: start,
            other: start,
            low: 0.0,
            high: 5.0 * first_step,
            width: STEP_MAX,
            width_before: 2.0 * STEP_MAX,
        }
    }

    /// Takes the value and slope at `step`; true where that step is final.
    fn advance(&mut self, value: f64, slope: f64) -> bool {
        let wanted_slope = DECREASE * self.start.slope;
        let enough = self.start.value + self.step * wanted_slope;
        if self.first_stage && value <= enough && slope >= 0.0 {
            self.first_stage = false;
        }
        let stuck = self.bracketed
            && (self.step <= self.low
                || self.step >= self.high
                || self.high - self.low <= INTERVAL_TOLERANCE * self.high);
        let at_top = self.step == STEP_MAX && value <= enough && slope <= wanted_slope;
        let at_bottom = self.step == 0.0 && (value > enough || slope >= wanted_slope);
        if stuck || at_top || at_bottom || (value <= enough && slope.abs() <= CURVATURE * -self.start.slope) {
            return true;
        }

        let mut trial = Trial { step: self.step, value, slope };
        let modified = self.first_stage && value <= self.best.value && value > enough;
        if modified {
            for end in [&mut trial, &mut self.best, &mut self.other] {
                end.value -= end.step * wanted_slope;
                end.slope -= wanted_slope;
            }
        }
        self.step = self.next_step(trial);
        if modified {
            for end in [&mut self.best, &mut self.other] {
                end.value += end.step * wanted_slope;
                end.slope += wanted_slope;
            }
        }

        let (best, other) = (self.best.step, self.other.step);
        if self.bracketed {
            if (other - best).abs() >= 0.66 * self.width_before {
                self.step = best + 0.5 * (other - best);
            }
            self.width_before = self.width;
            self.width = (other - best).abs();
            self.low = best.min(other);
            self.high = best.max(other);
        } else {
            self.low = self.step + 1.1 * (self.step - best);
            self.high = self.step + 4.0 * (self.step - best);
        }
        self.step = self.step.clamp(0.0, STEP_MAX);
        let stuck =
            self.step <= self.low || self.step >= self.high || self.high - self.low <= INTERVAL_TOLERANCE * self.high;
        if self.bracketed && stuck {
            self.step = best;
        }
        false
    }

    /// MINPACK-2's `dcstep`: the next step by cubic and quadratic interpolation; moves the ends of the interval.
    fn next_step(&mut self, trial: Trial) -> f64 {
        let (best, other) = (self.best, self.other);
        let turned = trial.slope * (best.slope / best.slope.abs()) < 0.0;
        let next = if trial.value > best.value {
            self.bracketed = true;
            let cubic = cubic_minimum(best, trial, false).step(best.step, trial.step);
            let chord = (best.value - trial.value) / (trial.step - best.step) + best.slope;
            let quadratic = best.step + (best.slope / chord / 2.0) * (trial.step - best.step);
            if (cubic - best.step).abs() < (quadratic - best.step).abs() {
                cubic
            } else {
                cubic + (quadratic - cubic) / 2.0
            }
        } else if turned {
            self.bracketed = true;
            let cubic = cubic_minimum(trial, best, false).step(trial.step, best.step);
            let secant = trial.step + trial.slope / (trial.slope - best.slope) * (best.step - trial.step);
            if (cubic - trial.step).abs() > (secant - trial.step).abs() { cubic } else { secant }
        } else if trial.slope.abs() < best.slope.abs() {
            let minimum = cubic_minimum(trial, best, true);
            let cubic = if minimum.ratio < 0.0 && minimum.gamma != 0.0 {
                minimum.step(trial.step, best.step)
            } else if trial.step > best.step {
                self.high
            } else {
                self.low
            };
            let secant = trial.step + trial.slope / (trial.slope - best.slope) * (best.step - trial.step);
            let cubic_is_closer = (cubic - trial.step).abs() < (secant - trial.step).abs();
            if self.bracketed {
                let next = if cubic_is_closer { cubic } else { secant };
                let limit = trial.step + 0.66 * (other.step - trial.step);
                if trial.step > best.step { next.min(limit) } else { next.max(limit) }
            } else {
                let cubic_is_farther = (cubic - trial.step).abs() > (secant - trial.step).abs();
                let next = if cubic_is_farther { cubic } else { secant };
                next.min(self.high).max(self.low)
            }
        } else if self.bracketed {
            cubic_minimum(trial, other, false).step(trial.step, other.step)
        } else if trial.step > best.step {
            self.high
        } else {
            self.low
        };

        if trial.value > best.value {
            self.other = trial;
        } else {
            if turned {
                self.other = best;
            }
            self.best = trial;
        }
        next
    }
}

/// The minimiser of a cubic as a share of the way from one end to the other.
struct CubicMinimum {
    ratio: f64,
    gamma: f64,
}

impl CubicMinimum {
    fn step(&self, from: f64, to: f64) -> f64 {
        from + self.ratio * (to - from)
    }
}

/// The cubic through the values and slopes of both ends, as `dcstep` computes it; `clip` keeps the root real.
fn cubic_minimum(from: Trial, to: Trial, clip: bool) -> CubicMinimum {
    let theta = 3.0 * (from.value - to.value) / (to.step - from.step) + from.slope + to.slope;
    let scale = theta.abs().max(from.slope.abs()).max(to.slope.abs());
    let square = (theta / scale).powi(2) - (from.slope / scale) * (to.slope / scale);
    let square = if clip { square.max(0.0) } else { square };
    let mut gamma = scale * square.sqrt();
    if to.step < from.step {
        gamma = -gamma;
    }
    let ratio = if clip {
        ((gamma - from.slope) + theta) / ((gamma + (to.slope - from.slope)) + gamma)
    } else {
        ((gamma - from.slope) + theta) / (((gamma - from.slope) + gamma) + to.slope)
    };
    CubicMinimum { ratio, gamma }
}
