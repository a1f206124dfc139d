//! What a variant took to train against its score, with the Pareto front.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::super::scores::{Scores, title};
use super::{Chart, FAINT, INK, ORANGE, color, fail, legend, padded, short, text};
use crate::store::record::{Cost, RunRecord, VariantKind};

/// Names written beside points of the front.
const NAMED: usize = 8;

/// What a cost is measured in.
type Measure = fn(&Cost) -> f64;

struct Point {
    label: String,
    kind: usize,
    cost: f64,
    score: f64,
    interval: (f64, f64),
    is_chosen: bool,
}

/// The points, cheapest first.
pub struct CostChart {
    points: Vec<Point>,
    base: Option<f64>,
    measure: &'static str,
    rule: String,
    on: &'static str,
    range: (f64, f64),
}

const KINDS: [&str; 3] = ["trained", "merged", "averaged"];
/// Their places in the palette.
const COLORS: [usize; 3] = [0, 3, 2];

impl CostChart {
    /// None where costs are not known, or are the same for all. Tokens stand in where no operations were counted.
    pub fn new(run: &RunRecord, scores: &Scores) -> Option<Self> {
        let differ = |of: Measure| {
            let mut known =
                scores.order.iter().map(|&i| of(&run.variants[i].cost)).filter(|c| *c > 0.0 && c.is_finite());
            let first = known.next();
            known.any(|c| Some(c) != first)
        };
        let measures: [(&str, Measure); 2] =
            [("training FLOPs", |c| c.flops), ("tokens trained on", |c| c.tokens as f64)];
        let (measure, of) = measures.into_iter().find(|(_, of)| differ(*of))?;
        let side = scores.choice_side();
        let mut points: Vec<Point> = scores
            .order
            .iter()
            .filter_map(|&i| {
                let v = &run.variants[i];
                let (cost, estimate) = (of(&v.cost), side.get(i, &scores.rule)?);
                let is_known = cost > 0.0 && cost.is_finite() && estimate.score.is_finite();
                is_known.then(|| Point {
                    label: v.label.clone(),
                    kind: match v.kind {
                        VariantKind::Merged { .. } => 1,
                        VariantKind::Averaged { .. } => 2,
                        _ => 0,
                    },
                    cost,
                    score: 100.0 * estimate.score,
                    interval: (100.0 * estimate.interval.0, 100.0 * estimate.interval.1),
                    is_chosen: Some(i) == scores.chosen,
                })
            })
            .collect();
        // Of equally cheap ones the best first: the others are not on the front.
        points.sort_by(|a, b| a.cost.total_cmp(&b.cost).then(b.score.total_cmp(&a.score)));
        let base = scores.base.and_then(|b| side.get(b, &scores.rule)).map(|e| 100.0 * e.score);
        let whiskers = points.len() <= 60;
        let all =
            points.iter().flat_map(|p| if whiskers { [p.score, p.interval.0, p.interval.1] } else { [p.score; 3] });
        let range = padded(all.chain(base))?;
        Some(Self { measure, rule: title(&scores.rule).into(), on: scores.on, points, base, range })
    }

    /// Points that no cheaper one reaches.
    fn front(&self) -> Vec<&Point> {
        let mut best = f64::NEG_INFINITY;
        self.points
            .iter()
            .filter(|p| {
                p.score > best && {
                    best = p.score;
                    true
                }
            })
            .collect()
    }
}

/// A large number in few letters.
fn brief(value: f64) -> String {
    if value >= 1e15 {
        return format!("{value:.1e}");
    }
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match units.into_iter().find(|(unit, _)| value >= *unit) {
        Some((unit, letter)) => format!("{}{letter}", (100.0 * value / unit).round() / 100.0),
        None => format!("{value}"),
    }
}

impl Chart for CostChart {
    fn name(&self) -> String {
        "cost".into()
    }

    fn title(&self) -> String {
        format!("Score on {} by {}", self.on, self.measure)
    }

