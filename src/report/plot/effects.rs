//! What a setting does: the score of every trained variant by the value of an axis, and the mean over the others.

use std::collections::BTreeMap;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::super::scores::{Scores, title};
use super::super::statistics::{Estimate, is_final};
use super::{Chart, FAINT, INK, color, fail, legend, padded, short, text};
use crate::store::record::{RunRecord, VariantKind};

/// Up to so many combinations of the other settings are told apart by colour.
const NAMED: usize = 8;

/// The variants that differ in this axis and in nothing but training seeds.
struct Combination {
    label: String,
    /// Value of the axis → estimates, one a training seed.
    at: BTreeMap<usize, Vec<Estimate>>,
}

/// The effect of one axis.
pub struct Effect {
    key: String,
    values: Vec<String>,
    combinations: Vec<Combination>,
    base: Option<f64>,
    measure: String,
    on: &'static str,
    range: (f64, f64),
}

/// Whether an axis is the training seed: its values have no meaning, their spread has.
fn is_seed(key: &str) -> bool {
    key.rsplit('.').next() == Some("seed")
}

impl Effect {
    /// One an axis with at least two values; none of the training seed, over which the others' points spread.
    pub fn all(run: &RunRecord, scores: &Scores) -> Vec<Self> {
        let axes = run.axes.iter().filter(|(key, values)| values.len() > 1 && !is_seed(key));
        axes.filter_map(|(key, values)| Self::new(run, scores, key, values)).collect()
    }

    fn new(run: &RunRecord, scores: &Scores, key: &str, values: &[String]) -> Option<Self> {
        let side = if scores.test.columns.is_empty() { &scores.dev } else { &scores.test };
        let rule = if side.column(&scores.rule).is_some() { scores.rule.as_str() } else { "mean_task_type" };
        let mut combinations: Vec<Combination> = Vec::new();
        for (i, v) in run.variants.iter().enumerate() {
            if !is_final(v) || !matches!(v.kind, VariantKind::Trained { .. }) {
                continue;
            }
            let place = v.settings.get(key).and_then(|value| values.iter().position(|x| x == value));
            let (Some(at), Some(estimate)) = (place, side.get(i, rule)) else { continue };
            let others: Vec<String> = run
                .axes
                .iter()
                .filter(|(k, values)| k != key && !is_seed(k) && values.len() > 1)
                .filter_map(|(k, _)| Some(format!("{} {}", k.rsplit('.').next()?, v.settings.get(k)?)))
                .collect();
            let label = others.join(", ");
            let own = match combinations.iter().position(|c| c.label == label) {
                Some(known) => &mut combinations[known],
                None => {
                    combinations.push(Combination { label, at: BTreeMap::new() });
                    combinations.last_mut()?
                }
            };
            own.at.entry(at).or_default().push(estimate);
        }
        let is_many = combinations.len() > NAMED;
        let base = scores.base.and_then(|b| side.get(b, rule)).map(|e| 100.0 * e.score);
        let all = combinations.iter().flat_map(|c| c.at.values().flatten()).flat_map(|e| {
            let shown = if is_many { [e.score; 3] } else { [e.score, e.interval.0, e.interval.1] };
            shown.map(|v| 100.0 * v)
        });
        let range = padded(all.chain(base))?;
        let (measure, on) = (title(rule).to_string(), side.on);
        Some(Self { key: key.into(), values: values.to_vec(), combinations, base, measure, on, range })
    }

    fn is_many(&self) -> bool {
        self.combinations.len() > NAMED
    }

    /// Scores of all variants at a value, ascending, in points.
    fn scores_at(&self, value: usize) -> Vec<f64> {
        let own = self.combinations.iter().filter_map(|c| c.at.get(&value)).flatten();
        let mut scores: Vec<f64> = own.map(|e| 100.0 * e.score).filter(|s| s.is_finite()).collect();
        scores.sort_by(f64::total_cmp);
        scores
    }
}

/// Mean in points.
fn mean(estimates: &[Estimate]) -> f64 {
    100.0 * estimates.iter().map(|e| e.score).sum::<f64>() / estimates.len().max(1) as f64
}

/// A quantile of ascending values, linearly interpolated.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let at = share * (sorted.len().checked_sub(1)?) as f64;
    let below = *sorted.get(at.floor() as usize)?;
    let above = *sorted.get(at.ceil() as usize)?;
    Some(below + (above - below) * at.fract())
}

impl Chart for Effect {
    fn name(&self) -> String {
        format!("effect-{}", self.key.replace('.', "-"))
    }

    fn title(&self) -> String {
        format!("Score on {} ({}) by {}", self.on, self.measure, self.key)
    }

