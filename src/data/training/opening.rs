//! Opening a training set: one pass over its file.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::build::{Built, build};
use super::hash::{Hashes, text_hash};
use super::input::{Input, Kind, Packing, kind, without_ending};
use super::layout::{Field, Layout, Meaning, Names, Role, no_layout};
use super::storage::{Lines, Spill, Storage};
use super::{Form, OpenOptions, Place, Record, Take, TrainingRow, TrainingSet, json, parquet, separated};
use crate::data::cell::Cell;
use crate::data::suggest::did_you_mean;
use crate::data::table::DataError;

/// Opens a file whose rows have at most `longest` bytes; see [`TrainingSet::open`].
///
/// # Errors
/// As there.
pub(super) fn open(path: &Path, options: &OpenOptions, longest: usize) -> Result<TrainingSet, DataError> {
    let (kind, packing) = kind(path)?;
    let names = Names::new(&options.columns).map_err(|e| DataError::content(path, e))?;
    if kind == Kind::Text && !options.columns.is_empty() {
        return Err(DataError::content(path, "columns: a txt file has none, a line of it is a text"));
    }
    if options.limit == Some(0) {
        return Err(DataError::content(path, "limit: 0 rows are none: ask for 1 or more"));
    }
    let mut filling = Filling::new(path, options, &names);
    if kind == Kind::Parquet {
        parquet::read(path, &names, &mut |record| filling.take(record))?;
        return filling.finish(None);
    }
    let mut input = Input::open(path, packing, longest)?;
    let array = kind == Kind::Json && input.first_byte()? == Some(b'[');
    let lines = !array && matches!(kind, Kind::Json | Kind::JsonLines);
    let regular = std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    // Rows of such a file can be found again in it.
    filling.direct = lines && regular && packing == Packing::None;
    let take: &mut Take<'_> = &mut |record| filling.take(record);
    match kind {
        Kind::Separated(separator) => separated::read(path, &mut input, separator, &names, take)?,
        Kind::Text => texts(&mut input, take)?,
        _ if array => json::array(path, &mut input, &names, take)?,
        _ => json::lines(path, &mut input, &names, take)?,
    }
    filling.finish(Some(input.offset))
}

/// Reads a text a line; `take` says where to stop.
fn texts(input: &mut Input, take: &mut Take<'_>) -> Result<(), DataError> {
    let name: Arc<str> = "text".into();
    let mut row = 0;
    while let Some(line) = input.next_line()? {
        let text = without_ending(line.text);
        if text.trim().is_empty() {
            continue;
        }
        row += 1;
        let place = Place { row, line: Some(line.number), offset: line.offset };
        let meaning = Meaning { role: Role::Text, rank: 0 };
        let fields = vec![Field { name: name.clone(), meaning, cell: Cell::Text(text.into()) }];
        if !take(Record { place, fields, unused: Vec::new(), textual: false })? {
            return Ok(());
        }
    }
    Ok(())
}

/// Where rows are put while the file is read.
enum Room {
    Memory {
        rows: Vec<TrainingRow>,
        bytes: usize,
    },
    /// They are found again in the file itself.
    File,
    Spill(Spill),
}

/// A set in the making.
struct Filling<'a> {
    path: &'a Path,
    options: &'a OpenOptions,
    names: &'a Names,
    layout: Option<Layout>,
    room: Room,
    /// Whether rows can be read from the file itself, by their offsets.
    direct: bool,
    offsets: Vec<u64>,
    hashes: Hashes,
    negatives: (usize, usize),
    blanks: usize,
    taught: usize,
    unused: Vec<Arc<str>>,
    /// Of the columns that the user maps, those not met yet.
    unmet: Vec<(String, Arc<str>)>,
}

impl<'a> Filling<'a> {
    fn new(path: &'a Path, options: &'a OpenOptions, names: &'a Names) -> Self {
        Self {
            path,
            options,
            names,
            layout: None,
            room: Room::Memory { rows: Vec::new(), bytes: 0 },
            direct: false,
            offsets: Vec::new(),
            hashes: Hashes::default(),
            negatives: (usize::MAX, 0),
            blanks: 0,
            taught: 0,
            unused: Vec::new(),
            unmet: names.mapped.clone(),
        }
    }

