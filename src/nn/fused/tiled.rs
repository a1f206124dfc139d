//! The layer on tiles.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::{Result, bail};

use super::{Dense, Inner, Norm, Order, Parts, Tokens};
use crate::nn::activation::Activation;
use crate::nn::attention::{Heads, Packed as Attention};
use crate::nn::kernel::amx::{SIDE, Tile, Tiles, group};
use crate::nn::kernel::gemm::Operand;
use crate::nn::kernel::layer_norm::{self, Rows};
use crate::nn::kernel::packed::{Lines, Next, Packed, Start, grow, lines, over_blocks, steps_at_once};
use crate::nn::kernel::parallel::Disjoint;
use crate::nn::kernel::precision;
use crate::nn::kernel::rms_norm;
use crate::nn::rotary::QueryKey;
use crate::nn::storage::{unset, with_values};

/// Reused buffers of a worker.
#[derive(Default)]
struct Scratch {
    left: Vec<Tile>,
    inner: Vec<Tile>,
    gates: Vec<f32>,
    rows: [Vec<f32>; 4],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// `len` values that the caller overwrites.
pub(super) fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// A linear layer, its weight as tiles.
#[derive(Debug)]
struct Linear {
    weight: Packed,
    bias: Option<Vec<f32>>,
}

impl Linear {
    fn new(dense: &Dense) -> Option<Self> {
        let (outputs, inputs) = dense.weight.dims2().ok()?;
        let pack = |[weight]: [&[f32]; 1]| Ok(Packed::new(Operand::new(weight, outputs, inputs).t()));
        let weight = with_values("layer", [&dense.weight], pack).ok()??;
        let bias = dense.bias.as_ref().map(|bias| bias.to_vec1::<f32>()).transpose().ok()?;
        Some(Self { weight, bias })
    }

    fn start(&self) -> Start<'_> {
        self.bias.as_deref().map_or(Start::Zero, Start::Row)
    }

    /// `x Wᵀ + b` for `count` rows of `x`; rows of `out` are `stride` values apart.
    fn rows(
        &self,
        registers: &Tiles,
        left: &mut Vec<Tile>,
        x: &[f32],
        count: usize,
        (out, stride): (&mut [f32], usize),
    ) {
        let x = Operand::new(x, count, self.weight.inner());
        self.weight.apply(registers, left, x, 0..count, 1.0, (out, stride), self.start());
    }
}

#[derive(Debug)]
enum Up {
    Plain(Linear),
    Gated(Linear, Linear),
}

/// A transformer layer whose weights are laid out as tiles; for inference.
#[derive(Debug)]
pub struct Layer {
    projections: Vec<Linear>,
    prepare: Option<QueryKey>,
    heads: Heads,
    output: Linear,
    up: Up,
    activation: Activation,
    down: Linear,
    order: Order,
    hidden: usize,
}

impl Layer {
    /// In this thread's precision; `None` where products are not by blocks, or the shapes do not fit.
    pub fn new(parts: &Parts) -> Option<Self> {
        let projections = parts.projections.iter().map(Linear::new).collect::<Option<Vec<_>>>()?;
        let up = match &parts.inner {
            Inner::Plain(dense) => Up::Plain(Linear::new(dense)?),
            Inner::Gated(gate, up) => Up::Gated(Linear::new(gate)?, Linear::new(up)?),
        };
        let layer = Self {
            projections,
            prepare: parts.prepare.clone(),
            heads: parts.heads.clone(),
            output: Linear::new(&parts.output)?,
            up,
            activation: parts.activation,
            down: Linear::new(&parts.down)?,
            order: parts.order.clone(),
            hidden: parts.output.weight.dims2().ok()?.0,
        };
        layer.fits().then_some(layer)
    }

