//! Batched inference: texts in, a matrix of embeddings out.
//!
//! On the CPU every worker runs its own micro-batches on one thread, so that workers never wait for each other and a
//! micro-batch stays in the cache; a text's tokens are packed, not padded. Texts that repeat are encoded once.

pub mod cache;
pub mod identity;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::data::matrix::Matrix;
use crate::model::{Embedder, Mode, ModelError};
use crate::nn::PackedBatch;
use crate::nn::kernel::precision;

/// Tokens of a micro-batch on the CPU; one text may exceed it.
const CPU_TOKENS: usize = 1_024;
/// Tokens of a micro-batch on other devices.
const DEVICE_TOKENS: usize = 32_768;
/// Bytes of text that a worker takes at a time, at the most.
const TAKE_BYTES: usize = 16_384;
/// Bytes that it takes at the least: a quarter of a micro-batch, or so.
const LAST_BYTES: usize = 1_024;
/// As [`TAKE_BYTES`], on other devices.
const DEVICE_BYTES: usize = 262_144;

/// Embeddings and what they cost.
#[derive(Debug, Clone, Default)]
pub struct Encoded {
    /// `[texts, dim]`.
    pub embeddings: Matrix,
    /// Tokens that went through the model, special ones counted, repeats not.
    pub tokens: usize,
    /// Distinct texts that were cut at the model's limit.
    pub truncated: usize,
}

/// Encodes `prompt + text` for every text, in the order given. `progress` is told how many texts are done.
///
/// # Errors
/// Where tokenization or a tensor operation fails, or an embedding is not finite (the text is named).
pub fn encode(
    embedder: &Embedder,
    texts: &[&str],
    prompt: &str,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Encoded, ModelError> {
    let mut first_of: HashMap<&str, usize> = HashMap::with_capacity(texts.len());
    let mut unique: Vec<&str> = Vec::new();
    let slots: Vec<usize> = texts
        .iter()
        .map(|text| {
            *first_of.entry(text).or_insert_with(|| {
                unique.push(text);
                unique.len() - 1
            })
        })
        .collect();
    let layout = &embedder.files().layout;
    let tokenizer = embedder.files().tokenizer();
    let prompt_tokens = if layout.include_prompt { 0 } else { tokenizer.prompt_tokens(prompt)? };
    // Longest first, so that no worker is left with a long one at the end.
    let mut order: Vec<usize> = (0..unique.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(unique[i].len()), i));
    let cpu = embedder.device().is_cpu();
    let weight = |&i: &usize| unique[i].len() + prompt.len() + 8;
    let takes = if cpu {
        // Ever smaller ones towards the end, so that all workers stop at about the same time.
        let mut left: usize = order.iter().map(weight).sum();
        let shares = 4 * rayon::current_num_threads();
        cut(&order, weight, |taken| {
            left -= taken;
            (left / shares).clamp(LAST_BYTES, TAKE_BYTES)
        })
    } else {
        cut(&order, weight, |_| DEVICE_BYTES)
    };

    let dim = embedder.files().embedding_size();
    if cpu && !unique.is_empty() {
        embedder.prepare();
    }
    let workers = if cpu { rayon::current_num_threads().min(takes.len()).max(1) } else { 1 };
    let work = Work {
        embedder,
        unique: &unique,
        prompt,
        prompt_tokens,
        budget: if cpu { CPU_TOKENS } else { DEVICE_TOKENS },
        takes: &takes,
        next: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        tokens: AtomicUsize::new(0),
        truncated: AtomicUsize::new(0),
        out: Mutex::new(vec![0f32; unique.len() * dim]),
        dim,
        progress,
    };
    if workers == 1 {
        work.run()?;
    } else {
        let parts = precision::parts();
        let run = || {
            let _precision = precision::in_parts(parts);
            work.run()
        };
        let run = &run;
        std::thread::scope(|scope| {
            let handles: Vec<_> = (0..workers).map(|_| scope.spawn(|| one_thread(run))).collect();
            handles.into_iter().try_for_each(|handle| {
                handle.join().unwrap_or_else(|_| Err(ModelError::Tokenizer("a worker stopped unexpectedly".into())))
            })
        })?;
    }
    let (tokens, truncated) = (work.tokens.into_inner(), work.truncated.into_inner());
    let data = work.out.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let distinct = Matrix::new(unique.len(), dim, data)
        .ok_or_else(|| ModelError::Tokenizer("embeddings of another size than the config's".into()))?;
    if let Some(bad) = (0..distinct.rows()).find(|&i| distinct.row(i).iter().any(|v| !v.is_finite())) {
        let text: String = unique[bad].chars().take(60).collect();
        return Err(ModelError::file(
            &embedder.files().path,
            format!("gives an embedding that is not finite for the text `{text}`"),
        ));
    }
    Ok(Encoded { embeddings: distinct.select(&slots), tokens, truncated })
}

