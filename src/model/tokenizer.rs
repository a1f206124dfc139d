//! Text → token ids, by Hugging Face's `tokenizers`.

use std::path::Path;

use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::processors::sequence::Sequence;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{Tokenizer, TruncationParams};

use super::ModelError;

/// A model's tokenizer with its limit.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    inner: Tokenizer,
    max_length: usize,
    lower_case: bool,
    /// Whether special tokens are added.
    special: bool,
    /// Whether the end token is added here and not by the file.
    ends_anew: bool,
}

impl TextTokenizer {
    /// Reads `tokenizer.json`, or for BERT builds the same out of `vocab.txt`. `max_length` counts special tokens.
    ///
    /// # Errors
    /// Where neither file is there or can be read.
    pub fn load(
        folder: &Path,
        max_length: usize,
        lower_case: bool,
        config: &serde_json::Value,
    ) -> Result<Self, ModelError> {
        let json = folder.join("tokenizer.json");
        let vocab = folder.join("vocab.txt");
        let inner = if json.is_file() {
            Tokenizer::from_file(&json)
                .map_err(|e| ModelError::file(&json, format!("not a tokenizer that can be read: {e}")))?
        } else if vocab.is_file() {
            from_vocabulary(&vocab, config)?
        } else {
            return Err(ModelError::file(
                folder,
                "no tokenizer.json (nor vocab.txt): save the tokenizer with transformers' save_pretrained (a fast \
                 tokenizer), which writes it",
            ));
        };
        let (inner, ends_anew) = with_end_token(inner, config, folder)?;
        Ok(Self { ends_anew, ..Self::new(inner, max_length, lower_case)? })
    }

    /// Wraps a tokenizer.
    ///
    /// # Errors
    /// Where `max_length` leaves no room beside the special tokens.
    pub fn new(mut inner: Tokenizer, max_length: usize, lower_case: bool) -> Result<Self, ModelError> {
        inner.with_padding(None);
        inner
            .with_truncation(Some(TruncationParams { max_length, ..Default::default() }))
            .map_err(|e| ModelError::Tokenizer(format!("max_seq_length {max_length}: {e}")))?;
        Ok(Self { inner, max_length, lower_case, special: true, ends_anew: false })
    }

    /// The same with another limit.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_max_length(&self, max_length: usize) -> Result<Self, ModelError> {
        let (special, ends_anew) = (self.special, self.ends_anew);
        Ok(Self { special, ends_anew, ..Self::new(self.inner.clone(), max_length, self.lower_case)? })
    }

    /// The same, adding no special tokens.
    #[must_use]
    pub fn without_special_tokens(self) -> Self {
        Self { special: false, ..self }
    }

    /// Most tokens of a text, special ones counted.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Token ids of `prompt + text` for every text, special tokens added, cut at the limit.
    ///
    /// # Errors
    /// Where the tokenizer fails on a text.
    pub fn encode(&self, texts: &[&str], prompt: &str) -> Result<Vec<Vec<u32>>, ModelError> {
        let inputs: Vec<String> = texts
            .iter()
            .map(|text| {
                let text = format!("{prompt}{text}");
                if self.lower_case { text.to_lowercase() } else { text }
            })
            .collect();
        let encodings =
            self.inner.encode_batch_fast(inputs, self.special).map_err(|e| ModelError::Tokenizer(e.to_string()))?;
        Ok(encodings.iter().map(|e| e.get_ids().to_vec()).collect())
    }

    /// Tokens at the start of `prompt + text` that belong to the prompt, as sentence-transformers counts them: those of
    /// the prompt alone less a closing special token.
    ///
    /// # Errors
    /// Where the tokenizer fails.
    pub fn prompt_tokens(&self, prompt: &str) -> Result<usize, ModelError> {
        if prompt.is_empty() {
            return Ok(0);
        }
        let encoding =
            self.inner.encode_fast(prompt, self.special).map_err(|e| ModelError::Tokenizer(e.to_string()))?;
        let closes = encoding.get_special_tokens_mask().last() == Some(&1);
        Ok(encoding.get_ids().len() - usize::from(closes))
    }

    /// The token that stands for a masked word, where the vocabulary has one.
    pub fn mask_token(&self) -> Option<String> {
        ["[MASK]", "<mask>"].into_iter().find(|token| self.inner.token_to_id(token).is_some()).map(String::from)
    }

    /// Whether the end token is added here and not by the file that it was read from.
    pub fn ends_anew(&self) -> bool {
        self.ends_anew
    }

    /// What `tokenizer.json` is to hold.
    ///
    /// # Errors
    /// None but a lack of memory.
    pub fn to_json(&self) -> Result<Vec<u8>, ModelError> {
        let fail = |e: tokenizers::Error| ModelError::Tokenizer(e.to_string());
        let mut inner = self.inner.clone();
        inner.with_truncation(None).map_err(fail)?;
        inner.to_string(true).map(String::into_bytes).map_err(fail)
    }

    /// The tokenizer itself.
    pub fn inner(&self) -> &Tokenizer {
        &self.inner
    }
}

