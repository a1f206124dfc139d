//! What an embedding depends on beside the text and its prompt, as one hash.

use candle_core::{DType, Tensor};
use sha2::{Digest, Sha256};

use super::cache::Identity;
use crate::model::Embedder;
use crate::nn::kernel::precision;

/// Raised whenever the encoder's arithmetic changes.
const VERSION: &str = "embeval embeddings 3";

/// The hash that cached embeddings are kept under: [`content`], and what decides the last bits of a result: the kind of device, the
/// instruction set and the precision of products.
///
/// # Errors
/// Where a tensor cannot be read.
pub fn identity(embedder: &Embedder) -> candle_core::Result<Identity> {
    Ok(identity_of(embedder, &content(embedder)?))
}

/// As [`identity`], of a model whose [`content`] is known.
pub fn identity_of(embedder: &Embedder, content: &[u8; 32]) -> Identity {
    let mut parts = Parts(Sha256::new());
    parts.add(VERSION.as_bytes());
    let kind = match (embedder.device().is_cpu(), embedder.half()) {
        (true, _) => "cpu",
        (false, false) => "gpu kernels f32",
        (false, true) => "gpu kernels bf16",
    };
    parts.add(kind.as_bytes());
    parts.add(crate::nn::instructions().as_bytes());
    parts.add(&precision::arithmetic());
    parts.add(content);
    Identity(parts.0.finalize().into())
}

/// The hash of a model's content: weights, adapter, config, pooling, tokenizer and maximal length.
///
/// # Errors
/// Where a tensor cannot be read.
pub fn content(embedder: &Embedder) -> candle_core::Result<[u8; 32]> {
    let files = embedder.files();
    let mut parts = Parts(Sha256::new());
    parts.add(files.config.to_string().as_bytes());
    let layout = &files.layout;
    let pooling = (&layout.pooling, layout.include_prompt, &layout.heads, layout.lower_case, files.max_seq_length);
    parts.add(format!("{pooling:?}").as_bytes());
    files.tokenizer_contents().for_each(|content| parts.add(content));
    // The same weights give other last bits where they are dequantised on the way.
    if let Some(quantization) = embedder.quantization() {
        parts.add(format!("{quantization:?}").as_bytes());
    }
    for (name, tensor) in embedder.dequantized().map_err(candle_core::Error::wrap)? {
        parts.tensor(&name, &tensor)?;
    }
    if let Some(adapter) = embedder.adapter() {
        for module in adapter.modules() {
            let scale = adapter.low_rank(module).map(|low_rank| low_rank.scale);
            parts.add(format!("{module} {scale:?} {}", adapter.spec.dora).as_bytes());
        }
        for (name, tensor) in adapter.tensors() {
            parts.tensor(&name, &tensor)?;
        }
    }
    Ok(parts.0.finalize().into())
}

struct Parts(Sha256);

impl Parts {
    fn add(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn tensor(&mut self, name: &str, tensor: &Tensor) -> candle_core::Result<()> {
        self.add(name.as_bytes());
        self.add(format!("{:?}", tensor.dims()).as_bytes());
        let values =
            tensor.to_dtype(DType::F32)?.flatten_all()?.to_device(&candle_core::Device::Cpu)?.to_vec1::<f32>()?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.add(&bytes);
        Ok(())
    }
}
