//! Which documents must not count as negatives: those that say the same as a row's positive.

use std::collections::HashMap;
use std::sync::Arc;

use super::batch::{Example, Text};
use super::memory::Memory;
use crate::loss::info_nce::Masks;

/// Masks documents with the text of one of a row's positives, and documents of other rows with the same query; the other way,
/// queries with the text of a row's query, and queries whose positive is one of the row's. `documents` are the batch's positives,
/// then its negatives; those of the memory stand behind them.
pub fn masks(batch: &[Example], documents: &[&Text], memory: Option<&Memory>) -> Masks {
    let n = batch.len();
    let none = Vec::new();
    let remembered = memory.map_or(&none, Memory::identities);
    let (m, k) = (documents.len() + remembered.len(), n + remembered.len());
    let mut by_known: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut by_query: HashMap<u64, Vec<usize>> = HashMap::new();
    for (row, example) in batch.iter().enumerate() {
        for &identity in &example.known {
            by_known.entry(identity).or_default().push(row);
        }
        by_query.entry(example.query.identity).or_default().push(row);
    }
    let mut towards_documents: Vec<(usize, usize)> = Vec::new();
    let mut towards_queries: Vec<(usize, usize)> = Vec::new();
    let rows = |map: &HashMap<u64, Vec<usize>>, identity: u64| map.get(&identity).cloned().unwrap_or_default();
    for (d, document) in documents.iter().enumerate() {
        towards_documents
            .extend(rows(&by_known, document.identity).into_iter().filter(|row| *row != d).map(|row| (row, d)));
    }
    for (b, other) in batch.iter().enumerate() {
        let same_query = rows(&by_query, other.query.identity);
        for a in same_query.into_iter().filter(|a| *a != b) {
            towards_documents.push((a, b));
            towards_queries.push((a, b));
        }
        // Query a matches document b, whichever of the two is the anchor.
        let matching = other.positive.as_ref().map(|p| rows(&by_known, p.identity)).unwrap_or_default();
        for a in matching.into_iter().filter(|a| *a != b) {
            towards_documents.push((a, b));
            towards_queries.push((b, a));
        }
    }
    for (i, (query, document)) in remembered.iter().enumerate() {
        let same_query = rows(&by_query, *query);
        let matching = rows(&by_known, *document);
        towards_documents.extend(same_query.iter().chain(&matching).map(|a| (*a, documents.len() + i)));
        // A remembered query matches a row's document where it is the same query, or has the very document.
        let drawn = |a: &usize| batch[*a].positive.as_ref().is_some_and(|p| p.identity == *document);
        towards_queries.extend(same_query.iter().chain(matching.iter().filter(|a| drawn(a))).map(|a| (*a, n + i)));
    }
    for (row, example) in batch.iter().enumerate().filter(|(_, e)| e.alone) {
        let own = |d: usize| d == row || documents.get(d).is_some_and(|d| is_negative_of(example, d));
        towards_documents.extend((0..m).filter(|d| !own(*d)).map(|d| (row, d)));
        towards_queries.extend((0..k).filter(|q| *q != row).map(|q| (row, q)));
    }
    Masks { documents: fill(&towards_documents, n, m), queries: fill(&towards_queries, n, k) }
}

fn is_negative_of(example: &Example, document: &Text) -> bool {
    example.negatives.iter().any(|negative| std::ptr::eq(negative, document))
}

fn fill(places: &[(usize, usize)], rows: usize, width: usize) -> Arc<Vec<bool>> {
    if places.is_empty() {
        return Arc::default();
    }
    let mut mask = vec![false; rows * width];
    for &(row, column) in places {
        mask[row * width + column] = true;
    }
    Arc::new(mask)
}

#[cfg(test)]
mod tests {
    use super::super::batch::Layout;
    use super::super::batch::tests::example;
    use super::*;

    fn places(mask: &[bool], width: usize) -> Vec<(usize, usize)> {
        (0..mask.len()).filter(|i| mask[*i]).map(|i| (i / width, i % width)).collect()
    }

    fn of(batch: &[Example], memory: Option<&Memory>) -> Masks {
        let layout = Layout::new(batch, false);
        masks(batch, &layout.texts[layout.queries..], memory)
    }

    #[test]
    fn repeated_texts_are_no_negatives_of_each_other() {
        // Rows 0 and 1 share the query, row 2's hard negative is row 0's positive.
        let m = of(&[example(1, 10, &[]), example(1, 11, &[]), example(2, 12, &[10])], None);
        assert_eq!(places(&m.documents, 4), [(0, 1), (0, 3), (1, 0)]);
        assert_eq!(places(&m.queries, 3), [(0, 1), (1, 0)]);
    }

    #[test]
    fn positives_that_were_not_drawn_are_no_negatives_either() {
        let mut batch = [example(1, 10, &[]), example(2, 11, &[]), example(3, 12, &[13])];
        batch[0].known = vec![10, 11, 13];
        let m = of(&batch, None);
        assert_eq!(places(&m.documents, 4), [(0, 1), (0, 3)]);
        // Query 0 is as good a match of document 1 as its own query.
        assert_eq!(places(&m.queries, 3), [(1, 0)]);
    }

    #[test]
    fn distinct_texts_need_no_mask() {
        let m = of(&[example(1, 10, &[20]), example(2, 11, &[21])], None);
        assert!(m.documents.is_empty() && m.queries.is_empty());
    }

    #[test]
    fn remembered_texts_are_masked_by_query_and_by_document() {
        let mut memory = Memory::new(3, 0);
        let old = [example(1, 30, &[]), example(4, 11, &[]), example(5, 31, &[])];
        memory.remember(&old, &[0.0; 6], &[0.0; 6], 2);
        let m = of(&[example(1, 10, &[]), example(2, 11, &[])], Some(&memory));
        assert_eq!(places(&m.documents, 5), [(0, 2), (1, 3)]);
        assert_eq!(places(&m.queries, 5), [(0, 2), (1, 3)]);
    }

    #[test]
    fn a_row_that_is_alone_sees_its_own_documents_only() {
        let mut batch = [example(1, 10, &[20]), example(2, 11, &[21])];
        batch[0].alone = true;
        let m = of(&batch, None);
        assert_eq!(places(&m.documents, 4), [(0, 1), (0, 3)]);
    }
}
