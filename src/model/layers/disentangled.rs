//! Attention of DeBERTa (He et al. 2021): content and position have projections of their own, and a score is the sum of content to content,
//! content to position and position to content. On the CPU by [`crate::nn::disentangled`]; elsewhere composed of candle's operations for each
//! sequence, so that memory grows with the square of a sequence's length.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::pass::{Pass, Place};
use crate::nn::composed::softmax;
use crate::nn::disentangled::{self, Columns};
use crate::nn::linear::Linear;

/// Projections of queries, keys and values.
#[derive(Debug)]
pub enum Content {
    /// By one layer without bias, whose rows are by head: query, key and value of head 0, then of head 1 …; queries and values have a
    /// bias of their own, `[hidden]` (DeBERTa v1).
    ByHead {
        /// `[hidden → 3 hidden]`.
        joint: Linear,
        /// Added to queries.
        query_bias: Tensor,
        /// Added to values.
        value_bias: Tensor,
    },
    /// By three layers (v2).
    Separate {
        /// `[hidden → hidden]`.
        query: Linear,
        /// The same.
        key: Linear,
        /// The same.
        value: Linear,
    },
}

/// A projection of the positions' table.
#[derive(Debug)]
pub enum PositionProjection {
    /// Scores of this kind are not added.
    None,
    /// The layer's own projection of content (`share_att_key`).
    Shared,
    /// A layer of its own.
    Own(Linear),
}

/// Disentangled attention.
#[derive(Debug)]
pub struct Disentangled {
    /// Of content.
    pub content: Content,
    /// Positions as keys: content to position.
    pub position_key: PositionProjection,
    /// Positions as queries: position to content.
    pub position_query: PositionProjection,
    /// Heads.
    pub heads: usize,
    /// Which row of the positions' table a distance has.
    pub rows: Rows,
    /// `[hidden → hidden]`.
    pub output: Linear,
}

/// From a distance to a row of the positions' table, `[2 half]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rows {
    /// Distances (or buckets) farther than this share a row.
    pub half: usize,
    /// Distances are put into buckets that widen; the largest distance for that.
    pub buckets: Option<usize>,
}

impl Rows {
    /// The row for a query `distance` tokens after the key.
    pub fn row(&self, distance: i64) -> usize {
        let half = self.half as i64;
        let distance = match self.buckets {
            Some(largest) => self.bucket(distance, largest),
            None => distance,
        };
        (distance + half).clamp(0, 2 * half - 1) as usize
    }

    /// `make_log_bucket_position` of transformers' DeBERTa v2, in `f32` as there.
    fn bucket(&self, distance: i64, largest: usize) -> i64 {
        let middle = (self.half / 2) as i64;
        let far = distance.abs();
        if far <= middle {
            return distance;
        }
        let share = (far as f32 / middle as f32).ln() / ((largest as f32 - 1.0) / middle as f32).ln();
        distance.signum() * (middle + (share * (middle - 1) as f32).ceil() as i64)
    }
}

impl Disentangled {
    /// `[tokens, hidden]` → the same; `table` has the positions' vectors, `[2 half, hidden]`.
    ///
    /// # Errors
    /// Where the shapes do not fit.
    pub fn forward(&self, x: &Tensor, pass: &Pass, table: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let table = table.map(|table| pass.drop_table(&table.to_dtype(x.dtype())?, Place::Table)).transpose()?;
        let context = match x.device().is_cpu() {
            true => self.context(x, pass, table.as_ref())?,
            false => self.composed(x, pass, table.as_ref())?,
        };
        self.output.forward(&context, pass.adapter_seed(3))
    }

    /// The layer that projects the positions' table, and its adapter's place: as keys, or as queries.
    fn projection(&self, as_keys: bool) -> Option<(&Linear, u64)> {
        let (projection, place) = if as_keys { (&self.position_key, 21) } else { (&self.position_query, 22) };
        let linear = match (projection, &self.content) {
            (PositionProjection::Own(linear), _) => linear,
            (PositionProjection::Shared, Content::Separate { query, key, .. }) => {
                if as_keys {
                    key
                } else {
                    query
                }
            }
            _ => return None,
        };
        Some((linear, place))
    }

