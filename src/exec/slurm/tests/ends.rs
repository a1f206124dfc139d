//! Jobs that end in other ways than complete.

use super::cluster::{Act, Fake};
use super::{check_done, head, job, jobs_steps, sweep, temporary};
use crate::exec::slurm::{Event, StepState};

fn agains(events: &[Event], step: &str) -> Vec<Option<(usize, usize)>> {
    let of = |e: &Event| match e {
        Event::Again { title, crashes, .. } if title == step => Some(*crashes),
        _ => None,
    };
    events.iter().filter_map(of).collect()
}

#[test]
fn a_crash_is_tried_again_as_often_as_allowed() {
    let (folder, jobs) = (temporary(), sweep());
    let fake = Fake::new(&jobs);
    fake.act("t2", &[Act::Ends("OUT_OF_MEMORY"), Act::Ends("FAILED")]);
    let life = head(&fake, folder.path(), &jobs);
    check_done(&fake, &jobs, &life);
    assert_eq!(agains(&life.events, "t2"), [Some((1, 2)), Some((2, 2))]);
    // What waited for it was taken out of the queue by Slurm, and was submitted again behind the new one, once a try.
    let world = fake.world.borrow();
    for step in ["s2d", "t2"] {
        let times = world.arrays.iter().filter(|a| a.elements.values().any(|e| e.steps[0] == step)).count();
        assert_eq!(times, 3, "{step}");
    }
}

#[test]
fn the_last_crash_fails_the_job_and_blocks_what_needs_it_alone() {
    let (folder, jobs) = (temporary(), sweep());
    let fake = Fake::new(&jobs);
    fake.act("t1", &[const { Act::Ends("OUT_OF_MEMORY") }; 3]);
    // What a job of element 1 would print, whichever array it is in.
    let logs = folder.path().join("slurm/logs");
    std::fs::create_dir_all(&logs).unwrap();
    for array in 41..60 {
        std::fs::write(logs.join(format!("{array}_1.log")), "loading\n\nKilled\n").unwrap();
    }
    let life = head(&fake, folder.path(), &jobs);
    let summary = life.summary();
    let failed: Vec<_> = summary.failed.iter().map(|f| (f.step.as_str(), f.title.as_str())).collect();
    assert_eq!(failed, [("t1", "t1")]);
    let reason = &summary.failed[0].reason;
    assert!(reason.starts_with("OUT_OF_MEMORY after 3 attempts (job ") && reason.contains("run.slurm.mem"), "{reason}");
    assert!(reason.contains("_1.log:\n    loading\n    Killed"), "{reason}");
    let blocked: Vec<_> = summary.blocked.iter().map(|b| (b.title.as_str(), b.by.as_str())).collect();
    assert_eq!(blocked, [("s1d", "t1"), ("m", "t1"), ("sm", "m")]);
    assert_eq!(summary.complete, jobs.len() - 4);
    // A later run counts anew.
    check_done(&fake, &jobs, &head(&fake, folder.path(), &jobs));
}

#[test]
fn a_step_that_says_it_fails_is_not_tried_again() {
    let (folder, jobs) = (temporary(), sweep());
    let fake = Fake::new(&jobs);
    fake.act("t3", &[Act::Fails("loss is not a number at step 7")]);
    let life = head(&fake, folder.path(), &jobs);
    let summary = life.summary();
    assert_eq!(summary.failed.len(), 1);
    assert!(summary.failed[0].reason.starts_with("loss is not a number at step 7 (log: "), "{:?}", summary.failed);
    let blocked: Vec<_> = summary.blocked.iter().map(|b| b.title.as_str()).collect();
    assert_eq!(blocked, ["s3d", "m", "sm"]);
    let world = fake.world.borrow();
    let times = world.arrays.iter().flat_map(|a| a.elements.values()).filter(|e| e.steps == ["t3"]).count();
    assert_eq!(times, 1);
    // Failed before the run, it is not submitted at all.
    let before = world.sbatches;
    drop(world);
    assert_eq!(head(&fake, folder.path(), &jobs).summary().failed.len(), 1);
    assert_eq!(fake.world.borrow().sbatches, before);
}

#[test]
fn a_time_limit_counts_only_where_nothing_was_saved() {
    let folder = temporary();
    let jobs = [job(1, "t", &[]), job(3, "s", &["t"])];
    let fake = Fake::new(&jobs);
    let limits: Vec<Act> = (1..=9).map(|saved| Act::Saves("TIMEOUT", saved)).collect();
    fake.act("t", &limits);
    let life = head(&fake, folder.path(), &jobs);
    check_done(&fake, &jobs, &life);
    assert_eq!(agains(&life.events, "t"), [None; 9]);

    let fake = Fake::new(&jobs);
    let folder = temporary();
    fake.act("t", &[const { Act::Saves("TIMEOUT", 4) }; 9]);
    let life = head(&fake, folder.path(), &jobs);
    // The first saves something, the next three nothing more.
    assert_eq!(agains(&life.events, "t"), [None, Some((1, 2)), Some((2, 2))]);
    assert!(life.summary().failed[0].reason.contains("run.slurm.time"), "{:?}", life.summary().failed);
}

