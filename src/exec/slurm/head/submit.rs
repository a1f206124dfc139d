//! Submits what is neither done nor in the queue.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Head, Status};
use crate::data::atomic;
use crate::exec::slurm::batches::{Batch, Dependency, Place, Ready, batches, ranges};
use crate::exec::slurm::commands::Outcome;
use crate::exec::slurm::error::SlurmError;
use crate::exec::slurm::event::Event;
use crate::exec::slurm::job::StepState;
use crate::exec::slurm::ledger::{Held, Submission};
use crate::exec::slurm::script::Script;
use crate::exec::slurm::{queue, refusal};

/// How a call of `sbatch` ended.
enum Sent {
    Yes,
    /// The rest is for a later look.
    Later,
}

impl Head<'_> {
    /// Submits all jobs whose inputs are there or in the queue, in arrays.
    ///
    /// # Errors
    /// Where `sbatch` refuses, or the run's folder cannot be written.
    pub(super) fn submit(&mut self) -> Result<(), SlurmError> {
        // The queue was looked at since, and does not have them.
        while let Some(number) = self.unanswered.pop_first() {
            if let Sent::Later = self.send(number)? {
                return Ok(());
            }
        }
        loop {
            let ready = self.ready();
            if ready.is_empty() {
                return Ok(());
            }
            let most = self.most()?;
            for batch in batches(&ready.values().map(|(one, _)| one.clone()).collect::<Vec<_>>(), most) {
                if self.interrupted() > 0 {
                    return Ok(());
                }
                let number = self.write_down(&batch, &ready)?;
                if let Sent::Later = self.send(number)? {
                    return Ok(());
                }
            }
        }
    }

    /// The jobs that can be submitted, with their open steps.
    fn ready(&mut self) -> BTreeMap<usize, (Ready, Vec<String>)> {
        let jobs = self.jobs;
        let statuses = self.statuses();
        let holders = self.ledger.holders();
        let mut out = BTreeMap::new();
        for (number, (job, status)) in jobs.iter().zip(statuses).enumerate() {
            let Status::Open(steps) = status else { continue };
            let mut needs = BTreeSet::new();
            let mut free = true;
            for step in job.after.iter().filter(|step| !job.steps.contains(step)) {
                if self.is_complete(step) {
                    continue;
                }
                match holders.get(step) {
                    // One that is over, but not yet judged, will not make it any more: what takes its place is waited for.
                    Some(&place) if self.is_awaited(place) => {
                        needs.insert(place);
                    }
                    _ => free = false,
                }
            }
            if free {
                out.insert(number, (Ready { job: number, stage: job.stage, needs }, steps));
            }
        }
        out
    }

    /// Whether an element is in the queue and may still complete its steps.
    fn is_awaited(&self, place: Place) -> bool {
        let known = self.ledger.submissions.get(place.0).is_some_and(|s| s.array.is_some());
        known && self.seen.get(&place).is_none_or(|seen| seen.over == 0 && !seen.hopeless)
    }

    /// Writes the script, the list and the ledger's line of a submission; gives its number.
    fn write_down(
        &mut self,
        batch: &Batch,
        ready: &BTreeMap<usize, (Ready, Vec<String>)>,
    ) -> Result<usize, SlurmError> {
        let number = self.ledger.submissions.len();
        let label = self.folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let name = self.ledger.next_name(&label);
        let mut elements = BTreeMap::new();
        for (&task, job) in &batch.elements {
            let Some((_, steps)) = ready.get(job) else { continue };
            let progress = match steps.first().map(|step| self.step(step)) {
                Some(StepState::Open { progress }) => progress,
                _ => 0,
            };
            elements.insert(task, Held { steps: steps.clone(), progress, ran: false, end: None });
        }
        let last = elements.keys().next_back().copied().unwrap_or(0);
        let lines: Vec<String> =
            (1..=last).map(|task| elements.get(&task).map_or_else(String::new, |held| held.steps.join(","))).collect();
        let script = Script {
            settings: self.cluster.settings,
            name: name.clone(),
            title: self.heading(&elements),
            array: ranges(elements.keys().copied()),
            at_once: self.cluster.jobs_at_once,
            dependency: self.dependency(&batch.dependency),
            logs: self.folder.join("slurm").join("logs"),
            list: self.file(number, "steps"),
            command: self.command(),
        };
        let options = script.options();
        write(&self.file(number, "steps"), &(lines.join("\n") + "\n"))?;
        write(&self.file(number, "sh"), &script.text())?;
        self.ledger.submissions.push(Submission { name, array: None, options, dropped: false, elements });
        self.ledger.save()?;
        Ok(number)
    }

    fn file(&self, number: usize, kind: &str) -> PathBuf {
        self.folder.join("slurm").join(format!("{number}.{kind}"))
    }

    /// The worker's command, before its steps.
    fn command(&self) -> Vec<String> {
        let mut words =
            vec![self.cluster.program.display().to_string(), "worker".into(), self.folder.display().to_string()];
        words.extend(self.cluster.worker_args.iter().cloned());
        words
    }

    /// The title of the first element.
    fn heading(&self, elements: &BTreeMap<u32, Held>) -> String {
        elements.values().next().map(|held| self.title_of(&held.steps)).unwrap_or_default()
    }

    /// `--dependency`'s value.
    fn dependency(&self, dependency: &Dependency) -> Option<String> {
        let array = |number: usize| self.ledger.submissions.get(number).and_then(|s| s.array);
        let words: Vec<String> = match dependency {
            Dependency::None => return None,
            Dependency::Corresponding(number) => return array(*number).map(|id| format!("aftercorr:{id}")),
            Dependency::Over(numbers) => numbers.iter().filter_map(|&n| array(n)).map(|id| id.to_string()).collect(),
            Dependency::Succeeded(places) => self.named_places(places),
        };
        let kind = if matches!(dependency, Dependency::Over(_)) { "afterany" } else { "afterok" };
        (!words.is_empty()).then(|| format!("{kind}:{}", words.join(":")))
    }

    /// Elements as a dependency names them; an array of which all are meant by its id.
    fn named_places(&self, places: &BTreeSet<Place>) -> Vec<String> {
        let mut tasks: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        for &(number, task) in places {
            tasks.entry(number).or_default().push(task);
        }
        let mut out = Vec::new();
        for (number, tasks) in tasks {
            let Some(submission) = self.ledger.submissions.get(number) else { continue };
            let Some(id) = submission.array else { continue };
            if tasks.len() == submission.elements.len() {
                out.push(id.to_string());
            } else {
                out.extend(tasks.iter().map(|task| format!("{id}_{task}")));
            }
        }
        out
    }

    /// Calls `sbatch` for a submission that is written down, and writes down the id.
    fn send(&mut self, number: usize) -> Result<Sent, SlurmError> {
        let Some(submission) = self.ledger.submissions.get(number).cloned() else { return Ok(Sent::Yes) };
        let mut arguments = vec!["--parsable".to_string()];
        arguments.extend(submission.options);
        arguments.push(self.file(number, "sh").display().to_string());
        match self.call("sbatch", &arguments)? {
            Outcome::Done(output) => {
                let Some(array) = queue::submitted(&output) else {
                    let message = format!("no job id in what it printed: {}", output.trim());
                    return Err(SlurmError::Failed { program: "sbatch".into(), message });
                };
                self.ledger.submissions[number].array = Some(array);
                self.ledger.save()?;
                self.full = false;
                let title = self.heading(&submission.elements);
                self.tell(Event::Submitted { array, elements: submission.elements.len(), title });
                Ok(Sent::Yes)
            }
            Outcome::Unreachable(message) => {
                // It may have arrived: the next look tells, and it is sent again where it did not.
                self.unanswered.insert(number);
                self.wait_for_controller(message)?;
                Ok(Sent::Later)
            }
            Outcome::Refused(message) => {
                // It never was in the queue: its number is free again.
                if number + 1 == self.ledger.submissions.len() {
                    self.ledger.submissions.pop();
                } else {
                    self.ledger.submissions[number].dropped = true;
                }
                self.ledger.save()?;
                self.refused(message, submission.elements.len())
            }
        }
    }

    /// A full queue is waited for, in smaller portions; all else is the config's fault.
    fn refused(&mut self, message: String, elements: usize) -> Result<Sent, SlurmError> {
        if refusal::is_full(&message) {
            self.most = (elements / 2).max(1);
            if !std::mem::replace(&mut self.full, true) {
                let advice = "the queue takes no more of your jobs now; the rest is submitted as others end".into();
                self.tell(Event::Waiting { reason: message, elements, advice });
            }
            return Ok(Sent::Later);
        }
        let setting = refusal::setting(&message, self.cluster.settings);
        let known = if setting.starts_with("run.slurm.partition") { self.partitions()? } else { String::new() };
        Err(SlurmError::Refused { setting, message: message + &known })
    }

    /// The partitions that there are.
    fn partitions(&self) -> Result<String, SlurmError> {
        Ok(match self.call("sinfo", &["--noheader".to_string(), "--format=%R".into()])? {
            Outcome::Done(output) => {
                let names: BTreeSet<&str> = output.split_whitespace().collect();
                format!(" (there are: {})", names.into_iter().collect::<Vec<_>>().join(", "))
            }
            Outcome::Unreachable(_) | Outcome::Refused(_) => String::new(),
        })
    }
}

fn write(path: &Path, text: &str) -> Result<(), SlurmError> {
    atomic::write(path, text.as_bytes()).map_err(|e| SlurmError::io(path, e))
}