    fn size(&self) -> (u32, u32) {
        (900, 420)
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: u32) -> Result<(), String> {
        let (plot, side) = area.split_horizontally(560 * scale);
        let last = self.values.len() as f64 - 1.0;
        let mut chart = ChartBuilder::on(&plot)
            .caption(format!("Score on {} by {}", self.on, self.key), text(16, scale))
            .margin(10 * scale)
            .x_label_area_size(36 * scale)
            .y_label_area_size(52 * scale)
            .build_cartesian_2d(-0.5f64..last + 0.5, self.range.0..self.range.1)
            .map_err(fail)?;
        let label = |v: &f64| {
            let near = v.round();
            let value = self.values.get(near.max(0.0) as usize);
            if (v - near).abs() < 0.01 { value.map(|v| short(v, 16)).unwrap_or_default() } else { String::new() }
        };
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(FAINT)
            .axis_style(INK)
            .disable_x_mesh()
            .x_labels(2 * self.values.len() + 1)
            .x_label_formatter(&label)
            .y_label_formatter(&|v| format!("{v:.1}"))
            .x_desc(self.key.clone())
            .y_desc(format!("{}, points", self.measure))
            .label_style(text(12, scale))
            .axis_desc_style(text(12, scale))
            .draw()
            .map_err(fail)?;
        if let Some(base) = self.base {
            let line = [(-0.5, base), (last + 0.5, base)];
            chart
                .draw_series(DashedLineSeries::new(line, 6 * scale, 4 * scale, INK.stroke_width(scale)))
                .map_err(fail)?;
        }
        let sorted: Vec<Vec<f64>> = (0..self.values.len()).map(|at| self.scores_at(at)).collect();
        if self.is_many() {
            let edge = |share: f64| {
                let known = sorted.iter().enumerate();
                known.filter_map(|(at, s)| Some((at as f64, quantile(s, share)?))).collect::<Vec<_>>()
            };
            let band: Vec<(f64, f64)> = edge(0.75).into_iter().chain(edge(0.25).into_iter().rev()).collect();
            chart.draw_series(std::iter::once(Polygon::new(band, color(0).mix(0.16)))).map_err(fail)?;
        }
        let spread = 0.4 / self.combinations.len().max(1) as f64;
        for (number, one) in self.combinations.iter().enumerate() {
            let shift = (number as f64 - (self.combinations.len() as f64 - 1.0) / 2.0) * spread;
            let shift = if self.is_many() { shift * 0.4 } else { shift };
            let hue = if self.is_many() { RGBColor(120, 130, 140) } else { color(number) };
            let line = one.at.iter().map(|(at, own)| (*at as f64 + shift, mean(own)));
            let ink = hue.mix(if self.is_many() { 0.35 } else { 0.6 }).stroke_width(scale);
            chart.draw_series(LineSeries::new(line, ink)).map_err(fail)?;
            for (at, own) in &one.at {
                for (seed, e) in own.iter().enumerate() {
                    // Seeds stand beside one another.
                    let beside = if own.len() > 1 { seed as f64 / (own.len() - 1) as f64 - 0.5 } else { 0.0 };
                    let x = *at as f64 + shift + beside * spread * 0.7;
                    if !self.is_many() {
                        let bar = vec![(x, 100.0 * e.interval.0), (x, 100.0 * e.interval.1)];
                        let ink = hue.mix(if own.len() > 1 { 0.45 } else { 1.0 }).stroke_width(scale);
                        chart.draw_series(std::iter::once(PathElement::new(bar, ink))).map_err(fail)?;
                    }
                    let (size, ink) = if self.is_many() { (2, hue.mix(0.7)) } else { (4, hue.mix(1.0)) };
                    let dot = Circle::new((x, 100.0 * e.score), size * scale, ink.filled());
                    chart.draw_series(std::iter::once(dot)).map_err(fail)?;
                }
            }
        }
        let means: Vec<(f64, f64)> = sorted
            .iter()
            .enumerate()
            .filter(|(_, own)| !own.is_empty())
            .map(|(at, own)| (at as f64, own.iter().sum::<f64>() / own.len() as f64))
            .collect();
        if self.is_many() {
            let ink = color(0).stroke_width(3 * scale);
            chart.draw_series(LineSeries::new(means.iter().copied(), ink)).map_err(fail)?;
            let dots = means.iter().map(|at| Circle::new(*at, 5 * scale, color(0).filled()));
            chart.draw_series(dots).map_err(fail)?;
        } else {
            let bars = means.iter().map(|(at, mean)| {
                PathElement::new(vec![(at - 0.3, *mean), (at + 0.3, *mean)], INK.stroke_width(3 * scale))
            });
            chart.draw_series(bars).map_err(fail)?;
        }
        let mut entries: Vec<(String, RGBColor)> = if self.is_many() {
            vec![
                ("mean of the variants".into(), color(0)),
                ("middle half of the variants".into(), RGBColor(214, 232, 242)),
                (format!("{} combinations of the others", self.combinations.len()), RGBColor(165, 172, 180)),
            ]
        } else {
            let named = self.combinations.iter().enumerate().filter(|(_, c)| !c.label.is_empty());
            let mut named: Vec<(String, RGBColor)> = named.map(|(i, c)| (short(&c.label, 44), color(i))).collect();
            named.push(("mean of the variants".into(), INK));
            named
        };
        if self.combinations.iter().flat_map(|c| c.at.values()).any(|own| own.len() > 1) {
            entries.push(("lines: means over training seeds".into(), WHITE));
        }
        if self.base.is_some() {
            entries.push(("base (dashed)".into(), INK));
        }
        legend(&side, &entries, scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), Some(3.0));
        assert_eq!((quantile(&[5.0], 0.25), quantile(&[], 0.5)), (Some(5.0), None));
    }
}
