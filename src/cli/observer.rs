//! Progress on standard error: a bar on a terminal, a line a step elsewhere.

use std::cell::RefCell;
use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use crate::exec::Observer;

/// Draws progress.
pub struct Bars {
    quiet: bool,
    terminal: bool,
    bar: RefCell<Option<ProgressBar>>,
}

impl Bars {
    /// `quiet` draws nothing.
    pub fn new(quiet: bool) -> Self {
        Self { quiet, terminal: std::io::stderr().is_terminal(), bar: RefCell::default() }
    }
}

/// A bar of `all` units, hidden where there is no terminal.
pub fn bar(all: u64, quiet: bool) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(all);
    if let Ok(style) = ProgressStyle::with_template("  {bar:32} {pos}/{len} {msg} [{elapsed} < {eta}]") {
        bar.set_style(style);
    }
    bar
}

impl Observer for Bars {
    fn starts(&self, number: usize, steps: usize, title: &str) {
        if !self.quiet {
            eprintln!("[{number}/{steps}] {title}");
        }
    }

    fn advances(&self, done: usize, all: usize, word: &str) {
        if self.quiet || !self.terminal {
            return;
        }
        let mut slot = self.bar.borrow_mut();
        let bar = slot.get_or_insert_with(|| bar(all as u64, self.quiet));
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        bar.set_message(word.to_string());
    }

    fn ends(&self, number: usize, title: &str, seconds: Option<f64>) {
        if let Some(bar) = self.bar.borrow_mut().take() {
            bar.finish_and_clear();
        }
        if self.quiet {
            return;
        }
        match seconds {
            Some(seconds) => tracing::info!("step {number} took {seconds:.1} s: {title}"),
            None => tracing::info!("step {number} was complete: {title}"),
        }
    }
}
