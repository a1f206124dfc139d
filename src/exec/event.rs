//! What happens in a run, as its worker processes tell the one that started them.

use serde::{Deserialize, Serialize};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A step starts.
    Starts {
        /// Its id.
        step: String,
        /// Its number, from 1.
        number: usize,
        /// All steps.
        steps: usize,
        /// For people.
        title: String,
    },
    /// Work inside a step.
    Advances {
        /// Units done.
        done: usize,
        /// Units in all.
        all: usize,
        /// A word on it.
        word: String,
    },
    /// A step ended.
    Ends {
        /// Its number.
        number: usize,
        /// For people.
        title: String,
        /// How long it took.
        seconds: f64,
    },
    /// A training waits at an evaluation for others.
    Held {
        /// Its number.
        number: usize,
        /// For people.
        title: String,
    },
    /// A training was stopped for the sake of others.
    Pruned {
        /// For people.
        title: String,
        /// Why.
        reason: String,
    },
    /// A step cannot be done.
    Failed {
        /// For people.
        title: String,
        /// Why.
        reason: String,
    },
    /// Anything else that people want to know.
    Note {
        /// In words.
        text: String,
    },
    /// Nothing can go on: a full disk, say.
    Fatal {
        /// Why.
        message: String,
    },
}

/// Told what happens in each of the processes, numbered from 0; the command line draws bars and logs.
pub trait Observer {
    /// Something happened in a process.
    fn sees(&self, process: usize, event: &Event);
}

/// Hears nothing.
pub struct Silence;

impl Observer for Silence {
    fn sees(&self, _: usize, _: &Event) {}
}
