//! AdamW (Loshchilov and Hutter 2019) in place, with parameter groups, gradient clipping, moments in `f32`, and an average of
//! the weights beside them.

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, Device, InplaceOp2, Layout, Result, Tensor, Var, bail};
use rayon::prelude::*;

use super::TrainError;
use super::groups::{Groups, Rates};
#[cfg(feature = "cuda")]
use crate::nn::cuda::optimizer as cuda;
use crate::nn::kernel::adamw;

/// Hyper-parameters of AdamW.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    /// Decay rates of the two moments.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay; not applied to biases and LayerNorm.
    pub weight_decay: f64,
    /// Largest norm of all gradients together.
    pub clip: Option<f64>,
    /// Decay rate of the exponential moving average of the weights; none keeps none.
    pub ema: Option<f64>,
}

/// Parameters, their moments and gradients.
pub struct Optimizer {
    settings: AdamW,
    parameters: Vec<Parameter>,
    step: usize,
}

struct Parameter {
    name: String,
    var: Var,
    rates: Rates,
    gradient: Option<Tensor>,
    first: Vec<f32>,
    second: Vec<f32>,
    /// Both where the variable is, once it was updated there; `first` and `second` are then of the last state.
    #[cfg(feature = "cuda")]
    moments: Option<cuda::Moments>,
    /// Average of the values, where one is kept.
    average: Option<Vec<f32>>,
    moved: bool,
}

/// Steps after which a tensor whose gradients were all exactly zero is taken for unreachable. LoRA's A has none while
/// B is zero, which it stays through steps whose learning rate is 0.
const ZERO_STEPS: usize = 5;

/// Names of the tensors that a state is saved as: moments, values and averages by parameter.
const FIRST: &str = "first.";
const SECOND: &str = "second.";
const VALUE: &str = "value.";
const AVERAGE: &str = "average.";

impl Optimizer {
    /// An optimizer of these variables, moments at zero; `groups` gives each its rates.
    ///
    /// # Errors
    /// Where a variable's values cannot be read.
    pub fn new(settings: AdamW, vars: &BTreeMap<String, Var>, groups: &Groups) -> Result<Self> {
        let mut parameters = Vec::with_capacity(vars.len());
        for (name, var) in vars {
            parameters.push(Parameter {
                name: name.clone(),
                var: var.clone(),
                rates: groups.rates(name, settings.weight_decay),
                gradient: None,
                first: vec![0.0; var.elem_count()],
                second: vec![0.0; var.elem_count()],
                #[cfg(feature = "cuda")]
                moments: None,
                average: settings.ema.map(|_| flat(var)).transpose()?,
                moved: false,
            });
        }
        Ok(Self { settings, parameters, step: 0 })
    }

    /// Adds the gradients of `loss`, which is to be scaled already (1 / accumulation steps).
    ///
    /// # Errors
    /// Where the backward pass fails.
    pub fn accumulate(&mut self, loss: &Tensor) -> Result<()> {
        self.add(loss.backward()?)
    }

    /// Adds gradients; variables that have none there keep what they gathered.
    ///
    /// # Errors
    /// Where a tensor operation fails.
    pub fn add(&mut self, mut gradients: GradStore) -> Result<()> {
        self.add_from(&mut |var| gradients.remove(var))
    }

    /// Adds the gradient that `take` gives for each variable, where it gives one.
    ///
    /// # Errors
    /// Where a tensor operation fails.
    pub fn add_from(&mut self, take: &mut dyn FnMut(&Tensor) -> Option<Tensor>) -> Result<()> {
        for parameter in &mut self.parameters {
            let Some(gradient) = take(parameter.var.as_tensor()) else { continue };
            parameter.gradient = Some(match parameter.gradient.take() {
                Some(sum) => (sum + gradient)?,
                None => gradient,
            });
        }
        Ok(())
    }

    /// The gradients gathered so far, by name.
    pub fn gradients(&self) -> impl Iterator<Item = (&str, Option<&Tensor>)> {
        self.parameters.iter().map(|p| (p.name.as_str(), p.gradient.as_ref()))
    }

