//! Linear layers whose weight is trainable, frozen, or frozen with a low-rank adapter.
//!
//! A frozen weight is no operand of the op, so the backward pass computes `grad · W` alone: no weight gradient is
//! computed or kept. candle's own `matmul` would do both. A frozen weight may be held quantised: forward and backward
//! passes dequantise it into a buffer of their own, and nothing made of it is kept between them.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::activation::Activation;
use super::dora::{self, Scaled};
use super::kernel::gemm::{Operand, multiply};
use super::kernel::packed::{Packed, Start};
use super::kernel::parallel;
use super::kernel::precision;
use super::quantized::Weight;
use super::storage::{output, unset, values, with_values, zeros};

const NAME: &str = "linear";

/// `y = x Wᵀ + b`, with `W` `[out, in]`, plus `scale (x Aᵀ) Bᵀ` where an adapter is attached; with a magnitude,
/// `y = g ⊙ (x Wᵀ + scale (x Aᵀ) Bᵀ) + b`, `g = magnitude / ‖W + scale B A‖` by rows ([`super::dora`]).
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[out, in]`; trainable if it is a variable.
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Tensor>,
    /// Low-rank adapter of a frozen weight.
    pub lora: Option<LowRank>,
    /// `[out]`: the magnitudes of DoRA.
    pub magnitude: Option<Tensor>,
    /// Whether nobody else writes to the weight.
    still: bool,
    prepared: Option<Arc<Prepared>>,
    /// The norms of DoRA, kept where nothing that they are made of changes.
    norms: Arc<OnceLock<Tensor>>,
}

/// A frozen weight as products by blocks read it, made when first used.
#[derive(Debug, Default)]
struct Prepared {
    /// `Wᵀ`, for the forward pass.
    forward: ByParts,
    /// `W`, for the backward pass.
    backward: ByParts,
}

/// By the parts that its values are split into, less one.
type ByParts = [OnceLock<Option<Packed>>; precision::F32];

/// LoRA (Hu et al. 2021): `ΔW = scale B A`.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// `[rank, in]`.
    pub a: Tensor,
    /// `[out, rank]`.
    pub b: Tensor,
    /// α / rank.
    pub scale: f64,
    /// Probability that an input element of the adapter is dropped in training.
    pub dropout: f32,
}

impl Linear {
    /// Checks the shapes.
    ///
    /// # Errors
    /// Where weight, bias and adapter do not fit.
    pub fn new(weight: impl Into<Weight>, bias: Option<Tensor>, lora: Option<LowRank>) -> Result<Self> {
        let weight = weight.into();
        let (outputs, inputs) = weight.shape()?;
        if let Some(bias) = &bias
            && bias.dims() != [outputs]
        {
            bail!("{NAME}: bias {:?} does not fit weight {:?}", bias.dims(), [outputs, inputs]);
        }
        if let Some(lora) = &lora {
            let rank = lora.a.dims2()?.0;
            if lora.a.dims() != [rank, inputs] || lora.b.dims() != [outputs, rank] {
                bail!(
                    "{NAME}: adapter {:?}, {:?} does not fit weight {:?}",
                    lora.a.dims(),
                    lora.b.dims(),
                    [outputs, inputs]
                );
            }
        }
        let still = !weight.track_op();
        // What products by blocks read would take more memory than was saved.
        let prepared = (still && weight.dense().is_some()).then(Arc::default);
        Ok(Self { weight, bias, lora, magnitude: None, still, prepared, norms: Arc::default() })
    }

    /// The same layer with the magnitudes of DoRA, `[out]`.
    ///
    /// # Errors
    /// Where they do not fit the weight, or there is no adapter.
    pub fn with_magnitude(self, magnitude: Tensor) -> Result<Self> {
        let (outputs, inputs) = self.weight.shape()?;
        if magnitude.dims() != [outputs] {
            bail!("{NAME}: magnitude {:?} does not fit weight {:?}", magnitude.dims(), [outputs, inputs]);
        }
        if self.lora.is_none() {
            bail!("{NAME}: a magnitude without a low-rank adapter");
        }
        Ok(Self { magnitude: Some(magnitude), norms: Arc::default(), ..self })
    }

    /// The same layer for a weight that somebody else writes to: nothing derived from it is kept between calls.
    pub fn changing(self) -> Self {
        Self { still: false, prepared: None, norms: Arc::default(), ..self }
    }

    /// The weight, where nothing of the layer ever changes and it has no adapter.
    pub(crate) fn fixed(&self) -> Option<&Tensor> {
        let plain = self.prepared.is_some() && self.lora.is_none() && self.magnitude.is_none();
        let bias = self.bias.as_ref().is_some_and(|bias| bias.track_op() || !bias.device().is_cpu());
        let weight = self.weight.dense().filter(|_| plain && !bias && self.weight.on_cpu())?;
        weight.dims().iter().all(|d| *d >= PREPARED_FROM).then_some(weight)
    }

    /// Whether it is nothing but a product on the CPU, with a low-rank adapter without dropout or none.
    pub(crate) fn is_plain(&self) -> bool {
        self.magnitude.is_none() && self.weight.on_cpu() && self.lora.as_ref().is_none_or(|lora| lora.dropout == 0.0)
    }

    /// Whether its adapter has dropout, whose mask depends on the number of a row.
    pub(crate) fn drops(&self) -> bool {
        self.lora.as_ref().is_some_and(|lora| lora.dropout > 0.0)
    }

    fn frozen(&self, activation: Activation) -> Frozen {
        let (weight, bias, prepared) = (self.weight.clone(), self.bias.clone(), self.prepared.clone());
        Frozen { weight, bias, activation, prepared }
    }

    /// `[tokens, in]` → `[tokens, out]`. `dropout_seed` switches the adapter's dropout on.
    pub fn forward(&self, x: &Tensor, dropout_seed: Option<u64>) -> Result<Tensor> {
        let (_, inputs) = x.dims2()?;
        let (rows, columns) = self.weight.shape()?;
        if inputs != columns {
            bail!("{NAME}: x {:?} does not fit weight {:?}", x.dims(), [rows, columns]);
        }
        #[cfg(feature = "cuda")]
        if super::cuda::linear::covers(x, self) {
            return super::cuda::linear::linear(x, self, Activation::None, dropout_seed);
        }
        #[cfg(feature = "cuda")]
        if x.dtype() == candle_core::DType::BF16 {
            return super::cuda::in_f32(x, |x| super::composed::linear(x, self, dropout_seed));
        }
        if !x.device().is_cpu() || !self.weight.on_cpu() {
            return super::composed::linear(x, self, dropout_seed);
        }
        let x = x.contiguous()?;
        if let (Some(lora), Some(magnitude)) = (&self.lora, &self.magnitude) {
            return match self.weight.track_op() {
                true => super::composed::linear(&x, self, dropout_seed),
                false => self.forward_scaled(&x, lora, magnitude, dropout_seed),
            };
        }
        if self.weight.track_op() || self.bias.as_ref().is_some_and(Tensor::track_op) {
            let y = self.trainable_base(&x)?;
            return match &self.lora {
                Some(lora) => y + delta(&x, lora, dropout_seed)?,
                None => Ok(y),
            };
        }
        let base = self.frozen(Activation::None);
        match &self.lora {
            None => x.apply_op1(base),
            Some(lora) if lora.dropout > 0.0 && dropout_seed.is_some() => {
                x.apply_op1(base)? + delta(&x, lora, dropout_seed)?
            }
            Some(lora) => x.apply_op3(&lora.a, &lora.b, Adapted { base: Some(base), scale: lora.scale as f32 }),
        }
    }

    /// Whether nothing of it is trained and it has no adapter.
    pub(super) fn is_frozen(&self) -> bool {
        self.lora.is_none() && !self.weight.track_op() && !self.bias.as_ref().is_some_and(Tensor::track_op)
    }

    /// As [`Self::forward`] of a layer that [`Self::is_frozen`], on the values of `rows` rows.
    ///
    /// # Errors
    /// Where a tensor is not of the CPU.
    pub(super) fn run(&self, x: &[f32], rows: usize) -> Result<Vec<f32>> {
        self.frozen(Activation::None).run(x, rows)
    }

    /// The gradient by the input of [`Self::run`], added to `sum` where there is one.
    ///
    /// # Errors
    /// As there.
    pub(super) fn back(&self, dy: &[f32], rows: usize, sum: Option<Vec<f32>>) -> Result<Vec<f32>> {
        self.frozen(Activation::None).added_gradient(dy, rows, sum)
    }

    /// A frozen weight as products by blocks read it: `Wᵀ` for the forward pass, `W` for the backward pass; `None` where it is not kept.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    pub(super) fn kept(&self, forward: bool) -> Result<Option<&Packed>> {
        let Some(all) = self.prepared.as_deref().filter(|_| self.is_frozen()) else { return Ok(None) };
        let (outputs, inputs) = self.weight.shape()?;
        self.weight.with_values(NAME, |values| {
            let weight = Operand::new(values, outputs, inputs);
            Ok(match forward {
                true => prepared(all, &self.weight, |p| &p.forward, || Packed::new(weight.t())),
                false => prepared(all, &self.weight, |p| &p.backward, || Packed::new(weight)),
            })
        })
    }

    /// `x Wᵀ + b` where one of them is trained.
    fn trainable_base(&self, x: &Tensor) -> Result<Tensor> {
        match (&self.weight, &self.bias) {
            (Weight::Dense(weight), Some(bias)) => x.apply_op3(weight, bias, Trainable),
            (Weight::Dense(weight), None) => x.apply_op2(weight, Trainable),
            (Weight::Quantized(_), bias) => {
                let y = x.apply_op1(Frozen { bias: None, ..self.frozen(Activation::None) })?;
                bias.as_ref().map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))
            }
        }
    }

    /// DoRA. In training with dropout PEFT scales what the dropped input gives and leaves the base's own output as it
    /// is: `y = W x + b + (g − 1) W x' + g · scale B A x'`, with `x'` the dropped input; summed here in two terms.
    fn forward_scaled(
        &self,
        x: &Tensor,
        lora: &LowRank,
        magnitude: &Tensor,
        dropout_seed: Option<u64>,
    ) -> Result<Tensor> {
        let factor = (magnitude / self.norms(lora)?)?;
        let base = || Frozen { bias: None, ..self.frozen(Activation::None) };
        let scale = lora.scale as f32;
        let adapted = |x: &Tensor| x.apply_op3(&lora.a, &lora.b, Adapted { base: Some(base()), scale });
        let (trained, frozen) = match &self.bias {
            Some(bias) if bias.track_op() => (Some(bias), None),
            bias => (None, bias.clone()),
        };
        let scaled = Scaled { bias: frozen };
        let y = match dropout_seed.filter(|_| lora.dropout > 0.0) {
            Some(seed) => {
                let dropped = super::dropout::dropout(x, lora.dropout, seed)?;
                (adapted(&dropped)?.apply_op2(&factor, scaled)? + (x - &dropped)?.apply_op1(base())?)?
            }
            None => adapted(x)?.apply_op2(&factor, scaled)?,
        };
        trained.map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))
    }

    /// `‖W + scale B A‖` by rows, `[out]`, with no gradient (section 4.3 of Liu et al. 2024).
    fn norms(&self, lora: &LowRank) -> Result<Tensor> {
        let make = || dora::norms(&self.weight, lora);
        let fixed = self.still && !lora.a.track_op() && !lora.b.track_op();
        match self.norms.get() {
            Some(norms) if fixed => Ok(norms.clone()),
            _ if fixed => {
                let norms = make()?;
                Ok(self.norms.get_or_init(|| norms).clone())
            }
            _ => make(),
        }
    }

    /// `activation(forward(x))`; in one pass where nothing is to be differentiated.
    pub fn forward_activated(&self, x: &Tensor, activation: Activation, dropout_seed: Option<u64>) -> Result<Tensor> {
        let plain = self.lora.is_none() && x.device().is_cpu() && self.weight.on_cpu();
        let tracked = x.track_op() || self.weight.track_op() || self.bias.as_ref().is_some_and(Tensor::track_op);
        if plain && !tracked && activation.fuses() && x.dims2()?.1 == self.weight.shape()?.1 {
            return x.contiguous()?.apply_op1(self.frozen(activation));
        }
        #[cfg(feature = "cuda")]
        if super::cuda::linear::covers(x, self) && x.dims2()?.1 == self.weight.shape()?.1 {
            return super::cuda::linear::linear(x, self, activation, dropout_seed);
        }
        activation.forward(&self.forward(x, dropout_seed)?)
    }
}