    /// Takes a record; false where the limit is reached.
    fn take(&mut self, record: Record) -> Result<bool, DataError> {
        let Record { place, fields, unused, textual } = record;
        let path = self.path;
        let fault = |message: String| place.fault(path, &message);
        if place.row == 1 {
            self.unused = unused;
        }
        self.unmet.retain(|(_, theirs)| !fields.iter().any(|field| field.name == *theirs));
        let layout = match self.layout {
            Some(layout) => layout,
            None => Layout::of(fields.iter())
                .ok_or_else(|| DataError::content(path, no_layout(self.names, &fields, &self.unused)))?,
        };
        self.layout = Some(layout);
        let fullest = Layout::of(fields.iter().filter(|field| field.cell != Cell::Null));
        let Built { row, blanks } = build(layout, fields, textual).map_err(fault)?;
        // A row of another kind would lose what only its own kind has.
        if let Some(other) = fullest.filter(|fullest| *fullest != layout) {
            return Err(fault(format!(
                "is {}, but the first row is {}: give all rows the same columns, or make two files of them",
                other.words(),
                layout.words()
            )));
        }
        self.hashes.push(row.texts().map(text_hash), row.positives.len());
        self.negatives = (self.negatives.0.min(row.negatives.len()), self.negatives.1.max(row.negatives.len()));
        self.blanks += blanks;
        self.taught += usize::from(layout == Layout::Pairs && row.taught());
        if self.direct {
            self.offsets.push(place.offset);
        }
        self.keep(row, layout)?;
        Ok(self.options.limit != Some(place.row))
    }

    /// Puts a row where there is room for it.
    fn keep(&mut self, row: TrainingRow, layout: Layout) -> Result<(), DataError> {
        match &mut self.room {
            Room::File => {}
            Room::Spill(spill) => spill.push(&row, layout)?,
            Room::Memory { rows, bytes } => {
                *bytes += row.bytes();
                rows.push(row);
                if *bytes > self.options.in_memory_bytes {
                    let mut room = Room::File;
                    if !self.direct {
                        let mut spill = Spill::create(&self.options.spill)?;
                        rows.iter().try_for_each(|row| spill.push(row, layout))?;
                        room = Room::Spill(spill);
                    }
                    self.room = room;
                }
            }
        }
        Ok(())
    }

    /// The set; `end` is where the last row ends in a file of lines.
    fn finish(mut self, end: Option<u64>) -> Result<TrainingSet, DataError> {
        let Some(layout) = self.layout else {
            return Err(DataError::content(self.path, "holds no rows"));
        };
        if let Some((ours, theirs)) = self.unmet.first() {
            let hint = did_you_mean(theirs, self.unused.iter().map(|name| &**name));
            let message =
                format!("columns.{ours}: no row has `{theirs}`{hint}: name a column that is there, or leave it out");
            return Err(DataError::content(self.path, message));
        }
        let storage = match self.room {
            Room::Memory { mut rows, .. } => {
                rows.shrink_to_fit();
                Storage::Memory(rows)
            }
            Room::Spill(spill) => Storage::Lines(spill.finish()?),
            Room::File => {
                let io = |source| DataError::Io { path: self.path.into(), source };
                self.offsets.extend(end);
                self.offsets.shrink_to_fit();
                let file = File::open(self.path).map_err(io)?;
                Storage::Lines(Lines { file, offsets: self.offsets, names: self.names.clone() })
            }
        };
        self.hashes.close();
        let form = match layout {
            Layout::Pairs => Form::Pairs { negatives: self.negatives, teacher: self.taught == self.hashes.rows() },
            Layout::Scored => Form::Scored,
            Layout::Labelled => Form::Labelled,
            Layout::Texts => Form::Texts,
        };
        Ok(TrainingSet {
            path: self.path.into(),
            layout,
            form,
            storage,
            hashes: self.hashes,
            blank_negatives: self.blanks,
            teacher_rows: self.taught,
            unused: self.unused.iter().map(ToString::to_string).collect(),
        })
    }
}
