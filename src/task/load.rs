//! A task's rows for one side: what is evaluated, and what classifiers learn from.

use std::sync::Arc;

use super::files::{Datasets, NoDatasets, Origin, Rows};
use super::label::Label;
use super::load_ranking;
use super::multilabel;
use super::ranking::RankingRows;
use super::spec::{Split, TaskError, TaskSpec, TaskType};
use crate::data::random::Generator;
use crate::data::table::{Cell, DataError, Table};

/// Texts of a task and where they stand in its data, so that embeddings made elsewhere can be found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Texts {
    /// The split.
    pub split: String,
    /// The role of the column where a row has several texts.
    pub column: Option<&'static str>,
    /// Rows that the split has, after the task's filter and subsample.
    pub total: usize,
    /// The row of each text among these.
    pub rows: Vec<usize>,
    /// The texts.
    pub texts: Vec<String>,
}

impl Texts {
    /// All texts of a split's column, in order.
    pub fn new(split: &str, column: Option<&'static str>, texts: Vec<String>) -> Self {
        Self { split: split.into(), column, total: texts.len(), rows: (0..texts.len()).collect(), texts }
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// The texts at these places.
    pub fn pick(&self, chosen: &[usize]) -> Self {
        let rows = chosen.iter().map(|&at| self.rows[at]).collect();
        let texts = chosen.iter().map(|&at| self.texts[at].clone()).collect();
        Self { split: self.split.clone(), column: self.column, total: self.total, rows, texts }
    }
}

/// Texts and what is known of each.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Labelled<L> {
    /// The texts.
    pub texts: Texts,
    /// One label (or list of labels) a text.
    pub labels: Vec<L>,
}

impl<L: Clone> Labelled<L> {
    fn pick(&self, chosen: &[usize]) -> Self {
        Self { texts: self.texts.pick(chosen), labels: chosen.iter().map(|&at| self.labels[at].clone()).collect() }
    }
}

/// The rows of one evaluated split.
#[derive(Debug, Clone, PartialEq)]
pub enum SplitRows {
    /// Pairs of texts with a gold score.
    Sts {
        /// First texts.
        first: Texts,
        /// Second texts.
        second: Texts,
        /// Gold scores.
        gold: Vec<f64>,
    },
    /// Pairs of texts that belong together or not.
    Pairs {
        /// First texts.
        first: Texts,
        /// Second texts.
        second: Texts,
        /// Whether the pair is a positive.
        positive: Vec<bool>,
    },
    /// Translations: row i of one with row i of the other.
    Bitext {
        /// Texts that are looked up.
        first: Texts,
        /// Texts among which they are.
        second: Texts,
    },
    /// Texts with one label.
    Classification {
        /// Rows to draw training samples from.
        train: Arc<Labelled<Label>>,
        /// Rows evaluated.
        eval: Labelled<Label>,
    },
    /// Texts with any number of labels.
    Multilabel {
        /// Rows to draw training samples from.
        train: Arc<Labelled<Vec<Label>>>,
        /// Rows evaluated.
        eval: Labelled<Vec<Label>>,
    },
    /// Texts with the cluster they belong to.
    Clustering {
        /// Texts and clusters.
        eval: Labelled<Label>,
        /// Most rows that are drawn.
        max_documents: usize,
    },
    /// Sets that are clustered one by one.
    ClusteringSets {
        /// The sentences of all sets, one set after the other.
        texts: Texts,
        /// The labels of each set's sentences.
        sets: Vec<Vec<Label>>,
    },
    /// Queries, documents and judgements.
    Ranking(RankingRows),
}

impl SplitRows {
    /// Rows evaluated.
    pub fn rows(&self) -> usize {
        match self {
            Self::Sts { gold, .. } => gold.len(),
            Self::Pairs { positive, .. } => positive.len(),
            Self::Bitext { first, .. } => first.len(),
            Self::Classification { eval, .. } => eval.labels.len(),
            Self::Multilabel { eval, .. } => eval.labels.len(),
            Self::Clustering { eval, max_documents } => eval.labels.len().min(*max_documents),
            Self::ClusteringSets { texts, .. } => texts.len(),
            Self::Ranking(rows) => rows.queries.len(),
        }
    }

