//! Parallel coordinates: an axis a setting and one for the score, a line a variant.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::super::scores::{Scores, title};
use super::{Chart, INK, ORANGE, fail, short, text};
use crate::store::record::RunRecord;

/// The lines.
pub struct Parallel {
    axes: Vec<(String, Vec<String>)>,
    lines: Vec<Line>,
    rule: String,
    on: &'static str,
    range: (f64, f64),
}

struct Line {
    /// The place of the value on each axis; the one behind the last is "none".
    at: Vec<usize>,
    score: f64,
    is_chosen: bool,
}

const TOP: f64 = 84.0;
const BOTTOM: f64 = 18.0;

impl Parallel {
    /// None without an axis of several values or without two variants that have settings and a score.
    pub fn new(run: &RunRecord, scores: &Scores) -> Option<Self> {
        let mut axes: Vec<(String, Vec<String>)> = run.axes.iter().filter(|a| a.1.len() > 1).cloned().collect();
        if axes.is_empty() {
            return None;
        }
        let mut lines: Vec<Line> = scores
            .order
            .iter()
            .filter_map(|&i| {
                let settings = &run.variants[i].settings;
                let score = scores.choice_side().get(i, &scores.rule)?.score;
                let place = |(key, values): &(String, Vec<String>)| {
                    settings.get(key).and_then(|v| values.iter().position(|x| x == v)).unwrap_or(values.len())
                };
                let has_any = axes.iter().any(|(key, _)| settings.contains_key(key));
                (has_any && score.is_finite()).then(|| Line {
                    at: axes.iter().map(place).collect(),
                    score: 100.0 * score,
                    is_chosen: Some(i) == scores.chosen,
                })
            })
            .collect();
        if lines.len() < 2 {
            return None;
        }
        for (a, (_, values)) in axes.iter_mut().enumerate() {
            if lines.iter().any(|l| l.at[a] == values.len()) {
                values.push("none".into());
            }
        }
        // The best are drawn last, on top; the chosen at the very end.
        lines.sort_by(|a, b| {
            (a.is_chosen, a.score).partial_cmp(&(b.is_chosen, b.score)).unwrap_or(std::cmp::Ordering::Equal)
        });
        let (low, high) =
            lines.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x.score), h.max(x.score)));
        let air = ((high - low) * 0.03).max(0.01);
        Some(Self { axes, lines, rule: title(&scores.rule).into(), on: scores.on, range: (low - air, high + air) })
    }

    fn height(&self) -> f64 {
        let most = self.axes.iter().map(|a| a.1.len()).max().unwrap_or(0);
        (TOP + BOTTOM + 42.0 * most as f64).clamp(380.0, 760.0)
    }

    /// Heights of all lines on an axis: those of one value spread a little about it, the best on top.
    fn heights(&self, axis: usize) -> Vec<f64> {
        let slots = self.axes[axis].1.len();
        let room = (self.height() - TOP - BOTTOM) / slots as f64;
        let mut heights = vec![0.0; self.lines.len()];
        for slot in 0..slots {
            let mut own: Vec<usize> = (0..self.lines.len()).filter(|&i| self.lines[i].at[axis] == slot).collect();
            own.sort_by(|&a, &b| self.lines[b].score.total_cmp(&self.lines[a].score));
            let spread = (room * 0.6).min(5.0 * own.len() as f64);
            let middle = TOP + room * (slot as f64 + 0.5);
            for (k, i) in own.iter().enumerate() {
                let share = if own.len() > 1 { k as f64 / (own.len() - 1) as f64 - 0.5 } else { 0.0 };
                heights[*i] = middle + spread * share;
            }
        }
        heights
    }
}

/// From light grey to dark blue.
fn shade(share: f64) -> RGBColor {
    let mix = |from: f64, to: f64| (from + (to - from) * share.clamp(0.0, 1.0)) as u8;
    RGBColor(mix(205.0, 0.0), mix(212.0, 84.0), mix(218.0, 145.0))
}

impl Chart for Parallel {
    fn name(&self) -> String {
        "settings".into()
    }

    fn title(&self) -> String {
        format!("Settings and score on {}", self.on)
    }

