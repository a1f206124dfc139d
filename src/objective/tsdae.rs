//! TSDAE (Wang, Reimers and Gurevych 2021): a text is damaged, embedded, and read back from the embedding alone by a decoder that
//! shares the encoder's weights; the loss is the cross entropy over the original's tokens.

use candle_core::{Result, bail};
use rand::{Rng, RngExt};

use super::batch::{Example, pack};
use crate::model::decoder::Decoder;
use crate::model::{Embedder, Mode};

/// How a text is damaged: words are deleted, moved, then masked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noise {
    /// Probability that a word is deleted (the paper's best: 0.6); one word stays at least.
    pub deletion: f64,
    /// Places that a word can move by (Lample et al. 2018); 0 keeps the order.
    pub shuffle: usize,
    /// Probability that a word that is left is replaced by the tokenizer's mask.
    pub masking: f64,
}

impl Noise {
    /// The damaged text; `mask` is the tokenizer's mask token.
    pub fn apply(&self, text: &str, mask: Option<&str>, rng: &mut impl Rng) -> String {
        let words = words(text);
        if words.is_empty() {
            return text.to_string();
        }
        let kept: Vec<bool> = words.iter().map(|_| rng.random::<f64>() >= self.deletion).collect();
        let mut left: Vec<&str> = words.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(word, _)| *word).collect();
        if left.is_empty() {
            left.push(words[rng.random_range(0..words.len())]);
        }
        if self.shuffle > 0 {
            let mut placed: Vec<(f64, &str)> = left
                .iter()
                .enumerate()
                .map(|(i, w)| (i as f64 + rng.random::<f64>() * (self.shuffle + 1) as f64, *w))
                .collect();
            placed.sort_by(|a, b| a.0.total_cmp(&b.0));
            left = placed.into_iter().map(|(_, word)| word).collect();
        }
        if self.masking > 0.0
            && let Some(mask) = mask
        {
            for word in &mut left {
                if rng.random::<f64>() < self.masking {
                    *word = mask;
                }
            }
        }
        join(&left)
    }
}

/// Words and single marks of punctuation.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for part in text.split_whitespace() {
        let mut start = 0;
        for (at, c) in part.char_indices() {
            // An apostrophe or hyphen inside a word is part of it.
            if c.is_alphanumeric() || (matches!(c, '\'' | '’' | '-') && at > start) {
                continue;
            }
            if at > start {
                words.push(&part[start..at]);
            }
            words.push(&part[at..at + c.len_utf8()]);
            start = at + c.len_utf8();
        }
        if start < part.len() {
            words.push(&part[start..]);
        }
    }
    words
}

/// Words with spaces between them, none before a closing mark.
fn join(words: &[&str]) -> String {
    let mut out = String::new();
    for word in words {
        let closes = word.chars().all(|c| ".,;:!?)]}»”%".contains(c));
        let opened = out.chars().next_back().is_some_and(|c| "([{«“".contains(c));
        if !out.is_empty() && !closes && !opened {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

/// The loss of a batch, a scalar with its graph: the query is the damaged text, the positive the original.
///
/// # Errors
/// Where a tensor operation fails, or a row has no original.
pub fn loss(embedder: &Embedder, decoder: &Decoder, batch: &[Example], mode: &Mode) -> Result<candle_core::Tensor> {
    let damaged: Vec<_> = batch.iter().map(|e| &e.query).collect();
    let originals: Vec<_> = batch.iter().filter_map(|e| e.positive.as_ref()).collect();
    if originals.len() != damaged.len() {
        bail!("TSDAE needs the original of every damaged text");
    }
    let vectors = embedder.pooled(&pack(&damaged), mode.clone())?;
    decoder.loss(embedder, &vectors, &pack(&originals), mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn damaged(noise: Noise, text: &str, seed: u64) -> String {
        noise.apply(text, Some("[MASK]"), &mut rand_pcg::Pcg64::seed_from_u64(seed))
    }

    #[test]
    fn words_are_deleted_at_the_rate_and_one_stays() {
        let text = vec!["слово"; 2_000].join(" ");
        let left = damaged(Noise { deletion: 0.6, shuffle: 0, masking: 0.0 }, &text, 1).split(' ').count();
        assert!((740..=860).contains(&left), "{left}");
        for seed in 0..20 {
            assert_eq!(
                damaged(Noise { deletion: 0.999_999, shuffle: 0, masking: 0.0 }, "один два", seed).split(' ').count(),
                1
            );
        }
        assert_eq!(damaged(Noise { deletion: 0.6, shuffle: 0, masking: 0.0 }, "  ", 1), "  ");
    }

    #[test]
    fn nothing_is_lost_without_noise_and_shuffling_keeps_the_words() {
        let text = "Врач (терапевт) сказал: «всё хорошо», don't worry.";
        assert_eq!(damaged(Noise { deletion: 0.0, shuffle: 0, masking: 0.0 }, text, 1), text);
        let text = "a b c d e f g h i j k l m n";
        let shuffled = damaged(Noise { deletion: 0.0, shuffle: 3, masking: 0.0 }, text, 1);
        assert_ne!(shuffled, text);
        let mut sorted: Vec<&str> = shuffled.split(' ').collect();
        for (i, word) in sorted.iter().enumerate() {
            let home = text.split(' ').position(|w| w == *word).unwrap();
            assert!(home.abs_diff(i) <= 3, "{shuffled}");
        }
        sorted.sort_unstable();
        assert_eq!(sorted.join(" "), text);
    }

    #[test]
    fn masking_replaces_words_at_its_rate() {
        let text = vec!["w"; 1_000].join(" ");
        let masked = damaged(Noise { deletion: 0.0, shuffle: 0, masking: 0.3 }, &text, 2);
        let count = masked.split(' ').filter(|w| *w == "[MASK]").count();
        assert!((240..=360).contains(&count), "{count}");
    }
}
