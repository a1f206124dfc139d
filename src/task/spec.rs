//! A task: its type, where its rows come from, and the settings of its protocol.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::protocol::ProtocolError;
use crate::config::reader::ConfigErrors;
use crate::data::table::DataError;
use crate::metric::ranking::CUTS;

/// mteb's task types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskType {
    /// Logistic regression on a few examples a label.
    Classification,
    /// Nearest neighbours on a few examples a label.
    MultilabelClassification,
    /// Mini-batch k-means.
    Clustering,
    /// Rank correlation of similarities.
    Sts,
    /// Average precision of similarities.
    PairClassification,
    /// Ranking of a corpus.
    Retrieval,
    /// Ranking of given candidates.
    Reranking,
    /// Finding translations.
    BitextMining,
}

/// (type, mteb's name, main scores with the usual one first, columns).
const TYPES: [(TaskType, &str, &[&str], &[&str]); 8] = [
    (
        TaskType::Classification,
        "Classification",
        &["accuracy", "f1", "f1_weighted", "precision", "precision_weighted", "recall", "recall_weighted", "ap"],
        &["text", "label"],
    ),
    (
        TaskType::MultilabelClassification,
        "MultilabelClassification",
        &["accuracy", "lrap", "f1", "hamming"],
        &["text", "labels"],
    ),
    (TaskType::Clustering, "Clustering", &["v_measure"], &["sentences", "labels"]),
    (
        TaskType::Sts,
        "STS",
        &["cosine_spearman", "spearman", "manhattan_spearman", "euclidean_spearman"],
        &["sentence1", "sentence2", "score"],
    ),
    (
        TaskType::PairClassification,
        "PairClassification",
        &["max_ap", "similarity_ap", "cosine_ap", "manhattan_ap", "euclidean_ap", "dot_ap"],
        &["sentence1", "sentence2", "labels"],
    ),
    (TaskType::Retrieval, "Retrieval", &["ndcg_at_10"], &[]),
    (TaskType::Reranking, "Reranking", &["map_at_1000", "ndcg_at_10"], &["query", "positive", "negative"]),
    (TaskType::BitextMining, "BitextMining", &["f1", "accuracy"], &["sentence1", "sentence2"]),
];

impl TaskType {
    fn row(self) -> (&'static str, &'static [&'static str], &'static [&'static str]) {
        TYPES.iter().find(|t| t.0 == self).map_or(("", &[], &[]), |t| (t.1, t.2, t.3))
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        TYPES.iter().map(|t| t.0)
    }

    /// mteb's name.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// The scores that a task of this type may be ranked by, the usual one first.
    pub fn metrics(self) -> Vec<String> {
        let mut all: Vec<String> = self.row().1.iter().map(ToString::to_string).collect();
        if self.ranks() {
            for stem in ["ndcg", "map", "recall", "precision", "mrr", "hit_rate"] {
                all.extend(
                    CUTS.iter()
                        .map(|cut| format!("{stem}_at_{cut}"))
                        .filter(|name| !self.row().1.contains(&name.as_str())),
                );
            }
        }
        all
    }

    /// Roles of its columns.
    pub fn roles(self) -> &'static [&'static str] {
        self.row().2
    }

    /// Whether it ranks documents.
    pub fn ranks(self) -> bool {
        matches!(self, Self::Retrieval | Self::Reranking)
    }
}

/// A split of a task by its use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Split {
    /// For choices.
    Dev,
    /// For reports.
    Test,
}

impl Split {
    /// `dev` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Test => "test",
        }
    }
}

/// Where a task's rows come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Files by the split's own name.
    Files(BTreeMap<String, PathBuf>),
    /// A hub dataset.
    Hub {
        /// `org/name`.
        repo: String,
        /// Commit.
        revision: Option<String>,
        /// Its configuration, where it has several; of a corpus with queries the prefix of theirs.
        config: Option<String>,
        /// Files by the split's own name, `*` standing for anything, where they cannot be found by the repository's own
        /// rules.
        files: BTreeMap<String, String>,
    },
}