    /// One update with the gradients gathered; gives their norm before clipping.
    ///
    /// # Errors
    /// Where a gradient is not finite, or has been zero throughout the first steps.
    pub fn step(&mut self, lr: f64) -> std::result::Result<f64, TrainError> {
        self.step += 1;
        let step = self.step;
        let mut total = 0f64;
        #[cfg(feature = "cuda")]
        let mut squares = self.squares_on_gpu()?.into_iter();
        for parameter in &mut self.parameters {
            let Some(gradient) = &parameter.gradient else {
                return Err(TrainError::NoGradient { step, name: parameter.name.clone() });
            };
            #[cfg(feature = "cuda")]
            let square = if gradient.device().is_cuda() { squares.next() } else { None };
            #[cfg(not(feature = "cuda"))]
            let square = None;
            let square = square.map_or_else(|| sum_of_squares(gradient), Ok)?;
            if !square.is_finite() {
                return Err(TrainError::NonFiniteGradient { step, name: parameter.name.clone() });
            }
            parameter.moved |= square > 0.0;
            // A key's bias shifts all scores of a query alike, which softmax ignores.
            if !parameter.moved && step >= ZERO_STEPS && !parameter.name.ends_with("key.bias") {
                return Err(TrainError::NoGradient { step, name: parameter.name.clone() });
            }
            total += square;
        }
        let norm = total.sqrt();
        let scale = match self.settings.clip {
            Some(clip) => (clip / (norm + 1e-6)).min(1.0),
            None => 1.0,
        };
        for parameter in &mut self.parameters {
            let Some(gradient) = parameter.gradient.take() else { continue };
            parameter.update(&gradient.contiguous()?, &self.settings, lr, scale, step)?;
            if let (Some(decay), Some(average)) = (self.settings.ema, &mut parameter.average) {
                // Of the first steps no more than they are worth, as Adam's bias correction does.
                let decay = decay.min((1.0 + step as f64) / (10.0 + step as f64)) as f32;
                let value = flat(&parameter.var)?;
                average.iter_mut().zip(value).for_each(|(a, v)| *a = decay * *a + (1.0 - decay) * v);
            }
        }
        Ok(norm)
    }

    /// Sums of squares of the gradients that are on a GPU, in their order.
    #[cfg(feature = "cuda")]
    fn squares_on_gpu(&self) -> Result<Vec<f64>> {
        let gradients = self.parameters.iter().filter_map(|p| p.gradient.as_ref()).filter(|g| g.device().is_cuda());
        cuda::sums_of_squares(&gradients.collect::<Vec<_>>())
    }

    /// Steps made.
    pub fn steps(&self) -> usize {
        self.step
    }

    /// Exchanges the weights with their averages, where averages are kept; called twice it changes nothing.
    ///
    /// # Errors
    /// Where a tensor operation fails.
    pub fn swap_averages(&mut self) -> Result<()> {
        for parameter in &mut self.parameters {
            let Some(average) = &mut parameter.average else { continue };
            let value = flat(&parameter.var)?;
            let other = std::mem::replace(average, value);
            set(&parameter.var, &other)?;
        }
        Ok(())
    }

