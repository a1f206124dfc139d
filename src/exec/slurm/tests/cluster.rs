//! A cluster in memory: what `sbatch`, `squeue` and the others would do, a tick of time at every look at the queue.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::exec::slurm::{Commands, Job, Reply, StepState};

/// What becomes of an element that runs, instead of completing its steps at the next tick.
#[derive(Debug, Clone)]
pub enum Act {
    /// Runs for some ticks more.
    Stay(usize),
    /// The worker says that the step fails.
    Fails(&'static str),
    /// It ends in this state of Slurm's with nothing done.
    Ends(&'static str),
    /// It ends in this state, having saved so much.
    Saves(&'static str, u64),
    /// Slurm puts it back into the queue.
    Requeue,
    /// It ends with nothing done, and the queue forgets it at once.
    Forgotten,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Element {
    pub state: String,
    pub reason: String,
    pub start: usize,
    pub steps: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct Array {
    pub id: u64,
    pub name: String,
    pub at_once: usize,
    pub dependency: Option<String>,
    pub elements: BTreeMap<u32, Element>,
}

/// At which call the head dies, and whether the call is heard.
#[derive(Debug, Clone, Copy)]
pub struct Death {
    pub call: usize,
    pub heard: bool,
}

#[derive(Debug, Default)]
pub struct World {
    pub arrays: Vec<Array>,
    pub states: BTreeMap<String, StepState>,
    pub acts: BTreeMap<String, VecDeque<Act>>,
    after: BTreeMap<String, Vec<String>>,
    /// Nodes' room, in elements.
    pub room: usize,
    /// Reason that waiting elements are given instead of starting.
    pub reason: Option<&'static str>,
    /// Most elements that the queue takes.
    pub limit: Option<usize>,
    /// Greatest array size.
    pub array_size: usize,
    pub death: Option<Death>,
    /// Calls of `sbatch` (counted from 0) whose answer is lost: (call, whether it is heard).
    pub lost: BTreeMap<usize, bool>,
    /// Heard late: these come into the queue so many looks after the call.
    late: Vec<(usize, Array)>,
    pub late_by: usize,
    /// Looks during which the controller is away.
    pub away: std::ops::Range<usize>,
    pub refuse: Option<&'static str>,
    pub sacct: Option<&'static str>,
    pub calls: usize,
    pub looks: usize,
    pub sbatches: usize,
    pub cancels: Vec<String>,
    /// Steps in the order of their completion.
    pub done: Vec<String>,
    /// What should never be.
    pub faults: Vec<String>,
    next: u64,
}

pub struct Fake {
    pub world: RefCell<World>,
}

impl Fake {
    pub fn new(jobs: &[Job]) -> Self {
        let mut world = World { room: 100, array_size: 1_001, next: 40, ..World::default() };
        for job in jobs {
            for step in &job.steps {
                world.after.insert(step.clone(), job.after.clone());
            }
        }
        Self { world: RefCell::new(world) }
    }

    pub fn state(&self, step: &str) -> StepState {
        self.world.borrow().states.get(step).cloned().unwrap_or(StepState::Open { progress: 0 })
    }

    pub fn act(&self, step: &str, acts: &[Act]) {
        self.world.borrow_mut().acts.insert(step.into(), acts.iter().cloned().collect());
    }
}

impl Commands for Fake {
    fn run(&self, program: &str, arguments: &[String]) -> io::Result<Reply> {
        let mut world = self.world.borrow_mut();
        let call = world.calls;
        world.calls += 1;
        let dies = world.death.filter(|death| death.call == call);
        if dies.is_some_and(|death| !death.heard) {
            return Err(io::Error::other("the head dies before the call"));
        }
        let reply = world.answer(program, arguments);
        match dies {
            Some(_) => Err(io::Error::other("the head dies after the call")),
            None => Ok(reply),
        }
    }

    fn pause(&self, _: Duration) {}
}

fn yes(output: &str) -> Reply {
    Reply { code: Some(0), output: output.into(), errors: String::new() }
}

fn no(errors: &str) -> Reply {
    Reply { code: Some(1), output: String::new(), errors: errors.into() }
}

impl World {
    fn answer(&mut self, program: &str, arguments: &[String]) -> Reply {
        match program {
            "scontrol" => yes(&format!("MaxArraySize            = {}\n", self.array_size)),
            "squeue" => self.squeue(arguments),
            "sbatch" => self.sbatch(arguments),
            "scancel" => {
                for id in arguments {
                    self.scancel(id);
                }
                yes("")
            }
            "sinfo" if arguments.iter().any(|a| a == "--list-reasons") => yes("n1 drained: Test\n"),
            "sinfo" => yes("debug\ngpu\n"),
            "sacct" => self.sacct.map_or_else(|| no("Slurm accounting storage is disabled"), yes),
            other => panic!("unknown command {other}"),
        }
    }

    fn option(arguments: &[String], name: &str) -> Option<String> {
        let start = format!("--{name}=");
        arguments.iter().find_map(|a| a.strip_prefix(&start)).map(String::from)
    }

    fn sbatch(&mut self, arguments: &[String]) -> Reply {
        let number = self.sbatches;
        self.sbatches += 1;
        if let Some(message) = self.refuse {
            return no(message);
        }
        let heard = self.lost.get(&number).copied();
        if heard == Some(false) && self.late_by == 0 {
            return no(
                "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
            );
        }
        let script = std::fs::read_to_string(arguments.last().unwrap()).unwrap();
        let list = script.lines().find_map(|l| l.strip_prefix("steps=$(sed -n \"${SLURM_ARRAY_TASK_ID}p\" '")).unwrap();
        let list = std::fs::read_to_string(Path::new(list.strip_suffix("')").unwrap())).unwrap();
        let lines: Vec<&str> = list.lines().collect();
        let array = Self::option(arguments, "array").unwrap();
        let (tasks, at_once) = array.split_once('%').map_or((array.as_str(), 0), |(t, n)| (t, n.parse().unwrap()));
        let mut elements = BTreeMap::new();
        for range in tasks.split(',') {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            for task in first.parse::<u32>().unwrap()..=last.parse().unwrap() {
                let steps: Vec<String> = lines[task as usize - 1].split(',').map(String::from).collect();
                assert!(!steps[0].is_empty(), "element {task} of {tasks} has no steps");
                elements.insert(task, Element { state: "PENDING".into(), reason: "None".into(), start: 0, steps });
            }
        }
        if elements.keys().any(|&task| task as usize >= self.array_size) {
            return no("sbatch: error: Batch job submission failed: Invalid job array specification");
        }
        let live = self.live().count();
        if self.limit.is_some_and(|limit| live + elements.len() > limit) {
            return no("sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job \
                       violates accounting/QOS policy (job submit limit, user's size and/or time limits)");
        }
        self.next += 1;
        let made = Array {
            id: self.next,
            name: Self::option(arguments, "job-name").unwrap(),
            at_once,
            dependency: Self::option(arguments, "dependency"),
            elements,
        };
        if heard.is_some() {
            match self.late_by {
                0 => self.arrays.push(made),
                by => self.late.push((self.looks + by, made)),
            }
            return no("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation");
        }
        self.arrays.push(made);
        yes(&format!("{}\n", self.next))
    }

    fn live(&self) -> impl Iterator<Item = &Element> {
        let live = |e: &&Element| matches!(e.state.as_str(), "PENDING" | "RUNNING");
        self.arrays.iter().flat_map(|a| a.elements.values()).filter(live)
    }

    fn scancel(&mut self, id: &str) {
        self.cancels.push(id.into());
        let (array, task) = id.split_once('_').map_or((id, None), |(a, t)| (a, t.parse::<u32>().ok()));
        for array in self.arrays.iter_mut().filter(|a| a.id.to_string() == array) {
            for (number, element) in &mut array.elements {
                if task.is_none_or(|t| t == *number) && matches!(element.state.as_str(), "PENDING" | "RUNNING") {
                    element.state = "CANCELLED".into();
                }
            }
        }
    }

    fn squeue(&mut self, arguments: &[String]) -> Reply {
        self.looks += 1;
        if self.away.contains(&self.looks) {
            return no("slurm_load_jobs error: Unable to contact slurm controller (connect failure)");
        }
        let looks = self.looks;
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.late).into_iter().partition(|l| l.0 <= looks);
        self.arrays.extend(now.into_iter().map(|l| l.1));
        self.late = later;
        self.tick();
        let names = Self::option(arguments, "name").unwrap();
        let names: BTreeSet<&str> = names.split(',').collect();
        let mut out = String::new();
        for array in self.arrays.iter().filter(|a| names.contains(a.name.as_str())) {
            for (task, e) in &array.elements {
                out += &format!("{}|{task}|{}|{}|{}|n1|{}\n", array.id, array.name, e.state, e.start, e.reason);
            }
        }
        yes(&out)
    }

    /// Running elements end, dependencies are looked at, waiting elements start.
    pub fn tick(&mut self) {
        for a in 0..self.arrays.len() {
            let running: Vec<u32> =
                self.arrays[a].elements.iter().filter(|(_, e)| e.state == "RUNNING").map(|(&t, _)| t).collect();
            for task in running {
                match self.work(&self.arrays[a].elements[&task].steps.clone()) {
                    Some(("", _)) => {
                        self.arrays[a].elements.remove(&task);
                    }
                    Some((state, reason)) => {
                        let element = self.arrays[a].elements.get_mut(&task).unwrap();
                        (element.state, element.reason) = (state.into(), reason.into());
                    }
                    None => {}
                }
            }
        }
        for a in 0..self.arrays.len() {
            let Some(dependency) = self.arrays[a].dependency.clone() else { continue };
            for task in self.arrays[a].elements.keys().copied().collect::<Vec<_>>() {
                let met = self.met(&dependency, task);
                let element = self.arrays[a].elements.get_mut(&task).unwrap();
                if element.state == "PENDING" {
                    let never = ("CANCELLED", "DependencyNeverSatisfied");
                    let (state, reason) = match met {
                        Some(true) => ("PENDING", "None"),
                        Some(false) => never,
                        None => ("PENDING", "Dependency"),
                    };
                    (element.state, element.reason) = (state.into(), reason.into());
                }
            }
        }
        self.start();
    }

    fn start(&mut self) {
        let looks = self.looks;
        let mut room = self.room.saturating_sub(self.live().filter(|e| e.state == "RUNNING").count());
        for a in 0..self.arrays.len() {
            let bound = if self.arrays[a].at_once == 0 { usize::MAX } else { self.arrays[a].at_once };
            let mut runs = self.arrays[a].elements.values().filter(|e| e.state == "RUNNING").count();
            for task in self.arrays[a].elements.keys().copied().collect::<Vec<_>>() {
                let element = &self.arrays[a].elements[&task];
                if element.state != "PENDING" || element.reason == "Dependency" {
                    continue;
                }
                let reason = match self.reason {
                    Some(reason) => reason,
                    None if runs >= bound => "JobArrayTaskLimit",
                    None if room == 0 => "Resources",
                    None => "None",
                };
                let steps = element.steps.clone();
                let starts = reason == "None";
                if starts {
                    (room, runs) = (room - 1, runs + 1);
                    let all = self.arrays.iter().flat_map(|a| a.elements.values());
                    let busy: Vec<&String> = all.filter(|e| e.state == "RUNNING").flat_map(|e| &e.steps).collect();
                    if let Some(step) = steps.iter().find(|step| busy.contains(step)) {
                        self.faults.push(format!("{step} runs twice at a time"));
                    }
                }
                let element = self.arrays[a].elements.get_mut(&task).unwrap();
                element.reason = reason.into();
                if starts {
                    (element.state, element.start) = ("RUNNING".into(), looks);
                }
            }
        }
    }

    /// What a worker does with its steps in a tick: Slurm's state and reason if it ends.
    fn work(&mut self, steps: &[String]) -> Option<(&'static str, &'static str)> {
        for step in steps {
            if matches!(self.states.get(step), Some(StepState::Complete | StepState::Failed(_))) {
                continue;
            }
            let complete = |s: &String| self.states.get(s) == Some(&StepState::Complete);
            if !self.after[step].iter().all(complete) {
                // Exit 3: inputs are missing.
                return Some(("FAILED", "NonZeroExitCode"));
            }
            match self.acts.get_mut(step).and_then(VecDeque::pop_front) {
                Some(Act::Stay(0)) => return None,
                Some(Act::Stay(ticks)) => {
                    self.acts.get_mut(step).unwrap().push_front(Act::Stay(ticks - 1));
                    return None;
                }
                Some(Act::Fails(message)) => {
                    self.states.insert(step.clone(), StepState::Failed(message.into()));
                    return Some(("FAILED", "NonZeroExitCode"));
                }
                Some(Act::Ends(state)) => return Some((state, "None")),
                Some(Act::Saves(state, progress)) => {
                    self.states.insert(step.clone(), StepState::Open { progress });
                    return Some((state, "None"));
                }
                Some(Act::Requeue) => return Some(("PENDING", "BeginTime")),
                Some(Act::Forgotten) => return Some(("", "")),
                None => {
                    self.states.insert(step.clone(), StepState::Complete);
                    self.done.push(step.clone());
                }
            }
        }
        Some(("COMPLETED", "None"))
    }

    /// Whether an element's dependency is met; none while that is open.
    fn met(&self, dependency: &str, task: u32) -> Option<bool> {
        let (kind, rest) = dependency.split_once(':').unwrap();
        let mut states = Vec::new();
        for id in rest.split(':') {
            let (array, element) = id.split_once('_').map_or((id, None), |(a, t)| (a, t.parse::<u32>().ok()));
            let Some(array) = self.arrays.iter().find(|a| a.id.to_string() == array) else { continue };
            let wanted = if kind == "aftercorr" { Some(task) } else { element };
            states
                .extend(array.elements.iter().filter(|(n, _)| wanted.is_none_or(|w| w == **n)).map(|(_, e)| &e.state));
        }
        if kind != "afterany" && states.iter().any(|s| !matches!(s.as_str(), "COMPLETED" | "PENDING" | "RUNNING")) {
            return Some(false);
        }
        (!states.iter().any(|s| matches!(s.as_str(), "PENDING" | "RUNNING"))).then_some(true)
    }
}
