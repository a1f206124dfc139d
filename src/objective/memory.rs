//! Cross-batch memory (XBM, Wang et al. 2020): embeddings of earlier batches as further negatives.
//!
//! A batch is remembered after its loss was taken, so that it is never in its own memory; texts that say the same as a row's
//! positive are masked out by identity (see [`super::masks`]).

use std::collections::{BTreeMap, VecDeque};

use candle_core::{Device, Result, Tensor, bail};

use super::batch::Example;

/// A queue of the latest positives and of their queries.
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    size: usize,
    warmup: usize,
    batches: usize,
    width: usize,
    documents: VecDeque<f32>,
    queries: VecDeque<f32>,
    /// (query, document), oldest first.
    identities: Vec<(u64, u64)>,
}

/// What the tensors of a saved memory are called.
const DOCUMENTS: &str = "memory.documents";
const QUERIES: &str = "memory.queries";
const IDENTITIES: &str = "memory.identities";
const BATCHES: &str = "memory.batches";

impl Memory {
    /// An empty memory of `size` pairs, not used before `warmup` batches were seen.
    pub fn new(size: usize, warmup: usize) -> Self {
        Self {
            size,
            warmup,
            batches: 0,
            width: 0,
            documents: VecDeque::new(),
            queries: VecDeque::new(),
            identities: Vec::new(),
        }
    }

    /// Whether it is to be used: warm, and not empty.
    pub fn is_ready(&self) -> bool {
        self.batches >= self.warmup && !self.identities.is_empty()
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.identities.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty()
    }

    /// Identities of (query, document), in the order of the tensors' rows.
    pub fn identities(&self) -> &Vec<(u64, u64)> {
        &self.identities
    }

    /// Puts a batch in; the oldest go. `queries` and `documents` are the embeddings of the rows' queries and positives,
    /// row-major, `width` values each.
    pub fn remember(&mut self, batch: &[Example], queries: &[f32], documents: &[f32], width: usize) {
        self.batches += 1;
        self.width = width;
        for (row, example) in batch.iter().enumerate() {
            let Some(positive) = &example.positive else { continue };
            let values = row * width..(row + 1) * width;
            self.queries.extend(&queries[values.clone()]);
            self.documents.extend(&documents[values]);
            self.identities.push((example.query.identity, positive.identity));
        }
        let gone = self.identities.len().saturating_sub(self.size);
        self.identities.drain(..gone);
        self.queries.drain(..gone * width);
        self.documents.drain(..gone * width);
    }

    /// (queries, documents), `[pairs, dim]` each, without gradients.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn tensors(&mut self, device: &Device) -> Result<(Tensor, Tensor)> {
        let shape = (self.identities.len(), self.width);
        let queries = Tensor::from_slice(self.queries.make_contiguous(), shape, device)?;
        Ok((queries, Tensor::from_slice(self.documents.make_contiguous(), shape, device)?))
    }

    /// Everything that a resumed run needs, by name.
    ///
    /// # Errors
    /// None but a lack of memory.
    pub fn state(&mut self) -> Result<BTreeMap<String, Tensor>> {
        let (queries, documents) = self.tensors(&Device::Cpu)?;
        let bits = |v: u64| v as i64;
        let identities: Vec<i64> = self.identities.iter().flat_map(|(q, d)| [bits(*q), bits(*d)]).collect();
        Ok(BTreeMap::from([
            (QUERIES.to_string(), queries),
            (DOCUMENTS.to_string(), documents),
            (IDENTITIES.to_string(), Tensor::from_vec(identities, (self.identities.len(), 2), &Device::Cpu)?),
            (BATCHES.to_string(), Tensor::from_vec(vec![self.batches as i64], 1, &Device::Cpu)?),
        ]))
    }

    /// Takes up a saved state.
    ///
    /// # Errors
    /// The tensor that is missing or does not fit.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let get = |name: &str| match state.get(name) {
            Some(tensor) => Ok(tensor),
            None => Err(candle_core::Error::Msg(format!("holds no `{name}`"))),
        };
        let (queries, documents) = (get(QUERIES)?, get(DOCUMENTS)?);
        let (pairs, width) = documents.dims2()?;
        let identities = get(IDENTITIES)?;
        if queries.dims() != documents.dims() || identities.dims() != [pairs, 2] || pairs > self.size {
            bail!(
                "memory of {:?}, {:?} and {:?} does not fit {} pairs",
                queries.dims(),
                documents.dims(),
                identities.dims(),
                self.size
            );
        }
        let batches = get(BATCHES)?.flatten_all()?.to_vec1::<i64>()?;
        self.batches = batches.first().copied().and_then(|b| usize::try_from(b).ok()).unwrap_or_default();
        self.width = width;
        self.queries = queries.flatten_all()?.to_vec1()?.into();
        self.documents = documents.flatten_all()?.to_vec1()?.into();
        let values = identities.flatten_all()?.to_vec1::<i64>()?;
        self.identities = values.chunks_exact(2).map(|pair| (pair[0] as u64, pair[1] as u64)).collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::tests::example;
    use super::*;

    #[test]
    fn the_oldest_go_and_a_saved_memory_is_the_same() {
        let mut memory = Memory::new(3, 2);
        memory.remember(&[example(1, 10, &[]), example(2, 11, &[])], &[1.0, 2.0], &[3.0, 4.0], 1);
        assert!(!memory.is_ready());
        memory.remember(&[example(3, 12, &[]), example(4, 13, &[])], &[5.0, 6.0], &[7.0, 8.0], 1);
        assert!(memory.is_ready());
        assert_eq!(memory.identities(), &[(2, 11), (3, 12), (4, 13)]);
        let (queries, documents) = memory.tensors(&Device::Cpu).unwrap();
        assert_eq!(queries.to_vec2::<f32>().unwrap(), [[2.0], [5.0], [6.0]]);
        assert_eq!(documents.to_vec2::<f32>().unwrap(), [[4.0], [7.0], [8.0]]);
        let mut other = Memory::new(3, 2);
        other.restore(&memory.state().unwrap()).unwrap();
        assert_eq!(other.tensors(&Device::Cpu).unwrap().0.to_vec2::<f32>().unwrap(), [[2.0], [5.0], [6.0]]);
        assert_eq!((other.identities(), other.is_ready()), (memory.identities(), true));
        assert!(Memory::new(2, 0).restore(&memory.state().unwrap()).is_err());
        assert!(Memory::new(2, 0).restore(&BTreeMap::new()).is_err());
    }
}