    /// Everything that a resumed run needs, as tensors by name.
    ///
    /// # Errors
    /// Where a variable's values cannot be read.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        for p in &self.parameters {
            let mut put = |kind: &str, values: &[f32]| -> Result<()> {
                state.insert(format!("{kind}{}", p.name), Tensor::from_slice(values, p.var.shape(), &Device::Cpu)?);
                Ok(())
            };
            #[cfg(feature = "cuda")]
            if let Some(moments) = &p.moments {
                let (first, second) = moments.values()?;
                put(FIRST, &first)?;
                put(SECOND, &second)?;
            } else {
                put(FIRST, &p.first)?;
                put(SECOND, &p.second)?;
            }
            #[cfg(not(feature = "cuda"))]
            {
                put(FIRST, &p.first)?;
                put(SECOND, &p.second)?;
            }
            put(VALUE, &flat(&p.var)?)?;
            if let Some(average) = &p.average {
                put(AVERAGE, average)?;
            }
        }
        Ok(state)
    }

    /// Takes up a state after `step` steps.
    ///
    /// # Errors
    /// The name of a tensor that is missing or has another shape; nothing was changed then.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>, step: usize) -> std::result::Result<(), String> {
        let get = |kind: &str, p: &Parameter| -> std::result::Result<Vec<f32>, String> {
            let name = format!("{kind}{}", p.name);
            let tensor = state.get(&name).ok_or_else(|| format!("holds no `{name}`"))?;
            if tensor.dims() != p.var.dims() {
                return Err(format!("`{name}` has shape {:?}, expected {:?}", tensor.dims(), p.var.dims()));
            }
            tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).map_err(|e| format!("`{name}`: {e}"))
        };
        let mut all = Vec::with_capacity(self.parameters.len());
        for p in &self.parameters {
            let average = p.average.as_ref().map(|_| get(AVERAGE, p)).transpose()?;
            all.push((get(FIRST, p)?, get(SECOND, p)?, get(VALUE, p)?, average));
        }
        for (p, (first, second, value, average)) in self.parameters.iter_mut().zip(all) {
            set(&p.var, &value).map_err(|e| format!("`{}`: {e}", p.name))?;
            p.moved = second.iter().any(|v| *v > 0.0);
            (p.first, p.second, p.average, p.gradient) = (first, second, average, None);
            #[cfg(feature = "cuda")]
            {
                p.moments = None;
            }
        }
        self.step = step;
        Ok(())
    }
}

fn flat(var: &Var) -> Result<Vec<f32>> {
    var.as_tensor().to_device(&Device::Cpu)?.flatten_all()?.to_vec1()
}

fn set(var: &Var, values: &[f32]) -> Result<()> {
    var.set(&Tensor::from_slice(values, var.shape(), var.device())?)
}

impl Parameter {
    fn update(&mut self, gradient: &Tensor, settings: &AdamW, lr: f64, scale: f64, step: usize) -> Result<()> {
        let (beta1, beta2) = settings.betas;
        let lr = lr * self.rates.lr;
        let update = Update {
            lr_decay: (1.0 - lr * self.rates.weight_decay) as f32,
            step_size: (lr / (1.0 - beta1.powi(step as i32))) as f32,
            root_correction: (1.0 - beta2.powi(step as i32)).sqrt() as f32,
            betas: (beta1 as f32, beta2 as f32),
            rest: ((1.0 - beta1) as f32, (1.0 - beta2) as f32),
            eps: settings.eps as f32,
            scale: scale as f32,
            moments: RefCell::new((&mut self.first, &mut self.second)),
        };
        if self.var.device().is_cpu() {
            return self.var.as_tensor().inplace_op2(gradient, &update);
        }
        #[cfg(feature = "cuda")]
        if self.var.device().is_cuda() {
            let Update { lr_decay, step_size, root_correction, betas, rest, eps, scale, moments } = update;
            let (first, second) = moments.into_inner();
            let moments = match &mut self.moments {
                Some(moments) => moments,
                empty => empty.insert(cuda::Moments::new(first, second, self.var.device())?),
            };
            let numbers = cuda::Numbers { betas, rest, scale, lr_decay, step_size, root_correction, eps };
            return cuda::adamw(&self.var, gradient, moments, &numbers);
        }
        // Elsewhere the update runs on the CPU; the moments live there.
        let cpu = candle_core::Device::Cpu;
        let value = self.var.as_tensor().to_device(&cpu)?.contiguous()?.copy()?;
        value.inplace_op2(&gradient.to_device(&cpu)?, &update)?;
        self.var.set(&value.to_device(self.var.device())?)
    }
}

/// Values that a task sums or updates; fixed, so that the result does not depend on the number of threads.
const BLOCK: usize = 65_536;

fn sum_of_squares(gradient: &Tensor) -> Result<f64> {
    let values = gradient.to_device(&candle_core::Device::Cpu)?.contiguous()?;
    let (storage, layout) = values.storage_and_layout();
    let candle_core::Storage::Cpu(CpuStorage::F32(data)) = &*storage else {
        bail!("gradient of type {:?}, expected f32", gradient.dtype());
    };
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("gradient is not contiguous") };
    let partials: Vec<f64> = data[start..end].par_chunks(BLOCK).map(adamw::sum_of_squares).collect();
    Ok(partials.into_iter().sum())
}

