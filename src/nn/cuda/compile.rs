//! Kernels as text, and their compilation.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda_backend::{CudaDevice, CudaError, WrapErr};
use candle_core::{DType, Result, bail};

const COMMON: &str = include_str!("kernels/common.cuh");
const ATTENTION: [&str; 2] = [include_str!("kernels/attention.cuh"), include_str!("kernels/attention.cu")];

/// A file of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// LayerNorm and RMSNorm.
    Norm,
    /// Activations, biases, dropout.
    Elements,
    /// Sums of columns, unit length, look-up.
    Rows,
    /// Pooling.
    Pooling,
    /// Rotary positions and norms of heads.
    Rotary,
    /// Attention, forwards.
    Attention,
    /// Attention, backwards.
    AttentionBackward,
    /// Attention on tensor cores, both ways.
    AttentionMma,
    /// AdamW.
    Optimizer,
}

impl Source {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Norm => "norm",
            Self::Elements => "elements",
            Self::Rows => "rows",
            Self::Pooling => "pooling",
            Self::Rotary => "rotary",
            Self::Attention => "attention",
            Self::AttentionBackward => "attention_backward",
            Self::AttentionMma => "attention_mma",
            Self::Optimizer => "optimizer",
        }
    }

    /// What is compiled, less the macros.
    fn text(self) -> String {
        let parts: &[&str] = match self {
            Self::Norm => &[include_str!("kernels/norm.cu")],
            Self::Elements => &[include_str!("kernels/elements.cu")],
            Self::Rows => &[include_str!("kernels/rows.cu")],
            Self::Pooling => &[include_str!("kernels/pooling.cu")],
            Self::Rotary => &[include_str!("kernels/rotary.cu")],
            Self::Attention => &ATTENTION,
            Self::AttentionBackward => &[ATTENTION[0], ATTENTION[1], include_str!("kernels/attention_backward.cu")],
            Self::AttentionMma => &[ATTENTION[0], include_str!("kernels/attention_mma.cu")],
            Self::Optimizer => &[include_str!("kernels/optimizer.cu")],
        };
        [COMMON].iter().chain(parts).copied().collect()
    }
}

/// A file with its macros.
#[derive(Debug, Clone)]
pub struct Module {
    source: Source,
    /// `NAME value` each.
    macros: Vec<String>,
}

impl Module {
    /// For elements of this type.
    pub fn new(source: Source, dtype: DType) -> Self {
        let element = if dtype == DType::BF16 { "bf16" } else { "float" };
        Self { source, macros: vec![format!("ELEMENT {element}")] }
    }

    /// With a macro more.
    #[must_use]
    pub fn with(mut self, name: &str, value: usize) -> Self {
        self.macros.push(format!("{name} {value}"));
        self
    }

    /// What tells it from others.
    pub fn name(&self) -> String {
        format!("embeval-{} {}", self.source.name(), self.macros.join(" "))
    }

    /// The whole program.
    pub fn text(&self) -> String {
        let macros: String = self.macros.iter().map(|m| format!("#define {m}\n")).collect();
        macros + &self.source.text()
    }

    /// Its PTX for a compute capability such as 90.
    ///
    /// # Errors
    /// Where NVRTC does not compile it; its log is in the message.
    pub fn ptx(&self, capability: i32) -> Result<String> {
        let options = vec![format!("--gpu-architecture=compute_{capability}")];
        let options =
            CompileOptions { options, name: Some(format!("{}.cu", self.source.name())), ..Default::default() };
        let ptx = match compile_ptx_with_opts(self.text(), options) {
            Ok(ptx) => ptx,
            Err(error) => bail!("NVRTC does not compile {}: {error}", self.name()),
        };
        let Some(bytes) = ptx.as_bytes() else { bail!("NVRTC gives no PTX of {}", self.name()) };
        let text: Vec<u8> = bytes.iter().copied().take_while(|byte| *byte != 0).collect();
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Its function `function`, compiled when first asked for.
    ///
    /// # Errors
    /// As [`Self::ptx`]; the driver's.
    pub(super) fn load(
        &self,
        device: &CudaDevice,
        function: &str,
    ) -> Result<candle_core::cuda_backend::cudarc::driver::CudaFunction> {
        static COMPILED: Mutex<Option<Compiled>> = Mutex::new(None);
        let (major, minor) = device.cuda_stream().context().compute_capability().map_err(CudaError::from).w()?;
        let (name, capability) = (self.name(), 10 * major + minor);
        let ptx = {
            let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
            let compiled = compiled.get_or_insert_with(Compiled::new);
            match compiled.get(&(name.clone(), capability)) {
                Some(ptx) => ptx.clone(),
                None => {
                    let ptx: Arc<str> = self.ptx(capability)?.into();
                    compiled.insert((name.clone(), capability), ptx.clone());
                    ptx
                }
            }
        };
        Ok(device.get_or_load_custom_func(function, &name, &ptx)?.into_cuda_function())
    }
}

/// PTX by module and compute capability.
type Compiled = HashMap<(String, i32), Arc<str>>;

/// The modules that a model of this hidden size and depth of a head uses, in one element type; for checks that everything compiles.
pub fn modules(dtype: DType, hidden: usize, depth: usize) -> Vec<Module> {
    let mut modules = vec![Module::new(Source::Rows, dtype), Module::new(Source::Optimizer, DType::F32)];
    modules.extend([false, true].map(|rms| super::norm::module(dtype, hidden, rms).0));
    modules.extend((0..6).map(|kind| Module::new(Source::Elements, dtype).with("ACTIVATION", kind)));
    modules.extend((0..6).map(|mode| Module::new(Source::Pooling, dtype).with("MODE", mode)));
    modules.extend([false, true].map(|norms| super::rotary::module(dtype, depth, norms)));
    for (bias, dropout) in [(false, false), (true, true), (true, false), (false, true)] {
        let kind = super::attention::Kind { dtype, depth };
        modules.extend(super::attention::Pass::ALL.map(|pass| super::attention::module(kind, pass, bias, dropout)));
    }
    modules
}
