//! The process that submits and looks.

mod cancel;
mod graph;
mod judge;
mod look;
mod submit;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use self::graph::Graph;
use self::look::{Outage, Seen};
use super::batches::Place;
use super::commands::{Outcome, call};
use super::error::SlurmError;
use super::event::Event;
use super::job::{Blocked, Cluster, Failure, Job, StepState, Summary};
use super::ledger::Ledger;
use super::{queue, script};

/// Seconds between looks at the queue, if the config says nothing.
const POLL: f64 = 10.0;
/// Slurm's own default of `MaxArraySize`, less one, where it does not tell.
const GREATEST_TASK: u32 = 1_000;
/// The longest sleep without a look at the user's interrupts.
const SLICE: Duration = Duration::from_millis(100);

/// Where a job stands.
#[derive(Debug, Clone, PartialEq)]
enum Status {
    /// All steps are complete.
    Done,
    /// It failed for good.
    Failed,
    /// This job failed before it.
    Blocked(usize),
    /// It is in the queue, or being submitted.
    Held,
    /// These steps are to be run.
    Open(Vec<String>),
}

/// The head of a run.
pub(super) struct Head<'a> {
    cluster: &'a Cluster<'a>,
    jobs: &'a [Job],
    graph: Graph,
    state: &'a dyn Fn(&str) -> StepState,
    observer: &'a mut dyn FnMut(Event),
    interrupts: &'a AtomicUsize,
    /// Interrupts that were seen to.
    heeded: usize,
    /// The run's folder, from the root.
    folder: PathBuf,
    poll: Duration,
    ledger: Ledger,
    /// What was last seen of the elements that are not over.
    seen: BTreeMap<Place, Seen>,
    /// Steps that are complete; they stay so.
    complete: BTreeSet<String>,
    /// Jobs that failed for good: the step and why.
    failed: BTreeMap<usize, (String, String)>,
    /// Calls of `sbatch` of this head that may or may not have arrived.
    unanswered: BTreeSet<usize>,
    /// Most elements of an array; 0 before the cluster was asked.
    most: usize,
    /// Whether the queue takes no more of this user's jobs.
    full: bool,
    /// Reasons for waiting at the last look.
    reasons: BTreeSet<String>,
    /// Reasons for waiting that were told.
    told: BTreeSet<String>,
    outage: Outage,
    /// Whether `sacct` answers; unknown before it is asked.
    accounting: bool,
}

impl<'a> Head<'a> {
    /// A head; checks the jobs and the settings, and reads what an earlier head left.
    pub fn new(
        cluster: &'a Cluster<'a>,
        jobs: &'a [Job],
        state: &'a dyn Fn(&str) -> StepState,
        observer: &'a mut dyn FnMut(Event),
        interrupts: &'a AtomicUsize,
    ) -> Result<Self, SlurmError> {
        script::check(cluster.settings)?;
        let graph = Graph::of(jobs)?;
        let folder = std::path::absolute(cluster.folder).map_err(|e| SlurmError::io(cluster.folder, e))?;
        let logs = folder.join("slurm").join("logs");
        std::fs::create_dir_all(&logs).map_err(|e| SlurmError::io(&logs, e))?;
        let poll = cluster.settings.poll.unwrap_or(POLL).clamp(0.05, 86_400.0);
        Ok(Self {
            cluster,
            jobs,
            graph,
            state,
            observer,
            interrupts,
            heeded: 0,
            ledger: Ledger::open(&folder.join("slurm"))?,
            folder,
            poll: Duration::from_secs_f64(poll),
            seen: BTreeMap::new(),
            complete: BTreeSet::new(),
            failed: BTreeMap::new(),
            unanswered: BTreeSet::new(),
            most: 0,
            full: false,
            reasons: BTreeSet::new(),
            told: BTreeSet::new(),
            outage: Outage::default(),
            accounting: true,
        })
    }

    /// Submits and looks until nothing is left to do.
    pub fn run(mut self) -> Result<Summary, SlurmError> {
        self.check_inputs()?;
        let mut first = true;
        // Where all is done, no cluster is needed.
        while self.is_busy() {
            if self.interrupted() > 0 {
                return self.cancel();
            }
            if let Some(elements) = self.look()? {
                if first {
                    self.take_up(&elements)?;
                    first = false;
                }
                self.judge(&elements)?;
                self.submit()?;
                if self.is_busy() {
                    self.pause(self.poll);
                }
            }
        }
        Ok(self.summary(false))
    }

    /// Whether a job is in the queue, or is to be.
    fn is_busy(&mut self) -> bool {
        self.statuses().iter().any(|s| matches!(s, Status::Held | Status::Open(_)))
    }

