//! The Slurm executor on a real Slurm, which it may take to pieces.
//!
//!     eval "$(bash tests/peers/slurm.sh start)"
//!     EMBEVAL_SLURM=1 cargo test --test slurm
//!     bash tests/peers/slurm.sh stop
//!
//! Without `EMBEVAL_SLURM=1` and `sbatch`, or on another cluster than that script's, each test says why it is skipped. The steps are
//! run by a shell program in the worker's place, for what is tested is the way there and back: it takes the worker's arguments, works in
//! ticks, saves its progress after each, and writes `status.json`.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use embeval::config::schema::SlurmSettings;
use embeval::exec::slurm::{Cluster, Event, Job, SlurmCommands, SlurmError, StepState, Summary, run};

/// One cluster, which one test at a time turns upside down.
static CLUSTER: Mutex<()> = Mutex::new(());

/// The worker: `worker RUN --steps A,B`. A step's folder may hold `ticks` (tenths of a second, default 3), `needs` (steps), `fails` (its
/// message) and `dies` (crashes left); `log` in the run's folder lists what began and ended where.
const WORKER: &str = r#"#!/bin/bash
[ "$1" = worker ] && [ "$3" = --steps ] || { echo "called with $*" >&2; exit 9; }
run=$2
for step in ${4//,/ }; do
    folder=$run/steps/$step
    mkdir -p "$folder"
    grep -qs complete "$folder/status.json" && continue
    for need in $(cat "$folder/needs" 2>/dev/null); do
        grep -qs complete "$run/steps/$need/status.json" || { echo "$step: $need is missing" >&2; exit 3; }
    done
    echo "begins $step $SLURMD_NODENAME" >>"$run/log"
    for ((tick = $(cat "$folder/progress" 2>/dev/null || echo 0); tick < $(cat "$folder/ticks" 2>/dev/null || echo 3); tick++)); do
        sleep 0.1
        echo "$((tick + 1))" >"$folder/progress.tmp" && mv "$folder/progress.tmp" "$folder/progress"
        left=$(cat "$folder/dies" 2>/dev/null || echo 0)
        if [ "$left" -gt 0 ]; then
            echo $((left - 1)) >"$folder/dies"
            echo "$step: memory is full" >&2
            kill -KILL $$
        fi
    done
    if [ -e "$folder/fails" ]; then
        echo "{\"state\": \"failed\", \"message\": \"$(cat "$folder/fails")\"}" >"$folder/status.tmp"
    else
        echo '{"state": "complete", "seconds": 1}' >"$folder/status.tmp"
    fi
    mv "$folder/status.tmp" "$folder/status.json"
    echo "ends $step $SLURMD_NODENAME" >>"$run/log"
    [ ! -e "$folder/fails" ] || exit 1
done
"#;

/// A run on the test's own Slurm.
struct Bench {
    folder: tempfile::TempDir,
    settings: SlurmSettings,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    /// None, having said why, where there is no Slurm to play with.
    fn new() -> Option<Self> {
        let why = if std::env::var("EMBEVAL_SLURM").as_deref() != Ok("1") {
            "EMBEVAL_SLURM is not 1"
        } else if Command::new("sbatch").arg("--version").output().is_err() {
            "sbatch is not there"
        } else if std::env::var("EMBEVAL_SLURM_FOLDER").is_err() {
            "this is not the Slurm of tests/peers/slurm.sh"
        } else {
            // A test that failed has nothing to say about this one.
            let alone = CLUSTER.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let folder = tempfile::Builder::new().prefix("a run, 100% ").tempdir().unwrap();
            let worker = folder.path().join("worker");
            std::fs::write(&worker, WORKER).unwrap();
            std::fs::set_permissions(&worker, std::fs::Permissions::from_mode(0o755)).unwrap();
            let bench =
                Self { folder, settings: SlurmSettings { poll: Some(0.3), ..Default::default() }, _alone: alone };
            bench.heal();
            return Some(bench);
        };
        println!("skipped: {why}");
        None
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file that tells the worker what to do.
    fn tell(&self, step: &str, what: &str, value: impl ToString) {
        let folder = self.path().join("steps").join(step);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("told"), value.to_string()).unwrap();
        std::fs::rename(folder.join("told"), folder.join(what)).unwrap();
    }

    /// Keeps a step from ending.
    fn hold(&self, step: &str) {
        self.tell(step, "ticks", 1_000_000);
    }

    /// Lets it end.
    fn release(&self, step: &str) {
        self.tell(step, "ticks", 3);
    }

    /// A job of one step, whose inputs the worker checks.
    fn job(&self, stage: usize, step: &str, after: &[&str]) -> Job {
        self.tell(step, "needs", after.join(" "));
        let after = after.iter().map(|s| s.to_string()).collect();
        Job { steps: vec![step.into()], title: step.into(), stage, after }
    }

    /// What a step's folder says.
    fn state(&self, step: &str) -> StepState {
        let folder = self.path().join("steps").join(step);
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        let status: serde_json::Value = serde_json::from_str(&read("status.json")).unwrap_or_default();
        match status["state"].as_str() {
            Some("complete") => StepState::Complete,
            Some("failed") => StepState::Failed(status["message"].as_str().unwrap_or_default().into()),
            _ => StepState::Open { progress: read("progress").trim().parse().unwrap_or(0) },
        }
    }

    /// Runs a head in this process; `on` is told every event.
    fn head(
        &self,
        jobs: &[Job],
        on: &mut dyn FnMut(&Event, &AtomicUsize),
    ) -> Result<(Summary, Vec<String>), SlurmError> {
        let program = self.path().join("worker");
        let cluster = Cluster {
            settings: &self.settings,
            folder: self.path(),
            program: &program,
            worker_args: Vec::new(),
            jobs_at_once: 2,
            retries: 2,
            patience: Duration::from_secs(120),
            commands: &SlurmCommands,
        };
        let interrupts = AtomicUsize::new(0);
        let mut told = Vec::new();
        let mut observer = |event: Event| {
            told.push(event.to_string());
            on(&event, &interrupts);
        };
        let summary = run(&cluster, jobs, &|step| self.state(step), &mut observer, &interrupts);
        println!("{}", told.join("\n"));
        Ok((summary?, told))
    }

    /// What began and ended, in order: (begins or ends, step, node).
    fn log(&self) -> Vec<(String, String, String)> {
        let text = std::fs::read_to_string(self.path().join("log")).unwrap_or_default();
        let line = |line: &str| {
            let mut words = line.split(' ').map(String::from);
            Some((words.next()?, words.next()?, words.next()?))
        };
        text.lines().filter_map(line).collect()
    }

    fn times(&self, what: &str, step: &str) -> usize {
        self.log().iter().filter(|(w, s, _)| w == what && s == step).count()
    }

    /// Both nodes up, nothing in the queue.
    fn heal(&self) {
        let queue = slurm(&["squeue", "-h", "-o", "%A"]);
        queue.split_whitespace().for_each(|id| drop(slurm(&["scancel", id])));
        for node in ["n1", "n2"] {
            script(&["node", node, "start"]);
            slurm(&["scontrol", "update", &format!("NodeName={node}"), "State=RESUME"]);
        }
        wait_until("the nodes are idle", || {
            slurm(&["sinfo", "-h", "-N", "-o", "%T"]).lines().all(|line| line == "idle")
        });
    }

    /// Names and states of this run's jobs in the queue.
    fn queue(&self) -> String {
        slurm(&["squeue", "-h", "-r", "-o", "%j %i %T"])
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.heal();
    }
}

/// Runs one of Slurm's commands; what it prints.
fn slurm(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `tests/peers/slurm.sh`.
fn script(words: &[&str]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/slurm.sh");
    let output = Command::new("bash").arg(path).args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..600 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("waited in vain until {what}");
}

/// A base, trials with their scores, a merge of the first two with its score.
fn sweep(bench: &Bench, trials: usize) -> Vec<Job> {
    let mut jobs = vec![bench.job(0, "base", &[])];
    for trial in 1..=trials {
        let (train, dev, test) = (format!("t{trial}"), format!("d{trial}"), format!("e{trial}"));
        jobs.push(bench.job(1, &train, &["base"]));
        bench.tell(&dev, "needs", &train);
        bench.tell(&test, "needs", &train);
        jobs.push(Job { steps: vec![dev, test], title: format!("scores of {train}"), stage: 3, after: vec![train] });
    }
    jobs.push(bench.job(2, "m", &["t1", "t2"]));
    jobs.push(bench.job(3, "dm", &["m"]));
    jobs
}

/// Each step ended once, after what it needs.
fn check(bench: &Bench, jobs: &[Job]) {
    let log = bench.log();
    let place: BTreeMap<&str, usize> =
        log.iter().enumerate().filter(|(_, l)| l.0 == "ends").map(|(n, l)| (l.1.as_str(), n)).collect();
    for job in jobs {
        for step in &job.steps {
            assert_eq!(bench.times("ends", step), 1, "{step}: {log:?}");
            let begin = log.iter().position(|l| l.0 == "begins" && l.1 == *step).unwrap();
            for input in &job.after {
                assert!(place[input.as_str()] < begin, "{step} began before {input} ended: {log:?}");
            }
        }
    }
}

#[test]
fn a_whole_sweep_runs_in_order() {
    let Some(bench) = Bench::new() else { return };
    let jobs = sweep(&bench, 3);
    bench.hold("base");
    // Base, trials, their scores, merge, its score: nothing waits for the head.
    let mut submitted = 0;
    let (summary, told) = bench
        .head(&jobs, &mut |event, _| {
            if matches!(event, Event::Submitted { .. }) {
                submitted += 1;
                if submitted == 5 {
                    bench.release("base");
                }
            }
        })
        .unwrap();
    assert_eq!((summary.complete, summary.failed.len()), (jobs.len(), 0), "{summary:?}");
    check(&bench, &jobs);
    for step in ["base", "t1", "d1", "e1", "m"] {
        assert_eq!(bench.times("begins", step), 1, "{step}");
    }
    assert_eq!(submitted, 5, "{told:?}");
    assert!(bench.path().join("slurm/logs").read_dir().unwrap().count() >= jobs.len());
    let (again, told) = bench.head(&jobs, &mut |_, _| ()).unwrap();
    assert_eq!((again.complete, told.len()), (jobs.len(), 0));
}

#[test]
fn a_stage_above_the_array_limit_is_split() {
    let Some(bench) = Bench::new() else { return };
    let jobs: Vec<Job> = (0..104).map(|n| bench.job(1, &format!("s{n}"), &[])).collect();
    // Two at a time on purpose: what counts is what sbatch takes.
    let (_, told) = bench
        .head(&jobs, &mut |event, interrupts| {
            if matches!(event, Event::Ended { .. }) {
                interrupts.store(1, Ordering::Relaxed);
            }
        })
        .unwrap();
    let submitted: Vec<&String> = told.iter().filter(|t| t.starts_with("submitted")).collect();
    assert_eq!(submitted.len(), 2, "{told:?}");
    assert!(submitted[0].ends_with("s0 and 99 more") && submitted[1].ends_with("s100 and 3 more"), "{submitted:?}");
}

#[test]
fn crashes_are_tried_again_and_a_failure_blocks_its_own_alone() {
    let Some(bench) = Bench::new() else { return };
    let jobs = sweep(&bench, 4);
    bench.tell("t1", "dies", 1);
    bench.tell("t3", "dies", 9);
    bench.tell("t4", "fails", "loss is not a number");
    let (summary, told) = bench.head(&jobs, &mut |_, _| ()).unwrap();
    let mut failed: Vec<_> = summary.failed.iter().map(|f| (f.step.as_str(), f.reason.as_str())).collect();
    failed.sort_unstable();
    assert_eq!(failed.iter().map(|f| f.0).collect::<Vec<_>>(), ["t3", "t4"]);
    assert!(failed[0].1.starts_with("FAILED after 3 attempts (job "), "{failed:?}");
    assert!(failed[0].1.contains("t3: memory is full"), "the log's last lines: {failed:?}");
    assert!(failed[1].1.starts_with("loss is not a number (log: "), "{failed:?}");
    let blocked: Vec<_> = summary.blocked.iter().map(|b| (b.title.as_str(), b.by.as_str())).collect();
    assert_eq!(blocked, [("scores of t3", "t3"), ("scores of t4", "t4")]);
    assert_eq!(summary.complete, jobs.len() - 4);
    assert!(told.iter().any(|t| t.starts_with("t1: FAILED; submitted again (1 of 2)")), "{told:?}");
    assert_eq!((bench.times("begins", "d3"), bench.times("begins", "t4")), (0, 1));
    assert_eq!(bench.queue(), "", "nothing is left that waits for ever");
}

#[test]
fn a_node_that_is_drained_is_worked_around() {
    let Some(bench) = Bench::new() else { return };
    let jobs = sweep(&bench, 4);
    bench.hold("t1");
    bench.hold("t2");
    let mut drained = false;
    let (summary, told) = bench
        .head(&jobs, &mut |event, _| {
            // With both nodes out what runs ends, and nothing else begins, which is to be told; then one comes back.
            if matches!(event, Event::Started { title, .. } if title == "t1") {
                slurm(&["scontrol", "update", "NodeName=n1,n2", "State=DRAIN", "Reason=test"]);
                drained = true;
                bench.release("t1");
                bench.release("t2");
            }
            if matches!(event, Event::Waiting { .. }) {
                slurm(&["scontrol", "update", "NodeName=n2", "State=RESUME"]);
            }
        })
        .unwrap();
    assert!(drained && summary.complete == jobs.len(), "{summary:?}");
    check(&bench, &jobs);
    assert!(told.iter().any(|t| t.starts_with("waiting: ") && t.contains("drain") && t.contains(": test")), "{told:?}");
    let log = bench.log();
    for step in ["t1", "t2", "t3", "t4"] {
        assert_eq!(bench.times("begins", step), 1, "{step}: {log:?}");
    }
    let late: Vec<_> = log.iter().filter(|l| l.0 == "begins" && ["t3", "t4", "m"].contains(&l.1.as_str())).collect();
    assert!(late.iter().all(|l| l.2 == "n2"), "{late:?}");
}

#[test]
fn a_node_that_goes_down_loses_nothing() {
    let Some(bench) = Bench::new() else { return };
    let jobs = sweep(&bench, 2);
    bench.hold("t1");
    bench.hold("t2");
    let mut crashed = String::new();
    let (summary, told) = bench
        .head(&jobs, &mut |event, _| match event {
            Event::Started { title, node, .. } if title == "t1" && crashed.is_empty() => {
                // Not before something was saved.
                wait_until("t1 has saved", || bench.state("t1") != StepState::Open { progress: 0 });
                crashed = node.clone();
                script(&["node", node, "crash"]);
            }
            // Slurm holds a requeued job back for two minutes; a test need not.
            Event::Requeued { id, .. } => {
                bench.release("t1");
                bench.release("t2");
                slurm(&["scontrol", "update", &format!("JobId={id}"), "StartTime=now"]);
            }
            _ => {}
        })
        .unwrap();
    assert_eq!((summary.complete, summary.failed.len()), (jobs.len(), 0), "{summary:?}");
    check(&bench, &jobs);
    assert!(told.iter().any(|t| t.starts_with("t1: Slurm queued")), "{told:?}");
    let nodes: Vec<String> = bench.log().into_iter().filter(|l| l.0 == "begins" && l.1 == "t1").map(|l| l.2).collect();
    assert_eq!(nodes.len(), 2);
    assert!(nodes[0] == crashed && nodes[1] != crashed, "{nodes:?}");
}

#[test]
fn a_head_that_dies_is_followed_by_another() {
    let Some(bench) = Bench::new() else { return };
    let jobs = sweep(&bench, 3);
    bench.hold("base");
    bench.hold("t1");
    // The head is dropped with its jobs in the queue, as if killed; once early, once while trials run.
    for title in ["base", "t1"] {
        let death = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            bench.head(&jobs, &mut |event, _| {
                let now = matches!(event, Event::Started { title: t, .. } if t == title);
                if now {
                    std::panic::resume_unwind(Box::new("the head dies"));
                }
            })
        }));
        assert!(death.is_err());
        bench.release(title);
    }
    let (summary, told) = bench.head(&jobs, &mut |_, _| ()).unwrap();
    assert_eq!(summary.complete, jobs.len(), "{summary:?}");
    check(&bench, &jobs);
    assert!(!told.iter().any(|t| t.starts_with("submitted")), "all was in the queue: {told:?}");
    assert!(told.iter().any(|t| t.contains("is in the queue from before")), "{told:?}");
    for step in ["base", "t1", "t2", "t3", "d1", "m"] {
        assert_eq!(bench.times("begins", step), 1, "{step}");
    }
}

