//! TensorBoard's event files.
//!
//! A file `events.out.tfevents.<seconds since 1970>.<host>.<process>.<number>` is a row of TFRecords: the length of the
//! data (u64, little-endian), the masked CRC-32C of those eight bytes, the data, the masked CRC-32C of the data. The data is
//! an `Event` message. TensorBoard reads a run's files in the order of their names and takes a record that ends early for one
//! that is still being written, so that a killed run leaves a readable file.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::LogError;
use super::crc32c::masked;
use super::event::{What, encode};

const PREFIX: &str = "events.out.tfevents.";

/// Events, and time, after which they are handed to the operating system.
const FLUSH_EVENTS: usize = 20;
const FLUSH_AFTER: Duration = Duration::from_secs(30);

/// Files of this process so far: the last part of a file's name.
static FILES: AtomicU64 = AtomicU64::new(0);

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Whether a folder holds event files.
///
/// # Errors
/// The operating system's; a missing folder holds none.
pub fn has_events(folder: &Path) -> Result<bool, LogError> {
    Ok(last_stamp(folder)?.is_some())
}

/// The latest time in the names of a folder's event files, seconds since 1970.
fn last_stamp(folder: &Path) -> Result<Option<u64>, LogError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries.map_err(LogError::at(folder))?,
    };
    let mut last = None;
    for entry in entries {
        let name = entry.map_err(LogError::at(folder))?.file_name();
        let stamp = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('.').next()?.parse::<u64>().ok());
        last = last.max(stamp);
    }
    Ok(last)
}

/// Writes one event file.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: BufWriter<File>,
    first_step: u64,
    pending: usize,
    flushed: Instant,
}

impl EventWriter {
    /// Makes a file in `folder`, which is made if need be. Its name sorts behind those that are there.
    ///
    /// The file tells readers to forget what the earlier files say of the steps after `resumed_at`, or of all steps for a new
    /// run. TensorBoard heeds that from the second such word on, hence a run's first file says it too.
    ///
    /// # Errors
    /// Where the folder or the file cannot be written.
    pub fn create(folder: &Path, resumed_at: Option<u64>) -> Result<Self, LogError> {
        fs::create_dir_all(folder).map_err(LogError::at(folder))?;
        // Two sessions within a second, or a clock set back, are not to change the order of the files.
        let stamp = (now() as u64).max(last_stamp(folder)?.map_or(0, |last| last.saturating_add(1)));
        let (path, file) = loop {
            let number = FILES.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("{PREFIX}{stamp:010}.{}.{}.{number}", host(), std::process::id()));
            match File::create_new(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                file => break (path.clone(), file.map_err(LogError::at(&path))?),
            }
        };
        Self::start(path, file, resumed_at)
    }

    fn start(path: PathBuf, file: File, resumed_at: Option<u64>) -> Result<Self, LogError> {
        let mut writer = Self {
            path,
            file: BufWriter::new(file),
            first_step: resumed_at.unwrap_or(0),
            pending: 0,
            flushed: Instant::now(),
        };
        writer.write(now(), 0, &What::FileVersion)?;
        // Readers drop the step of this event itself, too.
        writer.write(now(), resumed_at.map_or(0, |step| step.saturating_add(1)), &What::SessionStart)?;
        writer.flush()?;
        Ok(writer)
    }

    /// Values of a step, `(tag, value)` each; `wall_time` in seconds since 1970. TensorBoard holds values in f32 and shows
    /// what is not finite as such.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn scalars(&mut self, step: u64, wall_time: f64, values: &[(String, f64)]) -> Result<(), LogError> {
        self.write(wall_time, step, &What::Scalars(values))
    }

    /// A text in Markdown, shown under TensorBoard's tab "Text", at the step at which the file begins.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn text(&mut self, tag: &str, markdown: &str) -> Result<(), LogError> {
        self.write(now(), self.first_step, &What::Text(tag, markdown))
    }

    /// Hands everything to the operating system: a crash of the process loses nothing then.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn flush(&mut self) -> Result<(), LogError> {
        self.file.flush().map_err(LogError::at(&self.path))?;
        self.pending = 0;
        self.flushed = Instant::now();
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write(&mut self, wall_time: f64, step: u64, what: &What<'_>) -> Result<(), LogError> {
        self.file.write_all(&frame(&encode(wall_time, step, what))).map_err(LogError::at(&self.path))?;
        self.pending += 1;
        if self.pending >= FLUSH_EVENTS || self.flushed.elapsed() >= FLUSH_AFTER { self.flush() } else { Ok(()) }
    }
}