    /// What the output layer is given, as one operation over all sequences.
    fn context(&self, x: &Tensor, pass: &Pass, table: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let hidden = x.dims2()?.1;
        let (qkv, biases, columns) = match &self.content {
            Content::ByHead { joint, query_bias, value_bias } => {
                let biases = Tensor::stack(&[query_bias, value_bias], 0)?.to_dtype(DType::F32)?;
                (joint.forward(x, pass.adapter_seed(0))?, biases, Columns::ByHead)
            }
            Content::Separate { query, key, value } => {
                let q = query.forward(x, pass.adapter_seed(0))?;
                let k = key.forward(x, pass.adapter_seed(1))?;
                let qkv = Tensor::cat(&[q, k, value.forward(x, pass.adapter_seed(2))?], 1)?;
                (qkv, Tensor::zeros((2, hidden), DType::F32, x.device())?, Columns::ByKind)
            }
        };
        let longest = super::longest(&pass.cu_seqlens) as i64;
        let projections = [true, false].map(|as_keys| self.projection(as_keys).filter(|_| table.is_some()));
        // Rows that no distance here has are not projected, but where an adapter's dropout is drawn by their number.
        let drawn = |(linear, place): &(&Linear, u64)| linear.drops() && pass.adapter_seed(*place).is_some();
        let (first, last) = match longest == 0 || projections.iter().flatten().any(drawn) {
            true => (0, 2 * self.rows.half - 1),
            false => (self.rows.row(1 - longest), self.rows.row(longest - 1)),
        };
        let mut vectors = Vec::new();
        if let Some(table) = table {
            let table = table.narrow(0, first, last + 1 - first)?;
            for (linear, place) in projections.into_iter().flatten() {
                vectors.push(linear.forward(&table, pass.adapter_seed(place))?);
            }
        }
        let positions = match vectors.as_slice() {
            [] => Tensor::zeros((1, 0), DType::F32, x.device())?,
            [one] => one.clone(),
            both => Tensor::cat(both, 1)?,
        };
        // By distance from query to key, whose rows are by that from key to query.
        let rows = (1 - longest..longest).map(|distance| (self.rows.row(-distance) - first) as u32).collect();
        let heads = disentangled::Heads {
            count: self.heads,
            columns,
            keys: projections[0].is_some(),
            queries: projections[1].is_some(),
            dropout: pass.weights(Place::Weights)?,
        };
        disentangled::attention(&qkv, &positions, &biases, Arc::new(rows), &pass.cu_seqlens, heads)
    }

