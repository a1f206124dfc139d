//! The layout of a sentence-transformers folder: its modules, pooling, prompts and limits. Old and new forms are read, the
//! old is written, which every release loads.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::ModelError;
use super::prompts::Prompts;
use crate::nn::activation::Activation;
use crate::nn::pooling::PoolingMode;

/// What follows the transformer, and how texts are prepared.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// Folder of the transformer, or of the table of static embeddings, relative to the model's; usually empty.
    pub transformer: String,
    /// A table of word vectors and nothing else (`StaticEmbedding`, Model2Vec): texts are the mean of their tokens'.
    pub word_table: bool,
    /// Pooling modes; more than one are concatenated.
    pub pooling: Vec<PoolingMode>,
    /// Whether the prompt's tokens take part in pooling.
    pub include_prompt: bool,
    /// What follows pooling, in order.
    pub heads: Vec<HeadSpec>,
    /// Named prompts.
    pub prompts: Prompts,
    /// Similarity that the model declares (`cosine`, `dot` …).
    pub similarity: String,
    /// Values of an embedding that are used, the first ones, if the folder says (Matryoshka: Kusupati et al. 2022).
    pub truncate_dim: Option<usize>,
    /// Most tokens of a text, if the folder says.
    pub max_seq_length: Option<usize>,
    /// Whether texts are lower-cased before tokenization.
    pub lower_case: bool,
    /// No `modules.json`: mean pooling was assumed.
    pub assumed: bool,
}

/// Folder that a table of static embeddings is written to.
pub(super) const WORD_TABLE: &str = "0_StaticEmbedding";

/// A module after pooling.
#[derive(Debug, Clone, PartialEq)]
pub enum HeadSpec {
    /// Rows to unit length.
    Normalize,
    /// A linear layer; weights are named `<path>.linear.weight`.
    Dense {
        /// Folder of the module.
        path: String,
        /// Width in.
        inputs: usize,
        /// Width out.
        outputs: usize,
        /// Whether it has a bias.
        bias: bool,
        /// Activation after it.
        activation: Activation,
    },
}

pub(super) fn read_json(path: &Path) -> Result<Value, ModelError> {
    let text = std::fs::read_to_string(path).map_err(|e| ModelError::io(path, e))?;
    serde_json::from_str(&text).map_err(|e| ModelError::file(path, format!("not JSON: {e}")))
}

fn read_optional(path: &Path) -> Result<Value, ModelError> {
    if path.is_file() { read_json(path) } else { Ok(Value::Null) }
}

const MODES: [(&str, &str, PoolingMode); 6] = [
    ("cls", "pooling_mode_cls_token", PoolingMode::Cls),
    ("max", "pooling_mode_max_tokens", PoolingMode::Max),
    ("mean", "pooling_mode_mean_tokens", PoolingMode::Mean),
    ("mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens", PoolingMode::MeanSqrtLen),
    ("weightedmean", "pooling_mode_weightedmean_tokens", PoolingMode::WeightedMean),
    ("lasttoken", "pooling_mode_lasttoken", PoolingMode::LastToken),
];

impl Layout {
    /// Mean pooling and nothing else: what a folder without `modules.json` means.
    pub fn mean_pooling() -> Self {
        Self {
            transformer: String::new(),
            word_table: false,
            pooling: vec![PoolingMode::Mean],
            include_prompt: true,
            heads: Vec::new(),
            prompts: Prompts::default(),
            similarity: "cosine".into(),
            truncate_dim: None,
            max_seq_length: None,
            lower_case: false,
            assumed: true,
        }
    }