/// Weights of layers that are run as one, at the most.
const JOINT_VALUES: usize = 8 << 20;

/// Layers of one input run as one, so that the input is read, and its gradient summed, once.
#[derive(Debug, Clone)]
pub struct Joint {
    /// The layers in one, kept where their weights do not change.
    fixed: Option<Linear>,
}

impl Joint {
    /// Of layers whose inputs are of one width.
    ///
    /// # Errors
    /// Where they are not.
    pub fn new(parts: &[&Linear]) -> Result<Self> {
        let still = |p: &&Linear| p.prepared.is_some() && !p.bias.as_ref().is_some_and(Tensor::track_op);
        let fixed = parts.iter().all(still) && Self::possible(parts);
        Ok(Self { fixed: if fixed { Some(Self::whole(parts)?) } else { None } })
    }

    /// Whether [`Self::forward`] has a use: adapters are applied to each layer by itself, and quantised weights are not
    /// put together.
    fn possible(parts: &[&Linear]) -> bool {
        let here = |p: &Linear| p.weight.dense().is_some_and(|w| p.weight.on_cpu() || w.device().is_cuda());
        let plain = |p: &&Linear| p.lora.is_none() && here(p);
        // Large layers gain nothing, and a second copy of them would cost much.
        let values: usize = parts.iter().filter_map(|p| p.weight.dense()).map(Tensor::elem_count).sum();
        values <= JOINT_VALUES
            && parts.iter().all(plain)
            && parts.windows(2).all(|p| p[0].bias.is_some() == p[1].bias.is_some())
    }

