//! A small encoder made from nothing: a WordPiece tokenizer trained on the given texts and seeded random weights.

use candle_core::{Device, Tensor};
use rand::SeedableRng;
use rand_distr::Distribution;
use serde_json::json;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainerBuilder};
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Tokenizer};

use super::ModelError;
use super::files::ModelFiles;
use super::layout::{HeadSpec, Layout};
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
    let model = WordPiece::builder().unk_token("[UNK]".into()).build().map_err(fail)?;
    let mut tokenizer = Tokenizer::new(model);
    // Accents stay: stripping them would turn й into и and ё into е.
    tokenizer.with_normalizer(Some(BertNormalizer::new(true, true, Some(false), spec.lower_case))).map_err(fail)?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    let special = SPECIAL.map(|token| AddedToken::from(token, true)).to_vec();
    let trainer = WordPieceTrainerBuilder::new()
        .vocab_size(spec.vocabulary)
        .show_progress(false)
        .special_tokens(special)
        .build();
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts.iter()).map_err(fail)?;
    let id = |token: &str| {
        tokenizer
            .token_to_id(token)
            .ok_or_else(|| ModelError::Tokenizer(format!("the trained vocabulary has no `{token}`: vocabulary too small")))
    };
    let processing = BertProcessing::new(("[SEP]".into(), id("[SEP]")?), ("[CLS]".into(), id("[CLS]")?));
    tokenizer.with_post_processor(Some(processing));
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
            weights.insert(
                format!("{}.bias", at(module)),
                Tensor::zeros(rows, candle_core::DType::F32, &Device::Cpu)?,
            );
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