    /// As [`Self::context`], of candle's operations.
    fn composed(&self, x: &Tensor, pass: &Pass, table: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let (tokens, hidden) = x.dims2()?;
        let (heads, depth) = (self.heads, hidden / self.heads);
        let split = |x: Tensor| x.reshape(((), heads, depth));
        let (q, k, v) = match &self.content {
            Content::ByHead { joint, query_bias, value_bias } => {
                let all = joint.forward(x, pass.adapter_seed(0))?.reshape((tokens, heads, 3 * depth))?;
                let bias = |b: &Tensor| b.to_dtype(x.dtype())?.reshape((heads, depth));
                let part = |i: usize| all.narrow(2, i * depth, depth);
                (part(0)?.broadcast_add(&bias(query_bias)?)?, part(1)?, part(2)?.broadcast_add(&bias(value_bias)?)?)
            }
            Content::Separate { query, key, value } => (
                split(query.forward(x, pass.adapter_seed(0))?)?,
                split(key.forward(x, pass.adapter_seed(1))?)?,
                split(value.forward(x, pass.adapter_seed(2))?)?,
            ),
        };
        let positions = |as_keys: bool| match (self.projection(as_keys), table) {
            (Some((linear, place)), Some(table)) => split(linear.forward(table, pass.adapter_seed(place))?).map(Some),
            _ => Ok(None),
        };
        let (pk, pq) = (positions(true)?, positions(false)?);
        let kinds = 1 + usize::from(pk.is_some()) + usize::from(pq.is_some());
        let scale = 1.0 / ((depth * kinds) as f64).sqrt();
        let dropout = pass.weights(Place::Weights)?;
        let by_head = |x: &Tensor| x.transpose(0, 1)?.contiguous();
        let (pk, pq) = (pk.as_ref().map(by_head).transpose()?, pq.as_ref().map(by_head).transpose()?);
        let mut outs = Vec::with_capacity(pass.cu_seqlens.len());
        for bounds in pass.cu_seqlens.windows(2) {
            let (start, n) = (bounds[0], bounds[1] - bounds[0]);
            if n == 0 {
                continue;
            }
            let part = |x: &Tensor| by_head(&x.narrow(0, start, n)?);
            let (q, k, v) = (part(&q)?, part(&k)?, part(&v)?);
            let mut scores = q.matmul(&k.t()?.contiguous()?)?;
            // Row r, column c: query r and key c, or the other way round.
            let rows = |sign: i64| -> candle_core::Result<Tensor> {
                let of = |i: usize| self.rows.row(sign * ((i / n) as i64 - (i % n) as i64)) as u32;
                let indices: Vec<u32> = (0..n * n).map(of).collect();
                Tensor::from_vec(indices, (1, n, n), x.device())?.broadcast_as((heads, n, n))?.contiguous()
            };
            if let Some(pk) = &pk {
                scores = (scores + q.matmul(&pk.t()?.contiguous()?)?.gather(&rows(1)?, 2)?)?;
            }
            if let Some(pq) = &pq {
                scores = (scores + k.matmul(&pq.t()?.contiguous()?)?.gather(&rows(-1)?, 2)?.transpose(1, 2)?)?;
            }
            let mut weights = softmax(&(scores * scale)?)?;
            if let Some(dropout) = &dropout {
                weights = weights.mul(&dropout.head_factors(start, n, heads, &weights)?)?;
            }
            outs.push(weights.matmul(&v)?.transpose(0, 1)?.reshape((n, hidden))?);
        }
        if outs.is_empty() { x.zeros_like() } else { Tensor::cat(&outs, 0) }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::model::Mode;
    use crate::model::architecture::ModelDropout;
    use crate::nn::PackedBatch;
    use crate::nn::linear::LowRank;

    const HIDDEN: usize = 12;

    #[test]
    fn one_operation_is_what_candles_operations_give() {
        let mut vars = Vec::new();
        let mut draw = |rows: usize, columns: usize| {
            let seed = vars.len() + 1;
            let values: Vec<f32> =
                (0..rows * columns).map(|i| ((i * 7919 + seed * 104_729) % 2_003) as f32 / 2e3 - 0.5).collect();
            let var = Var::from_tensor(&Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()).unwrap();
            vars.push(var.clone());
            var.as_tensor().clone()
        };
        let x = draw(95, HIDDEN);
        let lora = LowRank { a: draw(2, HIDDEN), b: draw(HIDDEN, 2), scale: 1.5, dropout: 0.2 };
        let adapted = Linear::new(draw(HIDDEN, HIDDEN), None, Some(lora)).unwrap();
        let mut linear = |outputs: usize| Linear::new(draw(outputs, HIDDEN), None, None).unwrap();
        let [query_bias, value_bias] = [0.1f32, -0.2].map(|value| Var::new(&[value; HIDDEN], &Device::Cpu).unwrap());
        let by_head = |linear: &mut dyn FnMut(usize) -> Linear| Content::ByHead {
            joint: linear(3 * HIDDEN),
            query_bias: query_bias.as_tensor().clone(),
            value_bias: value_bias.as_tensor().clone(),
        };
        let separate = |linear: &mut dyn FnMut(usize) -> Linear| Content::Separate {
            query: linear(HIDDEN),
            key: linear(HIDDEN),
            value: linear(HIDDEN),
        };
        let own = PositionProjection::Own;
        // Of 8 rows to each side all are used, of 100 those that the texts reach, but where an adapter drops some.
        let cases = [
            (by_head(&mut linear), own(linear(HIDDEN)), own(linear(HIDDEN)), 8, None),
            (by_head(&mut linear), PositionProjection::None, own(linear(HIDDEN)), 100, None),
            (separate(&mut linear), PositionProjection::Shared, PositionProjection::Shared, 8, Some(60)),
            (separate(&mut linear), own(linear(HIDDEN)), PositionProjection::None, 100, None),
            (separate(&mut linear), own(adapted), own(linear(HIDDEN)), 100, None),
        ];
        let output = linear(HIDDEN);
        let tables = [8, 100].map(|half| draw(2 * half, HIDDEN));
        let batch = PackedBatch::new(&[vec![1u32; 5], vec![1; 71], vec![1; 1], vec![1; 18]]);
        for (number, (content, position_key, position_query, half, buckets)) in cases.into_iter().enumerate() {
            let (rows, table) = (Rows { half, buckets }, &tables[usize::from(half > 8)]);
            let layer = Disentangled { content, position_key, position_query, heads: 3, rows, output: output.clone() };
            let dropout = (number % 2 == 0).then_some(ModelDropout { hidden: 0.1, attention: 0.2 });
            let pass = Pass::new(&batch, &Mode::training(3), dropout, false);
            let results =
                [layer.context(&x, &pass, Some(table)), layer.composed(&x, &pass, Some(table))].map(Result::unwrap);
            let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let gradients = results.each_ref().map(|out| (out * &x).unwrap().sum_all().unwrap().backward().unwrap());
            let mut pairs = vec![("result".to_string(), results.each_ref().map(values))];
            for (i, var) in vars.iter().chain([&query_bias, &value_bias]).enumerate() {
                let found = gradients.each_ref().map(|g| g.get(var));
                assert_eq!(found[0].is_some(), found[1].is_some(), "case {number}: variable {i}");
                if let [Some(a), Some(b)] = found {
                    pairs.push((format!("variable {i}"), [values(a), values(b)]));
                }
            }
            assert!(pairs.len() > 4, "case {number}: {} gradients", pairs.len());
            for (name, [got, want]) in pairs {
                let most = want.iter().fold(1f32, |most, v| most.max(v.abs()));
                let off = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                assert!(got.len() == want.len() && off < 1e-5 * most, "case {number}, {name}: off by {off}");
            }
        }
    }
}
