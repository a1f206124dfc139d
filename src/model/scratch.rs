//! A small encoder made from nothing: a WordPiece tokenizer trained on the given texts and seeded random weights.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use rand::SeedableRng;
use rand_distr::Distribution;
use serde_json::json;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    Tokenizer,
};

use super::ModelError;
use super::files::ModelFiles;
use super::layout::{HeadSpec, Layout};
use super::vocabulary;
use super::weights::Weights;

/// Sizes and seed of a model made from nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct ScratchSpec {
    /// Transformer layers.
    pub layers: usize,
    /// Width of the token vectors.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the feed-forward layers.
    pub intermediate: usize,
    /// Most entries of the vocabulary.
    pub vocabulary: usize,
    /// Most tokens of a text.
    pub max_length: usize,
    /// Whether texts are lower-cased.
    pub lower_case: bool,
    /// Seed of the weights.
    pub seed: u64,
}

const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
/// Standard deviation of BERT's initial weights (Devlin et al. 2019).
const INITIAL_STD: f32 = 0.02;

/// Trains the tokenizer on `texts` and draws the weights: BERT's architecture, mean pooling, unit length.
///
/// # Errors
/// Where the tokenizer cannot be trained, or sizes contradict each other.
pub fn create(spec: &ScratchSpec, texts: &[&str]) -> Result<ModelFiles, ModelError> {
    let tokenizer = train_tokenizer(spec, texts)?;
    let vocabulary = tokenizer.get_vocab_size(true);
    let config = json!({
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu",
        "hidden_size": spec.hidden, "num_hidden_layers": spec.layers, "num_attention_heads": spec.heads,
        "intermediate_size": spec.intermediate, "vocab_size": vocabulary,
        "max_position_embeddings": spec.max_length, "type_vocab_size": 1, "layer_norm_eps": 1e-12,
        "pad_token_id": 0, "initializer_range": INITIAL_STD, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    });
    let layout = Layout {
        heads: vec![HeadSpec::Normalize],
        max_seq_length: Some(spec.max_length),
        assumed: false,
        ..Layout::mean_pooling()
    };
    let weights = draw_weights(spec, vocabulary)?;
    ModelFiles::assemble(config, layout, weights, tokenizer, spec.max_length)
}

fn train_tokenizer(spec: &ScratchSpec, texts: &[&str]) -> Result<Tokenizer, ModelError> {
    let fail = |e: tokenizers::Error| ModelError::Tokenizer(format!("cannot be trained: {e}"));
    // Accents stay: stripping them would turn й into и and ё into е.
    let normalizer = BertNormalizer::new(true, true, Some(false), spec.lower_case);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for text in texts {
        let mut normalized = NormalizedString::from(*text);
        normalizer.normalize(&mut normalized).map_err(fail)?;
        let mut words = PreTokenizedString::from(normalized);
        BertPreTokenizer.pre_tokenize(&mut words).map_err(fail)?;
        for (word, ..) in words.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            *counts.entry(word.to_string()).or_default() += 1;
        }
    }
    let vocabulary = vocabulary::learn(&counts, &SPECIAL, spec.vocabulary);
    let ids: BTreeMap<String, u32> = vocabulary.into_iter().zip(0u32..).collect();
    let model = json!({
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": ids,
    });
    let model: WordPiece = serde_json::from_str(&model.to_string()).map_err(|e| fail(e.into()))?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(Some(normalizer)).map_err(fail)?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    tokenizer.add_special_tokens(SPECIAL.map(|token| AddedToken::from(token, true))).map_err(fail)?;
    // [CLS] and [SEP] are entries 2 and 3 of SPECIAL, which opens the vocabulary.
    tokenizer.with_post_processor(Some(BertProcessing::new(("[SEP]".into(), 3), ("[CLS]".into(), 2))));
    tokenizer.with_decoder(Some(tokenizers::decoders::wordpiece::WordPiece::default()));
    Ok(tokenizer)
}

fn draw_weights(spec: &ScratchSpec, vocabulary: usize) -> Result<Weights, ModelError> {
    let normal = rand_distr::Normal::new(0f32, INITIAL_STD).map_err(|e| ModelError::Tokenizer(e.to_string()))?;
    let mut rng = rand_pcg::Pcg64::seed_from_u64(spec.seed);
    let mut weights = Weights::new();
    let (hidden, inner) = (spec.hidden, spec.intermediate);
    let mut matrices = vec![
        ("embeddings.word_embeddings.weight".to_string(), vocabulary, hidden),
        ("embeddings.position_embeddings.weight".to_string(), spec.max_length, hidden),
        ("embeddings.token_type_embeddings.weight".to_string(), 1, hidden),
    ];
    let mut norms = vec!["embeddings.LayerNorm".to_string()];
    for layer in 0..spec.layers {
        let at = |module: &str| format!("encoder.layer.{layer}.{module}");
        for (module, rows, columns) in [
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", inner, hidden),
            ("output.dense", hidden, inner),
        ] {
            matrices.push((format!("{}.weight", at(module)), rows, columns));
            weights.insert(format!("{}.bias", at(module)), Tensor::zeros(rows, candle_core::DType::F32, &Device::Cpu)?);
        }
        norms.extend([at("attention.output.LayerNorm"), at("output.LayerNorm")]);
    }
    for (name, rows, columns) in matrices {
        let values: Vec<f32> = normal.sample_iter(&mut rng).take(rows * columns).collect();
        weights.insert(name, Tensor::from_vec(values, (rows, columns), &Device::Cpu)?);
    }
    for module in norms {
        weights.insert(format!("{module}.weight"), Tensor::ones(hidden, candle_core::DType::F32, &Device::Cpu)?);
        weights.insert(format!("{module}.bias"), Tensor::zeros(hidden, candle_core::DType::F32, &Device::Cpu)?);
    }
    Ok(weights)
}
