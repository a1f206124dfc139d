//! What names a row: the hash of the prompt and the text.

use std::hash::{BuildHasherDefault, Hash, Hasher};

use sha2::{Digest, Sha256};

/// Bytes a key takes in a segment.
pub(super) const KEY_BYTES: usize = 16;

/// 128 bits of SHA-256, as two little-endian words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key([u64; 2]);

impl Key {
    pub(super) fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        let words = u128::from_le_bytes(bytes);
        Self([words as u64, (words >> 64) as u64])
    }

    pub(super) fn to_bytes(self) -> [u8; KEY_BYTES] {
        (u128::from(self.0[0]) | u128::from(self.0[1]) << 64).to_le_bytes()
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[0]);
    }
}

/// Keys are uniform already: hashing them again would only cost time.
#[derive(Debug, Default)]
pub(super) struct Uniform(u64);

impl Hasher for Uniform {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

/// For maps and sets of keys.
pub(super) type KeyHashing = BuildHasherDefault<Uniform>;

/// The keys of texts under one prompt. The prompt's length comes first, so that no prompt's end passes for a text's
/// beginning.
pub(super) fn keys(prompt: &str, texts: &[&str]) -> Vec<Key> {
    let start = Sha256::new_with_prefix((prompt.len() as u64).to_le_bytes()).chain_update(prompt);
    texts.iter().map(|text| Key::from_bytes(short(start.clone().chain_update(text)))).collect()
}

/// The first 128 bits of a SHA-256.
pub(super) fn short(hash: Sha256) -> [u8; KEY_BYTES] {
    let whole: [u8; 32] = hash.finalize().into();
    std::array::from_fn(|i| whole[i])
}