/// Names of a task's splits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Splits {
    /// What classifiers learn from.
    pub train: Option<String>,
    /// What choices are made on.
    pub dev: Option<String>,
    /// What is reported; the score is the mean over them.
    pub test: Vec<String>,
}

/// Which estimator a protocol fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Estimator {
    /// Ours, which follows scikit-learn's step by step.
    #[default]
    Own,
    /// linfa's, whose numbers differ.
    Linfa,
}

/// Settings of the protocols, mteb's defaults for RuMTEB.
#[derive(Debug, Clone, PartialEq)]
pub struct Protocols {
    /// Training rows a label and experiment (8).
    pub samples_per_label: usize,
    /// Experiments (10).
    pub n_experiments: usize,
    /// Neighbours (5).
    pub k: usize,
    /// Most rows evaluated: multilabel 3000, clustering 2048.
    pub max_documents: usize,
    /// Most rows evaluated as a share of them, instead of `max_documents`.
    pub max_fraction: Option<f64>,
    /// Rows of a bootstrap sample (16384).
    pub bootstrap_size: usize,
    /// Rows of a k-means mini-batch (512).
    pub batch_size: usize,
    /// Range of the gold scores of STS.
    pub score_range: (f64, f64),
    /// Which estimator is fitted.
    pub estimator: Estimator,
    /// Whether a document with the query's own id is left out of its result.
    pub ignore_identical_ids: bool,
    /// Whether judgements may name documents that the corpus does not have; they count as not found.
    pub allow_missing_documents: bool,
}

/// A checked task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskSpec {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: TaskType,
    /// Languages, such as `rus-Cyrl`.
    pub languages: Vec<String>,
    /// The main score.
    pub metric: String,
    /// Where its rows come from.
    pub source: Source,
    /// Names of the splits.
    pub splits: Splits,
    /// Only rows whose column has this value.
    pub filter: Vec<(String, String)>,
    /// Rows that a stratified subsample leaves of the test splits, as mteb draws it.
    pub subsample: Option<usize>,
    /// mteb's name of the subset, for result files.
    pub subset: String,
    /// The labels that rows may have; any where none are given.
    pub labels: Vec<String>,
    /// Role of a column → its name.
    pub columns: BTreeMap<String, String>,
    /// Settings of its protocol.
    pub settings: Protocols,
    /// Prompt name (`query`, `document`, or `all`) → text; overrides the model's.
    pub prompts: BTreeMap<String, String>,
    /// What an instruction model is told, under the same names.
    pub instruction: BTreeMap<String, String>,
    /// The task file.
    pub path: PathBuf,
    /// SHA-256 of the task file, in hexadecimal.
    pub fingerprint: String,
}

/// A task that cannot be read or scored.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The task file is wrong.
    #[error(transparent)]
    File(#[from] ConfigErrors),
    /// Its data is wrong.
    #[error("task {task}: {source}")]
    Data {
        /// The task.
        task: String,
        /// What is wrong.
        source: DataError,
    },
    /// Its protocol cannot be followed on this data.
    #[error("task {task} ({split}): {source}")]
    Protocol {
        /// The task.
        task: String,
        /// `dev` or `test`.
        split: &'static str,
        /// What is wrong.
        source: ProtocolError,
    },
    /// Anything else, in words.
    #[error("task {task}: {message}")]
    Other {
        /// The task.
        task: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// The encoder failed.
    #[error("task {task}: {source}")]
    Encode {
        /// The task.
        task: String,
        /// What the encoder says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl TaskSpec {
    /// The name of the column with this role.
    pub fn column(&self, role: &str) -> &str {
        self.columns.get(role).map_or("", String::as_str)
    }

    /// An error of this task, in words.
    pub fn error(&self, message: impl Into<String>) -> TaskError {
        TaskError::Other { task: self.name.clone(), message: message.into() }
    }
}