    fn whole(parts: &[&Linear]) -> Result<Linear> {
        let weights: Vec<&Tensor> = parts.iter().filter_map(|p| p.weight.dense()).collect();
        let biases: Option<Vec<&Tensor>> = parts.iter().map(|p| p.bias.as_ref()).collect();
        let weight = Tensor::cat(&weights, 0)?;
        Linear::new(weight, biases.map(|b| Tensor::cat(&b, 0)).transpose()?, None)
    }

    /// `[tokens, in]` → the results of all layers side by side, `[tokens, Σ out]`; `None` where they run better one by one.
    /// `parts` are those that it was made of.
    pub fn forward(&self, x: &Tensor, parts: &[&Linear]) -> Result<Option<Tensor>> {
        match &self.fixed {
            Some(whole) => whole.forward(x, None).map(Some),
            None if Self::possible(parts) => Self::whole(parts)?.changing().forward(x, None).map(Some),
            None => Ok(None),
        }
    }
}

/// `scale (x Aᵀ) Bᵀ`, with dropout on `x`.
fn delta(x: &Tensor, lora: &LowRank, dropout_seed: Option<u64>) -> Result<Tensor> {
    let x = match dropout_seed {
        Some(seed) => super::dropout::dropout(x, lora.dropout, seed)?,
        None => x.clone(),
    };
    x.apply_op3(&lora.a, &lora.b, Adapted { base: None, scale: lora.scale as f32 })
}

