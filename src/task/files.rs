//! Which files hold a split, on the disk or in a hub dataset, and their rows after the task's filter and subsample.

use std::path::{Path, PathBuf};

use super::repository::Repository;
use super::spec::{Source, TaskError, TaskSpec};
use crate::data::cell::Cell;
use crate::data::subsample::stratified_subsample;
use crate::data::table::{DataError, Table};

/// Opens the hub datasets that tasks name.
pub trait Datasets {
    /// The files of a dataset at a revision.
    ///
    /// # Errors
    /// In words: not found, no access, no network.
    fn open(&self, repo: &str, revision: Option<&str>) -> Result<Box<dyn Repository>, String>;
}

/// For tasks whose data is in files: every hub dataset is refused.
pub struct NoDatasets;

impl Datasets for NoDatasets {
    fn open(&self, repo: &str, _: Option<&str>) -> Result<Box<dyn Repository>, String> {
        Err(format!("its data is on the hub ({repo}), which is not reached from here: give data.files"))
    }
}

/// Where a task's files come from.
pub struct Origin<'a> {
    spec: &'a TaskSpec,
    repository: Option<Box<dyn Repository>>,
}

impl<'a> Origin<'a> {
    /// The files of `spec`; a hub dataset is opened.
    ///
    /// # Errors
    /// What [`Datasets::open`] gives.
    pub fn new(spec: &'a TaskSpec, datasets: &dyn Datasets) -> Result<Self, TaskError> {
        let repository = match &spec.source {
            Source::Files(_) => None,
            Source::Hub { repo, revision, .. } => {
                Some(datasets.open(repo, revision.as_deref()).map_err(|e| spec.error(e))?)
            }
        };
        Ok(Self { spec, repository })
    }

    /// The commit of a hub dataset.
    pub fn revision(&self) -> Option<String> {
        self.repository.as_ref().map(|repository| repository.commit().to_string())
    }

    /// The files of a split, in order.
    pub fn split(&self, split: &str) -> Result<Vec<PathBuf>, TaskError> {
        match (&self.spec.source, &self.repository) {
            (Source::Files(files), _) => match files.get(split) {
                Some(path) => Ok(vec![path.clone()]),
                None => Err(self.spec.error(format!("data.files has no split `{split}`"))),
            },
            (Source::Hub { config, files, .. }, Some(repository)) => {
                let found = match files.get(split) {
                    Some(pattern) => repository.matching(pattern),
                    None => repository.split(config.as_deref(), split),
                };
                self.fetch(repository.as_ref(), found)
            }
            (Source::Hub { .. }, None) => Ok(Vec::new()),
        }
    }

    /// The files of one part of a retrieval dataset: `corpus`, `queries`, `qrels` or `top_ranked`. None where it is not there.
    pub fn part(&self, part: &str, split: &str) -> Result<Option<Vec<PathBuf>>, TaskError> {
        let split_key = format!("{part}.{split}");
        match (&self.spec.source, &self.repository) {
            (Source::Files(files), _) => {
                Ok(files.get(&split_key).or_else(|| files.get(part)).map(|path| vec![path.clone()]))
            }
            (Source::Hub { config, files, .. }, Some(repository)) => {
                let found = match files.get(&split_key).or_else(|| files.get(part)) {
                    Some(pattern) => repository.matching(pattern),
                    // Whoever names files names all that are read.
                    None if !files.is_empty() => return Ok(None),
                    None => match repository.part(config.as_deref(), part, split) {
                        Ok(Some(found)) => Ok(found),
                        Ok(None) => return Ok(None),
                        Err(message) => Err(message),
                    },
                };
                self.fetch(repository.as_ref(), found).map(Some)
            }
            (Source::Hub { .. }, None) => Ok(None),
        }
    }

    fn fetch(
        &self,
        repository: &dyn Repository,
        names: Result<Vec<String>, String>,
    ) -> Result<Vec<PathBuf>, TaskError> {
        let names = names.map_err(|e| self.spec.error(e))?;
        names.iter().map(|name| repository.fetch(name).map_err(|e| self.spec.error(e))).collect()
    }

    /// The rows of a split: those that the filter keeps and, of a test split, the subsample.
    pub fn rows(&self, split: &str) -> Result<Rows, TaskError> {
        let wrap = |source| TaskError::Data { task: self.spec.name.clone(), source };
        let files = self.split(split)?;
        let mut rows = Rows::read(&files).map_err(wrap)?;
        for (column, value) in &self.spec.filter {
            rows.keep(column, value).map_err(wrap)?;
        }
        if let Some(samples) = self.spec.subsample
            && self.spec.splits.test.iter().any(|test| test == split)
        {
            let role = if self.spec.columns.contains_key("labels") { "labels" } else { "label" };
            let column = self.spec.column(role).to_string();
            let numbered = self.repository.as_ref().is_some_and(|r| r.class_labels(&column));
            rows.subsample(&column, samples, numbered).map_err(wrap)?;
        }
        Ok(rows)
    }
}

