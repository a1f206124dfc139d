//! What a setting does: the score of every trained variant by the value of an axis, and the mean over the others.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::super::statistics::{Estimate, Statistics, is_final};
use super::{Chart, FAINT, INK, color, fail, legend, padded, short, text};
use crate::store::record::{RunRecord, VariantKind};

/// The effect of one axis.
pub struct Effect {
    key: String,
    values: Vec<String>,
    /// (value, group, estimate) of each variant.
    points: Vec<(usize, usize, Estimate)>,
    groups: Vec<String>,
    base: Option<f64>,
    range: (f64, f64),
}

impl Effect {
    /// One an axis with at least two values.
    pub fn all(run: &RunRecord, statistics: &Statistics) -> Vec<Self> {
        run.axes
            .iter()
            .filter(|(_, values)| values.len() > 1)
            .filter_map(|(key, values)| {
                let mut groups: Vec<String> = Vec::new();
                let mut points = Vec::new();
                for (i, v) in run.variants.iter().enumerate() {
                    if !is_final(v) || !matches!(v.kind, VariantKind::Trained { .. }) {
                        continue;
                    }
                    let Some(at) = v.settings.get(key).and_then(|value| values.iter().position(|x| x == value)) else {
                        continue;
                    };
                    let others: Vec<String> = run
                        .axes
                        .iter()
                        .filter(|(k, _)| k != key)
                        .filter_map(|(k, _)| Some(format!("{} {}", k.rsplit('.').next()?, v.settings.get(k)?)))
                        .collect();
                    let group = others.join(", ");
                    let place = groups.iter().position(|g| *g == group).unwrap_or_else(|| {
                        groups.push(group.clone());
                        groups.len() - 1
                    });
                    if let Some(estimate) = statistics.estimate("test", i, "mean_task_type") {
                        points.push((at, place, estimate));
                    }
                }
                let base = run
                    .variants
                    .iter()
                    .position(|v| v.kind == VariantKind::Base)
                    .and_then(|b| statistics.estimate("test", b, "mean_task_type"))
                    .map(|e| 100.0 * e.score);
                let all = points.iter().flat_map(|(_, _, e)| [e.score, e.interval.0, e.interval.1]).map(|v| 100.0 * v);
                let range = padded(all.chain(base))?;
                Some(Self { key: key.clone(), values: values.clone(), points, groups, base, range })
            })
            .collect()
    }
}

impl Chart for Effect {
    fn name(&self) -> String {
        format!("effect-{}", self.key.replace('.', "-"))
    }

    fn title(&self) -> String {
        format!("Test score (Mean over task types) by {}", self.key)
    }

    fn size(&self) -> (u32, u32) {
        (860, 400.max(90 + 19 * self.groups.len() as u32))
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: u32) -> Result<(), String> {
        let (plot, side) = area.split_horizontally(520 * scale);
        let last = self.values.len() as f64 - 1.0;
        let mut chart = ChartBuilder::on(&plot)
            .caption(format!("Test score by {}", self.key), text(16, scale))
            .margin(10 * scale)
            .x_label_area_size(36 * scale)
            .y_label_area_size(52 * scale)
            .build_cartesian_2d(-0.5f64..last + 0.5, self.range.0..self.range.1)
            .map_err(fail)?;
        let label = |v: &f64| {
            let near = v.round();
            let value = self.values.get(near.max(0.0) as usize);
            if (v - near).abs() < 0.01 { value.cloned().unwrap_or_default() } else { String::new() }
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
            .y_desc("Mean (TaskType), points")
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
        let spread = 0.36 / self.groups.len().max(1) as f64;
        for group in 0..self.groups.len() {
            let shift = (group as f64 - (self.groups.len() as f64 - 1.0) / 2.0) * spread;
            let own: Vec<(f64, Estimate)> =
                self.points.iter().filter(|p| p.1 == group).map(|(at, _, e)| (*at as f64 + shift, *e)).collect();
            let line = own.iter().map(|(x, e)| (*x, 100.0 * e.score));
            chart.draw_series(LineSeries::new(line, color(group).mix(0.6).stroke_width(scale))).map_err(fail)?;
            for (x, e) in &own {
                let bar = vec![(*x, 100.0 * e.interval.0), (*x, 100.0 * e.interval.1)];
                chart
                    .draw_series(std::iter::once(PathElement::new(bar, color(group).stroke_width(scale))))
                    .map_err(fail)?;
                let dot = Circle::new((*x, 100.0 * e.score), 4 * scale, color(group).filled());
                chart.draw_series(std::iter::once(dot)).map_err(fail)?;
            }
        }
        for at in 0..self.values.len() {
            let own: Vec<f64> = self.points.iter().filter(|p| p.0 == at).map(|p| 100.0 * p.2.score).collect();
            if !own.is_empty() {
                let mean = own.iter().sum::<f64>() / own.len() as f64;
                let bar = vec![(at as f64 - 0.3, mean), (at as f64 + 0.3, mean)];
                chart.draw_series(std::iter::once(PathElement::new(bar, INK.stroke_width(3 * scale)))).map_err(fail)?;
            }
        }
        let mut entries: Vec<(String, RGBColor)> =
            self.groups.iter().enumerate().map(|(i, g)| (short(g, 46), color(i))).collect();
        entries.push(("mean of the variants".into(), INK));
        if self.base.is_some() {
            entries.push(("base (dashed)".into(), INK));
        }
        legend(&side, &entries, scale)
    }
}
