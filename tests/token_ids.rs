//! Token ids against transformers' on 5,000 texts: golden values by `tests/data/tokenizers/make_tokenizers.py`.

use std::io::Read;
use std::path::Path;

use embeval::model::TextTokenizer;

#[test]
fn ids_equal_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizers");
    let mut text = String::new();
    let file = std::fs::File::open(folder.join("texts.json.gz")).unwrap();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let texts: Vec<String> = serde_json::from_str(&text).unwrap();
    assert_eq!(texts.len(), 5_000);
    assert!(texts.iter().any(|text| text.chars().count() >= 100_000));
    let borrowed: Vec<&str> = texts.iter().map(String::as_str).collect();
    let expected = candle_core::safetensors::load(folder.join("expected.safetensors"), &candle_core::Device::Cpu);
    let expected = expected.unwrap();
    for name in ["word_piece", "unigram", "byte_level"] {
        let tokenizer = TextTokenizer::load(&folder.join(name), 1 << 20, false, &serde_json::Value::Null).unwrap();
        let ids = tokenizer.encode(&borrowed, "").unwrap();
        let want = expected[name].to_vec2::<u32>().unwrap();
        for (i, (ids, want)) in ids.iter().zip(&want).enumerate() {
            let mut sum = flate2::Crc::new();
            ids.iter().for_each(|id| sum.update(&id.to_le_bytes()));
            let shown: String = texts[i].chars().take(40).collect();
            assert_eq!([ids.len() as u32, sum.sum()], want[..], "{name}: text {i}, {shown:?}");
        }
    }
}

/// gte-Qwen2's `tokenizer.json` does not put the end token that its `tokenizer_config.json` asks for.
#[test]
fn an_end_token_that_the_config_asks_for_is_added_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let ids = |folder: &str, config: serde_json::Value| {
        TextTokenizer::load(&root.join(folder), 6, false, &config)
            .map(|t| t.encode(&["a", "a b c d e f g", ""], "").unwrap())
    };
    // Its own template ends texts already.
    let map = serde_json::json!({"AutoTokenizer": ["tokenization.Own", null]});
    let with = serde_json::json!({"add_eos_token": true, "auto_map": map, "eos_token": {"content": "<|endoftext|>"}});
    let own = ids("architectures/qwen3", serde_json::Value::Null).unwrap();
    assert_eq!(ids("architectures/qwen3", with.clone()).unwrap(), own);
    let other = serde_json::json!({"add_eos_token": true, "auto_map": map, "eos_token": "<s>"});
    let without_code = serde_json::json!({"add_eos_token": true, "eos_token": "<s>"});
    let (plain, added) =
        (ids("tokenizers/byte_level", serde_json::Value::Null).unwrap(), ids("tokenizers/byte_level", other).unwrap());
    assert_eq!(ids("tokenizers/byte_level", without_code).unwrap(), plain);
    for (plain, added) in plain.iter().zip(&added) {
        assert!(added.last() == Some(&0) && added.len() <= 6, "{added:?}");
        if plain.len() < 6 {
            assert_eq!(added[..added.len() - 1], plain[..]);
        }
    }
    let error = ids("tokenizers/byte_level", with).unwrap_err().to_string();
    assert!(error.contains("tokenizer_config.json") && error.contains("<|endoftext|>"), "{error}");
}
