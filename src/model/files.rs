//! A model as it lies on the disk: configs, tokenizer and weights; read from and written to sentence-transformers
//! folders and plain transformers folders.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde_json::{Value, json};

use super::ModelError;
use super::architecture::{Architecture, static_embedding};
use super::layout::{HeadSpec, Layout, WORD_TABLE, read_json};
use super::tokenizer::TextTokenizer;
use super::weights::{self, Weights};
use crate::data::atomic;

/// A model's content, in memory.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    /// The folder that it was read from; named in errors.
    pub path: PathBuf,
    /// `config.json`.
    pub config: Value,
    /// What `config.json` says.
    pub architecture: Architecture,
    /// Pooling, heads, prompts.
    pub layout: Layout,
    /// All tensors: the encoder's by their transformers names, `Dense` layers' as `<path>.linear.weight`.
    pub weights: Weights,
    /// Most tokens of a text.
    pub max_seq_length: usize,
    tokenizer: TextTokenizer,
    tokenizer_files: Vec<(String, Vec<u8>)>,
}

/// Tokenizer files that are carried along.
const TOKENIZER_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
];

impl ModelFiles {
    /// Reads a folder.
    ///
    /// # Errors
    /// Where a file is missing, damaged, contradicts another, or asks for something that is not supported.
    pub fn load(folder: &Path) -> Result<Self, ModelError> {
        if !folder.is_dir() {
            return Err(ModelError::file(folder, "no such model folder"));
        }
        let layout = Layout::read(folder)?;
        let root = folder.join(&layout.transformer);
        let (config, architecture, mut weights) = match layout.word_table {
            true => static_embedding::read(&root)?,
            false => {
                let config_path = root.join("config.json");
                if !config_path.is_file() {
                    return Err(ModelError::file(&root, "no config.json here: not a model folder"));
                }
                let config = read_json(&config_path)?;
                let architecture = Architecture::parse(&config, &config_path)?;
                let weights = architecture.canonical(weights::read(&weights::find(&root)?)?)?;
                (config, architecture, weights)
            }
        };
        let mut width = layout.pooled_size(architecture.hidden_size());
        for head in &layout.heads {
            if let HeadSpec::Dense { path, inputs, outputs, .. } = head {
                let place = folder.join(path);
                if *inputs != width {
                    let message = format!("in_features {inputs} does not fit the {width} values before it");
                    return Err(ModelError::file(&place.join("config.json"), message));
                }
                width = *outputs;
                for (name, tensor) in weights::read(&weights::find(&place)?)? {
                    weights.insert(format!("{path}.{name}"), tensor);
                }
            }
        }
        let tokenizer_config = match root.join("tokenizer_config.json") {
            path if path.is_file() => read_json(&path)?,
            _ => Value::Null,
        };
        let room = architecture.max_tokens();
        let own =
            || tokenizer_config["model_max_length"].as_f64().filter(|v| *v >= 1.0 && *v < 1e9).map(|v| v as usize);
        let stated = match layout.word_table {
            // sentence-transformers has no limit but the tokenizer's own.
            true => match root.join("tokenizer.json") {
                path if path.is_file() => read_json(&path)?["truncation"]["max_length"].as_u64().map(|v| v as usize),
                _ => None,
            },
            false => layout.max_seq_length.or_else(own),
        };
        let max_seq_length = stated.unwrap_or(room).min(room).max(2);
        let mut tokenizer = TextTokenizer::load(&root, max_seq_length, layout.lower_case, &tokenizer_config)?;
        let ends = tokenizer.ends_anew();
        if layout.word_table {
            tokenizer = tokenizer.without_special_tokens();
        }
        check_vocabulary(&root, &tokenizer, &architecture)?;
        let mut tokenizer_files = Vec::new();
        for name in TOKENIZER_FILES {
            let path = root.join(name);
            if path.is_file() {
                let content = std::fs::read(&path).map_err(|e| ModelError::io(&path, e))?;
                let content = match name {
                    // Readers of what is saved take the end token from here.
                    "tokenizer.json" if ends => tokenizer.to_json()?,
                    // Code that does not come along.
                    "tokenizer_config.json" if tokenizer_config["auto_map"].is_object() => {
                        let mut config = tokenizer_config.clone();
                        config.as_object_mut().map(|map| map.remove("auto_map"));
                        pretty(&config)
                    }
                    _ => content,
                };
                tokenizer_files.push((name.to_string(), content));
            }
        }
        Ok(Self {
            path: folder.into(),
            config,
            architecture,
            layout,
            weights,
            max_seq_length,
            tokenizer,
            tokenizer_files,
        })
    }

