//! The head of a run on this machine: starts worker processes, starts them again when they die, and gives a step up that took
//! its process down too often.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::ExecError;
use super::event::{Event, Observer};
use crate::store::folder::{RunFolder, StepState, StoreError};

/// Exit code of a worker that says that nothing can go on.
pub const FATAL: u8 = 4;
/// Workers that may die in a row without having taken a step.
const FALSE_STARTS: usize = 3;

/// Worker processes of a run.
pub struct Local<'a> {
    /// The program.
    pub program: &'a Path,
    /// Its arguments for a worker, the number of the process aside.
    pub arguments: &'a [String],
    /// The run.
    pub folder: &'a RunFolder,
    /// Processes at a time.
    pub jobs: usize,
    /// Times that a step may take its process down before it is given up is one more.
    pub retries: usize,
    /// Set to end the run: processes are stopped, what they did so far is kept.
    pub stop: &'a AtomicBool,
    /// Told what happens.
    pub observer: &'a dyn Observer,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Every step is over that can be.
    Done,
    /// It was stopped.
    Stopped,
}

enum Message {
    Event(usize, Event),
    /// What a process logged.
    Line(String),
    Gone(usize),
}

struct Worker {
    child: Child,
    /// The step that it works on: id and title.
    step: Option<(String, String)>,
    fatal: Option<String>,
}

/// Stops what is still running when the head leaves, whatever the way.
struct Workers(Vec<Option<Worker>>);

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in self.0.iter_mut().flatten() {
            // It may have ended by itself.
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
    }
}

impl Local<'_> {
    /// Runs workers until nothing is left to do.
    ///
    /// # Errors
    /// Where workers cannot be started, or one says that nothing can go on.
    pub fn run(&self) -> Result<End, ExecError> {
        let (send, receive) = channel();
        let mut workers = Workers(Vec::new());
        for slot in 0..self.jobs.max(1) {
            workers.0.push(Some(self.start(slot, &send)?));
        }
        let mut deaths: HashMap<String, usize> = HashMap::new();
        let mut false_starts = 0;
        let mut said = HashSet::new();
        while workers.0.iter().any(Option::is_some) {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(End::Stopped);
            }
            let (slot, event) = match self.next(&receive) {
                Some(Message::Event(slot, event)) => (slot, event),
                Some(Message::Line(text)) => {
                    // Trials that share data share its warnings.
                    if said.insert(text.clone()) {
                        self.observer.sees(0, &Event::Note { text });
                    }
                    continue;
                }
                Some(Message::Gone(slot)) => {
                    let Some(mut worker) = workers.0[slot].take() else { continue };
                    let status = worker.child.wait().map_err(|e| ExecError::Other(format!("a worker process: {e}")))?;
                    if let Some(message) = worker.fatal {
                        return Err(ExecError::Other(message));
                    }
                    // An interrupt at the terminal reaches the workers, too.
                    if self.stop.load(Ordering::Relaxed) {
                        return Ok(End::Stopped);
                    }
                    if status.success() {
                        continue;
                    }
                    match worker.step {
                        Some((id, title)) => self.count(&mut deaths, &id, &title, status)?,
                        None => false_starts += 1,
                    }
                    if false_starts >= FALSE_STARTS {
                        return Err(ExecError::Other(format!(
                            "worker processes end before they take a step ({}); -v tells more",
                            why(status)
                        )));
                    }
                    workers.0[slot] = Some(self.start(slot, &send)?);
                    continue;
                }
                None => continue,
            };
            if let Some(Some(worker)) = workers.0.get_mut(slot) {
                match &event {
                    Event::Starts { step, title, .. } => {
                        worker.step = Some((step.clone(), title.clone()));
                        false_starts = 0;
                    }
                    Event::Ends { .. } | Event::Held { .. } | Event::Failed { .. } => worker.step = None,
                    Event::Fatal { message } => worker.fatal = Some(message.clone()),
                    Event::Advances { .. } | Event::Pruned { .. } | Event::Note { .. } => {}
                }
            }
            self.observer.sees(slot, &event);
        }
        Ok(End::Done)
    }

    fn next(&self, receive: &Receiver<Message>) -> Option<Message> {
        receive.recv_timeout(Duration::from_millis(100)).ok()
    }

    fn start(&self, slot: usize, send: &Sender<Message>) -> Result<Worker, ExecError> {
        let fault = |e: std::io::Error| ExecError::Other(format!("{}: cannot be started: {e}", self.program.display()));
        let mut command = Command::new(self.program);
        command.args(self.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // A process each with all cores would be in the others' way.
        if self.jobs > 1 && std::env::var_os("RAYON_NUM_THREADS").is_none() {
            command.env("RAYON_NUM_THREADS", (cores / self.jobs).max(1).to_string());
        }
        let gpus = gpus();
        if self.jobs > 1 && !gpus.is_empty() {
            command.env("CUDA_VISIBLE_DEVICES", &gpus[slot % gpus.len()]);
        }
        let mut child = command.spawn().map_err(fault)?;
        let (output, log) = (child.stdout.take(), child.stderr.take());
        let lines = send.clone();
        std::thread::spawn(move || {
            for line in log.into_iter().flat_map(|log| BufReader::new(log).lines()).map_while(Result::ok) {
                if lines.send(Message::Line(line)).is_err() {
                    return;
                }
            }
        });
        let send = send.clone();
        std::thread::spawn(move || {
            for line in output.into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(Result::ok) {
                // A line that is none of ours is nobody's.
                if let Ok(event) = serde_json::from_str(&line)
                    && send.send(Message::Event(slot, event)).is_err()
                {
                    return;
                }
            }
            let _ = send.send(Message::Gone(slot));
        });
        Ok(Worker { child, step: None, fatal: None })
    }

    /// Counts a death on a step, and gives the step up when there were too many.
    fn count(
        &self,
        deaths: &mut HashMap<String, usize>,
        id: &str,
        title: &str,
        status: ExitStatus,
    ) -> Result<(), ExecError> {
        let count = deaths.entry(id.into()).or_default();
        *count += 1;
        if *count <= self.retries {
            tracing::warn!("{title}: its process died ({}); it is taken up again", why(status));
            return Ok(());
        }
        let reason = format!("its process died {count} times ({})", why(status));
        match self.folder.lock(id) {
            Ok(_lock) if !self.folder.state(id).is_over() => {
                self.folder.give_up(id, &StepState::Failed(reason.clone()))?;
                self.observer.sees(0, &Event::Failed { title: title.into(), reason });
                Ok(())
            }
            // Another process has it already.
            Ok(_) | Err(StoreError::Locked { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// How a process ended, in words.
fn why(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.signal(), status.code()) {
        (Some(9), _) => "signal 9: killed, by the system if memory ran out".into(),
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "for no known reason".into(),
    }
}

/// The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them; none in a build without CUDA.
fn gpus() -> Vec<String> {
    if !cfg!(feature = "cuda") {
        return Vec::new();
    }
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(given) => given.split(',').map(str::trim).filter(|id| !id.is_empty()).map(String::from).collect(),
        Err(_) => {
            let count = std::fs::read_dir(PathBuf::from("/proc/driver/nvidia/gpus")).map_or(0, Iterator::count);
            (0..count).map(|gpu| gpu.to_string()).collect()
        }
    }
}
