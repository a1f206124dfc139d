//! Many short lists of numbers in two vectors.

/// Lists of numbers; the list of `i` is a slice.
#[derive(Debug, Clone)]
pub(super) struct Lists {
    ends: Vec<usize>,
    items: Vec<u32>,
}

impl Lists {
    pub fn new() -> Self {
        Self { ends: vec![0], items: Vec::new() }
    }

    /// Adds a list.
    pub fn push(&mut self, list: impl IntoIterator<Item = u32>) {
        self.items.extend(list);
        self.ends.push(self.items.len());
    }

    /// The list number `i`; empty where there is none.
    pub fn get(&self, i: usize) -> &[u32] {
        match self.ends.get(i..i + 2) {
            Some(&[start, end]) => &self.items[start..end],
            _ => &[],
        }
    }

    /// Length of the longest list.
    pub fn longest(&self) -> usize {
        self.ends.windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or(0)
    }
}