#[test]
fn an_interrupt_cancels_the_jobs_and_the_run_goes_on_later() {
    let Some(bench) = Bench::new() else { return };
    let jobs = sweep(&bench, 3);
    bench.hold("t2");
    let (summary, _) = bench
        .head(&jobs, &mut |event, interrupts| {
            if matches!(event, Event::Started { title, .. } if title == "t2") {
                wait_until("t2 has saved", || bench.state("t2") != StepState::Open { progress: 0 });
                interrupts.store(1, Ordering::Relaxed);
            }
        })
        .unwrap();
    assert!(summary.cancelled && summary.open > 0 && summary.failed.is_empty(), "{summary:?}");
    assert_eq!(bench.queue(), "");
    assert_eq!(bench.times("ends", "t2"), 0, "{:?}", bench.log());
    bench.release("t2");
    let (summary, told) = bench.head(&jobs, &mut |_, _| ()).unwrap();
    assert_eq!((summary.complete, summary.cancelled), (jobs.len(), false));
    check(&bench, &jobs);
    assert!(!told.iter().any(|t| t.contains("again")), "a cancelled job is no crash: {told:?}");
}

#[test]
fn a_controller_that_restarts_is_waited_for() {
    let Some(bench) = Bench::new() else { return };
    let jobs = sweep(&bench, 2);
    bench.hold("t1");
    let mut stopped = false;
    let (summary, told) = bench
        .head(&jobs, &mut |event, _| match event {
            Event::Started { title, .. } if title == "t1" && !stopped => {
                script(&["controller", "stop"]);
                stopped = true;
            }
            Event::Unreachable { .. } => script(&["controller", "start"]),
            Event::Reachable => bench.release("t1"),
            _ => {}
        })
        .unwrap();
    assert_eq!(summary.complete, jobs.len(), "{summary:?}");
    check(&bench, &jobs);
    assert!(told.iter().any(|t| t.contains("answers again")), "{told:?}");
    assert_eq!(bench.times("begins", "t1"), 1);
}

