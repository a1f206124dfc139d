//! Activation checkpointing (Chen et al. 2016): a part of the model keeps its input alone and is run again in the backward
//! pass.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::backprop::GradStore;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Storage, Tensor, TensorId, Var, bail,
};

use super::storage::{output, values};

const NAME: &str = "checkpoint";

/// Gradients of the variables used inside checkpoints. candle's `backward` gives those of an op's operands alone, and a
/// checkpointed part is one op; so after `backward` what is here is to be added to what that returned.
#[derive(Debug, Clone, Default)]
pub struct GradientSink {
    gradients: Arc<Mutex<HashMap<TensorId, Tensor>>>,
}

impl GradientSink {
    /// An empty one; clones share their content.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the gradients of `vars` to those that are here; variables without one are passed over.
    ///
    /// # Errors
    /// Where two gradients of a variable differ in shape.
    pub fn add<'a>(&self, gradients: &GradStore, vars: impl IntoIterator<Item = &'a Tensor>) -> Result<()> {
        let mut sums = self.lock();
        for var in vars {
            let Some(gradient) = gradients.get(var) else { continue };
            let sum = match sums.remove(&var.id()) {
                Some(sum) => (sum + gradient)?,
                None => gradient.clone(),
            };
            sums.insert(var.id(), sum);
        }
        Ok(())
    }

    /// Adds the gradient of a variable; of a tensor that is none it is let go.
    ///
    /// # Errors
    /// Where it has another number of values.
    pub fn add_values(&self, var: &Tensor, gradient: Vec<f32>) -> Result<()> {
        if !var.is_variable() {
            return Ok(());
        }
        let gradient = Tensor::from_vec(gradient, var.shape(), var.device())?;
        let mut sums = self.lock();
        let sum = match sums.remove(&var.id()) {
            Some(sum) => (sum + gradient)?,
            None => gradient,
        };
        sums.insert(var.id(), sum);
        Ok(())
    }

    /// Takes out the gradient of a variable.
    pub fn take(&self, id: TensorId) -> Option<Tensor> {
        self.lock().remove(&id)
    }

    /// Whether nothing is left in it.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TensorId, Tensor>> {
        self.gradients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part of a model: a function of one tensor and of variables. It gives the same at every call (dropout by seed), and
/// uses no other tensor that a gradient is to flow to.
pub type Segment = Arc<dyn Fn(&Tensor) -> Result<Tensor> + Send + Sync>;

/// `f(x)`, of which `x` alone is kept for the backward pass. There `f` is run again; the gradients of its variables go to
/// `sink`, and that by `x` on.
///
/// # Errors
/// Those of `f`.
pub fn checkpoint(x: &Tensor, f: Segment, sink: &GradientSink) -> Result<Tensor> {
    let result = f(&x.detach())?;
    let tracked = x.track_op() || result.track_op();
    // Without its graph, which goes with the tensor that has it.
    let result = result.detach();
    if !tracked {
        return Ok(result);
    }
    // A variable among the operands, so that the op is differentiated where `x` depends on none.
    let anchor = Var::zeros((), DType::F32, x.device())?;
    x.apply_op2(&anchor, Checkpoint { f, sink: sink.clone(), result: Mutex::new(Some(result)) })
}

struct Checkpoint {
    f: Segment,
    sink: GradientSink,
    /// What `f` gave, until the op has given it on.
    result: Mutex<Option<Tensor>>,
}

impl Checkpoint {
    fn take(&self) -> Result<Tensor> {
        match self.result.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(result) => result.contiguous(),
            None => bail!("{NAME}: run twice"),
        }
    }
}

impl CustomOp2 for Checkpoint {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let result = self.take()?;
        let (storage, layout) = result.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("{NAME}: the result is on another device than the input") };
        Ok(output(values(NAME, storage, layout)?.to_vec(), result.shape().clone()))
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        let result = self.take()?;
        let (storage, layout) = result.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) if layout.start_offset() == 0 => {
                Ok((storage.try_clone(layout)?, result.shape().clone()))
            }
            _ => bail!("{NAME}: the result is on another device than the input, or part of a larger tensor"),
        }
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, _: &Tensor, dout: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let input = if x.track_op() { Var::from_tensor(&x.detach())?.into_inner() } else { x.detach() };
        let result = (self.f)(&input)?;
        let surrogate = if result.device().is_cpu() {
            result.apply_op1(Cotangent(dout.clone()))?
        } else {
            result.mul(dout)?.sum_all()?
        };
        let mut gradients = surrogate.backward()?;
        let dx = gradients.remove(&input);
        self.sink.add(&gradients, surrogate.sorted_nodes().into_iter().filter(|node| node.is_variable()))?;
        Ok((if x.track_op() { Some(dx.map_or_else(|| x.zeros_like(), Ok)?) } else { None }, None))
    }
}

/// A scalar whose gradient by its operand is the tensor in it: Σ x · cotangent, without computing the sum.
struct Cotangent(Tensor);

impl CustomOp1 for Cotangent {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(output(vec![0.0], ()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}