/// A TFRecord.
fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length).to_le_bytes(), data, &masked(data).to_le_bytes()].concat()
}

/// The machine's name, fit for a file's name.
fn host() -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
    let name: String = rustix::system::uname().nodename().to_string_lossy().chars().take(64).map(fit).collect();
    if name.is_empty() { "localhost".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn records_are_those_of_tensorboard() {
        let values = [("train/loss".to_string(), 0.75), ("train/learning_rate".to_string(), 0.0)];
        let events = [
            encode(1.5, 0, &What::FileVersion),
            encode(1.5, 301, &What::SessionStart),
            encode(1.5, 300, &What::Scalars(&values)),
            encode(1.5, 7, &What::Text("config/text_summary", "**r** = 8")),
        ];
        let records: Vec<String> = events.iter().map(|event| hex(&frame(event))).collect();
        // tests/peers/check_tensorboard.py --golden
        let golden = [
            "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c",
            "100000000000000095fbfe1809000000000000f83f10ad023a020801d17949d4",
            "3d000000000000006049f1ec09000000000000f83f10ac022a2f0a110a0a747261696e2f6c6f7373150000403f0a1a0a13747261696e2f6c6561726e696e675f72617465150000000018102003",
            "4300000000000000b18525a009000000000000f83f10072a360a340a13636f6e6669672f746578745f73756d6d6172794213080712041202080142092a2a722a2a203d20384a080a060a04746578740a6e9abe",
        ];
        assert_eq!(records, golden);
    }

    /// The data of a file's records.
    fn records(path: &Path) -> Vec<Vec<u8>> {
        let mut rest = &fs::read(path).unwrap()[..];
        let mut out = Vec::new();
        while let Some((length, tail)) = rest.split_first_chunk::<8>() {
            let length = u64::from_le_bytes(*length) as usize;
            out.push(tail[4..4 + length].to_vec());
            assert_eq!(frame(&tail[4..4 + length]), rest[..16 + length]);
            rest = &rest[16 + length..];
        }
        out
    }

    #[test]
    fn every_file_says_from_which_step_on_it_counts() {
        let folder = tempfile::tempdir().unwrap();
        for (resumed_at, first) in [(None, 0), (Some(0), 1), (Some(20), 21), (Some(u64::MAX), i64::MAX as u64)] {
            let writer = EventWriter::create(folder.path(), resumed_at).unwrap();
            let events = records(writer.path());
            assert_eq!(events.len(), 2);
            // Nine bytes hold the time.
            assert_eq!(events[0][9..], encode(0.0, 0, &What::FileVersion)[9..]);
            assert_eq!(events[1][9..], encode(0.0, first, &What::SessionStart)[9..]);
        }
    }

    #[test]
    fn files_sort_in_the_order_in_which_they_were_made() {
        let folder = tempfile::tempdir().unwrap();
        let ahead = format!("{PREFIX}{:010}.other-host.9.0", now() as u64 + 1000);
        std::fs::write(folder.path().join(&ahead), b"").unwrap();
        let made: Vec<PathBuf> =
            (0..3).map(|step| EventWriter::create(folder.path(), Some(step)).unwrap().path().to_owned()).collect();
        let mut listed: Vec<PathBuf> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
        listed.sort();
        assert_eq!(listed[1..], made);
        assert_eq!(listed[0], folder.path().join(ahead));
    }

    #[test]
    fn all_is_on_the_disk_after_a_flush_and_soon_without() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(folder.path(), None).unwrap();
        let length = |writer: &EventWriter| fs::metadata(writer.path()).unwrap().len();
        let start = length(&writer);
        let values = [("train/loss".to_string(), 1.0)];
        writer.scalars(1, 1.0, &values).unwrap();
        writer.flush().unwrap();
        let one = length(&writer) - start;
        assert_eq!(one, frame(&encode(1.0, 1, &What::Scalars(&values))).len() as u64);
        for _ in 0..FLUSH_EVENTS {
            writer.scalars(1, 1.0, &values).unwrap();
        }
        assert_eq!(length(&writer), start + one * (1 + FLUSH_EVENTS as u64));
    }

    #[test]
    fn a_folder_that_cannot_be_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let error = EventWriter::create(&file.join("tensorboard"), None).unwrap_err();
        assert!(error.to_string().contains("file/tensorboard"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_that_names_the_file() {
        let full = PathBuf::from("/dev/full");
        let file = fs::OpenOptions::new().write(true).open(&full).unwrap();
        let error = EventWriter::start(full, file, None).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().starts_with("/dev/full: "), "{error}");
    }
}