/// `x yᵀ`: `[n, d]` and `[m, d]` → `[n, m]`, differentiable by both.
pub fn product_transposed(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if x.dims2()?.1 != y.dims2()?.1 {
        bail!("{NAME}: x {:?} and y {:?} differ in their last dimension", x.dims(), y.dims());
    }
    if !x.device().is_cpu() {
        return x.matmul(&y.t()?);
    }
    x.contiguous()?.apply_op2(&y.contiguous()?, Trainable)
}

/// `activation(x Wᵀ + b)` into a new buffer; `prepared` is `Wᵀ`, where it is at hand.
pub(super) fn affine(
    x: &[f32],
    rows: usize,
    weight: &[f32],
    bias: Option<&[f32]>,
    activation: Activation,
    prepared: Option<&Packed>,
) -> Vec<f32> {
    let inputs = x.len().checked_div(rows).unwrap_or(0);
    let outputs = weight.len().checked_div(inputs).unwrap_or_else(|| bias.map_or(0, <[f32]>::len));
    // SAFETY: the product, which does not accumulate, writes every value.
    let mut out = unsafe { unset(rows * outputs) };
    if out.is_empty() {
        return out;
    }
    let (x, weight) = (Operand::new(x, rows, inputs), Operand::new(weight, outputs, inputs).t());
    if let Some(prepared) = prepared {
        let finish = |rows: &mut [f32]| activation.apply(rows);
        prepared.multiply(&mut out, bias.map_or(Start::Zero, Start::Row), 1.0, x, &finish);
        return out;
    }
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if super::kernel::gemm::fills_tiles(inputs, outputs)
        && let Some(packed) = Packed::brief(weight)
    {
        let finish = |rows: &mut [f32]| activation.apply(rows);
        packed.multiply(&mut out, bias.map_or(Start::Zero, Start::Row), 1.0, x, &finish);
        packed.let_go();
        return out;
    }
    multiply(&mut out, false, 1.0, x, weight);
    parallel::over_rows(&mut out, outputs, |_, rows| {
        if let Some(bias) = bias {
            for row in rows.chunks_exact_mut(outputs) {
                row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
        activation.apply(rows);
    });
    out
}

/// `dy W`: the gradient by the input; `prepared` is `W`, where it is at hand.
fn input_gradient(
    dy: &[f32],
    rows: usize,
    weight: &[f32],
    (outputs, inputs): (usize, usize),
    prepared: Option<&Packed>,
) -> Vec<f32> {
    added_gradient(dy, rows, weight, (outputs, inputs), prepared, None)
}

/// As [`input_gradient`], added to `sum` where there is one.
pub(super) fn added_gradient(
    dy: &[f32],
    rows: usize,
    weight: &[f32],
    (outputs, inputs): (usize, usize),
    prepared: Option<&Packed>,
    sum: Option<Vec<f32>>,
) -> Vec<f32> {
    let add = sum.is_some();
    // SAFETY: as in `affine`.
    let mut dx = sum.unwrap_or_else(|| unsafe { unset(rows * inputs) });
    let (dy, weight) = (Operand::new(dy, rows, outputs), Operand::new(weight, outputs, inputs));
    match prepared {
        Some(prepared) => prepared.multiply(&mut dx, if add { Start::Result } else { Start::Zero }, 1.0, dy, &|_| {}),
        None => multiply(&mut dx, add, 1.0, dy, weight),
    }
    dx
}

/// `dyᵀ x`: the gradient by the weight, `[out, in]`.
pub(super) fn weight_gradient(
    dy: &[f32],
    x: &[f32],
    rows: usize,
    outputs: usize,
    inputs: usize,
    scale: f32,
) -> Vec<f32> {
    // SAFETY: as in `affine`.
    let mut dw = unsafe { unset(outputs * inputs) };
    multiply(&mut dw, false, scale, Operand::new(dy, rows, outputs).t(), Operand::new(x, rows, inputs));
    dw
}

pub(super) fn column_sums(dy: &[f32], width: usize) -> Vec<f32> {
    parallel::column_sums(dy.len() / width.max(1), width, |rows, sums| {
        for row in dy[rows.start * width..rows.end * width].chunks_exact(width) {
            for (s, d) in sums.iter_mut().zip(row) {
                *s += d;
            }
        }
    })
}

struct Trainable;

impl Trainable {
    fn gradients(x: &Tensor, weight: &Tensor, dout: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let ((rows, inputs), outputs) = (x.dims2()?, weight.dims2()?.0);
        with_values(NAME, [x, weight, dout], |[xs, ws, dy]| {
            let dx = x.track_op().then(|| input_gradient(dy, rows, ws, (outputs, inputs), None));
            let dw = weight.track_op().then(|| weight_gradient(dy, xs, rows, outputs, inputs, 1.0));
            Ok((
                dx.map(|d| Tensor::from_vec(d, (rows, inputs), x.device())).transpose()?,
                dw.map(|d| Tensor::from_vec(d, (outputs, inputs), x.device())).transpose()?,
            ))
        })
    }
}

impl CustomOp2 for Trainable {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let rows = l1.shape().dims()[0];
        let out = affine(values(NAME, s1, l1)?, rows, values(NAME, s2, l2)?, None, Activation::None, None);
        Ok(output(out, (rows, l2.shape().dims()[0])))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _out: &Tensor, dout: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Self::gradients(x, w, dout)
    }
}

impl CustomOp3 for Trainable {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let rows = l1.shape().dims()[0];
        let bias = Some(values(NAME, s3, l3)?);
        let out = affine(values(NAME, s1, l1)?, rows, values(NAME, s2, l2)?, bias, Activation::None, None);
        Ok(output(out, (rows, l2.shape().dims()[0])))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = Self::gradients(x, w, dout)?;
        let db = if b.track_op() {
            let width = b.elem_count();
            let sums = with_values(NAME, [dout], |[dy]| Ok(column_sums(dy, width)))?;
            Some(Tensor::from_vec(sums, width, b.device())?)
        } else {
            None
        };
        Ok((dx, dw, db))
    }
}