    /// The row lists of texts that a model would be given, documents of a ranking apart.
    pub fn texts(&self) -> Vec<&Texts> {
        match self {
            Self::Sts { first, second, .. } | Self::Pairs { first, second, .. } | Self::Bitext { first, second } => {
                vec![first, second]
            }
            Self::Classification { train, eval } => vec![&train.texts, &eval.texts],
            Self::Multilabel { train, eval } => vec![&train.texts, &eval.texts],
            Self::Clustering { eval, .. } => vec![&eval.texts],
            Self::ClusteringSets { texts, .. } => vec![texts],
            Self::Ranking(rows) => vec![&rows.queries],
        }
    }
}

/// The rows of a task on one side, split by split.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskData {
    /// Name of a split and its rows; a score is the mean over the splits.
    pub splits: Vec<(String, SplitRows)>,
    /// The commit of a hub dataset.
    pub revision: Option<String>,
}

/// Share of a training split that stands in for a missing dev split, and the most rows of it.
const DEV_SHARE: f64 = 0.2;
const DEV_ROWS: usize = 1_000;
/// Seed of that slice and of row limits: fixed, so that every run chooses on the same rows.
const SLICE_SEED: u32 = 42;

impl TaskData {
    /// Loads the rows of one side, at most `limit` of each split (a fixed, seeded sample in file order; queries, where there
    /// are queries). `None`: the task has no dev side.
    ///
    /// # Errors
    /// Where a file or column is missing or wrong, or a split is empty.
    pub fn load(spec: &TaskSpec, split: Split, limit: Option<usize>) -> Result<Option<Self>, TaskError> {
        Self::load_from(spec, split, limit, &NoDatasets)
    }

    /// As [`Self::load`], with hub datasets opened by `datasets`.
    ///
    /// # Errors
    /// As [`Self::load`], and where the dataset cannot be had.
    pub fn load_from(
        spec: &TaskSpec,
        split: Split,
        limit: Option<usize>,
        datasets: &dyn Datasets,
    ) -> Result<Option<Self>, TaskError> {
        let wanted: Vec<Eval<'_>> = match split {
            Split::Test if spec.splits.test.is_empty() => {
                return Err(spec.error("has no test split (splits.test)"));
            }
            Split::Test => spec.splits.test.iter().map(|name| Eval::Split(name)).collect(),
            Split::Dev => match (&spec.splits.dev, &spec.splits.train) {
                (Some(name), _) => vec![Eval::Split(name)],
                (None, Some(name)) if !spec.kind.ranks() => vec![Eval::SliceOf(name)],
                _ => return Ok(None),
            },
        };
        let loader = Loader { spec, origin: Origin::new(spec, datasets)?, limit };
        if let (Split::Dev, true, Some(dev)) = (split, spec.kind.ranks(), &spec.splits.dev) {
            let judged = match loader.origin.part("corpus", dev)? {
                Some(_) => loader.origin.part("qrels", dev)?,
                None => None,
            };
            for test in &spec.splits.test {
                if judged.is_some() && judged == loader.origin.part("qrels", test)? {
                    return Err(spec.error("splits.dev has the judgements of test: leave dev out"));
                }
            }
        }
        let mut splits = Vec::with_capacity(wanted.len());
        let mut known = Known::default();
        for eval in wanted {
            splits.push((eval.name().to_string(), loader.split(eval, &mut known)?));
        }
        Ok(Some(Self { splits, revision: loader.origin.revision() }))
    }

    /// Rows evaluated.
    pub fn rows(&self) -> usize {
        self.splits.iter().map(|(_, rows)| rows.rows()).sum()
    }
}

