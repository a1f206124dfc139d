//! What Slurm's queue holds, as its commands list it.

/// What Slurm says of an element of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits, or was put back to wait.
    Waits,
    /// Is on a node.
    Runs,
    /// Is over.
    Over,
}

/// An element of an array.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Element {
    /// Id of the array.
    pub array: u64,
    /// Its number in the array.
    pub task: u32,
    /// The array's name.
    pub name: String,
    /// Slurm's word, such as `RUNNING`.
    pub state: String,
    /// When it began; tells a requeued one from itself.
    pub start: String,
    /// Its node.
    pub node: String,
    /// Why it waits.
    pub reason: String,
}

/// `squeue`'s columns, in the order of [`Element`]; the reason may hold anything and comes last.
const FORMAT: &str = "%F|%K|%j|%T|%S|%N|%r";

impl Element {
    pub fn phase(&self) -> Phase {
        phase(&self.state)
    }
}

/// What a state means. Unknown words of newer versions count as running: they are looked at again.
fn phase(state: &str) -> Phase {
    match state {
        "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_FED" | "REQUEUE_HOLD" | "SPECIAL_EXIT" | "RESV_DEL_HOLD" => {
            Phase::Waits
        }
        "COMPLETED" | "FAILED" | "TIMEOUT" | "CANCELLED" | "NODE_FAIL" | "PREEMPTED" | "BOOT_FAIL" | "DEADLINE"
        | "OUT_OF_MEMORY" | "REVOKED" | "LAUNCH_FAILED" | "RECONFIG_FAIL" => Phase::Over,
        _ => Phase::Runs,
    }
}

/// Arguments of `squeue` that list the elements of arrays with these names, ended ones too as long as Slurm remembers them.
pub(super) fn listing(names: &[String]) -> Vec<String> {
    let names = format!("--name={}", names.join(","));
    ["--noheader", "--array", "--states=all", &names, &format!("--format={FORMAT}")].map(String::from).to_vec()
}

/// Reads what `squeue` printed; lines of another form are left out.
pub(super) fn read(output: &str) -> Vec<Element> {
    output.lines().filter_map(read_line).collect()
}

fn read_line(line: &str) -> Option<Element> {
    let mut parts = line.splitn(7, '|').map(str::trim);
    let mut next = || parts.next();
    let (array, task) = (next()?.parse().ok()?, next()?.parse().ok()?);
    let mut text = || next().map(String::from);
    Some(Element { array, task, name: text()?, state: text()?, start: text()?, node: text()?, reason: text()? })
}

/// Arguments of `sacct` that ask for the state of an element that the queue has forgotten.
pub(super) fn accounting(array: u64, task: u32) -> Vec<String> {
    ["--allocations", "--noheader", "--parsable2", "--format=State", &format!("--jobs={array}_{task}")]
        .map(String::from)
        .to_vec()
}

/// The end that `sacct` tells, if it is one: the last line counts, requeued jobs have several.
pub(super) fn accounted(output: &str) -> Option<String> {
    let word = output.lines().last()?.split_whitespace().next()?;
    (phase(word) == Phase::Over).then(|| word.to_string())
}

/// The array's id that `sbatch --parsable` printed (`41` or `41;cluster`, the last line; plugins may print before).
pub(super) fn submitted(output: &str) -> Option<u64> {
    output.lines().last()?.split(';').next()?.trim().parse().ok()
}

/// The greatest number of an array's element, from `scontrol show config`.
pub(super) fn greatest_task(config: &str) -> Option<u32> {
    let line = config.lines().find(|line| line.trim_start().starts_with("MaxArraySize"))?;
    let size: u32 = line.split('=').nth(1)?.trim().parse().ok()?;
    (size > 1).then(|| size - 1)
}

