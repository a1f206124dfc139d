//! Variants × tasks: the difference to the base in points.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::super::statistics::{Statistics, is_final};
use super::{Chart, INK, fail, short, text};
use crate::store::record::{RunRecord, VariantKind};

/// The differences.
pub struct HeatMap {
    rows: Vec<String>,
    columns: Vec<String>,
    values: Vec<Vec<Option<f64>>>,
    largest: f64,
}

const LEFT: i32 = 400;
const TOP: i32 = 150;
const CELL: (i32, i32) = (72, 24);

impl HeatMap {
    /// None without a base or without other variants.
    pub fn new(run: &RunRecord, statistics: &Statistics) -> Option<Self> {
        let base = run.variants.iter().position(|v| v.kind == VariantKind::Base)?;
        let tasks: Vec<String> = statistics.tasks_on("test").into_iter().map(|t| t.0).collect();
        let others: Vec<usize> = (0..run.variants.len()).filter(|&i| i != base && is_final(&run.variants[i])).collect();
        if others.is_empty() || tasks.is_empty() {
            return None;
        }
        let values: Vec<Vec<Option<f64>>> = others
            .iter()
            .map(|&row| {
                tasks
                    .iter()
                    .map(|task| {
                        let (a, b) = (statistics.task("test", row, task)?, statistics.task("test", base, task)?);
                        Some(100.0 * (a.score - b.score))
                    })
                    .collect()
            })
            .collect();
        let largest = values.iter().flatten().flatten().fold(1.0f64, |m, v| m.max(v.abs()));
        let rows = others.iter().map(|&i| short(&run.variants[i].label, 60)).collect();
        Some(Self { rows, columns: tasks.iter().map(|t| short(t, 32)).collect(), values, largest })
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
        let width = LEFT + CELL.0 * self.columns.len() as i32 + 110;
        let height = TOP + CELL.1 * self.rows.len() as i32 + 20;
        (width as u32, height as u32)
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: u32) -> Result<(), String> {
        let s = scale as i32;
        area.draw(&Text::new("Test score minus the base's, points", (12 * s, 10 * s), text(16, scale)))
            .map_err(fail)?;
        for (c, name) in self.columns.iter().enumerate() {
            // Slanted names would need a rotation that the backends lack; two levels of level ones do not collide.
            let x = LEFT + CELL.0 * c as i32 + CELL.0 / 2;
            let y = 52 + 16 * (c as i32 % 5);
            let style = text(10, scale).pos(Pos::new(HPos::Center, VPos::Top));
            area.draw(&Text::new(name.clone(), (x * s, y * s), style)).map_err(fail)?;
            let tick = vec![(x * s, (y + 14) * s), (x * s, (TOP - 3) * s)];
            area.draw(&PathElement::new(tick, RGBColor(205, 205, 205).stroke_width(scale))).map_err(fail)?;
        }
        for (r, name) in self.rows.iter().enumerate() {
            let y = TOP + CELL.1 * r as i32;
            let style = text(11, scale).pos(Pos::new(HPos::Right, VPos::Center));
            area.draw(&Text::new(name.clone(), ((LEFT - 8) * s, (y + CELL.1 / 2) * s), style)).map_err(fail)?;
            for (c, value) in self.values[r].iter().enumerate() {
                let x = LEFT + CELL.0 * c as i32;
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
