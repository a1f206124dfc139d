//! What `sbatch` says no to, in the words of the config.

use super::script::named;
use crate::config::schema::SlurmSettings;

/// Words of a refusal, and the setting that they are about. The first that fits counts: an account that does not go with a partition
/// is named with both.
const WORDS: [(&str, &[&str]); 8] = [
    ("account", &["invalid account", "account/partition"]),
    ("partition", &["partition"]),
    ("qos", &["qos"]),
    ("time", &["time limit", "--time"]),
    ("gres", &["gres", "generic resource"]),
    ("mem", &["memory"]),
    ("constraint", &["feature", "constraint"]),
    ("cpus_per_task", &["cpu"]),
];

/// Whether it says that the user has as many jobs in the queue as may be: room comes by waiting.
pub(super) fn is_full(message: &str) -> bool {
    let small = message.to_lowercase();
    if small.contains("submitjob") || small.contains("maximum job") {
        return true;
    }
    // The general sentence names all limits; a site that tells which one it was says so before.
    small.contains("job submit limit") && !small.contains("limit;")
}

/// The setting that a refusal is about, with its value: `run.slurm.partition = gpu`.
pub(super) fn setting(message: &str, settings: &SlurmSettings) -> String {
    let small = message.to_lowercase();
    if small.contains("unrecognized option") || small.contains("invalid option") {
        return "run.slurm.options".into();
    }
    let given = named(settings);
    match WORDS.iter().find(|(_, words)| words.iter().any(|w| small.contains(w))) {
        Some((key, _)) => match given.iter().find(|(name, _)| name == key) {
            Some((_, value)) => format!("run.slurm.{key} = {value}"),
            None => format!("run.slurm.{key} (not given)"),
        },
        None => "run.slurm".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_setting() {
        let settings = SlurmSettings {
            partition: Some("nope".into()),
            mem: Some("900G".into()),
            account: Some("me".into()),
            ..SlurmSettings::default()
        };
        // As Slurm 22.05 says them.
        let cases = [
            (
                "invalid partition specified: nope; Batch job submission failed: Invalid partition name specified",
                "run.slurm.partition = nope",
            ),
            (
                "Memory specification can not be satisfied; Batch job submission failed: Requested node configuration is \
              not available",
                "run.slurm.mem = 900G",
            ),
            (
                "Batch job submission failed: Invalid account or account/partition combination specified",
                "run.slurm.account = me",
            ),
            (
                "Batch job submission failed: Invalid generic resource (gres) specification",
                "run.slurm.gres (not given)",
            ),
            ("Invalid --time specification", "run.slurm.time (not given)"),
            ("unrecognized option '--nonsense'; Try \"sbatch --help\" for more information", "run.slurm.options"),
            ("Batch job submission failed: Requested node configuration is not available", "run.slurm"),
        ];
        for (message, expected) in cases {
            assert_eq!(setting(message, &settings), expected, "{message}");
        }
    }

    #[test]
    fn a_full_queue_is_no_refusal() {
        let general = "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size \
                       and/or time limits)";
        assert!(is_full(general));
        assert!(is_full(&format!("QOSMaxSubmitJobPerUserLimit; {general}")));
        assert!(!is_full(&format!("QOSMaxWallDurationPerJobLimit; {general}")));
        assert!(!is_full("Batch job submission failed: Invalid partition name specified"));
    }
}
