//! What a worker process does: takes steps that can be run, one after the other, until none is left. Processes share a run by
//! the steps' locks alone, so any number may work on it, on any number of machines.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::event::Event;
use super::prune::{self, Reached, Standing, Verdict};
use super::{Engine, ExecError, Outcome};
use crate::config::schema::PruneRule;
use crate::plan::{Step, Work};
use crate::store::budget::over_budget;
use crate::store::folder::{StepState, StoreError};
use crate::store::survey::Rule;
use crate::store::{lock, models};

/// Longest wait between looks for work that others' steps make possible.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// What is known of the steps. A step that is over stays so.
#[derive(Default)]
struct Known {
    over: RefCell<HashMap<String, StepState>>,
    /// Who holds a step that could be run, in words.
    waits_for: RefCell<Option<String>>,
    /// How far the trainings are, as of this look.
    standings: RefCell<Option<Rc<Standings>>>,
}

/// Trainings (by their first trial) and how far they are.
type Standings = Vec<(usize, Standing)>;

/// Whether a step can be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chance {
    /// Now.
    Now,
    /// When others are over.
    Later,
    /// Never: it is over, or what it needs will not be there.
    Never,
}

impl Engine<'_> {
    /// Tells of work inside a step.
    pub(super) fn advances(&self, done: usize, all: usize, word: &str) {
        self.observer.sees(0, &Event::Advances { done, all, word: word.into() });
    }

    fn state(&self, known: &Known, id: &str) -> StepState {
        if let Some(state) = known.over.borrow().get(id) {
            return state.clone();
        }
        let state = self.folder.state(id);
        if state.is_over() {
            known.over.borrow_mut().insert(id.into(), state.clone());
        }
        state
    }

    /// Runs steps until all are over or wait for what will not come. Gives the number of steps run here.
    ///
    /// # Errors
    /// What keeps every step from being run: a folder that cannot be written, a full disk. A step that fails is marked so, and
    /// the others go on.
    pub fn work(&self) -> Result<usize, ExecError> {
        let known = Known::default();
        let mut left: Vec<usize> = (0..self.plan.steps.len()).collect();
        let (mut ran, mut wait) = (0, Duration::from_millis(50));
        loop {
            known.standings.take();
            if self.config().prune.as_ref().is_some_and(|p| p.rule == PruneRule::Asha) {
                // Those that came furthest first.
                left.sort_by_key(|&at| {
                    (std::cmp::Reverse(prune::read(&self.folder.step(&self.plan.steps[at].id)).len()), at)
                });
            }
            let mut later = Vec::new();
            let mut moved = false;
            for (place, &at) in left.iter().enumerate() {
                let step = &self.plan.steps[at];
                match self.chance(&known, step)? {
                    Chance::Never => {}
                    Chance::Later => later.push(at),
                    Chance::Now => {
                        let taken = self.attempt(at, step, &known)?;
                        ran += usize::from(taken == Some(Outcome::Done));
                        moved |= taken.is_some();
                        if !self.state(&known, &step.id).is_over() {
                            later.push(at);
                        }
                        // What was passed over may be possible now.
                        if taken.is_some() && !later.is_empty() {
                            later.extend(&left[place + 1..]);
                            break;
                        }
                    }
                }
            }
            later.sort_unstable();
            left = later;
            if left.is_empty() {
                return Ok(ran);
            }
            wait = if moved { Duration::from_millis(50) } else { (wait * 2).min(LONGEST_WAIT) };
            if !moved {
                // Told once it takes longer than the steps of a small sweep do.
                if let Some(text) = (wait == LONGEST_WAIT).then(|| known.waits_for.take()).flatten() {
                    self.observer.sees(0, &Event::Note { text });
                }
                std::thread::sleep(wait);
            }
        }
    }

    /// Runs these steps, in this order; others are not waited for. Gives the first that could not be done, and why.
    ///
    /// # Errors
    /// As [`Self::work`].
    pub fn work_on(&self, ids: &[String]) -> Result<Option<(String, String)>, ExecError> {
        let known = Known::default();
        let mut fault = None;
        for id in ids {
            let Some(at) = self.plan.step_index(id) else {
                return Err(ExecError::Other(format!("step {id}: is none of this run's")));
            };
            let step = &self.plan.steps[at];
            // A lock of a node that went down is found abandoned after a while; a process that lives ends it.
            while self.chance(&known, step)? == Chance::Now
                && self.attempt(at, step, &known)?.is_none()
                && !self.state(&known, id).is_over()
            {
                std::thread::sleep(LONGEST_WAIT);
            }
            let why = match self.state(&known, id) {
                StepState::Complete | StepState::Pruned(_) => continue,
                StepState::Failed(message) => message,
                StepState::Open => "waits for other steps".into(),
            };
            fault.get_or_insert((step.title.clone(), why));
        }
        Ok(fault)
    }

    fn chance(&self, known: &Known, step: &Step) -> Result<Chance, ExecError> {
        if self.state(known, &step.id).is_over() {
            return Ok(Chance::Never);
        }
        let mut chance = Chance::Now;
        for input in &step.inputs {
            match self.state(known, input) {
                StepState::Complete => {}
                StepState::Open if self.is_dead(known, input) => return Ok(Chance::Never),
                StepState::Open => chance = Chance::Later,
                StepState::Pruned(_) | StepState::Failed(_) => return Ok(Chance::Never),
            }
        }
        if let (Chance::Now, Work::Train { trial }) = (chance, &step.work) {
            return self.judged(known, step, *trial);
        }
        Ok(chance)
    }

    /// Whether what a step needs, at any distance, will not be there.
    fn is_dead(&self, known: &Known, id: &str) -> bool {
        let Some(step) = self.plan.step(id) else { return false };
        step.inputs.iter().any(|input| match self.state(known, input) {
            StepState::Pruned(_) | StepState::Failed(_) => true,
            StepState::Complete => false,
            StepState::Open => self.is_dead(known, input),
        })
    }

    /// Takes a step and runs it; none where another process has it.
    fn attempt(&self, at: usize, step: &Step, known: &Known) -> Result<Option<Outcome>, ExecError> {
        let held = match self.folder.lock(&step.id) {
            Ok(held) => held,
            Err(StoreError::Locked { holder, .. }) => {
                let text = format!(
                    "waiting for {holder}, which has `{}`; a process of another machine that gives no sign for a minute is taken \
                     for dead",
                    step.title
                );
                // One of this machine is seen to live.
                if !holder.ends_with(&format!(" on {}", lock::machine())) {
                    *known.waits_for.borrow_mut() = Some(text);
                }
                return Ok(None);
            }
            Err(e) => return Err(e.into()),
        };
        if self.folder.state(&step.id).is_over() {
            return Ok(None);
        }
        let (number, steps, title) = (at + 1, self.plan.steps.len(), step.title.clone());
        self.observer.sees(0, &Event::Starts { step: step.id.clone(), number, steps, title: title.clone() });
        let start = Instant::now();
        let result = self.run_step(step);
        if held.is_lost() {
            tracing::warn!("{title}: this process stood still for so long that another one took the step over");
            return Ok(None);
        }
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(Outcome::Done) => {
                self.folder.complete(&step.id, seconds)?;
                if matches!(step.work, Work::Train { .. }) {
                    self.forget_states(step)?;
                }
                self.observer.sees(0, &Event::Ends { number, title, seconds });
                drop(held);
                self.keep_budget()?;
                Ok(Some(Outcome::Done))
            }
            Ok(Outcome::Held) => {
                self.observer.sees(0, &Event::Held { number, title });
                Ok(Some(Outcome::Held))
            }
            Err(error) if is_fatal(&error) => Err(error),
            Err(error) => {
                let reason = error.to_string();
                self.folder.give_up(&step.id, &StepState::Failed(reason.clone()))?;
                self.observer.sees(0, &Event::Failed { title, reason });
                Ok(Some(Outcome::Done))
            }
        }
    }

    /// Lets models go that nothing needs any more where they take more of the disk than `run.disk`.
    fn keep_budget(&self) -> Result<(), ExecError> {
        let Some(bytes) = self.config().run.disk else { return Ok(()) };
        let choose = &self.config().choose;
        let rule = Rule { on: if choose.on_test { "test" } else { "dev" }.into(), by: choose.by.name().into() };
        let budget = over_budget(&self.folder, bytes, &rule);
        models::remove(&self.folder, &budget.goes, "run.disk")?;
        if budget.left > bytes {
            tracing::warn!(
                "run.disk: models that are still needed take {} MB of {} MB",
                budget.left / 1_000_000,
                bytes / 1_000_000
            );
        }
        Ok(())
    }

    /// Every training step and how far it is.
    fn standings(&self, known: Option<&Known>) -> Standings {
        let mut seen = BTreeSet::new();
        let mut out = Vec::new();
        for step in &self.plan.steps {
            let Work::Train { trial } = &step.work else { continue };
            if !seen.insert(&step.id) {
                continue;
            }
            let state = known.map_or_else(|| self.folder.state(&step.id), |known| self.state(known, &step.id));
            out.push((
                *trial,
                Standing {
                    reached: prune::read(&self.folder.step(&step.id)),
                    over: state.is_over(),
                    failed: matches!(state, StepState::Failed(_)),
                },
            ));
        }
        out
    }

    fn verdict(&self, trial: usize, standings: &Standings) -> Verdict {
        let config = &self.plan.trials[trial].trial.config;
        let (Some(prune), Some(place)) = (&config.prune, standings.iter().position(|(t, _)| *t == trial)) else {
            return Verdict::Go;
        };
        let rungs = self.rungs(trial);
        let all: Vec<Standing> = standings.iter().map(|(_, s)| s.clone()).collect();
        prune::judge(prune, &rungs, &all, place)
    }

    fn rungs(&self, trial: usize) -> Vec<usize> {
        let planned = &self.plan.trials[trial];
        let config = &planned.trial.config;
        match (&config.prune, config.train.eval_every) {
            (Some(prune), Some(every)) => prune::rungs(prune, every, planned.steps),
            _ => Vec::new(),
        }
    }

    /// Whether a training that was held may go on; one that may not is given up.
    fn judged(&self, known: &Known, step: &Step, trial: usize) -> Result<Chance, ExecError> {
        let folder = self.folder.step(&step.id);
        if self.config().prune.is_none() || prune::read(&folder).last().is_none_or(|last| last.passed) {
            return Ok(Chance::Now);
        }
        let standings =
            known.standings.borrow_mut().get_or_insert_with(|| Rc::new(self.standings(Some(known)))).clone();
        match self.verdict(trial, &standings) {
            Verdict::Go => {
                if let Some(last) = prune::read(&folder).last() {
                    prune::note(&folder, Reached { passed: true, ..*last })?;
                }
                Ok(Chance::Now)
            }
            Verdict::Wait => Ok(Chance::Later),
            Verdict::Stop(reason) => {
                let Ok(_lock) = self.folder.lock(&step.id) else { return Ok(Chance::Later) };
                if !self.folder.state(&step.id).is_over() {
                    self.folder.give_up(&step.id, &StepState::Pruned(reason.clone()))?;
                    self.observer.sees(0, &Event::Pruned { title: step.title.clone(), reason });
                }
                Ok(Chance::Never)
            }
        }
    }

    /// Whether a training is to be held after an evaluation.
    pub(super) fn is_held(&self, trial: usize, at: usize, metrics: &BTreeMap<String, f64>) -> Result<bool, String> {
        let config = &self.plan.trials[trial].trial.config;
        let Some(prune) = &config.prune else { return Ok(false) };
        if !self.rungs(trial).contains(&at) {
            return Ok(false);
        }
        let score = prune::score(&prune.metric, metrics).ok_or_else(|| {
            let known: Vec<&str> = metrics.keys().map(String::as_str).collect();
            format!("prune.metric: is none of what an evaluation gives ({})", known.join(", "))
        })?;
        let Some(id) = self.plan.training_step(trial) else { return Ok(false) };
        let folder = self.folder.step(id);
        let passed = prune::read(&folder).iter().any(|r| r.step == at && r.passed);
        if passed {
            return Ok(false);
        }
        let note = |passed| prune::note(&folder, Reached { step: at, score, passed }).map_err(|e| e.to_string());
        note(false)?;
        let goes = self.verdict(trial, &self.standings(None)) == Verdict::Go;
        if goes {
            note(true)?;
        }
        Ok(!goes)
    }

    fn config(&self) -> &crate::config::Config {
        &self.plan.config
    }
}

/// Whether an error is of the machine, and would be every step's: its steps have not failed, they could not be done.
pub fn is_fatal(error: &ExecError) -> bool {
    use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if kind.is_some_and(|k| matches!(k, StorageFull | ReadOnlyFilesystem | PermissionDenied | QuotaExceeded)) {
            return true;
        }
        cause = error.source();
    }
    // Some libraries give the system's reason in words alone.
    let text = error.to_string();
    ["No space left on device", "Read-only file system", "Disk quota exceeded"]
        .iter()
        .any(|reason| text.contains(reason))
}