/// Whether this thread's products of the model have operands of `bf16` on the CPU, where one call can be in `f32` all the same.
pub fn is_rounded(embedder: &Embedder) -> bool {
    embedder.device().is_cpu() && precision::is_bf16()
}

/// This thread's products are in `f32` until what is given goes.
pub fn in_f32() -> precision::Scope {
    precision::scope(false)
}

/// Runs `f` where every parallel operation stays on this thread.
fn one_thread<T: Send>(f: impl FnOnce() -> Result<T, ModelError> + Send) -> Result<T, ModelError> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .map_err(|e| ModelError::Tokenizer(format!("cannot start a worker: {e}")))?;
    pool.install(f)
}

/// Cuts a list into runs whose weights add up to `limit` at the most (one item may exceed it), which is asked before each run and told the
/// weight of the one before.
fn cut<T: Clone>(items: &[T], weight: impl Fn(&T) -> usize, mut limit: impl FnMut(usize) -> usize) -> Vec<Vec<T>> {
    let mut runs: Vec<Vec<T>> = Vec::new();
    let (mut sum, mut most) = (0, limit(0));
    for item in items {
        let w = weight(item);
        match runs.last_mut() {
            Some(run) if sum + w <= most => {
                run.push(item.clone());
                sum += w;
            }
            _ => {
                if !runs.is_empty() {
                    most = limit(sum);
                }
                runs.push(vec![item.clone()]);
                sum = w;
            }
        }
    }
    runs
}

/// As [`cut`] with one limit for all, into as many runs, the heaviest of which weighs as little as it can.
fn even<T: Clone>(items: &[T], weight: impl Fn(&T) -> usize, limit: usize) -> Vec<Vec<T>> {
    let count = |limit: usize| {
        let (mut runs, mut sum) = (0, 0);
        for w in items.iter().map(&weight) {
            if runs > 0 && sum + w <= limit {
                sum += w;
            } else {
                (runs, sum) = (runs + 1, w);
            }
        }
        runs
    };
    let (runs, total) = (count(limit), items.iter().map(&weight).sum::<usize>());
    let (mut low, mut high) = (total.div_ceil(runs.max(1)).min(limit), limit);
    while low < high {
        let middle = low + (high - low) / 2;
        if count(middle) <= runs { high = middle } else { low = middle + 1 }
    }
    cut(items, weight, |_| low)
}

struct Work<'a> {
    embedder: &'a Embedder,
    unique: &'a [&'a str],
    prompt: &'a str,
    prompt_tokens: usize,
    budget: usize,
    takes: &'a [Vec<usize>],
    next: AtomicUsize,
    done: AtomicUsize,
    tokens: AtomicUsize,
    truncated: AtomicUsize,
    out: Mutex<Vec<f32>>,
    dim: usize,
    progress: &'a (dyn Fn(usize) + Sync),
}

