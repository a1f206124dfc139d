//! A WordPiece vocabulary learnt from texts, the same on every run.
//!
//! The words are split into characters (those within a word marked by `##`), and the most frequent pair of neighbours is
//! merged until the vocabulary is full: byte-pair encoding (Sennrich et al. 2016) in WordPiece's notation, as in
//! `tokenizers`' `WordPieceTrainer`. That trainer breaks ties by the order of a hash map, so two runs give two vocabularies;
//! here ties go to the pair that sorts first.

use std::collections::{BTreeMap, BTreeSet};

/// Learns at most `size` entries, `special` first, out of word counts. Pairs seen once are not merged.
pub fn learn(counts: &BTreeMap<String, usize>, special: &[&str], size: usize) -> Vec<String> {
    let mut vocabulary: Vec<String> = special.iter().map(ToString::to_string).collect();
    let mut words: Vec<(Vec<usize>, usize)> = Vec::with_capacity(counts.len());
    let mut alphabet: BTreeSet<String> = BTreeSet::new();
    let split = |word: &str| -> Vec<String> {
        word.chars().enumerate().map(|(i, c)| if i == 0 { c.to_string() } else { format!("##{c}") }).collect()
    };
    for word in counts.keys() {
        alphabet.extend(split(word));
    }
    vocabulary.extend(alphabet.into_iter().filter(|piece| !special.contains(&piece.as_str())));
    let ids: BTreeMap<String, usize> = vocabulary.iter().enumerate().map(|(i, piece)| (piece.clone(), i)).collect();
    for (word, count) in counts {
        words.push((split(word).iter().filter_map(|piece| ids.get(piece).copied()).collect(), *count));
    }
    while vocabulary.len() < size {
        let mut pairs: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        for (pieces, count) in &words {
            for pair in pieces.windows(2) {
                *pairs.entry((pair[0], pair[1])).or_default() += count;
            }
        }
        let best = pairs.into_iter().reduce(|best, next| if next.1 > best.1 { next } else { best });
        let Some(((left, right), count)) = best else { break };
        if count < 2 {
            break;
        }
        let merged = format!("{}{}", vocabulary[left], vocabulary[right].trim_start_matches("##"));
        vocabulary.push(merged);
        let id = vocabulary.len() - 1;
        for (pieces, _) in &mut words {
            let mut i = 0;
            while i + 1 < pieces.len() {
                if pieces[i] == left && pieces[i + 1] == right {
                    pieces[i] = id;
                    pieces.remove(i + 1);
                }
                i += 1;
            }
        }
    }
    let mut seen = BTreeSet::new();
    vocabulary.retain(|piece| seen.insert(piece.clone()));
    vocabulary
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_pairs_become_pieces() {
        let counts = BTreeMap::from([("лес".to_string(), 5), ("леса".to_string(), 3), ("лето".to_string(), 1)]);
        let vocabulary = learn(&counts, &["[PAD]", "[UNK]"], 12);
        assert_eq!(&vocabulary[..2], ["[PAD]", "[UNK]"]);
        assert!(vocabulary.contains(&"лес".to_string()), "{vocabulary:?}");
        assert!(vocabulary.contains(&"##т".to_string()));
        assert!(vocabulary.len() <= 12);
        assert_eq!(vocabulary, learn(&counts, &["[PAD]", "[UNK]"], 12));
    }
}