    /// What a step's folder says; complete ones are not asked again.
    fn step(&mut self, id: &str) -> StepState {
        if self.complete.contains(id) {
            return StepState::Complete;
        }
        let state = (self.state)(id);
        if state == StepState::Complete {
            self.complete.insert(id.to_string());
        }
        state
    }

    fn is_complete(&mut self, id: &str) -> bool {
        self.step(id) == StepState::Complete
    }

    /// Where each job stands.
    fn statuses(&mut self) -> Vec<Status> {
        let jobs = self.jobs;
        let holders = self.ledger.holders();
        let mut out = vec![Status::Held; jobs.len()];
        for number in self.graph.order.clone() {
            let Some(job) = jobs.get(number) else { continue };
            out[number] = if self.failed.contains_key(&number) {
                Status::Failed
            } else if job.steps.iter().any(|step| holders.contains_key(step)) {
                Status::Held
            } else {
                self.unheld(number, job, &out)
            };
        }
        out
    }

    /// Where a job stands that is not in the queue.
    fn unheld(&mut self, number: usize, job: &Job, before: &[Status]) -> Status {
        let mut open = Vec::new();
        for step in &job.steps {
            match self.step(step) {
                StepState::Complete => {}
                StepState::Open { .. } => open.push(step.clone()),
                StepState::Failed(reason) => {
                    self.failed.insert(number, (step.clone(), reason));
                    return Status::Failed;
                }
            }
        }
        if open.is_empty() {
            return Status::Done;
        }
        for step in &job.after {
            if let Some(&first) = self.graph.maker.get(step)
                && matches!(before[first], Status::Failed | Status::Blocked(_))
                && !self.is_complete(step)
            {
                return Status::Blocked(first);
            }
        }
        Status::Open(open)
    }

    /// What is before a job, and made by none, must be there.
    fn check_inputs(&mut self) -> Result<(), SlurmError> {
        for job in self.jobs {
            for step in &job.after {
                if !self.graph.maker.contains_key(step) && !self.is_complete(step) {
                    let title = &job.title;
                    return Err(SlurmError::Graph(format!("{title}: waits for step {step}, which no job makes")));
                }
            }
        }
        Ok(())
    }

    fn summary(&mut self, cancelled: bool) -> Summary {
        let mut summary = Summary { cancelled, ..Summary::default() };
        for (job, status) in self.jobs.iter().zip(self.statuses()) {
            match status {
                Status::Done => summary.complete += 1,
                Status::Failed => {}
                Status::Blocked(by) => summary.blocked.push(Blocked {
                    steps: job.steps.clone(),
                    title: job.title.clone(),
                    by: self.jobs[by].title.clone(),
                }),
                Status::Held | Status::Open(_) => summary.open += 1,
            }
        }
        for (&job, (step, reason)) in &self.failed {
            let title = self.jobs[job].title.clone();
            summary.failed.push(Failure { step: step.clone(), title, reason: reason.clone() });
        }
        summary
    }

    fn tell(&mut self, event: Event) {
        (self.observer)(event);
    }

    fn interrupted(&self) -> usize {
        self.interrupts.load(Ordering::Relaxed)
    }

    /// Waits, but not with an interrupt to see to.
    fn pause(&self, time: Duration) {
        let mut left = time;
        while !left.is_zero() && self.interrupted() <= self.heeded {
            let slice = left.min(SLICE);
            self.cluster.commands.pause(slice);
            left -= slice;
        }
    }

    fn call(&self, program: &str, arguments: &[String]) -> Result<Outcome, SlurmError> {
        call(self.cluster.commands, program, arguments)
    }

    /// The title of the job that holds a step.
    fn title_of(&self, steps: &[String]) -> String {
        let job = steps.iter().find_map(|step| self.graph.maker.get(step)).and_then(|&job| self.jobs.get(job));
        job.map_or_else(|| steps.join(", "), |job| job.title.clone())
    }

    /// Slurm's id of an element.
    fn id_of(&self, (number, task): Place) -> String {
        let array = self.ledger.submissions.get(number).and_then(|s| s.array);
        array.map_or_else(|| format!("?_{task}"), |array| format!("{array}_{task}"))
    }

    /// How many elements an array may have here.
    fn most(&mut self) -> Result<usize, SlurmError> {
        if self.most == 0 {
            let arguments = ["show".to_string(), "config".into()];
            let greatest = match self.call("scontrol", &arguments)? {
                Outcome::Done(config) => queue::greatest_task(&config),
                Outcome::Unreachable(_) | Outcome::Refused(_) => None,
            };
            self.most = greatest.unwrap_or(GREATEST_TASK) as usize;
        }
        Ok(self.most)
    }
}
