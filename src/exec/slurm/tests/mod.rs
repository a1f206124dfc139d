//! Exactness of what is submitted, against a cluster in memory.

mod cluster;
mod deaths;
mod ends;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use self::cluster::{Act, Fake};
use super::{Cluster, Event, Job, SlurmError, StepState, Summary, run};
use crate::config::schema::SlurmSettings;

/// A folder for a run; in memory where there is such a place, for every write is flushed to the disk.
fn temporary() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A job of one step, which is its title.
fn job(stage: usize, step: &str, after: &[&str]) -> Job {
    jobs_steps(stage, &[step], after)
}

fn jobs_steps(stage: usize, steps: &[&str], after: &[&str]) -> Job {
    let own = |words: &[&str]| words.iter().map(|w| w.to_string()).collect::<Vec<_>>();
    Job { steps: own(steps), title: steps[0].into(), stage, after: own(after) }
}

/// A base, three trials with their scores, a merge of two of them with its score.
fn sweep() -> Vec<Job> {
    vec![
        job(0, "base", &[]),
        job(1, "t1", &["base"]),
        job(1, "t2", &["base"]),
        job(1, "t3", &["base"]),
        jobs_steps(3, &["s1d", "s1t"], &["t1"]),
        jobs_steps(3, &["s2d", "s2t"], &["t2"]),
        jobs_steps(3, &["s3d", "s3t"], &["t3"]),
        job(2, "m", &["t1", "t3"]),
        job(3, "sm", &["m"]),
        job(3, "sb", &["base"]),
    ]
}

/// A head's life: its end, and what it told.
struct Life {
    end: Result<Summary, SlurmError>,
    events: Vec<Event>,
}

impl Life {
    fn summary(&self) -> &Summary {
        self.end.as_ref().unwrap()
    }

    fn told(&self) -> Vec<String> {
        self.events.iter().map(Event::to_string).collect()
    }
}

/// Runs a head until it ends or dies; `on` is told every event, and may interrupt.
fn head_with(
    fake: &Fake,
    folder: &Path,
    jobs: &[Job],
    settings: &SlurmSettings,
    on: &dyn Fn(&Event, &AtomicUsize),
) -> Life {
    let cluster = Cluster {
        settings,
        folder,
        program: Path::new("/opt/embeval"),
        worker_args: Vec::new(),
        jobs_at_once: 2,
        retries: 2,
        patience: Duration::from_secs(600),
        commands: fake,
    };
    let interrupts = AtomicUsize::new(0);
    let events = RefCell::new(Vec::new());
    let end = run(
        &cluster,
        jobs,
        &|step| fake.state(step),
        &mut |event| {
            on(&event, &interrupts);
            events.borrow_mut().push(event);
        },
        &interrupts,
    );
    Life { end, events: events.into_inner() }
}

fn head(fake: &Fake, folder: &Path, jobs: &[Job]) -> Life {
    head_with(fake, folder, jobs, &SlurmSettings::default(), &|_, _| ())
}

/// All steps are done, none twice, and none while another did it.
fn check_done(fake: &Fake, jobs: &[Job], life: &Life) {
    let world = fake.world.borrow();
    assert_eq!(world.faults, Vec::<String>::new());
    let summary = life.summary();
    assert_eq!((summary.complete, summary.open, summary.cancelled), (jobs.len(), 0, false), "{summary:?}");
    let all: BTreeSet<&String> = jobs.iter().flat_map(|job| &job.steps).collect();
    let done: BTreeSet<&String> = world.done.iter().collect();
    assert_eq!(all, done);
    assert_eq!(world.done.len(), done.len(), "a step was done twice: {:?}", world.done);
}

#[test]
fn a_sweep_is_submitted_at_once_with_its_dependencies() {
    let (folder, jobs) = (temporary(), sweep());
    let fake = Fake::new(&jobs);
    let life = head(&fake, folder.path(), &jobs);
    check_done(&fake, &jobs, &life);
    let world = fake.world.borrow();
    let submitted: Vec<_> = world
        .arrays
        .iter()
        .map(|a| {
            let steps: Vec<_> = a.elements.iter().map(|(task, e)| format!("{task}:{}", e.steps.join("+"))).collect();
            (a.dependency.as_deref().unwrap_or(""), steps.join(" "), a.at_once)
        })
        .collect();
    let expected: [(&str, &str, usize); 6] = [
        ("", "1:base", 2),
        ("afterok:41", "1:t1 2:t2 3:t3", 2),
        ("afterok:41", "1:sb", 2),
        ("afterok:42_1:42_3", "1:m", 2),
        ("aftercorr:42", "1:s1d+s1t 2:s2d+s2t 3:s3d+s3t", 2),
        ("afterok:44", "1:sm", 2),
    ];
    assert_eq!(submitted, expected.map(|(d, s, n)| (d, s.to_string(), n)));
    // All of it before anything ran.
    let first = life.events.iter().position(|e| matches!(e, Event::Started { .. })).unwrap();
    assert_eq!(life.events[..first].iter().filter(|e| matches!(e, Event::Submitted { .. })).count(), 6);
    let throttled = world.arrays.iter().map(|a| &a.name).collect::<BTreeSet<_>>();
    assert_eq!(throttled.len(), 6, "every submission has a name of its own");
}

