//! A task's rows for one side: what is evaluated, and what classifiers learn from.

use std::path::PathBuf;

use super::label::Label;
use super::multilabel;
use super::spec::{Source, Split, TaskError, TaskSpec, TaskType};
use crate::data::random::Generator;
use crate::data::table::{Cell, DataError, Table};

/// The rows of a task on one side.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskData {
    /// Pairs of texts with a gold score.
    Sts {
        /// First texts.
        first: Vec<String>,
        /// Second texts.
        second: Vec<String>,
        /// Gold scores.
        gold: Vec<f64>,
    },
    /// Texts with one label.
    Classification {
        /// Rows to draw training samples from.
        train: (Vec<String>, Vec<Label>),
        /// Rows evaluated.
        eval: (Vec<String>, Vec<Label>),
    },
    /// Texts with any number of labels.
    Multilabel {
        /// Rows to draw training samples from.
        train: (Vec<String>, Vec<Vec<Label>>),
        /// Rows evaluated.
        eval: (Vec<String>, Vec<Vec<Label>>),
    },
    /// Texts with the cluster they belong to.
    Clustering {
        /// Texts.
        texts: Vec<String>,
        /// Clusters.
        labels: Vec<Label>,
        /// Most rows that are drawn.
        max_documents: usize,
    },
    /// Sets that are clustered one by one.
    ClusteringSets(Vec<(Vec<String>, Vec<Label>)>),
}

/// Share of a training split that stands in for a missing dev split, and the most rows of it.
const DEV_SHARE: f64 = 0.2;
const DEV_ROWS: usize = 1_000;
/// Seed of that slice and of row limits: fixed, so that every run chooses on the same rows.
const SLICE_SEED: u32 = 42;

impl TaskData {
    /// Loads the rows of one side, at most `limit` of them (a fixed, seeded sample in file order). `None`: the task has no
    /// dev side.
    ///
    /// # Errors
    /// Where a file or column is missing or wrong, a split is empty, or the task's type is not available yet.
    pub fn load(spec: &TaskSpec, split: Split, limit: Option<usize>) -> Result<Option<Self>, TaskError> {
        if !spec.kind.available() {
            return Err(other(spec, format!("type {} is not available yet", spec.kind.name())));
        }
        let (train, dev, test) = (&spec.splits.0, &spec.splits.1, &spec.splits.2);
        let eval = match split {
            Split::Test => match test {
                Some(name) => Eval::Split(name),
                None => return Err(other(spec, "has no test split (splits.test)".into())),
            },
            Split::Dev => match (dev, train) {
                (Some(name), _) => Eval::Split(name),
                (None, Some(name)) => Eval::SliceOf(name),
                (None, None) => return Ok(None),
            },
        };
        let data = match spec.kind {
            TaskType::Sts => load_sts(spec, eval, limit)?,
            TaskType::Clustering => load_clustering(spec, eval, limit)?,
            TaskType::Classification => {
                let read = |table: &Table| -> Result<Labelled<Label>, DataError> {
                    let labels = table.labels(spec.column("label"))?.into_iter().map(to_label).collect();
                    Ok((table.texts(spec.column("text"))?, labels))
                };
                let (train, eval) = load_labelled(spec, eval, limit, read)?;
                Self::Classification { train, eval }
            }
            _ => {
                let read = |table: &Table| -> Result<Labelled<Vec<Label>>, DataError> {
                    let lists = table.label_lists(spec.column("labels"))?;
                    let labels = lists.into_iter().map(|l| l.into_iter().map(to_label).collect()).collect();
                    Ok((table.texts(spec.column("text"))?, labels))
                };
                let (train, mut eval) = load_labelled(spec, eval, limit, read)?;
                let most = spec.settings.max_documents;
                if eval.1.len() > most {
                    let rows = multilabel::evaluated_rows(&eval.1, most, SLICE_SEED);
                    eval = pick(&eval, &rows);
                }
                Self::Multilabel { train, eval }
            }
        };
        Ok(Some(data))
    }

    /// Rows evaluated.
    pub fn rows(&self) -> usize {
        match self {
            Self::Sts { gold, .. } => gold.len(),
            Self::Classification { eval, .. } => eval.0.len(),
            Self::Multilabel { eval, .. } => eval.0.len(),
            Self::Clustering { texts, max_documents, .. } => texts.len().min(*max_documents),
            Self::ClusteringSets(sets) => sets.iter().map(|s| s.0.len()).sum(),
        }
    }
}

type Labelled<L> = (Vec<String>, Vec<L>);