#[test]
fn a_step_of_several_that_is_complete_is_progress() {
    let folder = temporary();
    let jobs = [jobs_steps(3, &["a", "b", "c"], &[])];
    let fake = Fake::new(&jobs);
    fake.act("b", &[Act::Ends("TIMEOUT")]);
    fake.act("c", &[Act::Ends("TIMEOUT")]);
    let life = head(&fake, folder.path(), &jobs);
    check_done(&fake, &jobs, &life);
    assert_eq!(agains(&life.events, "a"), [None, None]);
    let world = fake.world.borrow();
    let submitted: Vec<_> = world.arrays.iter().map(|a| a.elements[&1].steps.join("+")).collect();
    assert_eq!(submitted, ["a+b+c", "b+c", "c"], "only what is open is submitted again");
}

#[test]
fn node_failures_and_preemption_do_not_count_but_have_an_end() {
    let folder = temporary();
    let jobs = [job(1, "t", &[])];
    let fake = Fake::new(&jobs);
    let mut ends = vec![Act::Ends("NODE_FAIL"); 5];
    ends.extend(vec![Act::Ends("PREEMPTED"); 5]);
    fake.act("t", &ends);
    let life = head(&fake, folder.path(), &jobs);
    check_done(&fake, &jobs, &life);
    assert_eq!(agains(&life.events, "t"), [None; 10]);

    let fake = Fake::new(&jobs);
    let folder = temporary();
    fake.act("t", &vec![Act::Ends("NODE_FAIL"); 1_000]);
    let life = head(&fake, folder.path(), &jobs);
    assert!(life.summary().failed[0].reason.starts_with("NODE_FAIL after 51 attempts"), "{:?}", life.summary());
}

#[test]
fn what_slurm_requeues_is_told_and_waited_for() {
    let folder = temporary();
    let jobs = [job(1, "t", &[])];
    let fake = Fake::new(&jobs);
    fake.act("t", &[Act::Stay(2), Act::Requeue]);
    let life = head(&fake, folder.path(), &jobs);
    check_done(&fake, &jobs, &life);
    assert_eq!(fake.world.borrow().sbatches, 1);
    assert!(life.events.iter().any(|e| matches!(e, Event::Requeued { .. })), "{:?}", life.told());
    assert_eq!(life.events.iter().filter(|e| matches!(e, Event::Started { .. })).count(), 2);
}

#[test]
fn a_job_that_the_queue_forgot_is_asked_of_the_accounting() {
    let jobs = [job(1, "t", &[])];
    for (sacct, expected) in
        [(Some("NODE_FAIL\n"), None), (Some("OUT_OF_MEMORY\n"), Some((1, 2))), (None, Some((1, 2)))]
    {
        let folder = temporary();
        let fake = Fake::new(&jobs);
        fake.world.borrow_mut().sacct = sacct;
        fake.act("t", &[Act::Stay(1), Act::Forgotten]);
        let life = head(&fake, folder.path(), &jobs);
        check_done(&fake, &jobs, &life);
        assert_eq!(agains(&life.events, "t"), [expected], "{sacct:?}");
    }
}

#[test]
fn a_success_whose_files_are_late_is_waited_for() {
    let folder = temporary();
    let jobs = [job(1, "t", &[])];
    let fake = Fake::new(&jobs);
    // The process says that it succeeded; the folder shows it five looks later.
    fake.act("t", &[Act::Ends("COMPLETED")]);
    let asked = std::cell::Cell::new(0);
    let settings = crate::config::schema::SlurmSettings::default();
    let cluster = crate::exec::slurm::Cluster {
        settings: &settings,
        folder: folder.path(),
        program: std::path::Path::new("/opt/embeval"),
        worker_args: Vec::new(),
        jobs_at_once: 0,
        retries: 0,
        patience: std::time::Duration::from_secs(60),
        commands: &fake,
    };
    let state = |_: &str| {
        asked.set(asked.get() + 1);
        if asked.get() > 7 { StepState::Complete } else { StepState::Open { progress: 0 } }
    };
    let none = std::sync::atomic::AtomicUsize::new(0);
    let summary = crate::exec::slurm::run(&cluster, &jobs, &state, &mut |_| (), &none).unwrap();
    assert_eq!((summary.complete, fake.world.borrow().sbatches), (1, 1));
}
