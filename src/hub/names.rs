//! Names that come from outside: ids, revisions, file names. Checked before they become a path or an address.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::HubError;

/// All but what RFC 3986 leaves as it is.
const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Refuses what is no repository's id: `name` or `org/name`.
pub(super) fn check_id(id: &str) -> Result<(), HubError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let edge = |part: &str| part.starts_with(['-', '.']) || part.ends_with(['-', '.']);
    let sound = |part: &str| !part.is_empty() && part.chars().all(plain) && !edge(part);
    // `--` stands for the slash in the cache's folder names: two ids would share a folder.
    let clear = !id.contains("..") && !id.contains("--") && id.len() <= 200;
    if clear && id.split('/').count() <= 2 && id.split('/').all(sound) {
        return Ok(());
    }
    Err(HubError::Name {
        what: "repository id",
        name: shown(id),
        rule: "it is `name` or `org/name` of letters, digits, `.`, `_` and `-`, as the hub's page shows it",
    })
}

/// Refuses a revision that would leave the cache's `refs`.
pub(super) fn check_revision(revision: &str) -> Result<(), HubError> {
    if is_inner_path(revision) {
        return Ok(());
    }
    let rule = "it is a branch, a tag or a commit hash";
    Err(HubError::Name { what: "revision", name: shown(revision), rule })
}

/// Refuses a file name that would leave the snapshot's folder.
pub(super) fn check_file(name: &str) -> Result<(), HubError> {
    if is_inner_path(name) {
        return Ok(());
    }
    let rule = "it would lie outside of the repository's folder; such a repository is not to be trusted";
    Err(HubError::Name { what: "file name", name: shown(name), rule })
}

/// Refuses what is no full commit hash.
pub(super) fn check_commit(commit: &str) -> Result<(), HubError> {
    if is_commit(commit) {
        return Ok(());
    }
    Err(HubError::Name { what: "commit hash", name: shown(commit), rule: "it is 40 hexadecimal digits" })
}

/// Whether a revision is a full commit hash, whose content never changes.
pub(super) fn is_commit(revision: &str) -> bool {
    is_hex(revision, 40)
}

/// Whether `text` is `length` hexadecimal digits in lower case.
pub(super) fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The name of a blob for an `ETag` header: without quotes and the mark of a weak one. None where it is no file name.
pub(super) fn blob_name(etag: &str) -> Option<String> {
    let etag = etag.trim();
    let name = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let sound = !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && name.chars().all(plain);
    sound.then(|| name.to_string())
}

/// One segment of an address.
pub(super) fn encode_segment(text: &str) -> String {
    utf8_percent_encode(text, &RESERVED).to_string()
}

/// A path of an address: the slashes stay.
pub(super) fn encode_path(path: &str) -> String {
    path.split('/').map(encode_segment).collect::<Vec<_>>().join("/")
}

fn is_inner_path(path: &str) -> bool {
    let odd = |c: char| c == '\\' || c.is_control();
    !path.is_empty()
        && path.len() <= 1024
        && !path.contains(odd)
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// A name as a message may show it: nothing that steers a terminal, and not without end.
fn shown(name: &str) -> String {
    name.chars().take(120).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        for id in ["gpt2", "org/name", "BAAI/bge-small-en-v1.5", "a_b/c.d-e"] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        let bad =
            ["", "/", "a/", "/a", "a/b/c", "..", "a/..", "a..b", "a--b", "-a", "a/.b", "a b", "a\\b", "ä/b", "a\0"];
        for id in bad {
            assert!(check_id(id).is_err(), "{id}");
        }
    }

    #[test]
    fn file_names() {
        for name in ["config.json", "1_Pooling/config.json", "data/train 0.parquet", "ü/..x", ".gitattributes"] {
            assert!(check_file(name).is_ok(), "{name}");
        }
        for name in ["", "..", "../x", "a/../b", "/etc/passwd", "a//b", "./a", "a/", "C:\\x", "a\\b", "a\0b", "a\nb"] {
            assert!(check_file(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn blob_names() {
        assert_eq!(blob_name("\"abc\"").as_deref(), Some("abc"));
        assert_eq!(blob_name("W/\"abc\"").as_deref(), Some("abc"));
        assert_eq!(blob_name("abc-2").as_deref(), Some("abc-2"));
        for etag in ["", "\"\"", "\"../x\"", "a/b", "..", ".x"] {
            assert_eq!(blob_name(etag), None, "{etag}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(encode_path("a b/ü?.json"), "a%20b/%C3%BC%3F.json");
        assert_eq!(encode_segment("refs/pr/1"), "refs%2Fpr%2F1");
    }
}