    /// Puts a model together that was never on the disk.
    ///
    /// # Errors
    /// Where the config is not one of a known architecture, or the tokenizer cannot be written.
    pub fn assemble(
        config: Value,
        layout: Layout,
        weights: Weights,
        tokenizer: tokenizers::Tokenizer,
        max_seq_length: usize,
    ) -> Result<Self, ModelError> {
        let path = PathBuf::from("(model from scratch)");
        let architecture = Architecture::parse(&config, &path)?;
        let json = tokenizer.to_string(true).map_err(|e| ModelError::Tokenizer(e.to_string()))?;
        let tokenizer_config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_seq_length,
            "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
        });
        let tokenizer_files = vec![
            ("tokenizer.json".to_string(), json.into_bytes()),
            ("tokenizer_config.json".to_string(), pretty(&tokenizer_config)),
        ];
        let tokenizer = TextTokenizer::new(tokenizer, max_seq_length, layout.lower_case)?;
        Ok(Self { path, config, architecture, layout, weights, max_seq_length, tokenizer, tokenizer_files })
    }

    /// The tokenizer at the model's own limit.
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// Content of `tokenizer.json`, or of the vocabulary where there is none: what two models must share to be merged.
    pub fn tokenizer_content(&self) -> &[u8] {
        self.tokenizer_files.first().map_or(&[], |(_, content)| content)
    }

    /// Content of every tokenizer file.
    pub fn tokenizer_contents(&self) -> impl Iterator<Item = &[u8]> {
        self.tokenizer_files.iter().map(|(_, content)| content.as_slice())
    }

    /// Width of the embeddings.
    pub fn embedding_size(&self) -> usize {
        let pooled = self.layout.pooled_size(self.architecture.hidden_size());
        self.layout
            .heads
            .iter()
            .fold(pooled, |width, head| if let HeadSpec::Dense { outputs, .. } = head { *outputs } else { width })
    }

    /// The same model with other weights; those not given stay.
    #[must_use]
    pub fn with_weights(&self, weights: &Weights) -> Self {
        let mut files = self.clone();
        for (name, tensor) in weights {
            files.weights.insert(name.clone(), tensor.clone());
        }
        files
    }

    /// Writes a sentence-transformers folder, each file whole or not at all, the weights last.
    ///
    /// # Errors
    /// The operating system's.
    pub fn save(&self, folder: &Path, card: &str) -> Result<(), ModelError> {
        let write = |name: &str, content: &[u8]| {
            let path = folder.join(name);
            atomic::write(&path, content).map_err(|e| ModelError::io(&path, e))
        };
        let mut config = self.architecture.stored_config(&self.config);
        if let Some(map) = config.as_object_mut() {
            map.remove("torch_dtype");
            map.remove("auto_map");
            map.insert("dtype".into(), json!("float32"));
            let class = Architecture::class(self.config["model_type"].as_str().unwrap_or_default());
            map.insert("architectures".into(), json!([class]));
        }
        // A table of static embeddings has a folder of its own, without config.json.
        let own_place = if self.layout.word_table { folder.join(WORD_TABLE) } else { folder.to_path_buf() };
        if !self.layout.word_table {
            write("config.json", &pretty(&config))?;
        }
        for (name, content) in &self.tokenizer_files {
            let path = own_place.join(name);
            atomic::write(&path, content).map_err(|e| ModelError::io(&path, e))?;
        }
        for (name, content) in self.layout.files(self.architecture.hidden_size(), self.max_seq_length) {
            write(&name, &pretty(&content))?;
        }
        for (i, head) in self.layout.heads.iter().enumerate() {
            if *head == HeadSpec::Normalize {
                let place = folder.join(format!("{}_Normalize", i + 2));
                std::fs::create_dir_all(&place).map_err(|e| ModelError::io(&place, e))?;
            }
        }
        write("README.md", card.as_bytes())?;
        let mut own = Weights::new();
        let mut dense: std::collections::BTreeMap<&str, Weights> = Default::default();
        for (name, tensor) in &self.weights {
            match self.dense_of(name) {
                Some((path, inner)) => {
                    dense.entry(path).or_default().insert(inner.to_string(), tensor.clone());
                }
                None => {
                    own.insert(name.clone(), tensor.clone());
                }
            }
        }
        for (path, tensors) in dense {
            weights::write(&folder.join(path).join("model.safetensors"), &tensors)?;
        }
        weights::write(&own_place.join("model.safetensors"), &self.architecture.stored(own)?)
    }

    /// The `Dense` module that a tensor belongs to, and its name there.
    fn dense_of<'n>(&self, name: &'n str) -> Option<(&str, &'n str)> {
        self.layout.heads.iter().find_map(|head| match head {
            HeadSpec::Dense { path, .. } => Some((path.as_str(), name.strip_prefix(path.as_str())?.strip_prefix('.')?)),
            HeadSpec::Normalize => None,
        })
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        self.weights.values().map(Tensor::elem_count).sum()
    }
}

fn check_vocabulary(root: &Path, tokenizer: &TextTokenizer, architecture: &Architecture) -> Result<(), ModelError> {
    let vocabulary = architecture.spec().vocab_size;
    let size = tokenizer.inner().get_vocab_size(false);
    let highest = |added: bool| tokenizer.inner().get_vocab(added).into_values().max().unwrap_or(0) as usize;
    if highest(false) < vocabulary && highest(true) >= vocabulary {
        // Gemma3's <image_soft_token>, say; a text that holds one is refused.
        tracing::debug!("{}: has added tokens outside the {vocabulary} of config.json", root.display());
    }
    let highest = highest(false);
    if highest >= vocabulary {
        return Err(ModelError::file(
            &root.join("tokenizer.json"),
            format!(
                "its {size} tokens have ids up to {highest}, config.json has vocab_size {vocabulary}: tokenizer and \
                 weights are not of one model"
            ),
        ));
    }
    Ok(())
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = format!("{value:#}");
    text.push('\n');
    text.into_bytes()
}