    fn fits(&self) -> bool {
        let inner = self.inner();
        let shape = |linear: &Linear, inputs: usize, outputs: usize| {
            linear.weight.inner() == inputs
                && linear.weight.columns() == outputs
                && linear.bias.as_ref().is_none_or(|bias| bias.len() == outputs)
        };
        let up = match &self.up {
            Up::Plain(up) => shape(up, self.hidden, inner),
            Up::Gated(gate, up) => shape(gate, self.hidden, inner) && shape(up, self.hidden, inner),
        };
        let norm = |norm: &Norm| match norm {
            Norm::None => true,
            Norm::Layer(scale, shift, _) => scale.len() == self.hidden && shift.len() == self.hidden,
            Norm::Rms(scale, _) => scale.len() == self.hidden,
        };
        let norms = match &self.order {
            Order::After(norms) | Order::Before(norms) => norms.iter().all(norm),
            Order::Around(norms) => norms.iter().all(norm),
        };
        let projections = self.projections.iter().all(|p| shape(p, self.hidden, p.weight.columns()));
        self.hidden > 0
            && inner > 0
            && up
            && norms
            && projections
            && shape(&self.down, inner, self.hidden)
            && shape(&self.output, self.output.weight.inner(), self.hidden)
    }

    fn inner(&self) -> usize {
        match &self.up {
            Up::Plain(up) | Up::Gated(_, up) => up.weight.columns(),
        }
    }

    /// `x` `[tokens, hidden]`, in place.
    ///
    /// # Errors
    /// Where the shapes do not fit.
    pub fn forward(&self, x: &mut [f32], tokens: &Tokens<'_>) -> Result<()> {
        let rows = tokens.positions.len();
        if x.len() != rows * self.hidden {
            bail!("layer: {} values are not {rows} tokens of {}", x.len(), self.hidden);
        }
        if rows == 0 {
            return Ok(());
        }
        let width: usize = self.projections.iter().map(|p| p.weight.columns()).sum();
        // SAFETY: every row and column is written.
        let mut qkv = unsafe { unset(rows * width) };
        self.project(x, &mut qkv, width);
        if let Some(prepare) = &self.prepare {
            prepare.apply(&mut qkv, tokens.positions)?;
        }
        // Whole values are those of `f32`.
        let _precision = precision::in_parts(self.down.weight.parts());
        let context = Attention::over(&qkv, tokens.cu_seqlens, &self.heads, width, tokens.bias)?;
        drop(qkv);
        if context.len() != rows * self.output.weight.inner() {
            bail!("layer: attention gives {} values for {rows} tokens", context.len());
        }
        self.rest(x, &context);
        Ok(())
    }

    /// Queries, keys and values of all rows.
    fn project(&self, x: &[f32], qkv: &mut [f32], width: usize) {
        let shared = Disjoint::new(qkv);
        over_blocks(x.len() / self.hidden, |first, count| {
            let Some(registers) = Tiles::new(self.down.weight.parts()) else { return };
            // SAFETY: blocks of rows do not overlap.
            let out = unsafe { shared.range(first * width, count * width) };
            let x = &x[first * self.hidden..(first + count) * self.hidden];
            SCRATCH.with_borrow_mut(|Scratch { left, rows: [normed, ..], .. }| {
                let x = match &self.order {
                    Order::After(_) => x,
                    Order::Before([norm, _]) | Order::Around([norm, ..]) => normalised(norm, x, self.hidden, normed),
                };
                let mut column = 0;
                for projection in &self.projections {
                    projection.rows(&registers, left, x, count, (&mut out[column..], width));
                    column += projection.weight.columns();
                }
            });
        });
    }

    /// What follows attention.
    fn rest(&self, x: &mut [f32], context: &[f32]) {
        let (hidden, inputs) = (self.hidden, self.output.weight.inner());
        let shared = Disjoint::new(x);
        over_blocks(context.len() / inputs, |first, count| {
            let Some(registers) = Tiles::new(self.down.weight.parts()) else { return };
            // SAFETY: blocks of rows do not overlap.
            let x = unsafe { shared.range(first * hidden, count * hidden) };
            let context = &context[first * inputs..(first + count) * inputs];
            SCRATCH.with_borrow_mut(|scratch| {
                let Scratch { left, inner, gates, rows: [attended, middle, normed, out] } = scratch;
                let attended = sized(attended, count * hidden);
                self.output.rows(&registers, left, context, count, (&mut *attended, hidden));
                let middle = sized(middle, count * hidden);
                let out = sized(out, count * hidden);
                let input: &[f32] = match &self.order {
                    Order::After([norm, _]) => {
                        apply(norm, attended, Some(x), hidden, middle);
                        middle
                    }
                    Order::Before([_, norm]) => {
                        sum(attended, x, middle);
                        normalised(norm, middle, hidden, normed)
                    }
                    Order::Around([_, after, norm, _]) => {
                        apply(after, attended, None, hidden, out);
                        sum(out, x, middle);
                        normalised(norm, middle, hidden, normed)
                    }
                };
                self.feed_forward(&registers, (left, inner, gates), input, count, out);
                match &self.order {
                    Order::After([_, norm]) => apply(norm, out, Some(middle), hidden, x),
                    Order::Before(_) => sum(out, middle, x),
                    Order::Around([.., norm]) => {
                        apply(norm, out, None, hidden, attended);
                        sum(attended, middle, x);
                    }
                }
            });
        });
    }

