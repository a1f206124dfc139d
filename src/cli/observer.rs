//! Progress on standard error: a bar on a terminal, a line a step elsewhere.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressStyle};

use crate::exec::Observer;
use crate::hub::Progress;

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

/// Draws downloads: a bar on a terminal, a line a file elsewhere.
pub struct Downloads {
    quiet: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Downloads {
    /// `quiet` draws nothing.
    pub fn new(quiet: bool) -> Self {
        Self { quiet, bar: Mutex::default() }
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Progress for Downloads {
    fn starts(&self, file: &str, bytes: Option<u64>) {
        if self.quiet {
            return;
        }
        if !std::io::stderr().is_terminal() {
            let size = bytes.map_or(String::new(), |n| format!(" ({:.1} MB)", n as f64 / 1e6));
            eprintln!("downloading {file}{size}");
            return;
        }
        let bar = ProgressBar::new(bytes.unwrap_or(0));
        if let Ok(style) = ProgressStyle::with_template("  {bar:32} {bytes}/{total_bytes} {msg} [{eta}]") {
            bar.set_style(style);
        }
        bar.set_message(file.to_string());
        *self.slot() = Some(bar);
    }

    fn advances(&self, done: u64) {
        if let Some(bar) = &*self.slot() {
            bar.set_position(done);
        }
    }

    fn ends(&self) {
        if let Some(bar) = self.slot().take() {
            bar.finish_and_clear();
        }
    }
}