#[test]
fn what_is_complete_is_not_submitted() {
    let (folder, jobs) = (temporary(), sweep());
    let fake = Fake::new(&jobs);
    for step in ["base", "t1", "s1d"] {
        fake.world.borrow_mut().states.insert(step.into(), StepState::Complete);
        fake.world.borrow_mut().done.push(step.into());
    }
    let life = head(&fake, folder.path(), &jobs);
    check_done(&fake, &jobs, &life);
    let world = fake.world.borrow();
    // The rest of a job whose first step is done; the merge waits for the trial that is not.
    assert!(world.arrays.iter().any(|a| a.dependency.is_none() && a.elements.values().any(|e| e.steps == ["s1t"])));
    assert!(
        world.arrays.iter().any(|a| a.elements[&1].steps == ["m"] && a.dependency.as_deref() == Some("afterok:41_2"))
    );
    // Again: nothing to do, nothing submitted.
    let before = world.sbatches;
    drop(world);
    let again = head(&fake, folder.path(), &jobs);
    assert_eq!((again.summary().complete, fake.world.borrow().sbatches), (jobs.len(), before));
    assert!(again.events.is_empty(), "{:?}", again.events);
}

#[test]
fn arrays_are_no_larger_than_the_cluster_allows() {
    let folder = temporary();
    let mut jobs: Vec<Job> = (0..23).map(|n| job(1, &format!("t{n}"), &[])).collect();
    jobs.extend((0..23).map(|n| job(3, &format!("s{n}"), &[&format!("t{n}")])));
    let fake = Fake::new(&jobs);
    fake.world.borrow_mut().array_size = 11;
    check_done(&fake, &jobs, &head(&fake, folder.path(), &jobs));
    let sizes: Vec<usize> = fake.world.borrow().arrays.iter().map(|a| a.elements.len()).collect();
    assert_eq!(sizes, [10, 10, 3, 10, 10, 3]);
    let dependencies: Vec<_> = fake.world.borrow().arrays.iter().map(|a| a.dependency.clone()).collect();
    assert_eq!(dependencies[3..], ["aftercorr:41", "aftercorr:42", "aftercorr:43"].map(|d| Some(d.to_string())));
}

#[test]
fn a_full_queue_is_waited_for() {
    let folder = temporary();
    let jobs: Vec<Job> = (0..20).map(|n| job(1, &format!("t{n}"), &[])).collect();
    let fake = Fake::new(&jobs);
    fake.world.borrow_mut().limit = Some(6);
    let life = head(&fake, folder.path(), &jobs);
    check_done(&fake, &jobs, &life);
    assert!(life.told().iter().any(|t| t.contains("takes no more of your jobs")), "{:?}", life.told());
}

#[test]
fn a_refusal_names_the_setting_and_what_there_is() {
    let (folder, jobs) = (temporary(), sweep());
    let fake = Fake::new(&jobs);
    fake.world.borrow_mut().refuse = Some(
        "sbatch: error: invalid partition specified: nope\nsbatch: error: Batch job submission failed: Invalid partition \
         name specified",
    );
    let settings = SlurmSettings { partition: Some("nope".into()), ..SlurmSettings::default() };
    let life = head_with(&fake, folder.path(), &jobs, &settings, &|_, _| ());
    assert_eq!(
        life.end.unwrap_err().to_string(),
        "run.slurm.partition = nope: sbatch refuses the job: invalid partition specified: nope; Batch job submission \
         failed: Invalid partition name specified (there are: debug, gpu)"
    );
    // Mended, the same folder goes on.
    fake.world.borrow_mut().refuse = None;
    check_done(&fake, &jobs, &head(&fake, folder.path(), &jobs));
}

#[test]
fn an_input_that_nobody_makes_is_told_at_once() {
    let folder = temporary();
    let jobs = [job(1, "t", &["base"])];
    let fake = Fake::new(&jobs);
    let error = head(&fake, folder.path(), &jobs).end.unwrap_err().to_string();
    assert_eq!((error.as_str(), fake.world.borrow().calls), ("t: waits for step base, which no job makes", 0));
}

#[test]
fn why_nothing_moves_is_told_once() {
    let folder = temporary();
    let jobs = [job(1, "a", &[]), job(1, "b", &[])];
    let fake = Fake::new(&jobs);
    fake.world.borrow_mut().reason = Some("ReqNodeNotAvail, UnavailableNodes:n1");
    let waits = RefCell::new(0);
    let told = RefCell::new(Vec::new());
    let life = head_with(&fake, folder.path(), &jobs, &SlurmSettings::default(), &|event, interrupts| {
        if let Event::Waiting { .. } = event {
            *waits.borrow_mut() += 1;
            told.borrow_mut().push(event.to_string());
            interrupts.store(1, std::sync::atomic::Ordering::Relaxed);
        }
    });
    assert!(life.summary().cancelled);
    assert_eq!(
        told.into_inner(),
        ["waiting: 2 jobs for ReqNodeNotAvail, UnavailableNodes:n1: nodes are down, drained or reserved; before a \
          maintenance, a shorter run.slurm.time may still fit (n1 drained: Test)"]
    );
    // The others of their own array, and what waits for a dependency, are no news.
    let (folder, jobs) = (temporary(), sweep());
    let fake = Fake::new(&jobs);
    fake.act("t1", &[Act::Stay(9)]);
    let life = head(&fake, folder.path(), &jobs);
    assert!(!life.events.iter().any(|e| matches!(e, Event::Waiting { .. })), "{:?}", life.told());
}