#[derive(Clone, Copy)]
enum Eval<'a> {
    Split(&'a str),
    SliceOf(&'a str),
}

impl<'a> Eval<'a> {
    fn name(self) -> &'a str {
        match self {
            Self::Split(name) | Self::SliceOf(name) => name,
        }
    }
}

/// Training rows that the splits of a task share.
#[derive(Default)]
struct Known {
    single: Option<Arc<Labelled<Label>>>,
    multi: Option<Arc<Labelled<Vec<Label>>>>,
}

struct Loader<'a> {
    spec: &'a TaskSpec,
    origin: Origin<'a>,
    limit: Option<usize>,
}

impl Loader<'_> {
    fn split(&self, eval: Eval<'_>, known: &mut Known) -> Result<SplitRows, TaskError> {
        let spec = self.spec;
        Ok(match spec.kind {
            TaskType::Sts => {
                let (rows, first, second) = self.pairs(eval)?;
                let gold = self.wrap(rows.column(|t| t.numbers(spec.column("score"))))?;
                let chosen = self.chosen(eval, gold.len());
                let gold = chosen.iter().map(|&at| gold[at]).collect();
                SplitRows::Sts { first: first.pick(&chosen), second: second.pick(&chosen), gold }
            }
            TaskType::BitextMining => {
                let (_, first, second) = self.pairs(eval)?;
                let chosen = self.chosen(eval, first.len());
                SplitRows::Bitext { first: first.pick(&chosen), second: second.pick(&chosen) }
            }
            TaskType::PairClassification => self.pair_labels(eval)?,
            TaskType::Clustering => self.clustering(eval)?,
            TaskType::Classification => {
                let read = |rows: &Rows| {
                    let labels = rows.column(|t| t.labels(spec.column("label")))?;
                    labels.into_iter().enumerate().map(|(row, cell)| self.label(rows, row, cell)).collect()
                };
                let (train, eval) = self.labelled(eval, &mut known.single, read)?;
                SplitRows::Classification { train, eval }
            }
            TaskType::MultilabelClassification => {
                let read = |rows: &Rows| {
                    let lists = rows.column(|t| t.label_lists(spec.column("labels")))?;
                    let list = |(row, cells): (usize, Vec<Cell>)| {
                        cells.into_iter().map(|cell| self.label(rows, row, cell)).collect::<Result<Vec<_>, _>>()
                    };
                    lists.into_iter().enumerate().map(list).collect()
                };
                let (train, mut eval) = self.labelled(eval, &mut known.multi, read)?;
                let most = spec.settings.max_documents;
                if eval.labels.len() > most {
                    eval = eval.pick(&multilabel::evaluated_rows(&eval.labels, most, SLICE_SEED));
                }
                SplitRows::Multilabel { train, eval }
            }
            TaskType::Retrieval | TaskType::Reranking => {
                let mut rows = load_ranking::load(spec, &self.origin, eval.name())?;
                if let Some(limit) = self.limit {
                    rows = rows.limited(&sample(rows.queries.len(), Some(limit)));
                }
                SplitRows::Ranking(rows)
            }
        })
    }

    fn wrap<T>(&self, result: Result<T, DataError>) -> Result<T, TaskError> {
        result.map_err(|source| TaskError::Data { task: self.spec.name.clone(), source })
    }

    /// The rows of a split that are evaluated.
    fn chosen(&self, eval: Eval<'_>, n: usize) -> Vec<usize> {
        let chosen = match eval {
            Eval::Split(_) => (0..n).collect(),
            Eval::SliceOf(_) => slice(n).0,
        };
        sample(chosen.len(), self.limit).into_iter().map(|at| chosen[at]).collect()
    }

    /// A label, which must be among those that the task names.
    fn label(&self, rows: &Rows, row: usize, cell: Cell) -> Result<Label, DataError> {
        let label = match cell {
            Cell::Int(i) => Label::Int(i),
            Cell::Text(text) => Label::Text(text),
            Cell::Float(f) => Label::Text(f.to_string()),
            Cell::Null | Cell::List(_) => Label::Text(String::new()),
        };
        let written = match &label {
            Label::Int(i) => i.to_string(),
            Label::Text(text) => text.clone(),
        };
        let known = &self.spec.labels;
        if !known.is_empty() && !known.contains(&written) {
            return Err(rows.fault(row, &format!("the label `{written}` is none of {} (labels)", known.join(", "))));
        }
        Ok(label)
    }

    fn labelled<L: Clone>(
        &self,
        eval: Eval<'_>,
        known: &mut Option<Arc<Labelled<L>>>,
        read: impl Fn(&Rows) -> Result<Vec<L>, DataError>,
    ) -> Result<(Arc<Labelled<L>>, Labelled<L>), TaskError> {
        let load = |split: &str| -> Result<Labelled<L>, TaskError> {
            let rows = self.origin.rows(split)?;
            let texts = self.wrap(rows.column(|t: &Table| t.texts(self.spec.column("text"))))?;
            Ok(Labelled { texts: Texts::new(split, None, texts), labels: self.wrap(read(&rows))? })
        };
        let Some(train_split) = &self.spec.splits.train else {
            return Err(self.spec.error("a classifier needs a training split (splits.train)"));
        };
        let train = match known.take() {
            Some(train) => train,
            None => Arc::new(load(train_split)?),
        };
        let (train, eval) = match eval {
            Eval::Split(split) => (train, load(split)?),
            Eval::SliceOf(_) => {
                let (dev, rest) = slice(train.labels.len());
                (Arc::new(train.pick(&rest)), train.pick(&dev))
            }
        };
        *known = Some(train.clone());
        let rows = sample(eval.labels.len(), self.limit);
        let eval = if rows.len() < eval.labels.len() { eval.pick(&rows) } else { eval };
        Ok((train, eval))
    }

    fn pairs(&self, eval: Eval<'_>) -> Result<(Rows, Texts, Texts), TaskError> {
        let split = eval.name();
        let rows = self.origin.rows(split)?;
        let first = self.wrap(rows.column(|t| t.texts(self.spec.column("sentence1"))))?;
        let second = self.wrap(rows.column(|t| t.texts(self.spec.column("sentence2"))))?;
        let texts = |column, texts| Texts::new(split, Some(column), texts);
        Ok((rows, texts("sentence1", first), texts("sentence2", second)))
    }

    fn pair_labels(&self, eval: Eval<'_>) -> Result<SplitRows, TaskError> {
        let (spec, split) = (self.spec, eval.name());
        let rows = self.origin.rows(split)?;
        let column = spec.column("labels");
        // An older layout has one row whose columns hold lists.
        let listed = rows.len() == 1 && self.wrap(rows.holds_lists(column))?;
        let texts = |role: &str| {
            let name = spec.column(role);
            if listed {
                Ok(self.wrap(rows.column(|t| t.text_lists(name)))?.concat())
            } else {
                self.wrap(rows.column(|t| t.texts(name)))
            }
        };
        let (first, second) = (texts("sentence1")?, texts("sentence2")?);
        let cells = if listed {
            self.wrap(rows.column(|t| t.label_lists(column)))?.concat()
        } else {
            self.wrap(rows.column(|t| t.labels(column)))?
        };
        if first.len() != cells.len() || second.len() != cells.len() {
            let message = format!("{} and {} sentences but {} labels", first.len(), second.len(), cells.len());
            return self.wrap(Err(DataError::content(rows.path(), message)));
        }
        let mut positive = Vec::with_capacity(cells.len());
        for (row, cell) in cells.into_iter().enumerate() {
            positive.push(match &cell {
                Cell::Int(1) => true,
                Cell::Int(0) => false,
                Cell::Text(text) if text == "1" => true,
                Cell::Text(text) if text == "0" => false,
                other => {
                    let shown = match other {
                        Cell::Int(i) => i.to_string(),
                        Cell::Text(text) => text.clone(),
                        _ => "no label".into(),
                    };
                    let message = format!("`{column}` is {shown}, expected 1 (belongs together) or 0");
                    return self.wrap(Err(rows.fault(if listed { 0 } else { row }, &message)));
                }
            });
        }
        let chosen = self.chosen(eval, positive.len());
        let pick = |column, texts| Texts::new(split, Some(column), texts).pick(&chosen);
        let (first, second) = (pick("sentence1", first), pick("sentence2", second));
        Ok(SplitRows::Pairs { first, second, positive: chosen.iter().map(|&at| positive[at]).collect() })
    }

    fn clustering(&self, eval: Eval<'_>) -> Result<SplitRows, TaskError> {
        let (spec, split) = (self.spec, eval.name());
        let rows = self.origin.rows(split)?;
        let (texts, labels) = (spec.column("sentences"), spec.column("labels"));
        if self.wrap(rows.holds_lists(texts))? {
            return self.sets(&rows, eval);
        }
        let texts = Texts::new(split, None, self.wrap(rows.column(|t| t.texts(texts)))?);
        let labels = self.wrap(rows.column(|t| t.labels(labels)))?;
        let labels = labels.into_iter().enumerate().map(|(row, cell)| self.label(&rows, row, cell));
        let mut eval_rows = Labelled { texts, labels: self.wrap(labels.collect())? };
        if let Eval::SliceOf(_) = eval {
            eval_rows = eval_rows.pick(&slice(eval_rows.labels.len()).0);
        }
        let n = eval_rows.labels.len();
        let most = match spec.settings.max_fraction {
            Some(fraction) => ((n as f64 * fraction) as usize).max(1),
            None => spec.settings.max_documents,
        };
        let max_documents = most.min(self.limit.unwrap_or(usize::MAX)).min(n);
        Ok(SplitRows::Clustering { eval: eval_rows, max_documents })
    }

    fn sets(&self, rows: &Rows, eval: Eval<'_>) -> Result<SplitRows, TaskError> {
        let split = eval.name();
        let sentences = self.wrap(rows.column(|t| t.text_lists(self.spec.column("sentences"))))?;
        let labels = self.wrap(rows.column(|t| t.label_lists(self.spec.column("labels"))))?;
        let (mut all, mut sets, mut starts) = (Vec::new(), Vec::with_capacity(sentences.len()), Vec::new());
        for (i, (sentences, cells)) in sentences.into_iter().zip(labels).enumerate() {
            if sentences.len() != cells.len() || sentences.is_empty() {
                let message = format!("{} sentences and {} labels", sentences.len(), cells.len());
                return self.wrap(Err(rows.fault(i, &message)));
            }
            starts.push(all.len());
            all.extend(sentences);
            let labels = cells.into_iter().map(|cell| self.label(rows, i, cell)).collect::<Result<Vec<_>, _>>();
            sets.push(self.wrap(labels)?);
        }
        let mut texts = Texts::new(split, None, all);
        let mut kept = match eval {
            Eval::Split(_) => (0..sets.len()).collect(),
            Eval::SliceOf(_) => slice(sets.len()).0,
        };
        // A limit takes whole sets, in a seeded order, until it is reached.
        if let Some(limit) = self.limit {
            let (all, mut count) = (std::mem::take(&mut kept), 0);
            for i in Generator::new(SLICE_SEED).permutation(all.len()) {
                if count < limit {
                    count += sets[all[i]].len();
                    kept.push(all[i]);
                }
            }
            kept.sort_unstable();
        }
        if kept.len() < sets.len() {
            let chosen: Vec<usize> = kept.iter().flat_map(|&i| starts[i]..starts[i] + sets[i].len()).collect();
            texts = texts.pick(&chosen);
            sets = kept.into_iter().map(|i| sets[i].clone()).collect();
        }
        Ok(SplitRows::ClusteringSets { texts, sets })
    }
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