#[derive(Clone, Copy)]
enum Eval<'a> {
    Split(&'a str),
    SliceOf(&'a str),
}

fn other(spec: &TaskSpec, message: String) -> TaskError {
    TaskError::Other { task: spec.name.clone(), message }
}

fn to_label(cell: Cell) -> Label {
    match cell {
        Cell::Int(i) => Label::Int(i),
        Cell::Text(text) => Label::Text(text),
        Cell::Float(f) => Label::Text(f.to_string()),
        Cell::Null | Cell::List(_) => Label::Text(String::new()),
    }
}

fn table(spec: &TaskSpec, split: &str) -> Result<Table, TaskError> {
    let path: &PathBuf = match &spec.source {
        Source::Files(files) => {
            files.get(split).ok_or_else(|| other(spec, format!("data.files has no split `{split}`")))?
        }
        Source::Hub { repo, .. } => {
            return Err(other(
                spec,
                format!("its data is on the hub ({repo}), which is not available yet: give data.files"),
            ));
        }
    };
    Table::read(path).map_err(|source| TaskError::Data { task: spec.name.clone(), source })
}

fn pick<L: Clone>(rows: &Labelled<L>, chosen: &[usize]) -> Labelled<L> {
    (chosen.iter().map(|&i| rows.0[i].clone()).collect(), chosen.iter().map(|&i| rows.1[i].clone()).collect())
}

/// `most` of `n` rows, drawn by the fixed seed, in file order; all where there are no more.
fn sample(n: usize, most: Option<usize>) -> Vec<usize> {
    match most {
        Some(most) if most < n => {
            let mut rows: Vec<usize> = Generator::new(SLICE_SEED).permutation(n);
            rows.truncate(most);
            rows.sort_unstable();
            rows
        }
        _ => (0..n).collect(),
    }
}

/// The dev slice of `n` training rows, and the rest, both in file order.
fn slice(n: usize) -> (Vec<usize>, Vec<usize>) {
    let most = ((n as f64 * DEV_SHARE) as usize).clamp(1, DEV_ROWS);
    let dev = sample(n, Some(most));
    let rest = (0..n).filter(|i| dev.binary_search(i).is_err()).collect();
    (dev, rest)
}

fn load_labelled<L: Clone>(
    spec: &TaskSpec,
    eval: Eval<'_>,
    limit: Option<usize>,
    read: impl Fn(&Table) -> Result<Labelled<L>, DataError>,
) -> Result<(Labelled<L>, Labelled<L>), TaskError> {
    let load = |split: &str| -> Result<Labelled<L>, TaskError> {
        read(&table(spec, split)?).map_err(|source| TaskError::Data { task: spec.name.clone(), source })
    };
    let Some(train_split) = &spec.splits.0 else {
        return Err(other(spec, "a classifier needs a training split (splits.train)".into()));
    };
    let train = load(train_split)?;
    let (train, eval) = match eval {
        Eval::Split(split) => (train, load(split)?),
        Eval::SliceOf(_) => {
            let (dev, rest) = slice(train.0.len());
            (pick(&train, &rest), pick(&train, &dev))
        }
    };
    let rows = sample(eval.0.len(), limit);
    let eval = if rows.len() < eval.0.len() { pick(&eval, &rows) } else { eval };
    Ok((train, eval))
}

fn load_sts(spec: &TaskSpec, eval: Eval<'_>, limit: Option<usize>) -> Result<TaskData, TaskError> {
    let wrap = |source| TaskError::Data { task: spec.name.clone(), source };
    let (Eval::Split(split) | Eval::SliceOf(split)) = eval;
    let rows = table(spec, split)?;
    let first = rows.texts(spec.column("sentence1")).map_err(wrap)?;
    let second = rows.texts(spec.column("sentence2")).map_err(wrap)?;
    let gold = rows.numbers(spec.column("score")).map_err(wrap)?;
    let mut chosen = match eval {
        Eval::Split(_) => (0..gold.len()).collect(),
        Eval::SliceOf(_) => slice(gold.len()).0,
    };
    if let Some(limit) = limit {
        let kept = sample(chosen.len(), Some(limit));
        chosen = kept.into_iter().map(|i| chosen[i]).collect();
    }
    Ok(TaskData::Sts {
        first: chosen.iter().map(|&i| first[i].clone()).collect(),
        second: chosen.iter().map(|&i| second[i].clone()).collect(),
        gold: chosen.iter().map(|&i| gold[i]).collect(),
    })
}

fn load_clustering(spec: &TaskSpec, eval: Eval<'_>, limit: Option<usize>) -> Result<TaskData, TaskError> {
    let wrap = |source| TaskError::Data { task: spec.name.clone(), source };
    let (Eval::Split(split) | Eval::SliceOf(split)) = eval;
    let rows = table(spec, split)?;
    let (texts, labels) = (spec.column("sentences"), spec.column("labels"));
    if rows.holds_lists(texts).map_err(wrap)? {
        let texts = rows.text_lists(texts).map_err(wrap)?;
        let labels = rows.label_lists(labels).map_err(wrap)?;
        let mut sets = Vec::with_capacity(texts.len());
        for (i, (texts, labels)) in texts.into_iter().zip(labels).enumerate() {
            if texts.len() != labels.len() || texts.is_empty() {
                let message = format!("row {}: {} sentences and {} labels", i + 1, texts.len(), labels.len());
                return Err(other(spec, message));
            }
            sets.push((texts, labels.into_iter().map(to_label).collect()));
        }
        // A limit takes whole sets, in a seeded order, until it is reached.
        if let Some(limit) = limit {
            let mut kept = Vec::new();
            let mut count = 0;
            for i in Generator::new(SLICE_SEED).permutation(sets.len()) {
                if count < limit {
                    count += sets[i].0.len();
                    kept.push(i);
                }
            }
            kept.sort_unstable();
            sets = kept.into_iter().map(|i| sets[i].clone()).collect();
        }
        return Ok(TaskData::ClusteringSets(sets));
    }
    let texts = rows.texts(texts).map_err(wrap)?;
    let labels: Vec<Label> = rows.labels(labels).map_err(wrap)?.into_iter().map(to_label).collect();
    let (texts, labels) = match eval {
        Eval::Split(_) => (texts, labels),
        Eval::SliceOf(_) => pick(&(texts, labels), &slice(rows.rows()).0),
    };
    let most = match spec.settings.max_fraction {
        Some(fraction) => ((texts.len() as f64 * fraction) as usize).max(1),
        None => spec.settings.max_documents,
    };
    let max_documents = most.min(limit.unwrap_or(usize::MAX)).min(texts.len());
    Ok(TaskData::Clustering { texts, labels, max_documents })
}