#[test]
fn refusals_and_hopeless_waits_name_the_setting() {
    let Some(mut bench) = Bench::new() else { return };
    let jobs = [bench.job(1, "a", &[])];
    bench.settings.partition = Some("nope".into());
    let error = bench.head(&jobs, &mut |_, _| ()).unwrap_err().to_string();
    assert!(error.starts_with("run.slurm.partition = nope: sbatch refuses the job: invalid partition"), "{error}");
    assert!(error.ends_with("(there are: debug, short)"), "{error}");
    bench.settings = SlurmSettings { partition: None, gres: Some("gpu:1".into()), ..bench.settings.clone() };
    let error = bench.head(&jobs, &mut |_, _| ()).unwrap_err().to_string();
    assert!(error.starts_with("run.slurm.gres = gpu:1: "), "{error}");
    let (partition, time) = (Some("short".into()), Some("10:00".into()));
    bench.settings = SlurmSettings { gres: None, partition, time, ..bench.settings.clone() };
    let (summary, told) = bench
        .head(&jobs, &mut |event, interrupts| {
            if matches!(event, Event::Waiting { .. }) {
                interrupts.store(1, Ordering::Relaxed);
            }
        })
        .unwrap();
    // Slurm gives the one reason or the other, by which of its looks comes first.
    let named = |t: &String| {
        t.contains("for PartitionTimeLimit: run.slurm.time")
            || (t.contains("for PartitionConfig: ") && t.contains("(time,"))
    };
    assert!(summary.cancelled && told.iter().any(named), "{told:?}");
    // Mended, the same folder runs.
    bench.settings.time = Some("1".into());
    let (summary, _) = bench.head(&jobs, &mut |_, _| ()).unwrap();
    assert_eq!(summary.complete, 1);
}

