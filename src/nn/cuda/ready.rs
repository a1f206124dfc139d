//! One op for all kernels: its result is at hand when it is recorded, its backward pass is a function.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::launch::tensor;

/// Gradients by the operands, of these operands, the result and its gradient (all without a graph, the gradient contiguous).
type Backward<const N: usize> = Box<dyn Fn([Tensor; N], &Tensor, &Tensor) -> Result<[Option<Tensor>; N]> + Send + Sync>;

struct Ready<const N: usize> {
    name: &'static str,
    result: Mutex<Option<(CudaStorage, Shape)>>,
    backward: Backward<N>,
}

impl<const N: usize> Ready<N> {
    fn take(&self) -> Result<(CudaStorage, Shape)> {
        match self.result.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(result) => Ok(result),
            None => bail!("{}: run twice", self.name),
        }
    }

    fn no_cpu(&self) -> Result<(CpuStorage, Shape)> {
        bail!("{}: made for a GPU, but given tensors on the CPU", self.name)
    }

    fn gradients(&self, operands: [&Tensor; N], result: &Tensor, gradient: &Tensor) -> Result<[Option<Tensor>; N]> {
        let gradients =
            (self.backward)(operands.map(Tensor::detach), &result.detach(), &gradient.detach().contiguous()?)?;
        let mut kept = [const { None }; N];
        for ((slot, gradient), operand) in kept.iter_mut().zip(gradients).zip(operands) {
            *slot = gradient.filter(|_| operand.track_op());
        }
        Ok(kept)
    }
}

impl CustomOp1 for Ready<1> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.no_cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.take()
    }

    fn bwd(&self, a: &Tensor, result: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let [a] = self.gradients([a], result, gradient)?;
        Ok(a)
    }
}

impl CustomOp2 for Ready<2> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.no_cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.take()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        result: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [a, b] = self.gradients([a, b], result, gradient)?;
        Ok((a, b))
    }
}

impl CustomOp3 for Ready<3> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.no_cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.take()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        result: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [a, b, c] = self.gradients([a, b, c], result, gradient)?;
        Ok((a, b, c))
    }
}

/// A result with its backward pass, which is recorded if one of the operands is differentiated.
macro_rules! record {
    ($name:ident, $n:literal, |$op:ident, $operands:ident| $apply:expr) => {
        pub fn $name(
            name: &'static str,
            $operands: [&Tensor; $n],
            result: CudaStorage,
            shape: impl Into<Shape>,
            backward: impl Fn([Tensor; $n], &Tensor, &Tensor) -> Result<[Option<Tensor>; $n]> + Send + Sync + 'static,
        ) -> Result<Tensor> {
            let shape = shape.into();
            if !$operands.iter().any(|operand| operand.track_op()) {
                return Ok(tensor(result, shape));
            }
            let $op = Ready::<$n> { name, result: Mutex::new(Some((result, shape))), backward: Box::new(backward) };
            $apply
        }
    };
}

record!(record1, 1, |op, operands| operands[0].apply_op1(op));
record!(record2, 2, |op, operands| operands[0].apply_op2(operands[1], op));
record!(record3, 3, |op, operands| operands[0].apply_op3(operands[1], operands[2], op));
