//! The report of a run: Markdown, CSV and plots, a pure function of the run's record.

pub mod compare;
mod csv;
mod curves;
mod escape;
mod html;
mod markdown;
mod plot;
mod scores;
pub mod statistics;

use std::path::{Path, PathBuf};

pub use escape::text as markdown_text;

use crate::store::record::{RunRecord, TrainingCurve};

/// A report that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A plot.
    #[error("plot {name}: {message}")]
    Plot {
        /// The plot.
        name: String,
        /// What went wrong.
        message: String,
    },
}

/// Writes `README.md`, `index.html`, `tables/*.csv` and `plots/*.svg` and `.png` into `folder`. The same record gives the same bytes. What a
/// process that was killed here has left goes.
///
/// # Errors
/// Where a file cannot be written or a plot cannot be drawn.
pub fn write(run: &RunRecord, folder: &Path) -> Result<(), ReportError> {
    let statistics = statistics::Statistics::new(run);
    let scores = scores::Scores::new(run, &statistics);
    let plots = plot::draw_all(run, &scores)?;
    for plot in &plots {
        save(&folder.join("plots").join(format!("{}.svg", plot.name)), plot.svg.as_bytes())?;
        save(&folder.join("plots").join(format!("{}.png", plot.name)), &plot.png)?;
    }
    for (name, content) in csv::tables(run, &scores) {
        save(&folder.join("tables").join(name), content.as_bytes())?;
    }
    let page = html::page(run, &statistics, &scores, &html::Extra::default());
    save(&folder.join("index.html"), page.as_bytes())?;
    save(&folder.join("README.md"), markdown::page(run, &statistics, &plots).as_bytes())?;
    for folder in [folder, &folder.join("plots"), &folder.join("tables")] {
        crate::data::atomic::remove_abandoned(folder);
    }
    Ok(())
}

/// Writes the plots of training runs, `losses` and `dev-score`, into `folder`.
///
/// # Errors
/// As [`write()`].
pub fn write_curves(curves: &[TrainingCurve], folder: &Path) -> Result<(), ReportError> {
    for plot in plot::draw_curves(curves, &[])? {
        save(&folder.join(format!("{}.svg", plot.name)), plot.svg.as_bytes())?;
        save(&folder.join(format!("{}.png", plot.name)), &plot.png)?;
    }
    Ok(())
}

fn save(path: &Path, content: &[u8]) -> Result<(), ReportError> {
    crate::data::atomic::write(path, content).map_err(|source| ReportError::Io { path: path.into(), source })
}