    fn size(&self) -> (u32, u32) {
        ((220 + 150 * self.axes.len() as u32).max(560), self.height() as u32)
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: u32) -> Result<(), String> {
        let s = f64::from(scale);
        let (width, height) = (f64::from(self.size().0), self.height());
        let (left, right) = (120.0, 70.0);
        let x = |a: usize| left + (width - left - right) * a as f64 / self.axes.len() as f64;
        let y = |score: f64| TOP + (height - TOP - BOTTOM) * (self.range.1 - score) / (self.range.1 - self.range.0);
        let at = |px: f64, py: f64| ((px * s).round() as i32, (py * s).round() as i32);
        let heading = format!("Settings and {} on {} (bluer: higher; orange: chosen)", self.rule, self.on);
        area.draw(&Text::new(heading, at(12.0, 10.0), text(16, scale))).map_err(fail)?;
        let columns: Vec<Vec<f64>> = (0..self.axes.len()).map(|a| self.heights(a)).collect();
        let span = self.range.1 - self.range.0;
        for (i, line) in self.lines.iter().enumerate() {
            let stops: Vec<(f64, f64)> = columns
                .iter()
                .enumerate()
                .map(|(a, heights)| (x(a), heights[i]))
                .chain([(x(self.axes.len()), y(line.score))])
                .collect();
            let mut path = vec![at(stops[0].0, stops[0].1)];
            for pair in stops.windows(2) {
                let ((ax, ay), (bx, by)) = (pair[0], pair[1]);
                path.extend((1..=16).map(|k| {
                    let t = f64::from(k) / 16.0;
                    at(ax + (bx - ax) * t, ay + (by - ay) * t * t * (3.0 - 2.0 * t))
                }));
            }
            let style = if line.is_chosen {
                ORANGE.stroke_width(3 * scale)
            } else {
                shade((line.score - self.range.0) / span).stroke_width(scale + u32::from(self.lines.len() < 60))
            };
            area.draw(&PathElement::new(path, style)).map_err(fail)?;
        }
        let middle = |h: HPos| Pos::new(h, VPos::Center);
        for (a, (key, values)) in self.axes.iter().enumerate() {
            let name = key.rsplit('.').next().unwrap_or(key);
            let style = text(13, scale).pos(Pos::new(HPos::Center, VPos::Bottom));
            area.draw(&Text::new(short(name, 18), at(x(a), TOP - 12.0), style)).map_err(fail)?;
            let axis = vec![at(x(a), TOP), at(x(a), height - BOTTOM)];
            area.draw(&PathElement::new(axis, INK.mix(0.5).stroke_width(scale))).map_err(fail)?;
            let room = (height - TOP - BOTTOM) / values.len() as f64;
            for (slot, value) in values.iter().enumerate() {
                let (label, py) = (short(value, 14), TOP + room * (slot as f64 + 0.5));
                let long = 7.4 * label.chars().count() as f64 + 8.0;
                let back = [at(x(a) - 5.0 - long, py - 9.0), at(x(a) - 5.0, py + 9.0)];
                area.draw(&Rectangle::new(back, WHITE.mix(0.85).filled())).map_err(fail)?;
                area.draw(&Text::new(label, at(x(a) - 9.0, py), text(12, scale).pos(middle(HPos::Right))))
                    .map_err(fail)?;
            }
        }
        let end = x(self.axes.len());
        let style = text(13, scale).pos(Pos::new(HPos::Center, VPos::Bottom));
        area.draw(&Text::new(format!("{}, points", self.on), at(end, TOP - 12.0), style)).map_err(fail)?;
        area.draw(&PathElement::new(vec![at(end, TOP), at(end, height - BOTTOM)], INK.mix(0.5).stroke_width(scale)))
            .map_err(fail)?;
        for k in 0..=5 {
            let score = self.range.0 + span * f64::from(k) / 5.0;
            let label =
                Text::new(format!("{score:.1}"), at(end + 9.0, y(score)), text(12, scale).pos(middle(HPos::Left)));
            area.draw(&label).map_err(fail)?;
            area.draw(&PathElement::new(vec![at(end, y(score)), at(end + 5.0, y(score))], INK.stroke_width(scale)))
                .map_err(fail)?;
        }
        Ok(())
    }
}