struct Frozen {
    weight: Weight,
    bias: Option<Tensor>,
    activation: Activation,
    prepared: Option<Arc<Prepared>>,
}

/// Inputs and outputs from which a weight is worth preparing; not the rows, so that a row's result does not depend on how
/// many there are.
const PREPARED_FROM: usize = 16;

/// What is kept of a weight in this thread's precision, made if need be.
fn prepared<'a>(
    prepared: &'a Prepared,
    weight: &Weight,
    of: impl Fn(&'a Prepared) -> &'a ByParts,
    make: impl FnOnce() -> Option<Packed>,
) -> Option<&'a Packed> {
    if weight.dense()?.dims().iter().any(|d| *d < PREPARED_FROM) {
        return None;
    }
    // Not `get_or_init`: a thread that packs in parallel may be given another forward pass of this very layer meanwhile,
    // which would wait for itself. Two threads may pack the same weight; one result is kept.
    let cell = of(prepared).get(precision::parts() - 1)?;
    if cell.get().is_none() {
        let _ = cell.set(make());
    }
    cell.get()?.as_ref()
}

impl Frozen {
    fn prepared<'a>(
        &'a self,
        of: impl Fn(&'a Prepared) -> &'a ByParts,
        make: impl FnOnce() -> Option<Packed>,
    ) -> Option<&'a Packed> {
        prepared(self.prepared.as_deref()?, &self.weight, of, make)
    }

    fn run(&self, x: &[f32], rows: usize) -> Result<Vec<f32>> {
        let (outputs, inputs) = self.weight.shape()?;
        let run = |w: &[f32], b: Option<&[f32]>| {
            let make = || Packed::new(Operand::new(w, outputs, inputs).t());
            affine(x, rows, w, b, self.activation, self.prepared(|p| &p.forward, make))
        };
        self.weight.with_values(NAME, |w| match &self.bias {
            Some(bias) => with_values(NAME, [bias], |[b]| Ok(run(w, Some(b)))),
            None => Ok(run(w, None)),
        })
    }

    fn input_gradient(&self, dy: &[f32], rows: usize) -> Result<Vec<f32>> {
        self.added_gradient(dy, rows, None)
    }

    fn added_gradient(&self, dy: &[f32], rows: usize, sum: Option<Vec<f32>>) -> Result<Vec<f32>> {
        let shape = self.weight.shape()?;
        self.weight.with_values(NAME, |w| {
            let make = || Packed::new(Operand::new(w, shape.0, shape.1));
            Ok(added_gradient(dy, rows, w, shape, self.prepared(|p| &p.backward, make), sum))
        })
    }
}

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let rows = layout.shape().dims()[0];
        let out = self.run(values(NAME, storage, layout)?, rows)?;
        Ok(output(out, (rows, self.weight.shape()?.0)))
    }

    fn bwd(&self, x: &Tensor, _out: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        let rows = x.dims2()?.0;
        let dx = with_values(NAME, [dout], |[dy]| self.input_gradient(dy, rows))?;
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}