impl Work<'_> {
    fn run(&self) -> Result<(), ModelError> {
        let limit = self.embedder.files().tokenizer().max_length();
        while let Some(take) = self.takes.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let texts: Vec<&str> = take.iter().map(|&i| self.unique[i]).collect();
            let ids = self.embedder.files().tokenizer().encode(&texts, self.prompt)?;
            let rows: Vec<(usize, Vec<u32>)> = take.iter().copied().zip(ids).collect();
            for batch in even(&rows, |(_, ids)| ids.len(), self.budget) {
                self.micro_batch(&batch)?;
                let tokens = batch.iter().map(|(_, ids)| ids.len()).sum();
                self.tokens.fetch_add(tokens, Ordering::Relaxed);
                self.truncated.fetch_add(batch.iter().filter(|(_, ids)| ids.len() >= limit).count(), Ordering::Relaxed);
                (self.progress)(self.done.fetch_add(batch.len(), Ordering::Relaxed) + batch.len());
            }
        }
        Ok(())
    }

    fn micro_batch(&self, rows: &[(usize, Vec<u32>)]) -> Result<(), ModelError> {
        let ids: Vec<&[u32]> = rows.iter().map(|(_, ids)| ids.as_slice()).collect();
        let batch = PackedBatch::with_prompts(&ids, &vec![self.prompt_tokens; ids.len()]);
        let embeddings = self.embedder.forward(&batch, Mode::INFERENCE)?;
        let values = embeddings.to_device(&candle_core::Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        let mut out = self.out.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for ((slot, _), row) in rows.iter().zip(values.chunks_exact(self.dim)) {
            out[slot * self.dim..(slot + 1) * self.dim].copy_from_slice(row);
        }
        Ok(())
    }
}

/// Embeddings of token sequences as one packed batch, `[sequences, dim]`; for tests of what packing must not change.
///
/// # Errors
/// As [`Embedder::forward`].
pub fn embed_tokens(embedder: &Embedder, sequences: &[Vec<u32>]) -> candle_core::Result<candle_core::Tensor> {
    embedder.forward(&PackedBatch::new(sequences), Mode::INFERENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_hold_every_item_once_and_no_more_than_their_limits() {
        let items: Vec<usize> = (0..200).map(|i| 1 + i * 37 % 23).collect();
        let (mut limits, mut told) = (Vec::new(), Vec::new());
        let runs = cut(
            &items,
            |&w| w,
            |before| {
                told.push(before);
                limits.push(100usize.saturating_sub(2 * limits.len()).max(30));
                limits[limits.len() - 1]
            },
        );
        assert_eq!(runs.concat(), items);
        let sums: Vec<usize> = runs.iter().map(|run| run.iter().sum()).collect();
        assert!(sums.iter().zip(&limits).all(|(sum, limit)| sum <= limit), "{sums:?} {limits:?}");
        assert_eq!(told[1..], sums[..sums.len() - 1], "a limit is asked for with what was taken before");
        assert_eq!(cut(&[7, 50, 7], |&w| w, |_| 10), [vec![7], vec![50], vec![7]]);
        assert!(cut(&[0; 0], |&w| w, |_| 10).is_empty());
    }

    #[test]
    fn even_runs_are_as_many_as_full_ones_and_within_the_limit() {
        let items: Vec<usize> = (0..300).map(|i| 5 + i * 37 % 23).collect();
        let total: usize = items.iter().sum();
        for most in [total, total - 1, 1_000, 400, 50] {
            let (runs, full) = (even(&items, |&w| w, most), cut(&items, |&w| w, |_| most));
            assert_eq!(runs.concat(), items);
            assert_eq!(runs.len(), full.len());
            let heaviest = |runs: &[Vec<usize>]| runs.iter().map(|run| run.iter().sum::<usize>()).max();
            assert!(heaviest(&runs) <= heaviest(&full) && heaviest(&runs) <= Some(most));
        }
        assert_eq!(even(&[60, 30, 30, 10], |&w| w, 100), [vec![60], vec![30, 30, 10]]);
        assert_eq!(even(&[500, 3, 400], |&w| w, 100), [vec![500], vec![3], vec![400]]);
        // Texts without tokens go with those before.
        assert_eq!(even(&[5, 7, 0, 0], |&w| w, 8), [vec![5], vec![7, 0, 0]]);
        assert_eq!(even(&[0, 0], |&w| w, 10), [vec![0, 0]]);
        assert!(even(&[0; 0], |&w| w, 10).is_empty());
    }
}
