//! Hashes that tell texts apart.

use sha2::Digest;

/// The first 64 bits of a text's SHA-256, its first byte highest: the same in every run and on every machine. Of a hundred
/// million texts, two share one with a probability of 0.03 %.
pub fn text_hash(text: &str) -> u64 {
    let digest = sha2::Sha256::digest(text.as_bytes());
    digest.iter().take(8).fold(0, |hash, byte| (hash << 8) | u64::from(*byte))
}

/// The hashes of all rows' texts, row after row.
#[derive(Debug, Default)]
pub(super) struct Hashes {
    all: Vec<u64>,
    /// Where each row ends in `all`.
    ends: Vec<u64>,
    /// How many texts of a row are positives: they follow the query.
    positives: Vec<u32>,
}

impl Hashes {
    /// Adds a row: the query, `positives` positives, negatives.
    pub(super) fn push(&mut self, hashes: impl Iterator<Item = u64>, positives: usize) {
        self.all.extend(hashes);
        self.ends.push(self.all.len() as u64);
        self.positives.push(u32::try_from(positives).unwrap_or(u32::MAX));
    }

    /// Gives back what was reserved beyond need.
    pub(super) fn close(&mut self) {
        self.all.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.positives.shrink_to_fit();
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        self.ends.len()
    }

    /// Number of texts.
    pub(super) fn texts(&self) -> usize {
        self.all.len()
    }

    /// All of a row's hashes; none of a row that there is not.
    pub(super) fn row(&self, row: usize) -> &[u64] {
        let start = if row == 0 { 0 } else { self.ends.get(row - 1).copied().unwrap_or(u64::MAX) as usize };
        let end = self.ends.get(row).copied().unwrap_or(0) as usize;
        self.all.get(start..end).unwrap_or_default()
    }

    /// A row's query, positives and negatives.
    pub(super) fn parts(&self, row: usize) -> (u64, &[u64], &[u64]) {
        let Some((query, texts)) = self.row(row).split_first() else { return (0, &[], &[]) };
        let positives = self.positives.get(row).copied().unwrap_or(0) as usize;
        let (positives, negatives) = texts.split_at(positives.min(texts.len()));
        (*query, positives, negatives)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_the_beginning_of_sha_256() {
        // FIPS 180-2, appendix B.1, and the digest of nothing.
        assert_eq!(text_hash("abc"), 0xba78_16bf_8f01_cfea);
        assert_eq!(text_hash(""), 0xe3b0_c442_98fc_1c14);
    }

    #[test]
    fn rows_are_found_again() {
        let mut hashes = Hashes::default();
        hashes.push([1, 2, 3].into_iter(), 1);
        hashes.push([4].into_iter(), 0);
        hashes.push([5, 6, 7].into_iter(), 2);
        assert_eq!((hashes.row(0), hashes.row(1), hashes.row(2)), (&[1, 2, 3][..], &[4][..], &[5, 6, 7][..]));
        assert_eq!(hashes.parts(0), (1, &[2][..], &[3][..]));
        assert_eq!(hashes.parts(2), (5, &[6, 7][..], &[][..]));
        assert!(hashes.row(3).is_empty() && hashes.row(usize::MAX).is_empty());
        assert_eq!(hashes.parts(9), (0, &[][..], &[][..]));
    }
}
