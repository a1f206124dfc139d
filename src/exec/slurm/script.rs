//! The batch script of an array, and the list of the steps that its elements run.

use std::path::PathBuf;

use super::error::SlurmError;
use crate::config::schema::SlurmSettings;

/// Options of `sbatch` that `run.slurm.options` may not have: they are the executor's own, or change what `sbatch` returns.
const OWN: [&str; 16] = [
    "--array",
    "-a",
    "--dependency",
    "-d",
    "--job-name",
    "-J",
    "--output",
    "-o",
    "--error",
    "-e",
    "--wait",
    "-W",
    "--wrap",
    "--test-only",
    "--clusters",
    "-M",
];

/// Checks what of `run.slurm` goes into scripts and arguments.
///
/// # Errors
/// Names the first setting that cannot be passed on.
pub(super) fn check(settings: &SlurmSettings) -> Result<(), SlurmError> {
    let fault = |key, value: &str, message| Err(SlurmError::Setting { key, value: value.into(), message });
    for (key, value) in named(settings) {
        if value.is_empty() || value.contains(['\n', '\r']) {
            return fault(key, &value, "must be one line that is not empty");
        }
    }
    for option in &settings.options {
        let name = option.split(['=', ' ']).next().unwrap_or_default();
        if !option.starts_with('-') || option.contains(['\n', '\r']) {
            return fault("options", option, "must be an option of sbatch on one line, such as --exclude=n3");
        }
        if OWN.contains(&name) {
            return fault("options", option, "is set by embeval itself");
        }
    }
    Ok(())
}

/// The settings that have a key of their own, with their values.
pub(super) fn named(settings: &SlurmSettings) -> Vec<(&'static str, String)> {
    [
        ("partition", settings.partition.clone()),
        ("account", settings.account.clone()),
        ("qos", settings.qos.clone()),
        ("time", settings.time.clone()),
        ("gres", settings.gres.clone()),
        ("cpus_per_task", settings.cpus_per_task.map(|n| n.to_string())),
        ("mem", settings.mem.clone()),
        ("constraint", settings.constraint.clone()),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key, value?)))
    .collect()
}

/// An array to be written.
pub(super) struct Script<'a> {
    pub settings: &'a SlurmSettings,
    /// The job's name, by which it is found again.
    pub name: String,
    /// For people, in `squeue`'s comment.
    pub title: String,
    /// `--array`'s numbers.
    pub array: String,
    /// Most elements at a time; 0 for no bound.
    pub at_once: usize,
    /// `--dependency`'s value.
    pub dependency: Option<String>,
    /// Where logs go.
    pub logs: PathBuf,
    /// The list of steps, a line an element.
    pub list: PathBuf,
    /// The program and its arguments before `--steps`.
    pub command: Vec<String>,
}

impl Script<'_> {
    /// Options of `sbatch`. They stand in the script, and again on the command line, where no `SBATCH_…` variable of the user's
    /// environment has precedence.
    pub fn options(&self) -> Vec<String> {
        let bound = if self.at_once > 0 { format!("%{}", self.at_once) } else { String::new() };
        // A % in a folder's name is none of Slurm's patterns.
        let logs = self.logs.display().to_string().replace('%', "%%");
        let mut options = vec![
            format!("--job-name={}", self.name),
            format!("--comment={}", self.title.replace(['\n', '\r', '"', '\'', '\\'], " ")),
            format!("--array={}{bound}", self.array),
            format!("--output={logs}/%A_%a.log"),
            "--open-mode=append".into(),
            "--requeue".into(),
        ];
        if let Some(dependency) = &self.dependency {
            options.push(format!("--dependency={dependency}"));
            // An element whose inputs will never be there leaves the queue by itself, without the head, too.
            options.push("--kill-on-invalid-dep=yes".into());
        }
        options.extend(
            named(self.settings).into_iter().map(|(key, value)| format!("--{}={value}", key.replace('_', "-"))),
        );
        options
    }

    /// The batch script.
    pub fn text(&self) -> String {
        let mut text = String::from("#!/bin/bash\n");
        for option in self.options() {
            let (name, value) = option.split_once('=').map_or((option.as_str(), None), |(n, v)| (n, Some(v)));
            let value =
                value.map_or(String::new(), |v| format!("=\"{}\"", v.replace('\\', "\\\\").replace('"', "\\\"")));
            text += &format!("#SBATCH {name}{value}\n");
        }
        for option in &self.settings.options {
            text += &format!("#SBATCH {option}\n");
        }
        for line in &self.settings.setup {
            text += &format!("{line}\n");
        }
        let list = quoted(&self.list.display().to_string());
        let command: Vec<String> = self.command.iter().map(|word| quoted(word)).collect();
        text += &format!("steps=$(sed -n \"${{SLURM_ARRAY_TASK_ID}}p\" {list})\n");
        // Without --steps a worker would have nothing to go by; a list that a node cannot read is that node's fault.
        text += "[ -n \"$steps\" ] || { echo \"$(uname -n): cannot read the list of steps\" >&2; exit 2; }\n";
        text += &format!("exec {} --steps \"$steps\"\n", command.join(" "));
        text
    }
}

