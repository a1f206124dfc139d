//! What follows from what became of the jobs.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::Head;
use super::look::Seen;
use crate::exec::slurm::batches::Place;
use crate::exec::slurm::commands::Outcome;
use crate::exec::slurm::error::SlurmError;
use crate::exec::slurm::event::Event;
use crate::exec::slurm::job::StepState;
use crate::exec::slurm::queue::{self, Element, Phase};

/// Ends that are nobody's fault, in a row and without progress, after which a step fails all the same.
const MOST_LOST: usize = 50;
/// Seconds for which the folders of a job that says it succeeded are looked at: network file systems show files late.
const SETTLE: f64 = 60.0;
/// Looks at the folders of a job that ended in another way.
const LOOKS: usize = 3;
/// A log's last bytes, and lines, that an error shows.
const TAIL: (u64, usize) = (4_096, 8);
/// The end of a job that neither the queue nor the accounting knows.
const UNKNOWN: &str = "UNKNOWN";

/// What an end without a complete step counts as.
enum Verdict {
    /// As a crash.
    Crash,
    /// As nobody's fault.
    Lost,
    /// As nothing: it did not have what it needs.
    Early,
}

impl Head<'_> {
    /// Tells what changed since the last look, and decides about the jobs that are over.
    pub(super) fn judge(&mut self, elements: &BTreeMap<Place, Element>) -> Result<(), SlurmError> {
        for number in self.ledger.open_numbers() {
            let submission = &self.ledger.submissions[number];
            if submission.array.is_none() {
                continue;
            }
            let open = submission.elements.iter().filter(|(_, held)| held.end.is_none());
            let places: Vec<Place> = open.map(|(&task, _)| (number, task)).collect();
            for place in places {
                match elements.get(&place) {
                    Some(element) if element.phase() == Phase::Over => {
                        self.over(place, &element.state, &element.reason)?
                    }
                    Some(element) => self.alive(place, element)?,
                    None => self.over(place, UNKNOWN, "")?,
                }
            }
        }
        self.ledger.save_changes()?;
        self.tell_reasons(elements)
    }

    /// An element that waits or runs.
    fn alive(&mut self, place: Place, element: &Element) -> Result<(), SlurmError> {
        let runs = element.phase() == Phase::Runs;
        let now = Seen { runs, start: element.start.clone(), over: 0, hopeless: false };
        let before = self.seen.insert(place, now);
        let steps = self.ledger.element(place).map(|held| held.steps.clone()).unwrap_or_default();
        let (title, id) = (self.title_of(&steps), self.id_of(place));
        let was = before.as_ref().is_some_and(|seen| seen.runs);
        let moved = runs && before.is_some_and(|seen| seen.start != element.start);
        if was && (!runs || moved) {
            let reason = if runs || element.reason == "None" { String::new() } else { element.reason.clone() };
            self.tell(Event::Requeued { title: title.clone(), id: id.clone(), reason });
        }
        if runs && (!was || moved) {
            self.tell(Event::Started { title, id: id.clone(), node: element.node.clone() });
            if let Some(held) = self.ledger.change(place) {
                held.ran = true;
            }
        }
        // Slurm itself removes these with --kill-on-invalid-dep, unless the site has it otherwise.
        if element.reason.starts_with("DependencyNeverSatisfied") {
            self.call("scancel", &[id])?;
            if let Some(seen) = self.seen.get_mut(&place) {
                seen.hopeless = true;
            }
        }
        Ok(())
    }

    /// An element that is over: complete, or what now?
    fn over(&mut self, place: Place, state: &str, reason: &str) -> Result<(), SlurmError> {
        let Some(held) = self.ledger.element(place).cloned() else { return Ok(()) };
        let states: Vec<StepState> = held.steps.iter().map(|step| self.refreshed(step)).collect();
        if states.iter().all(|s| *s == StepState::Complete) {
            let (title, id) = (self.title_of(&held.steps), self.id_of(place));
            self.tell(Event::Ended { title, id });
            for step in &held.steps {
                self.ledger.forget(step);
            }
            self.close(place, state);
            return Ok(());
        }
        let failed = held.steps.iter().zip(&states).find_map(|(step, s)| match s {
            StepState::Failed(message) => Some((step, message)),
            _ => None,
        });
        if let Some((step, message)) = failed {
            let message = format!("{message} (log: {})", self.log(place).display());
            self.fail(&held.steps, step, message);
            self.close(place, state);
            return Ok(());
        }
        if self.unsettled(place, state) {
            return Ok(());
        }
        let state = if state == UNKNOWN { self.accounted(place)? } else { state.to_string() };
        let open = held.steps.iter().zip(&states).find_map(|(step, s)| match s {
            StepState::Open { progress } => Some((step.clone(), *progress)),
            _ => None,
        });
        let Some((step, progress)) = open else { return Ok(()) };
        // What was submitted was open: a complete one, or more saved of the first, is progress.
        let progressed = held.steps.first() != Some(&step) || progress > held.progress;
        let verdict = self.verdict(place, &state, reason, held.ran, progressed);
        self.sentence(place, &held.steps, &step, &state, verdict, progressed);
        self.close(place, &state);
        Ok(())
    }

    /// A step's state after its folder was opened, which makes a network file system look again.
    fn refreshed(&mut self, step: &str) -> StepState {
        if self.complete.contains(step) {
            return StepState::Complete;
        }
        // A folder that is not there yet is no fault.
        let _ = std::fs::read_dir(self.folder.join("steps").join(step)).map(Iterator::count);
        self.step(step)
    }

    /// Whether its files may still be on their way.
    fn unsettled(&mut self, place: Place, state: &str) -> bool {
        let looks = match state {
            "COMPLETED" => LOOKS.max((SETTLE / self.poll.as_secs_f64()).ceil() as usize),
            "FAILED" | UNKNOWN => LOOKS,
            _ => 1,
        };
        let new = Seen { runs: false, start: String::new(), over: 0, hopeless: false };
        let seen = self.seen.entry(place).or_insert(new);
        seen.over += 1;
        seen.over < looks
    }

    /// How an element ended that the queue does not know any more.
    fn accounted(&mut self, (number, task): Place) -> Result<String, SlurmError> {
        let array = self.ledger.submissions.get(number).and_then(|s| s.array);
        let Some(array) = array.filter(|_| self.accounting) else { return Ok(UNKNOWN.into()) };
        match self.call("sacct", &queue::accounting(array, task)) {
            Ok(Outcome::Done(output)) => Ok(queue::accounted(&output).unwrap_or_else(|| UNKNOWN.into())),
            Ok(Outcome::Unreachable(_)) => Ok(UNKNOWN.into()),
            // Many clusters have no accounting, some not even the command.
            Ok(Outcome::Refused(_)) | Err(SlurmError::Missing { .. }) => {
                self.accounting = false;
                Ok(UNKNOWN.into())
            }
            Err(other) => Err(other),
        }
    }

    fn verdict(&mut self, place: Place, state: &str, reason: &str, ran: bool, progressed: bool) -> Verdict {
        let hopeless = self.seen.get(&place).is_some_and(|seen| seen.hopeless);
        if hopeless || reason.starts_with("Dependency") || !self.has_inputs(place) {
            return Verdict::Early;
        }
        match state {
            "NODE_FAIL" | "PREEMPTED" | "BOOT_FAIL" | "LAUNCH_FAILED" | "RECONFIG_FAIL" | "REVOKED" => Verdict::Lost,
            "TIMEOUT" | "DEADLINE" | UNKNOWN if progressed => Verdict::Lost,
            // It left the queue while nobody looked, and was not seen on a node.
            UNKNOWN if !ran => Verdict::Lost,
            _ => Verdict::Crash,
        }
    }

    /// Whether all that the steps of an element wait for is complete.
    fn has_inputs(&mut self, place: Place) -> bool {
        let jobs = self.jobs;
        let steps = self.ledger.element(place).map(|held| held.steps.clone()).unwrap_or_default();
        let numbers: Vec<usize> = steps.iter().filter_map(|step| self.graph.maker.get(step).copied()).collect();
        numbers.iter().all(|&n| jobs[n].after.iter().all(|step| steps.contains(step) || self.is_complete(step)))
    }

    /// Lets the step be submitted again, or fails it.
    fn sentence(
        &mut self,
        place: Place,
        steps: &[String],
        step: &str,
        state: &str,
        verdict: Verdict,
        progressed: bool,
    ) {
        let title = self.title_of(steps);
        let retries = self.cluster.retries;
        let reason = match state {
            UNKNOWN => "left the queue without completing (its end is not known)".to_string(),
            "COMPLETED" => "its process ended without completing the step".into(),
            "TIMEOUT" if progressed => "TIMEOUT; goes on from what it saved".into(),
            other => other.to_string(),
        };
        let tally = self.ledger.tally(step);
        let (crashes, over) = match verdict {
            Verdict::Early => return,
            Verdict::Crash => {
                tally.crashes += 1;
                (Some((tally.crashes, retries)), tally.crashes > retries)
            }
            Verdict::Lost => {
                tally.lost = if progressed { 1 } else { tally.lost + 1 };
                (None, tally.lost > MOST_LOST)
            }
        };
        if !over {
            return self.tell(Event::Again { title, reason, crashes });
        }
        // A later run starts to count anew.
        self.ledger.forget(step);
        let times = crashes.map_or(MOST_LOST + 1, |(count, _)| count);
        let attempts = if times == 1 { "1 attempt".to_string() } else { format!("{times} attempts") };
        let hint = match state {
            "OUT_OF_MEMORY" => "; run.slurm.mem may be too low",
            "TIMEOUT" => "; run.slurm.time may be too short: nothing was saved in that time",
            _ => "",
        };
        let log = self.log(place);
        let message =
            format!("{reason} after {attempts} (job {}{hint}); log {}{}", self.id_of(place), log.display(), tail(&log));
        self.fail(steps, step, message);
    }

    /// Fails the job that holds a step.
    fn fail(&mut self, steps: &[String], step: &str, reason: String) {
        let title = self.title_of(steps);
        // A step of an earlier plan is nobody's any more.
        if let Some(&job) = self.graph.maker.get(step) {
            self.failed.insert(job, (step.to_string(), reason.clone()));
            self.tell(Event::Failed { title, reason });
        }
    }

    fn close(&mut self, place: Place, state: &str) {
        self.seen.remove(&place);
        if let Some(held) = self.ledger.change(place) {
            held.end = Some(state.to_string());
        }
    }

    fn log(&self, place: Place) -> std::path::PathBuf {
        self.folder.join("slurm").join("logs").join(format!("{}.log", self.id_of(place)))
    }
}

/// The last lines of a log, each on a line of its own.
fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL.0)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    // A job that never got to a node has no log.
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(TAIL.1)..];
    if last.is_empty() { " (empty)".into() } else { format!(":\n    {}", last.join("\n    ")) }
}