/// `x Wᵀ + b + scale (x Aᵀ) Bᵀ`, differentiable by x, A and B.
struct Adapted {
    base: Option<Frozen>,
    scale: f32,
}

impl CustomOp3 for Adapted {
    fn name(&self) -> &'static str {
        "lora"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, a, b) = (values(NAME, s1, l1)?, values(NAME, s2, l2)?, values(NAME, s3, l3)?);
        let (rows, rank, outputs) = (l1.shape().dims()[0], l2.shape().dims()[0], l3.shape().dims()[0]);
        let mut out = match &self.base {
            Some(base) => base.run(x, rows)?,
            None => zeros(rows * outputs),
        };
        let low = affine(x, rows, a, None, Activation::None, None);
        multiply(&mut out, true, self.scale, Operand::new(&low, rows, rank), Operand::new(b, outputs, rank).t());
        Ok(output(out, (rows, outputs)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let ((rows, inputs), (outputs, rank)) = (x.dims2()?, b.dims2()?);
        with_values(NAME, [x, a, b, dout], |[xs, aa, bb, dy]| {
            // dy B is the gradient by x Aᵀ (up to the scale); everything else follows from it.
            let dlow = input_gradient(dy, rows, bb, (outputs, rank), None);
            let low = affine(xs, rows, aa, None, Activation::None, None);
            let da = weight_gradient(&dlow, xs, rows, rank, inputs, self.scale);
            let db = weight_gradient(dy, &low, rows, outputs, rank, self.scale);
            let dx = if x.track_op() {
                let mut dx = match &self.base {
                    Some(base) => base.input_gradient(dy, rows)?,
                    None => zeros(rows * inputs),
                };
                multiply(&mut dx, true, self.scale, Operand::new(&dlow, rows, rank), Operand::new(aa, rank, inputs));
                Some(Tensor::from_vec(dx, (rows, inputs), x.device())?)
            } else {
                None
            };
            let da = if a.track_op() { Some(Tensor::from_vec(da, (rank, inputs), x.device())?) } else { None };
            let db = if b.track_op() { Some(Tensor::from_vec(db, (outputs, rank), x.device())?) } else { None };
            Ok((dx, da, db))
        })
    }
}