/// A word for the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> SlurmSettings {
        SlurmSettings {
            partition: Some("gpu".into()),
            time: Some("04:00:00".into()),
            gres: Some("gpu:1".into()),
            cpus_per_task: Some(8),
            setup: vec!["module load cuda".into()],
            options: vec!["--exclude=n3".into()],
            ..SlurmSettings::default()
        }
    }

    #[test]
    fn a_script_says_all_that_sbatch_needs() {
        let settings = settings();
        let script = Script {
            settings: &settings,
            name: "embeval-a-1f-3".into(),
            title: "train a \"b\"".into(),
            array: "1-4".into(),
            at_once: 2,
            dependency: Some("aftercorr:41".into()),
            logs: "/runs/50%/slurm/logs".into(),
            list: "/runs/50%/slurm/3.steps".into(),
            command: ["/opt/embeval", "worker", "/runs/it's"].map(String::from).to_vec(),
        };
        let expected = "#!/bin/bash\n\
            #SBATCH --job-name=\"embeval-a-1f-3\"\n\
            #SBATCH --comment=\"train a  b \"\n\
            #SBATCH --array=\"1-4%2\"\n\
            #SBATCH --output=\"/runs/50%%/slurm/logs/%A_%a.log\"\n\
            #SBATCH --open-mode=\"append\"\n\
            #SBATCH --requeue\n\
            #SBATCH --dependency=\"aftercorr:41\"\n\
            #SBATCH --kill-on-invalid-dep=\"yes\"\n\
            #SBATCH --partition=\"gpu\"\n\
            #SBATCH --time=\"04:00:00\"\n\
            #SBATCH --gres=\"gpu:1\"\n\
            #SBATCH --cpus-per-task=\"8\"\n\
            #SBATCH --exclude=n3\n\
            module load cuda\n\
            steps=$(sed -n \"${SLURM_ARRAY_TASK_ID}p\" '/runs/50%/slurm/3.steps')\n\
            [ -n \"$steps\" ] || { echo \"$(uname -n): cannot read the list of steps\" >&2; exit 2; }\n\
            exec '/opt/embeval' 'worker' '/runs/it'\\''s' --steps \"$steps\"\n";
        assert_eq!(script.text(), expected);
    }

    #[test]
    fn settings_that_would_break_the_script_are_refused() {
        let with = |change: fn(&mut SlurmSettings)| {
            let mut settings = settings();
            change(&mut settings);
            check(&settings).map_err(|e| e.to_string())
        };
        assert_eq!(with(|_| ()), Ok(()));
        let own = with(|s| s.options = vec!["--array=1-3".into()]);
        assert_eq!(own.unwrap_err(), "run.slurm.options = --array=1-3: is set by embeval itself");
        assert!(with(|s| s.options = vec!["exclude n3".into()]).is_err());
        assert!(with(|s| s.partition = Some("gpu\nrm".into())).is_err());
        assert!(with(|s| s.qos = Some(String::new())).is_err());
    }
}
