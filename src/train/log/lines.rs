//! `log.jsonl`: a line a record, written as it happens.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::LogError;
use super::record::{EvalRecord, History, Record, StepRecord};
use crate::data::atomic;

/// The open file.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    file: File,
}

/// A line as it is read back.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Owned {
    Step(StepRecord),
    Eval(EvalRecord),
}

impl Owned {
    fn record(&self) -> Record<'_> {
        match self {
            Self::Step(record) => Record::Step(record),
            Self::Eval(record) => Record::Eval(record),
        }
    }
}

impl Lines {
    /// Opens the log and makes it hold what `history` holds and nothing else; an empty history starts it anew. Lines that
    /// say the same are kept to the byte. Also tells whether the file held all of it before, and nothing more up to the
    /// history's last step: what was logged beside it is complete then, too.
    ///
    /// # Errors
    /// Where the file cannot be read or written.
    pub fn open(path: &Path, history: &History) -> Result<(Self, bool), LogError> {
        let old = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            old => old.map_err(LogError::at(path))?,
        };
        let mut old = index(&old, history.last_step());
        let mut same = true;
        let mut content = Vec::new();
        for record in history.records() {
            match old.get_mut(&record.place()).and_then(VecDeque::pop_front) {
                Some((line, was)) if is_same(was.record(), record) => {
                    content.extend(line);
                    content.push(b'\n');
                }
                _ => {
                    content.extend(line(record).map_err(LogError::at(path))?);
                    same = false;
                }
            }
        }
        same &= old.values().all(VecDeque::is_empty);
        atomic::write(path, &content).map_err(LogError::at(path))?;
        Ok((Self::append_to(path)?, same))
    }

    fn append_to(path: &Path) -> Result<Self, LogError> {
        let file = OpenOptions::new().append(true).open(path).map_err(LogError::at(path))?;
        Ok(Self { path: path.into(), file })
    }

    /// Adds a line, at once.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn append(&mut self, record: Record<'_>) -> Result<(), LogError> {
        line(record).and_then(|line| self.file.write_all(&line)).map_err(LogError::at(&self.path))
    }
}

fn line(record: Record<'_>) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&record)?;
    line.push(b'\n');
    Ok(line)
}

/// Lines and what they say, by the record's place.
type Index<'a> = BTreeMap<(u64, u8), VecDeque<(&'a [u8], Owned)>>;

/// The lines of a log; a line that is not whole, or of a later step than `last`, is left out.
fn index(content: &[u8], last: Option<u64>) -> Index<'_> {
    let mut out = Index::new();
    for line in content.split(|byte| *byte == b'\n') {
        if let Ok(owned) = serde_json::from_slice::<Owned>(line) {
            let place = owned.record().place();
            if last.is_some_and(|last| place.0 <= last) {
                out.entry(place).or_default().push_back((line, owned));
            }
        }
    }
    out
}

/// Whether two records say the same. A number that went through JSON more than once may have changed in its last digit.
fn is_same(a: Record<'_>, b: Record<'_>) -> bool {
    let same = |a: f64, b: f64| (a.is_nan() && !b.is_finite()) || (a - b).abs() <= 1e-12 * a.abs().max(b.abs());
    match (a, b) {
        (Record::Step(a), Record::Step(b)) => {
            a.step == b.step && a.tokens == b.tokens && same(a.loss, b.loss) && same(a.grad_norm, b.grad_norm)
        }
        (Record::Eval(a), Record::Eval(b)) => {
            a.step == b.step
                && a.metrics.keys().eq(b.metrics.keys())
                && a.metrics.values().zip(b.metrics.values()).all(|(a, b)| same(*a, *b))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(steps: u64) -> History {
        let step = |step: u64| StepRecord {
            step,
            epoch: step as f64 / 7.0,
            loss: (1.0 / step as f64).sin(),
            grad_norm: f64::NAN,
            tokens: 3 * step,
            ..Default::default()
        };
        let eval = EvalRecord { step: 2, epoch: 0.3, time: Some(1.0), metrics: [("loss".into(), 0.1 + 0.2)].into() };
        let mut out = History { steps: (1..=steps).map(step).collect(), evals: vec![eval] };
        out.truncate(steps);
        out
    }

    fn write(path: &Path, history: &History) {
        let (mut lines, _) = Lines::open(path, &History::default()).unwrap();
        history.records().into_iter().for_each(|record| lines.append(record).unwrap());
    }

    #[test]
    fn a_log_is_cut_to_the_history_and_kept_to_the_byte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        write(&path, &history(4));
        let upto: Vec<u8> = fs::read(&path).unwrap();
        write(&path, &history(6));
        let full = fs::read(&path).unwrap();
        // A killed run leaves half a line.
        fs::write(&path, &full[..full.len() - 9]).unwrap();
        // A history that comes from a checkpoint went through JSON.
        let read: History = serde_json::from_slice(&serde_json::to_vec(&history(4)).unwrap()).unwrap();
        let (mut lines, same) = Lines::open(&path, &read).unwrap();
        assert!(same);
        assert_eq!(fs::read(&path).unwrap(), upto);
        for record in history(6).records().into_iter().filter(|record| record.place().0 > 4) {
            lines.append(record).unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), full);
    }

    #[test]
    fn a_log_that_says_something_else_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        write(&path, &history(4));
        let expected = fs::read(&path).unwrap();
        let text = String::from_utf8(expected.clone()).unwrap();
        for other in [
            String::new(),
            text.replace("\"tokens\":9", "\"tokens\":8"),
            text.replace("\"loss\":0.30000000000000004", "\"loss\":0.25"),
            text.replace("\"type\":\"step\",\"step\":3", "not JSON"),
            text.clone() + text.lines().next().unwrap() + "\n",
            "\u{0}\n{}\n[]\nnull\n".into(),
        ] {
            assert_ne!(other, text);
            fs::write(&path, &other).unwrap();
            let (_, same) = Lines::open(&path, &history(4)).unwrap();
            assert!(!same, "{other}");
            assert_eq!(fs::read(&path).unwrap(), expected);
        }
        let (_, same) = Lines::open(&path, &History::default()).unwrap();
        assert!(same && fs::read(&path).unwrap().is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_that_names_the_file() {
        let mut lines = Lines::append_to(Path::new("/dev/full")).unwrap();
        let history = history(1);
        let error = lines.append(Record::Step(&history.steps[0])).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().starts_with("/dev/full: "), "{error}");
    }
}
