//! Variants × tasks: the difference to the base in points.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::super::scores::{Group, Scores};
use super::{Chart, INK, fail, short, text};
use crate::store::record::RunRecord;

/// The differences.
pub struct HeatMap {
    rows: Vec<String>,
    columns: Vec<String>,
    values: Vec<Vec<Option<f64>>>,
    largest: f64,
    left_out: usize,
    reference: String,
}

const CELL: (i32, i32) = (52, 22);
/// Variants shown.
const ROWS: usize = 30;

impl HeatMap {
    /// None without a base or without other variants. The best by the rule of the choice, best first.
    pub fn new(run: &RunRecord, scores: &Scores) -> Option<Self> {
        let base = scores.base?;
        let shown: Vec<usize> = scores.best(ROWS).into_iter().filter(|&i| i != base).collect();
        let tasks: Vec<usize> =
            (0..scores.test.columns.len()).filter(|&c| scores.test.columns[c].group == Group::Task).collect();
        if shown.is_empty() || tasks.is_empty() {
            return None;
        }
        let score = |row: usize, c: usize| scores.test.cells[row][c].map(|e| e.score);
        let values: Vec<Vec<Option<f64>>> = shown
            .iter()
            .map(|&row| tasks.iter().map(|&c| Some(100.0 * (score(row, c)? - score(base, c)?))).collect())
            .collect();
        let largest = values.iter().flatten().flatten().fold(1.0f64, |m, v| m.max(v.abs()));
        let mark = |i: usize| if Some(i) == scores.chosen { " ← chosen" } else { "" };
        let rows = shown.iter().map(|&i| format!("{}{}", short(&run.variants[i].label, 90), mark(i))).collect();
        let columns = tasks.iter().map(|&c| short(&scores.test.columns[c].title, 60)).collect();
        let left_out = scores.order.iter().filter(|&&i| i != base).count() - shown.len();
        Some(Self { rows, columns, values, largest, left_out, reference: scores.reference.clone() })
    }

    /// Room for the names: the longest at some 6.6 and 6.2 pixels a letter.
    fn corner(&self) -> (i32, i32) {
        let longest = |names: &[String]| names.iter().map(|n| n.chars().count()).max().unwrap_or(0) as f64;
        let left = (24.0 + 6.6 * longest(&self.rows)).max(160.0);
        let top = 50.0 + 6.2 * longest(&self.columns);
        (left as i32, top.max(90.0) as i32)
    }

    /// Blue above the base, orange below, white at it.
    fn color(&self, value: f64) -> RGBColor {
        let share = (value / self.largest).clamp(-1.0, 1.0);
        let end = if share >= 0.0 { (0.0, 114.0, 178.0) } else { (213.0, 94.0, 0.0) };
        let mix = |to: f64| (255.0 + (to - 255.0) * share.abs().powf(0.7) * 0.85) as u8;
        RGBColor(mix(end.0), mix(end.1), mix(end.2))
    }
}

impl Chart for HeatMap {
    fn name(&self) -> String {
        "heat-map".into()
    }

    fn title(&self) -> String {
        "Differences to the base by task".into()
    }

    fn size(&self) -> (u32, u32) {
        let (left, top) = self.corner();
        let width = (left + CELL.0 * self.columns.len() as i32 + 20).max(520);
        let height = top + CELL.1 * self.rows.len() as i32 + 20;
        (width as u32, height as u32)
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: u32) -> Result<(), String> {
        let s = scale as i32;
        let (left, top) = self.corner();
        let shown = match self.left_out {
            0 => String::new(),
            _ => format!(" (the best {} of {})", self.rows.len(), self.rows.len() + self.left_out),
        };
        let heading = format!("Test score minus that of {}, points{shown}", short(&self.reference, 60));
        area.draw(&Text::new(heading, (12 * s, 10 * s), text(16, scale))).map_err(fail)?;
        for (c, name) in self.columns.iter().enumerate() {
            // From bottom to top.
            let x = left + CELL.0 * c as i32 + CELL.0 / 2;
            let font = ("sans-serif", 11 * scale).into_font().transform(FontTransform::Rotate270);
            let style = font.color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(name.clone(), (x * s, (top - 7) * s), style)).map_err(fail)?;
        }
        for (r, name) in self.rows.iter().enumerate() {
            let y = top + CELL.1 * r as i32;
            let style = text(11, scale).pos(Pos::new(HPos::Right, VPos::Center));
            area.draw(&Text::new(name.clone(), ((left - 8) * s, (y + CELL.1 / 2) * s), style)).map_err(fail)?;
            for (c, value) in self.values[r].iter().enumerate() {
                let x = left + CELL.0 * c as i32;
                let corners = [((x + 1) * s, (y + 1) * s), ((x + CELL.0 - 1) * s, (y + CELL.1 - 1) * s)];
                let fill = value.map_or(RGBColor(240, 240, 240), |v| self.color(v));
                area.draw(&Rectangle::new(corners, fill.filled())).map_err(fail)?;
                let dark = value.is_some_and(|v| v.abs() / self.largest > 0.62);
                let ink = if dark { WHITE } else { INK };
                let label = value.map_or("–".into(), |v| format!("{v:+.1}"));
                let style =
                    ("sans-serif", 11 * scale).into_font().color(&ink).pos(Pos::new(HPos::Center, VPos::Center));
                let middle = ((x + CELL.0 / 2) * s, (y + CELL.1 / 2) * s);
                area.draw(&Text::new(label, middle, style)).map_err(fail)?;
            }
        }
        Ok(())
    }
}
