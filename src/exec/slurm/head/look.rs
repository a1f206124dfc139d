//! What the queue holds of this run, and why it waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Head;
use crate::exec::slurm::batches::Place;
use crate::exec::slurm::commands::Outcome;
use crate::exec::slurm::error::SlurmError;
use crate::exec::slurm::event::Event;
use crate::exec::slurm::queue::{self, Element, Phase};

/// The longest wait between two calls of a controller that does not answer.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How long a controller is waited for that was never reached.
const FIRST_PATIENCE: Duration = Duration::from_secs(60);

/// What was last seen of an element.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub runs: bool,
    pub start: String,
    /// Looks since it was over, in which its steps' folders did not say so.
    pub over: usize,
    /// Whether it was cancelled because what it waited for will not come.
    pub hopeless: bool,
}

/// A controller that does not answer.
#[derive(Debug, Default)]
pub(super) struct Outage {
    waited: Duration,
    calls: u32,
    /// Whether it ever answered.
    pub reached: bool,
}

impl Head<'_> {
    /// Lists the elements of this run's arrays, and matches them with what was submitted. None where the controller did not answer
    /// (a pause has passed then).
    ///
    /// # Errors
    /// Where it does not answer for too long, or a command cannot be run.
    pub(super) fn look(&mut self) -> Result<Option<BTreeMap<Place, Element>>, SlurmError> {
        let names = self.ledger.watched();
        // Without a name to ask for there is nothing to see, but whether the cluster answers should be known before files are written.
        let asked = if names.is_empty() { vec!["embeval".to_string()] } else { names };
        match self.call("squeue", &queue::listing(&asked))? {
            Outcome::Done(output) => {
                self.answered();
                self.matched(queue::read(&output)).map(Some)
            }
            Outcome::Unreachable(message) => self.wait_for_controller(message).map(|()| None),
            Outcome::Refused(message) => Err(SlurmError::Failed { program: "squeue".into(), message }),
        }
    }

    fn answered(&mut self) {
        if self.outage.calls > 0 {
            self.tell(Event::Reachable);
        }
        self.outage = super::Outage { reached: true, ..Default::default() };
    }

    /// Waits a while, longer each time.
    pub(super) fn wait_for_controller(&mut self, message: String) -> Result<(), SlurmError> {
        let most = self.cluster.patience;
        let most = if self.outage.reached { most } else { most.min(FIRST_PATIENCE) };
        if self.outage.waited >= most {
            return Err(SlurmError::Unreachable { message, waited: self.outage.waited });
        }
        if self.outage.calls == 0 {
            self.tell(Event::Unreachable { message });
        }
        let wait = self.poll.saturating_mul(1 << self.outage.calls.min(10)).min(LONGEST_WAIT);
        self.outage.calls += 1;
        self.outage.waited += wait;
        self.pause(wait);
        Ok(())
    }

    /// The elements by their places. Learns the ids of arrays whose submission was not answered; cancels arrays that are one too many.
    fn matched(&mut self, elements: Vec<Element>) -> Result<BTreeMap<Place, Element>, SlurmError> {
        let numbers: BTreeMap<String, usize> =
            self.ledger.submissions.iter().enumerate().map(|(number, s)| (s.name.clone(), number)).collect();
        let mut surplus: BTreeSet<u64> = BTreeSet::new();
        let mut out = BTreeMap::new();
        let mut learnt = false;
        for element in elements {
            let Some(&number) = numbers.get(&element.name) else { continue };
            let submission = &mut self.ledger.submissions[number];
            if submission.array.is_none() && !submission.dropped {
                submission.array = Some(element.array);
                self.unanswered.remove(&number);
                learnt = true;
            }
            if submission.array == Some(element.array) && !submission.dropped {
                out.insert((number, element.task), element);
            } else if element.phase() != Phase::Over {
                surplus.insert(element.array);
            }
        }
        if learnt {
            self.ledger.save()?;
        }
        for array in surplus {
            self.tell(Event::Duplicate { array });
            // Unanswered, it is seen and cancelled again at the next look.
            self.call("scancel", &[array.to_string()])?;
        }
        Ok(out)
    }

    /// The first look of a head: what an earlier one left in the queue is told, what it did not get there is given up.
    pub(super) fn take_up(&mut self, elements: &BTreeMap<Place, Element>) -> Result<(), SlurmError> {
        let mut found: BTreeMap<u64, usize> = BTreeMap::new();
        for element in elements.values().filter(|e| e.phase() != Phase::Over) {
            *found.entry(element.array).or_default() += 1;
        }
        for (array, elements) in found {
            self.tell(Event::Found { array, elements });
        }
        let mut changed = false;
        for submission in self.ledger.submissions.iter_mut().filter(|s| s.array.is_none() && !s.dropped) {
            submission.dropped = true;
            changed = true;
        }
        if changed { self.ledger.save() } else { Ok(()) }
    }

    /// Tells why jobs wait, where that is not their own order. A reason is told when it is seen twice in a row, for Slurm gives passing
    /// ones until it has looked closely; again only after it was gone while nothing was running.
    pub(super) fn tell_reasons(&mut self, elements: &BTreeMap<Place, Element>) -> Result<(), SlurmError> {
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        let mut runs = false;
        for element in elements.values() {
            runs |= element.phase() == Phase::Runs;
            if element.phase() == Phase::Waits && queue::advice(&element.reason).is_some() {
                // Both mean that it is not its turn, and they alternate.
                let reason = if element.reason == "Priority" { "Resources" } else { &element.reason };
                *reasons.entry(reason.to_string()).or_default() += 1;
            }
        }
        if !runs {
            self.told.retain(|reason| reasons.contains_key(reason));
        }
        let before = std::mem::replace(&mut self.reasons, reasons.keys().cloned().collect());
        for (reason, elements) in reasons {
            let passing = !before.contains(&reason) || (runs && reason == "Resources");
            if passing || !self.told.insert(reason.clone()) {
                continue;
            }
            let mut advice = queue::advice(&reason).unwrap_or_default().to_string();
            if queue::about_nodes(&reason)
                && let Some(nodes) = self.nodes()?
            {
                advice = if advice.is_empty() { nodes } else { format!("{advice} ({nodes})") };
            }
            self.tell(Event::Waiting { reason, elements, advice });
        }
        Ok(())
    }

    /// Nodes that an administrator or Slurm has taken out, and why.
    fn nodes(&self) -> Result<Option<String>, SlurmError> {
        let mut arguments = vec!["--noheader".to_string(), "--list-reasons".into(), "--format=%N %T: %E".into()];
        arguments.extend(self.cluster.settings.partition.iter().map(|p| format!("--partition={p}")));
        Ok(match self.call("sinfo", &arguments)? {
            Outcome::Done(output) => {
                let lines: Vec<&str> = output.lines().map(str::trim).filter(|l| !l.is_empty()).take(4).collect();
                (!lines.is_empty()).then(|| lines.join("; "))
            }
            Outcome::Unreachable(_) | Outcome::Refused(_) => None,
        })
    }
}