/// Whether a reason for waiting is about nodes, so that the state of the nodes explains it.
pub(super) fn about_nodes(reason: &str) -> bool {
    ["ReqNodeNotAvail", "Nodes required", "Resources", "NodeDown", "PartitionConfig"]
        .iter()
        .any(|r| reason.starts_with(r))
}

/// What a reason for waiting means to the user, or what to do about it. None where nobody needs to know.
pub(super) fn advice(reason: &str) -> Option<&'static str> {
    let starts = |words: &[&str]| words.iter().any(|w| reason.starts_with(w));
    if reason.is_empty() || starts(&["None", "Dependency", "JobArrayTaskLimit", "Prolog", "Cleaning", "(null)"]) {
        return None;
    }
    Some(if starts(&["Resources", "Priority"]) {
        "others are before it, or the nodes are busy"
    } else if starts(&["PartitionTimeLimit"]) {
        "run.slurm.time is above the partition's limit, it will never start: lower it, or choose another partition"
    } else if starts(&["PartitionNodeLimit", "PartitionConfig", "BadConstraints"]) {
        "the partition does not have what run.slurm asks for (time, cpus_per_task, mem, gres, constraint): it may never start"
    } else if starts(&["PartitionDown", "PartitionInactive"]) {
        "the partition takes no jobs now"
    } else if starts(&["ReqNodeNotAvail", "Nodes required", "NodeDown"]) {
        "nodes are down, drained or reserved; before a maintenance, a shorter run.slurm.time may still fit"
    } else if starts(&["JobHeld", "launch failed", "job requeued in held state"]) {
        "held; `scontrol release` with its id lets it go"
    } else if starts(&["InvalidAccount", "InvalidQOS"]) {
        "run.slurm.account or run.slurm.qos is not valid here"
    } else if starts(&["Assoc", "QOS", "Max", "AccountingPolicy"]) {
        "a limit of the account or the QOS; it starts when others end"
    } else if starts(&["BeginTime"]) {
        "Slurm starts it later, as after a node failed"
    } else if starts(&["Reservation"]) {
        "it waits for its reservation"
    } else {
        ""
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_read() {
        // As squeue 22.05 prints it with FORMAT.
        let output = "9|4|embeval-a-1|PENDING|N/A||ReqNodeNotAvail, UnavailableNodes:n1\n\
                      9|1|embeval-a-1|RUNNING|2026-11-21T17:12:43|n1|None\nslurm_load: noise\n7|N/A|other|RUNNING||n2|None\n";
        let elements = read(output);
        assert_eq!(elements.len(), 2);
        assert_eq!((elements[0].array, elements[0].task, elements[0].phase()), (9, 4, Phase::Waits));
        assert_eq!(elements[0].reason, "ReqNodeNotAvail, UnavailableNodes:n1");
        assert_eq!((elements[1].node.as_str(), elements[1].phase()), ("n1", Phase::Runs));
    }

    #[test]
    fn ends_ids_and_limits_are_read() {
        assert_eq!(accounted("NODE_FAIL\nCANCELLED by 1000\n"), Some("CANCELLED".into()));
        assert_eq!(accounted("RUNNING\n"), None);
        assert_eq!(accounted(""), None);
        assert_eq!(submitted("41\n"), Some(41));
        assert_eq!(submitted("a site's greeting\n41;alpha\n"), Some(41));
        assert_eq!(submitted(""), None);
        assert_eq!(greatest_task("MaxArrayTasks = 3\nMaxArraySize            = 1001\n"), Some(1_000));
        assert_eq!(greatest_task("MaxArraySize = 0"), None);
    }

    #[test]
    fn reasons_that_need_the_user_name_the_setting() {
        assert!(advice("PartitionTimeLimit").is_some_and(|a| a.contains("run.slurm.time")));
        assert!(advice("InvalidQOS").is_some_and(|a| a.contains("run.slurm.qos")));
        assert_eq!(advice("JobArrayTaskLimit"), None);
        assert_eq!(advice("SomethingNew"), Some(""));
    }
}
