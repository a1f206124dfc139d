//! The shipped model, `best/` of a run: made beside its place, and put there whole.
//!
//! Files are copied, not linked: whoever edits the card or publishes the folder is not to change the run's own checkpoint, and
//! `embeval clean` frees what it says that it frees. Where the file system shares blocks, a copy takes no room either.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::disk::{each_file, is_state};
use super::folder::{StoreError, read_json, write_json};
use crate::data::rows::{fingerprint, hex};

/// The folder's name in a run's.
pub const FOLDER: &str = "best";
/// The file that says what was shipped.
pub const MANIFEST: &str = "embeval.json";

/// What was shipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The variant's id.
    pub variant: String,
    /// Its name in tables.
    pub label: String,
    /// File → SHA-256, in hexadecimal.
    pub files: BTreeMap<String, String>,
}

/// Whether `best/` holds this variant with this card, every file as it was written and none beside.
pub fn is_current(root: &Path, variant: &str, card: &str) -> bool {
    let folder = root.join(FOLDER);
    let Ok(manifest) = read_json::<Manifest>(&folder.join(MANIFEST)) else { return false };
    let card = hex(&Sha256::digest(card.as_bytes()));
    manifest.variant == variant
        && manifest.files.get("README.md") == Some(&card)
        && digests(&folder).is_ok_and(|files| files == manifest.files)
}

/// Digests of all files in a folder but the manifest, by relative path.
fn digests(folder: &Path) -> Result<BTreeMap<String, String>, StoreError> {
    let mut files = BTreeMap::new();
    let mut fault = None;
    each_file(folder, 0, &mut |path, _| {
        let name = path.strip_prefix(folder).unwrap_or(path).to_string_lossy().into_owned();
        if name == MANIFEST {
            return;
        }
        match fingerprint(path) {
            Ok(digest) => _ = files.insert(name, digest),
            Err(e) => fault = Some(StoreError::Content { path: path.into(), message: e.to_string() }),
        }
    });
    fault.map_or(Ok(files), Err)
}

/// Puts a variant into `best/`: `fill` writes its files into a new folder, which then takes the place of the old one. A
/// process killed on the way leaves the old one, or none and the new one's draft; the next call sets it right.
///
/// # Errors
/// `fill`'s; the operating system's. The old folder stays.
pub fn replace<E: From<StoreError>>(
    root: &Path,
    variant: &str,
    label: &str,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<PathBuf, E> {
    let pid = std::process::id();
    let (draft, old) = (root.join(format!(".{FOLDER}.{pid}.tmp")), root.join(format!(".{FOLDER}-old.{pid}.tmp")));
    let place = root.join(FOLDER);
    let result = remove(&draft).map_err(E::from).and_then(|()| {
        fs::create_dir_all(&draft).map_err(|e| io(&draft, e))?;
        fill(&draft)?;
        let manifest = Manifest { variant: variant.into(), label: label.into(), files: digests(&draft)? };
        write_json(&draft.join(MANIFEST), &manifest)?;
        remove(&old)?;
        if place.exists() {
            fs::rename(&place, &old).map_err(|e| io(&place, e))?;
        }
        fs::rename(&draft, &place).map_err(|e| io(&place, e))?;
        Ok(place.clone())
    });
    // Whatever stays of the two is a temporary folder, which the next call or `embeval clean` removes.
    let _ = remove(&draft);
    let _ = remove(&old);
    result
}

fn io(path: &Path, source: std::io::Error) -> StoreError {
    StoreError::Io { path: path.into(), source }
}

fn remove(folder: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io(folder, e)),
        _ => Ok(()),
    }
}

/// Copies a model folder that a run made, but its card, and what only the training reads.
///
/// # Errors
/// The operating system's.
pub fn copy_model(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(to).map_err(|e| io(to, e))?;
    for entry in fs::read_dir(from).map_err(|e| io(from, e))? {
        let entry = entry.map_err(|e| io(from, e))?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let (source, target) = (entry.path(), to.join(&name));
        let of_training = text == "trainer_state.json" || is_state(&text);
        if text == "README.md" || of_training || text.starts_with('.') {
            continue;
        }
        if source.is_dir() {
            copy_model(&source, &target)?;
        } else {
            fs::copy(&source, &target).map_err(|e| io(&target, e))?;
            File::open(&target).and_then(|file| file.sync_all()).map_err(|e| io(&target, e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, variant: &str, weights: &str, card: &str) -> PathBuf {
        replace::<StoreError>(root, variant, "label", |draft| {
            fs::create_dir_all(draft.join("1_Pooling")).unwrap();
            fs::write(draft.join("1_Pooling/config.json"), "{}").unwrap();
            fs::write(draft.join("model.safetensors"), weights).unwrap();
            fs::write(draft.join("README.md"), card).unwrap();
            Ok(())
        })
        .unwrap()
    }

    #[test]
    fn what_is_shipped_is_replaced_whole_and_any_change_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert!(!is_current(root, "a", "card"));
        let best = put(root, "a", "one", "card");
        assert!(is_current(root, "a", "card"));
        assert!(!is_current(root, "b", "card") && !is_current(root, "a", "other card"));
        for (name, content) in [("model.safetensors", "two"), ("more.txt", "x"), ("README.md", "mine")] {
            fs::write(best.join(name), content).unwrap();
            assert!(!is_current(root, "a", "card"), "{name}");
            put(root, "a", "one", "card");
            assert!(is_current(root, "a", "card"), "{name}");
            assert!(!best.join("more.txt").exists());
        }
        fs::remove_file(best.join("1_Pooling/config.json")).unwrap();
        assert!(!is_current(root, "a", "card"));
        fs::write(best.join(MANIFEST), "{").unwrap();
        assert!(!is_current(root, "a", "card"));
    }

    #[test]
    fn a_model_that_cannot_be_made_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        put(root, "a", "one", "card");
        let failed = replace::<StoreError>(root, "b", "label", |draft| {
            fs::write(draft.join("model.safetensors"), "half").unwrap();
            Err(StoreError::Results { path: draft.into(), message: "no".into() })
        });
        assert!(failed.is_err() && is_current(root, "a", "card"));
        assert_eq!(fs::read_dir(root).unwrap().count(), 1, "no draft stays");
    }

    #[test]
    fn a_copy_leaves_out_what_only_the_training_reads() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("2_Normalize")).unwrap();
        for name in [
            "model.safetensors",
            "README.md",
            "trainer_state.json",
            "training_state.json",
            "training_state.safetensors",
        ] {
            fs::write(from.join(name), name).unwrap();
        }
        copy_model(&from, &to).unwrap();
        let mut names: Vec<_> = fs::read_dir(&to).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["2_Normalize", "model.safetensors"]);
    }
}