struct Update<'a> {
    lr_decay: f32,
    step_size: f32,
    root_correction: f32,
    betas: (f32, f32),
    /// 1 − β, rounded once: 1 − 0.999 in f32 is off by 5e-5.
    rest: (f32, f32),
    eps: f32,
    scale: f32,
    moments: RefCell<(&'a mut Vec<f32>, &'a mut Vec<f32>)>,
}

impl InplaceOp2 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, p: &mut CpuStorage, p_layout: &Layout, g: &CpuStorage, g_layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(p), CpuStorage::F32(g)) = (p, g) else { bail!("adamw: expects f32") };
        let (Some((p0, p1)), Some((g0, g1))) = (p_layout.contiguous_offsets(), g_layout.contiguous_offsets()) else {
            bail!("adamw: expects contiguous tensors");
        };
        let (p, g) = (&mut p[p0..p1], &g[g0..g1]);
        let mut moments = self.moments.borrow_mut();
        let (first, second) = &mut *moments;
        if p.len() != g.len() || p.len() != first.len() {
            bail!("adamw: parameter of {} values, gradient of {}", p.len(), g.len());
        }
        let rates = adamw::Rates {
            betas: self.betas,
            rest: self.rest,
            eps: self.eps,
            scale: self.scale,
            root_correction: self.root_correction,
            lr_decay: self.lr_decay,
            step_size: self.step_size,
        };
        p.par_chunks_mut(BLOCK)
            .zip(g.par_chunks(BLOCK))
            .zip(first.par_chunks_mut(BLOCK).zip(second.par_chunks_mut(BLOCK)))
            .for_each(|((p, g), (m, v))| adamw::update(&rates, p, g, m, v));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn plain<const N: usize>(settings: AdamW, vars: [(&str, &Var); N]) -> Optimizer {
        let vars = vars.into_iter().map(|(name, var)| (name.to_string(), var.clone())).collect();
        Optimizer::new(settings, &vars, &Groups::default()).unwrap()
    }

    fn quadratic(var: &Var) -> Tensor {
        var.as_tensor().sqr().unwrap().sum_all().unwrap()
    }

    /// Values of torch.optim.AdamW(lr=0.1, weight_decay=0.01) on sum(p²) from [1, -2], written out by the formula.
    #[test]
    fn two_steps_follow_the_formula() {
        let var = Var::new(&[1f32, -2.0], &Device::Cpu).unwrap();
        let settings = AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, clip: None, ema: None };
        let mut optimizer = plain(settings, [("w.weight", &var)]);
        let (mut p, mut m, mut v) = ([1f64, -2.0], [0f64; 2], [0f64; 2]);
        for step in 1..=2 {
            optimizer.accumulate(&quadratic(&var)).unwrap();
            optimizer.step(0.1).unwrap();
            for i in 0..2 {
                let g = 2.0 * p[i];
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.999 * v[i] + 0.001 * g * g;
                let (mh, vh) = (m[i] / (1.0 - 0.9f64.powi(step)), v[i] / (1.0 - 0.999f64.powi(step)));
                p[i] = p[i] * (1.0 - 0.1 * 0.01) - 0.1 * mh / (vh.sqrt() + 1e-8);
            }
        }
        let got = var.as_tensor().to_vec1::<f32>().unwrap();
        assert!((f64::from(got[0]) - p[0]).abs() < 1e-6 && (f64::from(got[1]) - p[1]).abs() < 1e-6, "{got:?} {p:?}");
    }

    #[test]
    fn clipping_limits_the_norm_and_reports_it() {
        let var = Var::new(&[3f32, 4.0], &Device::Cpu).unwrap();
        let settings = AdamW { betas: (0.0, 0.0), eps: 1e30, weight_decay: 0.0, clip: Some(1.0), ema: None };
        let mut optimizer = plain(settings, [("w", &var)]);
        optimizer.accumulate(&quadratic(&var)).unwrap();
        assert!((optimizer.step(1e30).unwrap() - 10.0).abs() < 1e-6);
        let moved = var.as_tensor().to_vec1::<f32>().unwrap();
        assert!((moved[0] - 2.4).abs() < 1e-5 && (moved[1] - 3.2).abs() < 1e-5, "{moved:?}");
    }

    #[test]
    fn stops_without_a_gradient_and_with_a_nan() {
        let (a, b) = (Var::new(&[1f32], &Device::Cpu).unwrap(), Var::new(&[1f32], &Device::Cpu).unwrap());
        let settings = AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0, clip: None, ema: None };
        let mut optimizer = plain(settings.clone(), [("a", &a), ("b", &b)]);
        optimizer.accumulate(&quadratic(&a)).unwrap();
        let error = optimizer.step(0.1).unwrap_err();
        assert!(matches!(error, TrainError::NoGradient { name, .. } if name == "b"));
        let mut optimizer = plain(settings.clone(), [("a", &a)]);
        optimizer.accumulate(&(quadratic(&a) * f64::NAN).unwrap()).unwrap();
        assert!(matches!(optimizer.step(0.1).unwrap_err(), TrainError::NonFiniteGradient { .. }));
        let mut optimizer = plain(settings, [("a", &a)]);
        let mut stopped = None;
        for step in 1..=5 {
            let zero = Tensor::zeros((), candle_core::DType::F32, &Device::Cpu).unwrap();
            optimizer.accumulate(&quadratic(&a).mul(&zero).unwrap()).unwrap();
            if optimizer.step(0.1).is_err() {
                stopped = Some(step);
                break;
            }
        }
        assert_eq!(stopped, Some(5));
    }

    #[test]
    fn a_restored_optimizer_goes_on_to_the_bit() {
        let settings = AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, clip: Some(1.0), ema: Some(0.9) };
        let step = |optimizer: &mut Optimizer, var: &Var| {
            optimizer.accumulate(&quadratic(var)).unwrap();
            optimizer.step(0.1).unwrap();
        };
        let a = Var::new(&[1f32, -2.0], &Device::Cpu).unwrap();
        let mut whole = plain(settings.clone(), [("w.weight", &a)]);
        (0..3).for_each(|_| step(&mut whole, &a));
        let (state, at) = (whole.state().unwrap(), whole.steps());
        (0..3).for_each(|_| step(&mut whole, &a));
        let b = Var::new(&[7f32, 7.0], &Device::Cpu).unwrap();
        let mut resumed = plain(settings.clone(), [("w.weight", &b)]);
        resumed.restore(&state, at).unwrap();
        (0..3).for_each(|_| step(&mut resumed, &b));
        assert_eq!(flat(&a).unwrap(), flat(&b).unwrap());
        whole.swap_averages().unwrap();
        resumed.swap_averages().unwrap();
        assert_eq!(flat(&a).unwrap(), flat(&b).unwrap());
        let other = Var::new(&[1f32], &Device::Cpu).unwrap();
        let error = plain(settings, [("w.weight", &other)]).restore(&state, 3).unwrap_err();
        assert!(error.contains("average.w.weight") && error.contains("[2]"), "{error}");
    }

    #[test]
    fn the_average_is_the_recursion_written_out_and_swaps_in_and_out() {
        let var = Var::new(&[1f32], &Device::Cpu).unwrap();
        let settings = AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0, clip: None, ema: Some(0.5) };
        let mut optimizer = plain(settings, [("w", &var)]);
        let mut average = 1f32;
        for step in 1..=20 {
            optimizer.accumulate(&quadratic(&var)).unwrap();
            optimizer.step(0.05).unwrap();
            let decay = 0.5f32.min((1.0 + step as f32) / (10.0 + step as f32));
            average = decay * average + (1.0 - decay) * flat(&var).unwrap()[0];
        }
        let raw = flat(&var).unwrap();
        optimizer.swap_averages().unwrap();
        assert!((flat(&var).unwrap()[0] - average).abs() < 1e-6);
        optimizer.swap_averages().unwrap();
        assert_eq!(flat(&var).unwrap(), raw);
    }
}
