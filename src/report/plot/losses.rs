//! Curves of training: losses, and the dev score, by step.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::{Chart, FAINT, INK, color, fail, legend, padded, short, text};
use crate::store::record::TrainingCurve;

struct Line {
    label: String,
    train: Vec<(f64, f64)>,
    dev: Vec<(f64, f64)>,
}

/// Lines by step, one a trial.
pub struct Curves {
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    lines: Vec<Line>,
    steps: f64,
    range: (f64, f64),
}

impl Curves {
    /// Training loss, smoothed, and dev loss.
    pub fn losses(curves: &[TrainingCurve]) -> Option<Self> {
        let lines = curves
            .iter()
            .map(|c| Line { label: c.trial.clone(), train: smooth(&c.train_loss), dev: pairs(&c.dev_loss) })
            .collect();
        Self::new("losses", "Training loss (line, smoothed) and dev loss (dots, dashed)", "loss", lines)
    }

    /// Mean reciprocal rank on dev.
    pub fn dev_score(curves: &[TrainingCurve]) -> Option<Self> {
        if curves.iter().all(|c| c.dev_score.len() < 2) {
            return None;
        }
        let lines = curves
            .iter()
            .map(|c| Line { label: c.trial.clone(), train: pairs(&c.dev_score), dev: pairs(&c.dev_score) })
            .collect();
        Self::new("dev-score", "Dev rows: mean reciprocal rank of the positive", "MRR", lines)
    }

    fn new(name: &'static str, title: &'static str, unit: &'static str, lines: Vec<Line>) -> Option<Self> {
        let all = || lines.iter().flat_map(|l| l.train.iter().chain(&l.dev));
        let range = padded(all().map(|p| p.1))?;
        let steps = all().map(|p| p.0).fold(1.0, f64::max);
        Some(Self { name, title, unit, lines, steps, range })
    }
}

fn pairs(points: &[(usize, f64)]) -> Vec<(f64, f64)> {
    points.iter().map(|(step, value)| (*step as f64, *value)).collect()
}

/// Mean over a window of a twentieth of the run, centred.
fn smooth(points: &[(usize, f64)]) -> Vec<(f64, f64)> {
    let half = (points.len() / 40).max(1);
    (0..points.len())
        .map(|i| {
            let window = &points[i.saturating_sub(half)..(i + half + 1).min(points.len())];
            (points[i].0 as f64, window.iter().map(|p| p.1).sum::<f64>() / window.len() as f64)
        })
        .collect()
}

impl Chart for Curves {
    fn name(&self) -> String {
        self.name.into()
    }

    fn title(&self) -> String {
        self.title.into()
    }

    fn size(&self) -> (u32, u32) {
        (880, 420.max(60 + 19 * self.lines.len() as u32))
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: u32) -> Result<(), String> {
        let (plot, side) = area.split_horizontally(640 * scale);
        let mut chart = ChartBuilder::on(&plot)
            .caption(self.title, text(16, scale))
            .margin(10 * scale)
            .x_label_area_size(36 * scale)
            .y_label_area_size(56 * scale)
            .build_cartesian_2d(0f64..self.steps * 1.02, self.range.0..self.range.1)
            .map_err(fail)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(FAINT)
            .axis_style(INK)
            .x_label_formatter(&|v| format!("{v:.0}"))
            .y_label_formatter(&|v| format!("{v:.2}"))
            .x_desc("optimizer step")
            .y_desc(self.unit)
            .label_style(text(12, scale))
            .axis_desc_style(text(12, scale))
            .draw()
            .map_err(fail)?;
        for (i, line) in self.lines.iter().enumerate() {
            chart
                .draw_series(LineSeries::new(line.train.iter().copied(), color(i).mix(0.8).stroke_width(2 * scale)))
                .map_err(fail)?;
            let dashes = DashedLineSeries::new(
                line.dev.iter().copied(),
                5 * scale,
                3 * scale,
                color(i).mix(0.6).stroke_width(scale),
            );
            chart.draw_series(dashes).map_err(fail)?;
            chart.draw_series(line.dev.iter().map(|p| Circle::new(*p, 4 * scale, color(i).filled()))).map_err(fail)?;
        }
        let entries: Vec<(String, RGBColor)> =
            self.lines.iter().enumerate().map(|(i, l)| (short(&l.label, 30), color(i))).collect();
        legend(&side, &entries, scale)
    }
}
