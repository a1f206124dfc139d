//! Progress on standard error: a bar a process on a terminal, a line a step elsewhere.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::exec::event::{Event, Observer};
use crate::hub::Progress;

/// Draws the progress of a run's processes.
pub struct Bars {
    quiet: bool,
    terminal: bool,
    all: MultiProgress,
    bars: RefCell<BTreeMap<usize, ProgressBar>>,
}

impl Bars {
    /// `quiet` draws nothing.
    pub fn new(quiet: bool) -> Self {
        Self { quiet, terminal: std::io::stderr().is_terminal(), all: MultiProgress::new(), bars: RefCell::default() }
    }

    fn say(&self, line: &str) {
        if self.quiet {
            return;
        }
        if self.terminal {
            // What a terminal cannot show is shown nowhere.
            let _ = self.all.println(line);
        } else {
            eprintln!("{line}");
        }
    }

    fn clear(&self, process: usize) {
        if let Some(bar) = self.bars.borrow_mut().remove(&process) {
            bar.finish_and_clear();
        }
    }
}

impl Observer for Bars {
    fn sees(&self, process: usize, event: &Event) {
        match event {
            Event::Starts { number, steps, title, .. } => self.say(&format!("[{number}/{steps}] {title}")),
            Event::Advances { done, all, word } => {
                if self.quiet || !self.terminal {
                    return;
                }
                let mut bars = self.bars.borrow_mut();
                let bar = bars.entry(process).or_insert_with(|| self.all.add(bar(*all as u64, self.quiet)));
                bar.set_length(*all as u64);
                bar.set_position(*done as u64);
                bar.set_message(word.clone());
            }
            Event::Ends { number, title, seconds } => {
                self.clear(process);
                tracing::info!("step {number} took {seconds:.1} s: {title}");
            }
            Event::Held { number, title } => {
                self.clear(process);
                tracing::info!("step {number} waits for others: {title}");
            }
            Event::Pruned { title, reason } => self.say(&format!("pruned: {title}: {reason}")),
            Event::Failed { title, reason } => {
                self.clear(process);
                tracing::error!("{title}: {reason}");
            }
            Event::Note { text } => self.say(text),
            Event::Fatal { .. } => self.clear(process),
        }
    }
}

/// Tells the process that started this one, a line of JSON an event on standard output.
pub struct Pipe {
    told: RefCell<Option<Instant>>,
}

impl Pipe {
    /// Nothing told so far.
    pub fn new() -> Self {
        Self { told: RefCell::default() }
    }
}

impl Observer for Pipe {
    fn sees(&self, _: usize, event: &Event) {
        // A step of a small model takes milliseconds: nobody reads so fast.
        if matches!(event, Event::Advances { .. }) {
            let mut told = self.told.borrow_mut();
            if told.is_some_and(|at| at.elapsed() < Duration::from_millis(200)) {
                return;
            }
            *told = Some(Instant::now());
        }
        let mut out = std::io::stdout().lock();
        // The reader may be gone; what is done here counts none the less.
        let _ = serde_json::to_string(event).map(|line| writeln!(out, "{line}").and_then(|()| out.flush()));
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
