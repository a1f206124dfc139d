//! Heads that die, answers that are lost, and the end that a user asks for.

use std::sync::atomic::Ordering;

use super::cluster::{Act, Death, Fake};
use super::{check_done, head, head_with, job, sweep, temporary};
use crate::config::schema::SlurmSettings;
use crate::exec::slurm::{Event, SlurmError, StepState};

#[test]
fn a_head_that_dies_anywhere_is_followed_without_double_work() {
    let jobs = sweep();
    let mut deaths = 0;
    for heard in [false, true] {
        for call in 0.. {
            let folder = temporary();
            let fake = Fake::new(&jobs);
            fake.world.borrow_mut().room = 2;
            fake.act("t2", &[Act::Stay(3), Act::Ends("NODE_FAIL")]);
            fake.world.borrow_mut().death = Some(Death { call, heard });
            let life = head(&fake, folder.path(), &jobs);
            if life.end.is_ok() {
                check_done(&fake, &jobs, &life);
                break;
            }
            deaths += 1;
            // A second head dies, too, two calls on.
            fake.world.borrow_mut().death = Some(Death { call: call + 3, heard });
            let second = head(&fake, folder.path(), &jobs);
            fake.world.borrow_mut().death = None;
            let last = if second.end.is_ok() { second } else { head(&fake, folder.path(), &jobs) };
            check_done(&fake, &jobs, &last);
        }
    }
    assert!(deaths > 30, "{deaths}");
}

#[test]
fn a_new_head_waits_for_what_the_old_one_submitted() {
    let (folder, jobs) = (temporary(), sweep());
    let fake = Fake::new(&jobs);
    fake.act("t1", &[Act::Stay(20)]);
    // After six submissions and a look.
    fake.world.borrow_mut().death = Some(Death { call: 8, heard: true });
    assert!(matches!(head(&fake, folder.path(), &jobs).end, Err(SlurmError::Command { .. })));
    let before = fake.world.borrow().sbatches;
    fake.world.borrow_mut().death = None;
    let life = head(&fake, folder.path(), &jobs);
    check_done(&fake, &jobs, &life);
    assert_eq!(fake.world.borrow().sbatches, before, "nothing was submitted again");
    assert!(life.events.iter().any(|e| matches!(e, Event::Found { .. })));
}

#[test]
fn ids_of_a_cluster_that_was_set_up_anew_are_others() {
    let (folder, jobs) = (temporary(), sweep());
    let fake = Fake::new(&jobs);
    fake.act("base", &[Act::Stay(20)]);
    fake.world.borrow_mut().death = Some(Death { call: 8, heard: true });
    head(&fake, folder.path(), &jobs);
    {
        let mut world = fake.world.borrow_mut();
        world.death = None;
        // The queue is wiped; another's arrays have the same ids.
        for array in &mut world.arrays {
            array.name = "somebody-elses".into();
            array.elements.values_mut().for_each(|e| e.state = "SUSPENDED".into());
        }
        world.acts.clear();
    }
    let life = head(&fake, folder.path(), &jobs);
    check_done(&fake, &jobs, &life);
    let world = fake.world.borrow();
    assert!(world.arrays.iter().filter(|a| a.name == "somebody-elses").count() == 6 && world.cancels.is_empty());
}

#[test]
fn a_lost_answer_is_looked_up_by_name() {
    for heard in [true, false] {
        let (folder, jobs) = (temporary(), sweep());
        let fake = Fake::new(&jobs);
        fake.world.borrow_mut().lost = [(1, heard)].into();
        let life = head(&fake, folder.path(), &jobs);
        check_done(&fake, &jobs, &life);
        let expected = if heard { 6 } else { 7 };
        assert_eq!(fake.world.borrow().sbatches, expected);
        assert!(life.told().iter().any(|t| t.contains("does not answer")), "{:?}", life.told());
    }
}

