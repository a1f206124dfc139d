//! Curves of training: losses, and the dev score, by step.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::super::curves;
use super::{Chart, FAINT, INK, color, fail, legend, padded, short, text};
use crate::store::record::TrainingCurve;

/// Lines that are coloured and named; the rest are drawn faint.
const NAMED: usize = 12;
/// Points drawn of a line.
const POINTS: usize = 400;

struct Line {
    label: String,
    /// Its place among the coloured ones.
    place: Option<usize>,
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
    /// Training loss, smoothed, and dev loss. `best` are labels of trials, the best first: those are named where not all can be.
    pub fn losses(all: &[TrainingCurve], best: &[&str]) -> Option<Self> {
        let line = |c: &TrainingCurve| (pairs(&curves::smooth(&c.train_loss)), pairs(&c.dev_loss));
        Self::new(
            "losses",
            "Training loss (line, smoothed) and dev loss (dots, dashed)",
            "loss",
            lines(all, best, line),
        )
    }

    /// Mean reciprocal rank on dev.
    pub fn dev_score(all: &[TrainingCurve], best: &[&str]) -> Option<Self> {
        if all.iter().all(|c| c.dev_score.len() < 2) {
            return None;
        }
        let line = |c: &TrainingCurve| (pairs(&c.dev_score), pairs(&c.dev_score));
        Self::new("dev-score", "Dev rows: mean reciprocal rank of the positive", "MRR", lines(all, best, line))
    }

    fn new(name: &'static str, title: &'static str, unit: &'static str, lines: Vec<Line>) -> Option<Self> {
        let all = || lines.iter().flat_map(|l| l.train.iter().chain(&l.dev));
        let range = padded(all().map(|p| p.1))?;
        let steps = all().map(|p| p.0).fold(1.0, f64::max);
        Some(Self { name, title, unit, lines, steps, range })
    }
}

fn lines(
    all: &[TrainingCurve],
    best: &[&str],
    of: impl Fn(&TrainingCurve) -> (Vec<(f64, f64)>, Vec<(f64, f64)>),
) -> Vec<Line> {
    let rank = |c: &TrainingCurve| best.iter().position(|label| *label == c.trial).unwrap_or(best.len());
    let mut order: Vec<&TrainingCurve> = all.iter().collect();
    // Where all can be named they keep their order, and with it their colours.
    if all.len() > NAMED {
        order.sort_by_key(|c| rank(c));
    }
    let line = |(i, c): (usize, &TrainingCurve)| {
        let (train, dev) = of(c);
        Line { label: c.trial.clone(), place: (i < NAMED).then_some(i), train, dev }
    };
    order.into_iter().enumerate().map(line).collect()
}

fn pairs(points: &[(usize, f64)]) -> Vec<(f64, f64)> {
    curves::thinned(points, POINTS).iter().map(|(step, value)| (*step as f64, *value)).collect()
}

impl Chart for Curves {
    fn name(&self) -> String {
        self.name.into()
    }

    fn title(&self) -> String {
        self.title.into()
    }

    fn size(&self) -> (u32, u32) {
        (960, 420)
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
        // Faint ones first, the best on top.
        for line in self.lines.iter().rev() {
            let ink = line.place.map_or(RGBColor(150, 158, 166), color);
            let is_named = line.place.is_some();
            let wide = if is_named { 2 } else { 1 };
            let train = ink.mix(if is_named { 0.85 } else { 0.4 }).stroke_width(wide * scale);
            if line.place.is_some_and(|place| place >= super::PALETTE.len()) {
                // Colours come round again: these are dashed.
                let dashes = DashedLineSeries::new(line.train.iter().copied(), 9 * scale, 3 * scale, train);
                chart.draw_series(dashes).map_err(fail)?;
            } else {
                chart.draw_series(LineSeries::new(line.train.iter().copied(), train)).map_err(fail)?;
            }
            if line.dev == line.train || !is_named {
                let points = line.dev.iter().filter(|_| is_named);
                chart.draw_series(points.map(|p| Circle::new(*p, 3 * scale, ink.filled()))).map_err(fail)?;
                continue;
            }
            let style = ink.mix(0.6).stroke_width(scale);
            let dashes = DashedLineSeries::new(line.dev.iter().copied(), 5 * scale, 3 * scale, style);
            chart.draw_series(dashes).map_err(fail)?;
            chart.draw_series(line.dev.iter().map(|p| Circle::new(*p, 3 * scale, ink.filled()))).map_err(fail)?;
        }
        let named = self.lines.iter().filter_map(|l| Some((l, l.place?)));
        let mut entries: Vec<(String, RGBColor)> = named
            .map(|(l, place)| {
                let dashed = if place >= super::PALETTE.len() { " (dashed)" } else { "" };
                (format!("{}{dashed}", short(&l.label, 38)), color(place))
            })
            .collect();
        if self.lines.len() > NAMED {
            entries.push((format!("the other {}", self.lines.len() - NAMED), RGBColor(190, 196, 202)));
        }
        legend(&side, &entries, scale)
    }
}