    /// Reads the folder's `modules.json` and what it names.
    ///
    /// # Errors
    /// Where a file is damaged, or a module is of a kind that is not known.
    pub fn read(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join("modules.json");
        if !path.is_file() {
            let config = read_optional(&folder.join("config.json"))?;
            if config["model_type"].as_str() != Some("model2vec") {
                return Ok(Self::mean_pooling());
            }
            let unit = config["normalize"].as_bool().unwrap_or(false);
            let heads = if unit { vec![HeadSpec::Normalize] } else { Vec::new() };
            return Ok(Self { word_table: true, assumed: false, heads, ..Self::mean_pooling() });
        }
        let modules = read_json(&path)?;
        let modules = modules.as_array().ok_or_else(|| ModelError::file(&path, "is not a list of modules"))?;
        let mut layout = Self { assumed: false, pooling: Vec::new(), ..Self::mean_pooling() };
        for module in modules {
            let kind = module["type"].as_str().unwrap_or_default();
            let place = module["path"].as_str().unwrap_or_default();
            let place = place.strip_prefix("./").unwrap_or(if place == "." { "" } else { place });
            if place.starts_with('/') || place.split('/').any(|part| part == "..") {
                return Err(ModelError::file(&path, format!("module path `{place}` leads outside the folder")));
            }
            match kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" => layout.read_transformer(folder, place)?,
                "StaticEmbedding" => {
                    layout.transformer = place.to_string();
                    (layout.word_table, layout.pooling) = (true, vec![PoolingMode::Mean]);
                }
                "Pooling" => layout.read_pooling(&folder.join(place).join("config.json"))?,
                "Normalize" => layout.heads.push(HeadSpec::Normalize),
                "Dense" => layout.heads.push(read_dense(&folder.join(place).join("config.json"), place)?),
                other => {
                    let message = format!(
                        "module `{other}` is not supported; those supported are Transformer, StaticEmbedding, Pooling, Dense, \
                         Normalize"
                    );
                    return Err(ModelError::file(&path, message));
                }
            }
        }
        if layout.pooling.is_empty() {
            return Err(ModelError::file(&path, "has no Pooling module"));
        }
        layout.read_prompts(&folder.join("config_sentence_transformers.json"))?;
        Ok(layout)
    }

    fn read_transformer(&mut self, folder: &Path, place: &str) -> Result<(), ModelError> {
        self.transformer = place.to_string();
        let config = read_optional(&folder.join(place).join("sentence_bert_config.json"))?;
        self.max_seq_length = config["max_seq_length"].as_u64().map(|v| v as usize);
        self.lower_case = config["do_lower_case"].as_bool().unwrap_or(false);
        Ok(())
    }

    fn read_pooling(&mut self, path: &Path) -> Result<(), ModelError> {
        let config = read_json(path)?;
        self.include_prompt = config["include_prompt"].as_bool().unwrap_or(true);
        let named: Vec<&str> = match &config["pooling_mode"] {
            Value::String(mode) => vec![mode],
            Value::Array(modes) => modes.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if named.is_empty() {
            self.pooling = MODES
                .iter()
                .filter(|(_, key, _)| config[*key].as_bool() == Some(true))
                .map(|(_, _, mode)| *mode)
                .collect();
        }
        for name in named {
            match MODES.iter().find(|(mode, _, _)| *mode == name) {
                Some((_, _, mode)) => self.pooling.push(*mode),
                None => {
                    let known: Vec<&str> = MODES.iter().map(|m| m.0).collect();
                    let message = format!("pooling_mode `{name}` is not known; those known are {}", known.join(", "));
                    return Err(ModelError::file(path, message));
                }
            }
        }
        if self.pooling.is_empty() {
            return Err(ModelError::file(path, "switches no pooling mode on"));
        }
        Ok(())
    }

    fn read_prompts(&mut self, path: &Path) -> Result<(), ModelError> {
        let config = read_optional(path)?;
        if let Some(named) = config["prompts"].as_object() {
            self.prompts.named = named.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_string()))).collect();
        }
        self.prompts.default_name = config["default_prompt_name"].as_str().map(String::from);
        self.truncate_dim = match &config["truncate_dim"] {
            Value::Null => None,
            value => match value.as_u64() {
                Some(dim) if dim > 0 => Some(dim as usize),
                _ => {
                    return Err(ModelError::file(
                        path,
                        format!("truncate_dim = {value}: must be a whole number from 1"),
                    ));
                }
            },
        };
        if let Some(similarity) = config["similarity_fn_name"].as_str() {
            self.similarity = similarity.to_string();
        }
        Ok(())
    }

    /// Width of the pooled vector for token vectors of `hidden`.
    pub fn pooled_size(&self, hidden: usize) -> usize {
        hidden * self.pooling.len()
    }

    /// The files of this layout but for weights and tokenizer, as (path, content).
    pub fn files(&self, hidden: usize, max_seq_length: usize) -> Vec<(String, Value)> {
        let mut modules = match self.word_table {
            true => vec![(WORD_TABLE.to_string(), "StaticEmbedding", None)],
            false => vec![
                ("".to_string(), "Transformer", None),
                ("1_Pooling".to_string(), "Pooling", Some(self.pooling_config(hidden))),
            ],
        };
        for (i, head) in self.heads.iter().enumerate() {
            modules.push(match head {
                HeadSpec::Normalize => (format!("{}_Normalize", i + 2), "Normalize", None),
                HeadSpec::Dense { path, inputs, outputs, bias, activation } => (
                    path.clone(),
                    "Dense",
                    Some(json!({
                        "in_features": inputs, "out_features": outputs, "bias": bias,
                        "activation_function": match activation {
                            Activation::Tanh => "torch.nn.modules.activation.Tanh",
                            Activation::Relu => "torch.nn.modules.activation.ReLU",
                            Activation::Gelu | Activation::GeluTanh => "torch.nn.modules.activation.GELU",
                            Activation::Silu => "torch.nn.modules.activation.SiLU",
                            Activation::None => "torch.nn.modules.linear.Identity",
                        },
                    })),
                ),
            });
        }
        let listed: Vec<Value> = modules
            .iter()
            .enumerate()
            .map(|(i, (path, kind, _))| {
                json!({"idx": i, "name": i.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}")})
            })
            .collect();
        let mut options = json!({
            "__version__": {"sentence_transformers": "3.0.0", "transformers": "4.41.0", "pytorch": "2.3.0"},
            "prompts": self.prompts.named, "default_prompt_name": self.prompts.default_name,
            "similarity_fn_name": self.similarity,
        });
        if let (Some(dim), Some(options)) = (self.truncate_dim, options.as_object_mut()) {
            options.insert("truncate_dim".into(), json!(dim));
        }
        let mut files: Vec<(String, Value)> =
            vec![("modules.json".into(), Value::Array(listed)), ("config_sentence_transformers.json".into(), options)];
        if !self.word_table {
            let config = json!({"max_seq_length": max_seq_length, "do_lower_case": self.lower_case});
            files.push(("sentence_bert_config.json".into(), config));
        }
        for (path, _, config) in modules {
            if let Some(config) = config {
                files.push((format!("{path}/config.json"), config));
            }
        }
        files
    }

    fn pooling_config(&self, hidden: usize) -> Value {
        let mut config: BTreeMap<&str, Value> =
            MODES.iter().map(|(_, key, mode)| (*key, json!(self.pooling.contains(mode)))).collect();
        config.insert("word_embedding_dimension", json!(hidden));
        config.insert("include_prompt", json!(self.include_prompt));
        // The legacy flags have no order; where the modes stand in another, the new key says so.
        let legacy = MODES.iter().map(|m| m.2).filter(|mode| self.pooling.contains(mode));
        if !legacy.eq(self.pooling.iter().copied()) {
            let names: Vec<&str> =
                self.pooling.iter().filter_map(|mode| MODES.iter().find(|m| m.2 == *mode).map(|m| m.0)).collect();
            config.insert("pooling_mode", json!(names));
        }
        json!(config)
    }
}

fn read_dense(path: &Path, place: &str) -> Result<HeadSpec, ModelError> {
    let config = read_json(path)?;
    let size =
        |key: &str| {
            config[key].as_u64().filter(|v| (1..1 << 24).contains(v)).map(|v| v as usize).ok_or_else(|| {
                ModelError::file(path, format!("{key} = {}: must be a whole number from 1", config[key]))
            })
        };
    let name = config["activation_function"].as_str().unwrap_or("torch.nn.modules.activation.Tanh");
    let activation = match name.rsplit('.').next().unwrap_or_default() {
        "Tanh" => Activation::Tanh,
        "Identity" => Activation::None,
        "ReLU" => Activation::Relu,
        "GELU" => Activation::Gelu,
        "SiLU" => Activation::Silu,
        _ => {
            let message =
                format!("activation_function `{name}` is not known; those known are Tanh, Identity, ReLU, GELU, SiLU");
            return Err(ModelError::file(path, message));
        }
    };
    Ok(HeadSpec::Dense {
        path: place.to_string(),
        inputs: size("in_features")?,
        outputs: size("out_features")?,
        bias: config["bias"].as_bool().unwrap_or(true),
        activation,
    })
}
