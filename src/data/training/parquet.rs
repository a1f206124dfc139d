//! Rows of parquet files: some of a row group at a time, of the columns that mean something only.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use polars::error::PolarsError;
use polars::prelude::{ParallelStrategy, ParquetReader, SerReader, Series};

use super::layout::{Field, Meaning, Names};
use super::{Place, Record, Take};
use crate::data::cell::Cell;
use crate::data::table::DataError;

/// Bytes of a row group that are decoded at once.
const PIECE: usize = 32 << 20;

/// Runs polars on what may be damaged: a panic of its is an error here. `what` begins the message.
fn guarded<T>(path: &Path, what: &str, f: impl FnOnce() -> Result<T, PolarsError>) -> Result<T, DataError> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(|e| DataError::content(path, format!("{what}: {e}"))),
        Err(_) => Err(DataError::content(path, what)),
    }
}

/// Reads a parquet file; `take` says where to stop. The file is mapped, so that the system may take its pages back.
///
/// # Errors
/// Where the file is damaged, a column is of a type that is not read, or `take` fails.
pub(super) fn read(path: &Path, names: &Names, take: &mut Take<'_>) -> Result<(), DataError> {
    let io = |source| DataError::Io { path: path.into(), source };
    let file = File::open(path).map_err(io)?;
    let handle = || file.try_clone().map_err(io);
    let mut reader = ParquetReader::new(handle()?);
    let (columns, metadata) = guarded(path, "not a parquet file that can be read", || {
        let names: Vec<String> = reader.schema()?.iter_names().map(ToString::to_string).collect();
        Ok((names, reader.get_metadata()?.clone()))
    })?;
    let known: Vec<(Arc<str>, Vec<Meaning>)> =
        columns.iter().map(|name| (Arc::from(name.as_str()), names.meanings(name).to_vec())).collect();
    let (known, unknown): (Vec<_>, Vec<_>) = known.into_iter().partition(|(_, meanings)| !meanings.is_empty());
    let mut unused: Vec<Arc<str>> = unknown.into_iter().map(|(name, _)| name).collect();
    let wanted: Vec<String> = known.iter().map(|(name, _)| name.to_string()).collect();
    if wanted.is_empty() && metadata.num_rows > 0 {
        let place = Place { row: 1, line: None, offset: 0 };
        take(Record { place, fields: Vec::new(), unused, textual: false })?;
        return Ok(());
    }
    let what = format!(
        "a column among {} is damaged or of a type that is not read (store it as text, int64, float or lists of those)",
        wanted.join(", ")
    );
    let mut first: usize = 0;
    for (rows, bytes) in
        metadata.row_groups.iter().map(|g| (g.num_rows(), g.total_byte_size().max(g.compressed_size())))
    {
        let piece = if bytes <= PIECE { rows } else { (rows / bytes.div_ceil(PIECE)).max(1) };
        let end = first + rows;
        for start in (first..end).step_by(piece.max(1)) {
            let length = piece.min(end - start);
            let handle = handle()?;
            let series: Vec<Series> = guarded(path, &what, || {
                let mut reader = ParquetReader::new(handle);
                reader.set_metadata(metadata.clone());
                let frame = reader
                    .with_columns(Some(wanted.clone()))
                    .with_slice(Some((start, length)))
                    // Row groups outside the slice are then left alone.
                    .read_parallel(ParallelStrategy::RowGroups)
                    .finish()?;
                wanted.iter().map(|name| Ok(frame.column(name)?.as_materialized_series().clone())).collect()
            })?;
            for i in 0..length {
                let place = Place { row: start + i + 1, line: None, offset: 0 };
                let mut fields = Vec::with_capacity(known.len());
                for ((name, meanings), series) in known.iter().zip(&series) {
                    let cell = guarded(path, &what, || Ok(Cell::from_any(&series.get(i)?)))?;
                    let cell = cell.ok_or_else(|| {
                        let message =
                            format!("`{name}` is of a type that is not read: store it as text, numbers or lists");
                        place.fault(path, &message)
                    })?;
                    Field::spread(name, meanings, cell, &mut fields);
                }
                if !take(Record { place, fields, unused: std::mem::take(&mut unused), textual: false })? {
                    return Ok(());
                }
            }
        }
        first = end;
    }
    Ok(())
}
