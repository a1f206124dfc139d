//! What an embedding depends on beside the text and its prompt, as one hash.

use candle_core::{DType, Tensor};
use sha2::{Digest, Sha256};

use super::cache::Identity;
use crate::model::Embedder;

/// Raised whenever the encoder's arithmetic changes.
const VERSION: &str = "embeval embeddings 1";

/// The hash over weights, adapter, config, pooling, tokenizer, maximal length and the kind of device.
///
/// # Errors
/// Where a tensor cannot be read.
pub fn identity(embedder: &Embedder) -> candle_core::Result<Identity> {
    let files = embedder.files();
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(VERSION.as_bytes());
    part(if embedder.device().is_cpu() { b"cpu" } else { b"gpu" });
    // Results differ in the last bits between instruction sets.
    part(crate::nn::instructions().as_bytes());
    part(files.config.to_string().as_bytes());
    let layout = &files.layout;
    let pooling = (&layout.pooling, layout.include_prompt, &layout.heads, layout.lower_case, files.max_seq_length);
    part(format!("{pooling:?}").as_bytes());
    files.tokenizer_contents().for_each(|content| part(content));
    for (name, tensor) in embedder.weights() {
        add(&mut part, &name, &tensor)?;
    }
    for (name, (a, b)) in embedder.adapter().iter().flat_map(|adapter| adapter.tensors()) {
        part(
            format!("{:?}", embedder.adapter().and_then(|adapter| adapter.low_rank(name)).map(|l| l.scale)).as_bytes(),
        );
        add(&mut part, name, a)?;
        add(&mut part, name, b)?;
    }
    Ok(Identity(hash.finalize().into()))
}

fn add(part: &mut impl FnMut(&[u8]), name: &str, tensor: &Tensor) -> candle_core::Result<()> {
    part(name.as_bytes());
    part(format!("{:?}", tensor.dims()).as_bytes());
    let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_device(&candle_core::Device::Cpu)?.to_vec1::<f32>()?;
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    part(&bytes);
    Ok(())
}
