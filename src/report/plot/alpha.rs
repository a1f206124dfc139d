//! Dev score by α, a panel a pair, with the interval as a band.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::{Chart, FAINT, INK, color, fail, padded, short, text};
use crate::store::record::{AlphaSearch, RunRecord};

/// Searches drawn.
const PANELS: usize = 12;

/// Curves of the searches whose chosen α scores best.
pub struct AlphaCurves<'a> {
    searches: Vec<&'a AlphaSearch>,
    left_out: usize,
    range: (f64, f64),
}

impl<'a> AlphaCurves<'a> {
    /// None without searches.
    pub fn new(run: &'a RunRecord) -> Option<Self> {
        let score = |s: &AlphaSearch| {
            let chosen = s.points.iter().find(|p| p.alpha == s.chosen);
            chosen.map_or(f64::NEG_INFINITY, |p| p.score)
        };
        let mut searches: Vec<&AlphaSearch> = run.searches.iter().collect();
        if searches.len() > PANELS {
            searches.sort_by(|a, b| score(b).total_cmp(&score(a)));
        }
        let left_out = searches.len().saturating_sub(PANELS);
        searches.truncate(PANELS);
        let all = searches.iter().flat_map(|s| &s.points).flat_map(|p| [p.score, p.interval.0, p.interval.1]);
        let range = padded(all.map(|v| 100.0 * v))?;
        Some(Self { searches, left_out, range })
    }

    fn columns(&self) -> usize {
        self.searches.len().min(2)
    }
}

impl Chart for AlphaCurves<'_> {
    fn name(&self) -> String {
        "alpha".into()
    }

    fn title(&self) -> String {
        "Dev score by α".into()
    }

    fn size(&self) -> (u32, u32) {
        let rows = self.searches.len().div_ceil(self.columns());
        (if self.columns() == 1 { 640 } else { 1_000 }, 46 + 280 * rows as u32)
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: u32) -> Result<(), String> {
        let shown = match self.left_out {
            0 => String::new(),
            more => format!("; the best {} of {}", self.searches.len(), self.searches.len() + more),
        };
        let heading = format!("Dev score by α (band: 95 % bootstrap interval{shown})");
        let area = area.margin(6 * scale, 0, 0, 0).titled(&heading, text(16, scale)).map_err(fail)?;
        let panels = area.split_evenly((self.searches.len().div_ceil(self.columns()), self.columns()));
        for (search, panel) in self.searches.iter().zip(&panels) {
            let caption = format!("{}  →  {}", short(&search.first, 34), short(&search.second, 34));
            let mut chart = ChartBuilder::on(panel)
                .caption(caption, text(11, scale))
                .margin(8 * scale)
                .x_label_area_size(34 * scale)
                .y_label_area_size(48 * scale)
                .build_cartesian_2d(-0.02f64..1.02, self.range.0..self.range.1)
                .map_err(fail)?;
            chart
                .configure_mesh()
                .light_line_style(TRANSPARENT)
                .bold_line_style(FAINT)
                .axis_style(INK)
                .x_labels(6)
                .y_labels(6)
                .x_label_formatter(&|v| format!("{v:.1}"))
                .y_label_formatter(&|v| format!("{v:.1}"))
                .x_desc("α (weight of the second)")
                .y_desc("dev score, points")
                .label_style(text(11, scale))
                .axis_desc_style(text(11, scale))
                .draw()
                .map_err(fail)?;
            let points = &search.points;
            let upper = points.iter().map(|p| (p.alpha, 100.0 * p.interval.1));
            let lower = points.iter().rev().map(|p| (p.alpha, 100.0 * p.interval.0));
            let band: Vec<(f64, f64)> = upper.chain(lower).collect();
            chart.draw_series(std::iter::once(Polygon::new(band, color(5).mix(0.25)))).map_err(fail)?;
            chart
                .draw_series(LineSeries::new(
                    points.iter().map(|p| (p.alpha, 100.0 * p.score)),
                    color(0).stroke_width(2 * scale),
                ))
                .map_err(fail)?;
            chart
                .draw_series(
                    points.iter().map(|p| Circle::new((p.alpha, 100.0 * p.score), 3 * scale, color(0).filled())),
                )
                .map_err(fail)?;
            if let Some(best) = points.iter().find(|p| p.alpha == search.chosen) {
                let at = (best.alpha, 100.0 * best.score);
                chart
                    .draw_series(std::iter::once(Circle::new(at, 7 * scale, color(1).stroke_width(2 * scale))))
                    .map_err(fail)?;
                let label = format!("α = {:.3}", best.alpha);
                // Beside the point, on the side where there is room.
                let x = if best.alpha > 0.75 { best.alpha - 0.17 } else { best.alpha + 0.03 };
                let y = at.1 + (self.range.1 - self.range.0) * 0.10;
                chart.draw_series(std::iter::once(Text::new(label, (x, y), text(12, scale)))).map_err(fail)?;
            }
        }
        Ok(())
    }
}