    /// Up, activation and down, for a block of rows.
    fn feed_forward(
        &self,
        registers: &Tiles,
        (left, inner, gates): (&mut Vec<Tile>, &mut Vec<Tile>, &mut Vec<f32>),
        x: &[f32],
        count: usize,
        out: &mut [f32],
    ) {
        let parts = self.down.weight.parts();
        let panels = count.div_ceil(SIDE);
        let steps = self.hidden.div_ceil(SIDE);
        let tiles = lines(left, Operand::new(x, count, self.hidden), 0..count, 0..steps, 1.0, parts);
        let input = Lines { tiles, rows: count, steps };
        let all = self.down.weight.steps();
        for from in (0..all).step_by(steps_at_once(parts)) {
            let steps = steps_at_once(parts).min(all - from);
            let columns = from * SIDE..((from + steps) * SIDE).min(self.inner());
            let between = grow(inner, panels * steps * group(parts));
            match &self.up {
                Up::Plain(up) => {
                    let next = Some(Next { tiles: &mut *between, from, steps });
                    up.weight.blocks(registers, input, columns, up.bias.as_deref(), next, &mut |_, _, block| {
                        self.activation.apply(block);
                    });
                }
                Up::Gated(gate, up) => {
                    let gates = sized(gates, panels * SIDE * SIDE);
                    for column in columns.step_by(SIDE) {
                        let one = column..column + 1;
                        let of = |panel: usize| -> Range<usize> { panel * SIDE * SIDE..(panel + 1) * SIDE * SIDE };
                        gate.weight.blocks(
                            registers,
                            input,
                            one.clone(),
                            gate.bias.as_deref(),
                            None,
                            &mut |panel, _, block| {
                                self.activation.apply(block);
                                gates[of(panel)].copy_from_slice(block);
                            },
                        );
                        let next = Some(Next { tiles: &mut *between, from, steps });
                        up.weight.blocks(registers, input, one, up.bias.as_deref(), next, &mut |panel, _, block| {
                            block.iter_mut().zip(&gates[of(panel)]).for_each(|(u, g)| *u *= g);
                        });
                    }
                }
            }
            let start = if from > 0 { Start::Result } else { self.down.start() };
            let lines = Lines { tiles: between, rows: count, steps };
            self.down.weight.add(registers, lines, from, (&mut *out, self.hidden), start);
        }
    }
}

fn sum(a: &[f32], b: &[f32], out: &mut [f32]) {
    for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
        *o = a + b;
    }
}

/// The norm of `x + residual`.
fn apply(norm: &Norm, x: &[f32], residual: Option<&[f32]>, width: usize, out: &mut [f32]) {
    match norm {
        Norm::Layer(scale, shift, eps) => {
            let residual = residual.unwrap_or_default();
            layer_norm::forward(Rows { x, residual, dropout: None, width, eps: *eps }, scale, shift, out);
        }
        Norm::None | Norm::Rms(..) => {
            match residual {
                Some(residual) => sum(x, residual, out),
                None => out.copy_from_slice(x),
            }
            if let Norm::Rms(scale, eps) = norm {
                let x = out.to_vec();
                rms_norm::forward(&x, scale, *eps, out);
            }
        }
    }
}

/// The norm of `x` in a buffer; `x` itself where there is none.
fn normalised<'a>(norm: &Norm, x: &'a [f32], width: usize, buffer: &'a mut Vec<f32>) -> &'a [f32] {
    match norm {
        Norm::None => x,
        Norm::Rms(scale, eps) => {
            let out = sized(buffer, x.len());
            rms_norm::forward(x, scale, *eps, out);
            out
        }
        Norm::Layer(..) => {
            let out = sized(buffer, x.len());
            apply(norm, x, None, width, out);
            out
        }
    }
}