#[test]
fn a_time_limit_is_gone_on_from() {
    let Some(mut bench) = Bench::new() else { return };
    let job = bench.job(1, "long", &[]);
    // Slurm looks at limits every half minute: beyond a minute and a half it is over.
    bench.tell("long", "ticks", 1_100);
    bench.settings.time = Some("1".into());
    let (summary, told) = bench.head(std::slice::from_ref(&job), &mut |_, _| ()).unwrap();
    assert_eq!(summary.complete, 1, "{summary:?}");
    assert!(told.iter().any(|t| t == "long: TIMEOUT; goes on from what it saved; submitted again"), "{told:?}");
    assert!(bench.times("begins", "long") >= 2 && bench.times("ends", "long") == 1, "{:?}", bench.log());
}

#[test]
fn scripts_and_setup_reach_the_node() {
    let Some(mut bench) = Bench::new() else { return };
    bench.settings.setup = vec!["export GREETING='from the setup'".into(), "echo \"$GREETING\"".into()];
    bench.settings.options = vec!["--nodelist=n2".into()];
    bench.settings.cpus_per_task = Some(2);
    let jobs = [bench.job(1, "a", &[])];
    bench.head(&jobs, &mut |_, _| ()).unwrap();
    assert_eq!(bench.log()[0].2, "n2");
    let logs: Vec<PathBuf> =
        bench.path().join("slurm/logs").read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(logs.len(), 1, "{logs:?}");
    assert_eq!(std::fs::read_to_string(&logs[0]).unwrap(), "from the setup\n");
}