#[test]
fn what_arrives_late_is_cancelled() {
    let jobs = sweep();
    // The answer is lost and the array comes two looks later, when it was sent again; the same with a head that died in between.
    for dies in [false, true] {
        let folder = temporary();
        let fake = Fake::new(&jobs);
        {
            let mut world = fake.world.borrow_mut();
            (world.lost, world.late_by) = ([(0, true)].into(), 2);
            world.acts.insert("base".into(), [Act::Stay(9)].into());
            world.death = dies.then_some(Death { call: 3, heard: false });
        }
        let mut life = head(&fake, folder.path(), &jobs);
        if dies {
            assert!(life.end.is_err());
            life = head(&fake, folder.path(), &jobs);
        }
        let world = fake.world.borrow();
        let summary = life.summary();
        assert_eq!(summary.complete, jobs.len());
        assert_eq!(world.cancels.len(), 1, "{:?}", life.told());
        assert!(life.events.iter().any(|e| matches!(e, Event::Duplicate { .. })), "{:?}", life.told());
    }
}

#[test]
fn a_controller_that_restarts_is_waited_for_and_one_that_stays_away_is_told() {
    let (folder, jobs) = (temporary(), sweep());
    let fake = Fake::new(&jobs);
    fake.world.borrow_mut().away = 4..8;
    let life = head(&fake, folder.path(), &jobs);
    check_done(&fake, &jobs, &life);
    let outage: Vec<_> =
        life.events.iter().filter(|e| matches!(e, Event::Unreachable { .. } | Event::Reachable)).collect();
    assert_eq!(outage.len(), 2, "told once, and its end");

    let fake = Fake::new(&jobs);
    fake.world.borrow_mut().away = 3..usize::MAX;
    let folder = temporary();
    let error = head(&fake, folder.path(), &jobs).end.unwrap_err();
    assert!(matches!(&error, SlurmError::Unreachable { waited, .. } if waited.as_secs() >= 600), "{error}");
    fake.world.borrow_mut().away = 0..0;
    check_done(&fake, &jobs, &head(&fake, folder.path(), &jobs));
}

#[test]
fn an_interrupt_cancels_all_and_the_run_goes_on_later() {
    let (folder, jobs) = (temporary(), sweep());
    let fake = Fake::new(&jobs);
    fake.act("t2", &[Act::Stay(50)]);
    let stop = |event: &Event, interrupts: &std::sync::atomic::AtomicUsize| {
        if matches!(event, Event::Ended { title, .. } if title == "t1") {
            interrupts.store(1, Ordering::Relaxed);
        }
    };
    let life = head_with(&fake, folder.path(), &jobs, &SlurmSettings::default(), &stop);
    let summary = life.summary().clone();
    assert!(summary.cancelled && summary.open > 0 && summary.failed.is_empty(), "{summary:?}");
    {
        let world = fake.world.borrow();
        let live = world
            .arrays
            .iter()
            .flat_map(|a| a.elements.values())
            .filter(|e| ["PENDING", "RUNNING"].contains(&e.state.as_str()));
        assert_eq!(live.count(), 0, "nothing is left in the queue");
    }
    fake.world.borrow_mut().acts.clear();
    let again = head(&fake, folder.path(), &jobs);
    check_done(&fake, &jobs, &again);
    assert!(!again.events.iter().any(|e| matches!(e, Event::Again { .. } | Event::Found { .. })), "{:?}", again.told());
}

#[test]
fn a_second_interrupt_leaves_at_once() {
    let folder = temporary();
    let jobs = [job(1, "a", &[])];
    let fake = Fake::new(&jobs);
    fake.act("a", &[Act::Stay(1_000)]);
    let life = head_with(&fake, folder.path(), &jobs, &SlurmSettings::default(), &|event, interrupts| match event {
        Event::Started { .. } => interrupts.store(1, Ordering::Relaxed),
        Event::Cancelling { .. } => interrupts.store(2, Ordering::Relaxed),
        _ => {}
    });
    assert_eq!((life.summary().cancelled, life.summary().open), (true, 1));
    let looks = fake.world.borrow().looks;
    assert!(looks < 10, "{looks}");
    assert_eq!(fake.state("a"), StepState::Open { progress: 0 });
}
