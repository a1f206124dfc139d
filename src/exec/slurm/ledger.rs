//! What was submitted, on the disk: a head that dies is followed by one that knows what is in the queue.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::batches::Place;
use super::error::SlurmError;
use crate::data::atomic;

/// The form of the file.
const VERSION: u32 = 1;

/// `slurm/jobs.json` of a run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ledger {
    version: u32,
    /// In the name of every array of this run: a cluster that was set up anew gives old ids to others' jobs.
    token: String,
    /// What was submitted, in order.
    pub submissions: Vec<Submission>,
    /// What came to grief, by step.
    pub tallies: BTreeMap<String, Tally>,
    #[serde(skip)]
    path: PathBuf,
    #[serde(skip)]
    changed: bool,
}

/// A call of `sbatch`. It is written down before the call, without the id, and again after.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Submission {
    /// The array's name, which no other submission has.
    pub name: String,
    /// Slurm's id of the array, once it is known.
    pub array: Option<u64>,
    /// Options of the call.
    pub options: Vec<String>,
    /// Whether the call was given up: an array with this name that turns up later is cancelled.
    pub dropped: bool,
    /// What its elements hold.
    pub elements: BTreeMap<u32, Held>,
}

/// An element of an array.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Held {
    /// Ids of its steps.
    pub steps: Vec<String>,
    /// What the first step had saved when it was submitted ([`super::StepState::Open`]).
    pub progress: u64,
    /// Whether it was seen on a node.
    pub ran: bool,
    /// Slurm's word for its end, once it is over and what follows from that was seen to.
    pub end: Option<String>,
}

/// How often a step's process was lost.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Tally {
    /// Crashes, which count against `run.retries`.
    pub crashes: usize,
    /// Other ends in a row without progress: node failures, preemption.
    pub lost: usize,
}

impl Ledger {
    /// Opens the ledger of a run's `slurm` folder, or starts one.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn open(folder: &Path) -> Result<Self, SlurmError> {
        let path = folder.join("jobs.json");
        let fault = |message| SlurmError::Ledger { path: path.clone(), message };
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let read: Self = serde_json::from_str(&text).map_err(|e| fault(e.to_string()))?;
                if read.version != VERSION {
                    return Err(fault(format!("form {} is not known here", read.version)));
                }
                Ok(Self { path, ..read })
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self {
                version: VERSION,
                token: format!("{:08x}", RandomState::new().build_hasher().finish() as u32),
                submissions: Vec::new(),
                tallies: BTreeMap::new(),
                path,
                changed: false,
            }),
            Err(source) => Err(SlurmError::io(&path, source)),
        }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// The operating system's.
    pub fn save(&mut self) -> Result<(), SlurmError> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| SlurmError::Ledger { path: self.path.clone(), message: e.to_string() })?;
        atomic::write(&self.path, (text + "\n").as_bytes()).map_err(|e| SlurmError::io(&self.path, e))?;
        self.changed = false;
        Ok(())
    }

    /// Writes the file if anything changed.
    ///
    /// # Errors
    /// The operating system's.
    pub fn save_changes(&mut self) -> Result<(), SlurmError> {
        if self.changed { self.save() } else { Ok(()) }
    }

    /// The name of the next submission of the run `name`.
    pub fn next_name(&self, name: &str) -> String {
        // Names travel in comma-separated lists.
        let plain: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).take(24).collect();
        format!("embeval-{plain}-{}-{}", self.token, self.submissions.len())
    }

    /// Numbers of the submissions with elements that are not over.
    pub fn open_numbers(&self) -> Vec<usize> {
        let open = |s: &Submission| !s.dropped && s.elements.values().any(|held| held.end.is_none());
        self.submissions.iter().enumerate().filter(|(_, s)| open(s)).map(|(number, _)| number).collect()
    }

    /// Names that the queue is asked for: of what is not over, and of calls that were given up.
    pub fn watched(&self) -> Vec<String> {
        let watched = |s: &&Submission| s.dropped || s.elements.values().any(|held| held.end.is_none());
        self.submissions.iter().filter(watched).map(|s| s.name.clone()).collect()
    }

    /// Which element holds a step: of those that are not over.
    pub fn holders(&self) -> BTreeMap<String, Place> {
        let mut out = BTreeMap::new();
        for number in self.open_numbers() {
            for (&task, held) in self.submissions[number].elements.iter().filter(|(_, held)| held.end.is_none()) {
                out.extend(held.steps.iter().map(|step| (step.clone(), (number, task))));
            }
        }
        out
    }

    /// An element.
    pub fn element(&self, (number, task): Place) -> Option<&Held> {
        self.submissions.get(number)?.elements.get(&task)
    }

    /// An element, to be changed.
    pub fn change(&mut self, (number, task): Place) -> Option<&mut Held> {
        self.changed = true;
        self.submissions.get_mut(number)?.elements.get_mut(&task)
    }

    /// The tally of a step, to be changed.
    pub fn tally(&mut self, step: &str) -> &mut Tally {
        self.changed = true;
        self.tallies.entry(step.into()).or_default()
    }

    /// Forgets a step's tally.
    pub fn forget(&mut self, step: &str) {
        self.changed |= self.tallies.remove(step).is_some();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_is_found_again_with_its_token() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(folder.path()).unwrap();
        let name = ledger.next_name("a, b/ü");
        assert!(name.starts_with("embeval-ab-") && name.ends_with("-0"), "{name}");
        let held = Held { steps: vec!["s".into()], progress: 0, ran: false, end: None };
        ledger.submissions.push(Submission {
            name,
            array: None,
            options: Vec::new(),
            dropped: false,
            elements: [(3, held)].into(),
        });
        ledger.save().unwrap();
        let mut again = Ledger::open(folder.path()).unwrap();
        assert_eq!(again.holders(), [("s".to_string(), (0, 3))].into());
        assert_eq!(again.watched(), [ledger.submissions[0].name.clone()]);
        assert!(again.next_name("x").ends_with(&format!("{}-1", ledger.token)));
        again.change((0, 3)).unwrap().end = Some("COMPLETED".into());
        again.save_changes().unwrap();
        assert!(Ledger::open(folder.path()).unwrap().holders().is_empty());
    }

    #[test]
    fn a_damaged_ledger_is_told() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("jobs.json"), "{\"version\": 1").unwrap();
        let error = Ledger::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("jobs.json") && error.contains("scancel"), "{error}");
    }
}