/// With the end token behind every text where `tokenizer_config.json` says `add_eos_token`, `tokenizer.json` does not do it, and the model has code of
/// its own that does (`auto_map`), as gte-Qwen2; and whether it was put. Without such code transformers 5 does nothing of the kind.
fn with_end_token(
    mut tokenizer: Tokenizer,
    config: &serde_json::Value,
    folder: &Path,
) -> Result<(Tokenizer, bool), ModelError> {
    if config["add_eos_token"].as_bool() != Some(true) || config["auto_map"].is_null() {
        return Ok((tokenizer, false));
    }
    let fail = |message: String| ModelError::file(&folder.join("tokenizer_config.json"), message);
    let Some(token) = config["eos_token"].as_str().or_else(|| config["eos_token"]["content"].as_str()) else {
        return Err(fail("add_eos_token is true, but there is no eos_token".into()));
    };
    let Some(id) = tokenizer.token_to_id(token) else {
        return Err(fail(format!("eos_token `{token}` is not in the vocabulary")));
    };
    let ends = tokenizer.encode_fast("a", true).map_err(|e| ModelError::Tokenizer(e.to_string()))?;
    if ends.get_ids().last() == Some(&id) {
        return Ok((tokenizer, false));
    }
    let template = TemplateProcessing::builder()
        .try_single(vec!["$A:0".to_string(), format!("{token}:0")])
        .map_err(fail)?
        .special_tokens(vec![(token.to_string(), id)])
        .build()
        .map_err(|e| fail(e.to_string()))?;
    let mut processors: Vec<PostProcessorWrapper> = tokenizer.get_post_processor().cloned().into_iter().collect();
    processors.push(template.into());
    tokenizer.with_post_processor(Some(Sequence::new(processors)));
    Ok((tokenizer, true))
}

fn from_vocabulary(vocab: &Path, config: &serde_json::Value) -> Result<Tokenizer, ModelError> {
    let model = WordPiece::from_file(&vocab.to_string_lossy())
        .unk_token("[UNK]".into())
        .build()
        .map_err(|e| ModelError::file(vocab, format!("not a WordPiece vocabulary: {e}")))?;
    let mut tokenizer = Tokenizer::new(model);
    let flag = |key: &str, default: bool| config[key].as_bool().unwrap_or(default);
    tokenizer
        .with_normalizer(Some(BertNormalizer::new(
            true,
            flag("tokenize_chinese_chars", true),
            config["strip_accents"].as_bool(),
            flag("do_lower_case", true),
        )))
        .map_err(|e| ModelError::file(vocab, e.to_string()))?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    let id = |token: &str| {
        tokenizer.token_to_id(token).ok_or_else(|| ModelError::file(vocab, format!("has no token `{token}`")))
    };
    let processing = BertProcessing::new(("[SEP]".into(), id("[SEP]")?), ("[CLS]".into(), id("[CLS]")?));
    tokenizer.with_post_processor(Some(processing));
    Ok(tokenizer)
}