    fn size(&self) -> (u32, u32) {
        (1_100, 480)
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: u32) -> Result<(), String> {
        let (plot, side) = area.split_horizontally(740 * scale);
        let (least, most) = (self.points.first().map_or(1.0, |p| p.cost), self.points.last().map_or(1.0, |p| p.cost));
        let is_wide = most / least > 5.0;
        // Costs are drawn by their logarithm where they span much.
        let map = |cost: f64| if is_wide { cost.log10() } else { cost };
        let air = (map(most) - map(least)) * 0.05;
        let across = (map(least) - air)..(map(most) + air);
        let mut chart = ChartBuilder::on(&plot)
            .caption(format!("Score on {} against what training took", self.on), text(16, scale))
            .margin(10 * scale)
            .x_label_area_size(38 * scale)
            .y_label_area_size(52 * scale)
            .build_cartesian_2d(across.clone(), self.range.0..self.range.1)
            .map_err(fail)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(FAINT)
            .axis_style(INK)
            .x_labels(7)
            .x_label_formatter(&|v| brief(two_digits(if is_wide { 10f64.powf(*v) } else { *v })))
            .y_label_formatter(&|v| format!("{v:.1}"))
            .x_desc(if is_wide { format!("{}, logarithmic", self.measure) } else { self.measure.to_string() })
            .y_desc(format!("{}, points", self.rule))
            .label_style(text(12, scale))
            .axis_desc_style(text(12, scale))
            .draw()
            .map_err(fail)?;
        if let Some(base) = self.base {
            let line = [(across.start, base), (across.end, base)];
            chart
                .draw_series(DashedLineSeries::new(line, 6 * scale, 4 * scale, INK.stroke_width(scale)))
                .map_err(fail)?;
        }
        if self.points.len() <= 60 {
            for p in self.points.iter().filter(|p| p.interval.0.is_finite() && p.interval.1.is_finite()) {
                let bar = vec![(map(p.cost), p.interval.0), (map(p.cost), p.interval.1)];
                let style = color(COLORS[p.kind]).mix(0.3).stroke_width(scale);
                chart.draw_series(std::iter::once(PathElement::new(bar, style))).map_err(fail)?;
            }
        }
        let front = self.front();
        let mut steps: Vec<(f64, f64)> = Vec::new();
        for p in &front {
            if let Some((_, height)) = steps.last().copied() {
                steps.push((map(p.cost), height));
            }
            steps.push((map(p.cost), p.score));
        }
        if let Some((_, height)) = steps.last().copied() {
            steps.push((across.end, height));
        }
        chart.draw_series(LineSeries::new(steps, ORANGE.stroke_width(2 * scale))).map_err(fail)?;
        let s = scale as i32;
        for p in &self.points {
            let at = (map(p.cost), p.score);
            let fill = color(COLORS[p.kind]).filled();
            match p.kind {
                0 => chart.draw_series(std::iter::once(Circle::new(at, 4 * s, fill))).map_err(fail)?,
                1 => {
                    let diamond = vec![(0, -6 * s), (6 * s, 0), (0, 6 * s), (-6 * s, 0)];
                    let shape = EmptyElement::at(at) + Polygon::new(diamond, fill);
                    chart.draw_series(std::iter::once(shape)).map_err(fail)?
                }
                _ => chart.draw_series(std::iter::once(TriangleMarker::new(at, 6 * s, fill))).map_err(fail)?,
            };
            if p.is_chosen {
                chart
                    .draw_series(std::iter::once(Circle::new(at, 9 * s, ORANGE.stroke_width(2 * scale))))
                    .map_err(fail)?;
            }
        }
        // The best of the front are named by numbers, which the legend explains: names would cover the points.
        let named: Vec<&&Point> = front.iter().rev().take(NAMED).collect();
        for (number, p) in named.iter().enumerate() {
            let style = text(12, scale).pos(Pos::new(HPos::Right, VPos::Bottom));
            let shape = EmptyElement::at((map(p.cost), p.score))
                + Text::new(format!("{}", number + 1), (-7 * s, -5 * s), style);
            chart.draw_series(std::iter::once(shape)).map_err(fail)?;
        }
        let mut entries: Vec<(String, RGBColor)> = KINDS
            .iter()
            .enumerate()
            .filter(|(kind, _)| self.points.iter().any(|p| p.kind == *kind))
            .map(|(kind, name)| (name.to_string(), color(COLORS[kind])))
            .collect();
        entries.push(("Pareto front; ring: chosen".into(), ORANGE));
        if self.base.is_some() {
            entries.push(("base (dashed)".into(), INK));
        }
        legend(&side, &entries, scale)?;
        let below = 34 + 19 * entries.len() as i32 + 14;
        for (number, p) in named.iter().enumerate() {
            let name = format!("{}  {}", number + 1, short(&p.label, 56));
            side.draw(&Text::new(name, (8 * s, (below + 17 * number as i32) * s), text(11, scale))).map_err(fail)?;
        }
        Ok(())
    }
}

/// Two digits that count.
fn two_digits(value: f64) -> f64 {
    if value <= 0.0 {
        return value;
    }
    let unit = 10f64.powf(value.log10().floor() - 1.0);
    (value / unit).round() * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_few_letters() {
        let cases = [(950.0, "950"), (1.2e3, "1.2k"), (4.56e13, "45.6T"), (3.2e16, "3.2e16"), (7e6, "7M")];
        for (value, letters) in cases {
            assert_eq!(brief(value), letters);
        }
        assert_eq!(brief(two_digits(123_456.0)), "120k");
    }

    #[test]
    fn the_front_is_what_no_cheaper_one_reaches() {
        let point = |cost: f64, score: f64| Point {
            label: String::new(),
            kind: 0,
            cost,
            score,
            interval: (0.0, 1.0),
            is_chosen: false,
        };
        let points = vec![point(1.0, 5.0), point(2.0, 4.0), point(3.0, 5.0), point(4.0, 6.0)];
        let chart = CostChart { points, base: None, measure: "", rule: String::new(), on: "dev", range: (0.0, 1.0) };
        let costs: Vec<f64> = chart.front().iter().map(|p| p.cost).collect();
        assert_eq!(costs, [1.0, 4.0]);
    }
}