/// The rows of a split, in one file or several.
pub struct Rows {
    tables: Vec<Table>,
    path: PathBuf,
    chosen: Vec<usize>,
}

/// Seed of mteb's subsample.
const SUBSAMPLE_SEED: u32 = 42;

impl Rows {
    fn read(files: &[PathBuf]) -> Result<Self, DataError> {
        let tables = files.iter().map(|path| Table::read(path)).collect::<Result<Vec<_>, _>>()?;
        let rows = tables.iter().map(Table::rows).sum();
        let path = files.first().cloned().unwrap_or_default();
        Ok(Self { tables, path, chosen: (0..rows).collect() })
    }

    /// The first file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A fault of a row, told by its file and its place there.
    pub fn fault(&self, row: usize, message: &str) -> DataError {
        let mut at = self.chosen.get(row).copied().unwrap_or(row);
        for table in &self.tables {
            if at < table.rows() {
                return DataError::content(table.path(), format!("row {}: {message}", at + 1));
            }
            at -= table.rows();
        }
        DataError::content(&self.path, message)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.chosen.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty()
    }

    /// A column of the rows, read by `f` from each table.
    pub fn column<T: Clone>(&self, f: impl Fn(&Table) -> Result<Vec<T>, DataError>) -> Result<Vec<T>, DataError> {
        let mut all = Vec::new();
        for table in &self.tables {
            all.extend(f(table)?);
        }
        if self.chosen.len() == all.len() && self.chosen.is_sorted() {
            return Ok(all);
        }
        Ok(self.chosen.iter().filter_map(|&row| all.get(row).cloned()).collect())
    }

    /// Whether a column holds lists.
    pub fn holds_lists(&self, column: &str) -> Result<bool, DataError> {
        self.tables.first().map_or(Ok(false), |table| table.holds_lists(column))
    }

    fn keep(&mut self, column: &str, value: &str) -> Result<(), DataError> {
        let values = self.column(|table| table.optional_texts(column))?;
        let kept: Vec<usize> =
            self.chosen.iter().zip(&values).filter(|(_, v)| *v == value).map(|(row, _)| *row).collect();
        if kept.is_empty() {
            let message = format!("no row has {column} = {value} (data.filter)");
            return Err(DataError::content(&self.path, message));
        }
        self.chosen = kept;
        Ok(())
    }

    /// mteb's stratified subsample; `numbered` says that the labels are numbers of a class list, which keep their order,
    /// while others are ordered as texts.
    fn subsample(&mut self, column: &str, samples: usize, numbered: bool) -> Result<(), DataError> {
        let labels = self.column(|table| table.labels(column))?;
        let mut keys: Vec<(i64, String)> = Vec::with_capacity(labels.len());
        for label in &labels {
            keys.push(match label {
                Cell::Int(i) if numbered => (*i, String::new()),
                Cell::Int(i) => (0, i.to_string()),
                Cell::Text(text) => (0, text.clone()),
                _ => (0, String::new()),
            });
        }
        let mut distinct = keys.clone();
        distinct.sort();
        distinct.dedup();
        let classes: Vec<usize> = keys.iter().filter_map(|key| distinct.binary_search(key).ok()).collect();
        let rows = stratified_subsample(&classes, samples, SUBSAMPLE_SEED);
        self.chosen = rows.into_iter().filter_map(|at| self.chosen.get(at).copied()).collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(content: &str) -> (tempfile::TempDir, Rows) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        std::fs::write(&path, content).unwrap();
        let rows = Rows::read(&[path.clone(), path]).unwrap();
        (folder, rows)
    }

    #[test]
    fn files_follow_each_other_and_a_filter_keeps_the_order() {
        let (_folder, mut rows) = rows("text,lang\na,ru\nb,en\nc,ru\n");
        assert_eq!(rows.column(|t| t.texts("text")).unwrap(), ["a", "b", "c", "a", "b", "c"]);
        rows.keep("lang", "ru").unwrap();
        assert_eq!(rows.column(|t| t.texts("text")).unwrap(), ["a", "c", "a", "c"]);
        assert!(rows.keep("lang", "de").unwrap_err().to_string().contains("no row has lang = de"));
        assert!(rows.keep("language", "de").unwrap_err().to_string().contains("has no column"));
    }

    #[test]
    fn a_subsample_orders_labels_as_texts_unless_they_are_numbered() {
        let content: String = "label\n".to_string() + &(0..600).map(|i| format!("{}\n", i % 12)).collect::<String>();
        let drawn = |numbered: bool| {
            let (_folder, mut rows) = rows(&content);
            rows.subsample("label", 120, numbered).unwrap();
            rows.column(|t| t.labels("label")).unwrap()
        };
        let (texts, numbers) = (drawn(false), drawn(true));
        assert_eq!((texts.len(), numbers.len()), (120, 120));
        assert_ne!(texts, numbers);
        assert_eq!(numbers.iter().filter(|cell| **cell == Cell::Int(11)).count(), 10);
    }
}
