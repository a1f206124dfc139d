//! Plots as SVG and PNG, with the font that comes with the program.

mod alpha;
mod cost;
mod effects;
mod heat_map;
mod losses;
mod parallel;

use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use super::ReportError;
use super::scores::Scores;
use crate::store::record::{RunRecord, TrainingCurve, VariantKind};

/// A finished plot.
pub struct Plot {
    /// File name without its ending.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// As SVG.
    pub svg: String,
    /// As PNG.
    pub png: Vec<u8>,
}

/// Something that draws itself on any backend. `scale` is 1 for SVG and 2 for PNG.
trait Chart {
    /// File name without its ending.
    fn name(&self) -> String;
    /// What it shows.
    fn title(&self) -> String;
    /// Width and height at scale 1.
    fn size(&self) -> (u32, u32);
    /// Draws it.
    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: u32) -> Result<(), String>;
}

/// Okabe and Ito's colours, told apart by the colour-blind.
const PALETTE: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(100, 100, 100),
    RGBColor(140, 110, 60),
];
const INK: RGBColor = RGBColor(40, 40, 40);
const FAINT: RGBColor = RGBColor(225, 225, 225);
/// The chosen, and what belongs to it.
const ORANGE: RGBColor = PALETTE[1];

fn color(i: usize) -> RGBColor {
    PALETTE[i % PALETTE.len()]
}

fn text<'a>(size: u32, scale: u32) -> TextStyle<'a> {
    ("sans-serif", size * scale).into_font().color(&INK)
}

fn fail<E: std::fmt::Display>(error: E) -> String {
    error.to_string()
}

/// A name that fits into `most` characters.
fn short(label: &str, most: usize) -> String {
    if label.chars().count() <= most {
        return label.to_string();
    }
    label.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// A range with some air around the values.
fn padded(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let (low, high) =
        values.filter(|v| v.is_finite()).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return None;
    }
    let air = ((high - low) * 0.08).max(high.abs() * 0.002).max(1e-3);
    Some((low - air, high + air))
}

/// Lines of a legend below one another, from the top left corner of `area`.
fn legend<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    entries: &[(String, RGBColor)],
    scale: u32,
) -> Result<(), String> {
    let s = scale as i32;
    for (i, (label, color)) in entries.iter().enumerate() {
        let y = 34 * s + i as i32 * 19 * s;
        area.draw(&Rectangle::new([(8 * s, y + 4 * s), (22 * s, y + 10 * s)], color.filled())).map_err(fail)?;
        area.draw(&Text::new(label.clone(), (28 * s, y), text(12, scale))).map_err(fail)?;
    }
    Ok(())
}

fn render(chart: &impl Chart) -> Result<Plot, ReportError> {
    static FONTS: Once = Once::new();
    FONTS.call_once(|| {
        // A font that is refused shows as an error of the first drawing.
        let _ = register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
        let _ = register_font("sans-serif", FontStyle::Bold, dejavu::sans::bold());
    });
    let fault = |message: String| ReportError::Plot { name: chart.name(), message };
    let (width, height) = chart.size();
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
        area.fill(&WHITE).map_err(|e| fault(fail(e)))?;
        chart.draw(&area, 1).map_err(fault)?;
        area.present().map_err(|e| fault(fail(e)))?;
    }
    let mut pixels = vec![0u8; (width * 2 * height * 2 * 3) as usize];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, (width * 2, height * 2)).into_drawing_area();
        area.fill(&WHITE).map_err(|e| fault(fail(e)))?;
        chart.draw(&area, 2).map_err(fault)?;
        area.present().map_err(|e| fault(fail(e)))?;
    }
    let png = encode_png(&pixels, width * 2, height * 2).map_err(|e| fault(fail(e)))?;
    Ok(Plot { name: chart.name(), title: chart.title(), svg, png })
}

/// RGB pixels as a PNG file.
fn encode_png(pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>, png::EncodingError> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(out)
}

/// Every plot that there is data for.
///
/// # Errors
/// Where a plot cannot be drawn.
pub fn draw_all(run: &RunRecord, scores: &Scores) -> Result<Vec<Plot>, ReportError> {
    let mut plots = Vec::new();
    if let Some(chart) = heat_map::HeatMap::new(run, scores) {
        plots.push(render(&chart)?);
    }
    if let Some(chart) = alpha::AlphaCurves::new(run) {
        plots.push(render(&chart)?);
    }
    for chart in effects::Effect::all(run, scores) {
        plots.push(render(&chart)?);
    }
    if let Some(chart) = parallel::Parallel::new(run, scores) {
        plots.push(render(&chart)?);
    }
    if let Some(chart) = cost::CostChart::new(run, scores) {
        plots.push(render(&chart)?);
    }
    let best: Vec<&str> = scores
        .order
        .iter()
        .filter_map(|&i| match &run.variants[i].kind {
            VariantKind::Trained { trial, .. } => Some(trial.as_str()),
            _ => None,
        })
        .collect();
    plots.extend(draw_curves(&run.curves, &best)?);
    Ok(plots)
}

/// Training and dev loss, and the dev score, of training runs; `best` are labels of trials, the best first.
///
/// # Errors
/// As [`draw_all`].
pub fn draw_curves(curves: &[TrainingCurve], best: &[&str]) -> Result<Vec<Plot>, ReportError> {
    let charts = [losses::Curves::losses(curves, best), losses::Curves::dev_score(curves, best)];
    charts.iter().flatten().map(render).collect()
}
