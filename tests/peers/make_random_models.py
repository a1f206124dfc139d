#!/usr/bin/env python3
"""Models of one size, to measure architectures side by side: make_random_models.py OUT [NAME …] [--limit TOKENS] [--qwen-1.5b]

Writes OUT/NAME, a sentence-transformers folder with random weights, for every NAME (default: all of SHAPES): width 384, 6 layers, 12 heads,
feed-forward layers of as many weights as two of 384 by 1536, texts of at most 512 tokens (--limit). Tokenizers are the small ones of tests/data, so the
token tables are small, too. --qwen-1.5b writes `qwen-1.5b` (alone, where no NAME is given): the shape of Qwen2-1.5B as an embedder, 1.5 billion
weights in bf16, two files, 3.1 GB, drawn and written tensor by tensor in under 1 GB of memory. What is there already stays.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import warnings
from math import prod
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
warnings.filterwarnings("ignore")

import torch
import transformers
from safetensors.torch import save_file

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

DATA = Path(__file__).resolve().parent.parent / "data"
WIDTH, LAYERS, HEADS, PLAIN, LIMIT = 384, 6, 12, 1536, 512
HEAD = WIDTH // HEADS
GATED = 2 * PLAIN // 3  # three matrices instead of two
assert GATED % 64 == 0

BERT_LIKE = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": PLAIN}
ROTARY = {**BERT_LIKE, "intermediate_size": GATED}
GROUPED = {**ROTARY, "num_key_value_heads": 4, "head_dim": HEAD}

# Name: folder of tests/data whose tokenizer and config.json it has, what that config has instead, pooling.
SHAPES = {
    "bert": ("models/bert", {**BERT_LIKE, "max_position_embeddings": LIMIT, "initializer_range": 0.02}, "mean_tokens"),
    "modern_bert": ("architectures/modern_bert", {**ROTARY, "local_attention": 128, "local_rope_theta": 10000.0}, "mean_tokens"),
    "qwen3": ("architectures/qwen3", {**GROUPED, "max_window_layers": LAYERS, "torch_dtype": "float32"}, "lasttoken"),
    "qwen2": ("architectures/qwen2", {**GROUPED, "max_window_layers": LAYERS}, "lasttoken"),
    "t5_gated": (
        "architectures/t5_gated",
        {"d_model": WIDTH, "d_kv": HEAD, "d_ff": GATED, "num_heads": HEADS, "num_layers": LAYERS, "num_decoder_layers": LAYERS,
         "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128},
        "cls_token",
    ),
    "distilbert": (
        "architectures/distilbert",
        {"dim": WIDTH, "n_heads": HEADS, "n_layers": LAYERS, "hidden_dim": PLAIN, "max_position_embeddings": LIMIT},
        "mean_tokens",
    ),
    "mpnet": ("architectures/mpnet", {**BERT_LIKE, "max_position_embeddings": LIMIT + 2}, "mean_tokens"),
    "nomic_bert": (
        "architectures/nomic_bert_native",
        {**ROTARY, "head_dim": HEAD, "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}},
        "mean_tokens",
    ),
    "gemma3": (
        "architectures/gemma3",
        {**GROUPED, "layer_types": ["sliding_attention"] * (LAYERS - 1) + ["full_attention"], "query_pre_attn_scalar": HEAD,
         "rope_local_base_freq": 10000.0, "sliding_window": 512},
        "mean_tokens",
    ),
    "deberta": ("architectures/deberta", {**BERT_LIKE, "max_relative_positions": 512, "pooler_hidden_size": WIDTH}, "mean_tokens"),
    "deberta_v2": (
        "architectures/deberta_v2",
        {**BERT_LIKE, "max_relative_positions": 512, "position_buckets": 256, "pooler_hidden_size": WIDTH},
        "mean_tokens",
    ),
    "static": ("architectures/static/0_StaticEmbedding", {}, None),
}
CLASSES = {"t5_gated": transformers.T5EncoderModel}

LARGE = {
    "vocab_size": 151936, "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
    "intermediate_size": 8960, "max_window_layers": 28, "torch_dtype": "bfloat16",
}


def write_json(path: Path, content) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def copy_tokenizer(source: Path, folder: Path, limit: int = LIMIT) -> None:
    folder.mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (source / name).is_file():
            shutil.copy(source / name, folder / name)
    path = folder / "tokenizer_config.json"
    if path.is_file():
        write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"model_max_length": limit})


def write_modules(folder: Path, pooling: str | None, width: int, limit: int = LIMIT) -> None:
    """Pooling as given, then Normalize; without pooling a table of token vectors."""
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")] if pooling else [("StaticEmbedding", "0_StaticEmbedding")]
    modules.append(("Normalize", f"{len(modules)}_Normalize"))
    write_json(folder / "modules.json", [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"} for i, (kind, path) in enumerate(modules)])
    write_json(folder / "config_sentence_transformers.json", {
        "__version__": {"sentence_transformers": "3.3.1", "transformers": "4.48.0", "pytorch": "2.5.1"},
        "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"})
    if pooling:
        keys = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
        write_json(folder / "1_Pooling/config.json", {
            "word_embedding_dimension": width, **{f"pooling_mode_{key}": key == pooling for key in keys}, "include_prompt": True})
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False})


def small(name: str, folder: Path, limit: int) -> int:
    """transformers' own draw of the weights. Gives their number."""
    place, changes, pooling = SHAPES[name]
    write_modules(folder, pooling, WIDTH, limit)
    torch.manual_seed(1)
    if pooling is None:
        inner = folder / Path(place).name
        copy_tokenizer(DATA / place, inner)
        rows = len(json.loads((inner / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
        save_file({"embedding.weight": torch.randn(rows, WIDTH)}, inner / "model.safetensors", metadata={"format": "pt"})
        return rows * WIDTH
    copy_tokenizer(DATA / place, folder, limit)
    config = json.loads((DATA / place / "config.json").read_text(encoding="utf-8")) | changes
    if "max_position_embeddings" in config and limit > LIMIT:
        config["max_position_embeddings"] += limit - LIMIT
    write_json(folder / "config.json", config)
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = CLASSES.get(name)
    model = kind(config) if kind else transformers.AutoModel.from_config(config, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as saved:  # its config.json may be one that means something else when it is read again
        model.save_pretrained(saved)
        shutil.copy(Path(saved) / "model.safetensors", folder / "model.safetensors")
    return sum(parameter.numel() for parameter in model.parameters())


def large_shapes(config: dict) -> dict[str, list[int]]:
    width, inner, head = config["hidden_size"], config["intermediate_size"], config["hidden_size"] // config["num_attention_heads"]
    keys = config["num_key_value_heads"] * head
    shapes = {"embed_tokens.weight": [config["vocab_size"], width]}
    for i in range(config["num_hidden_layers"]):
        layer = {"input_layernorm.weight": [width], "post_attention_layernorm.weight": [width]}
        for part, rows in (("q", width), ("k", keys), ("v", keys)):
            layer |= {f"self_attn.{part}_proj.weight": [rows, width], f"self_attn.{part}_proj.bias": [rows]}
        layer |= {"self_attn.o_proj.weight": [width, width], "mlp.gate_proj.weight": [inner, width]}
        layer |= {"mlp.up_proj.weight": [inner, width], "mlp.down_proj.weight": [width, inner]}
        shapes |= {f"layers.{i}.{name}": shape for name, shape in layer.items()}
    return shapes | {"norm.weight": [width]}


def write_bf16(path: Path, shapes: dict[str, list[int]], generator: torch.Generator) -> None:
    """A safetensors file, drawn while it is written: N(0, 0.02), norms one."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            left = prod(shape)
            while left:
                count = min(left, 1 << 24)
                values = torch.ones(count) if "norm" in name else 0.02 * torch.randn(count, generator=generator)
                file.write(values.bfloat16().view(torch.int16).numpy().tobytes())
                left -= count


def large(folder: Path) -> int:
    source = DATA / "architectures/qwen2"
    copy_tokenizer(source, folder)
    config = json.loads((source / "config.json").read_text(encoding="utf-8")) | LARGE
    write_json(folder / "config.json", config)
    write_modules(folder, "lasttoken", config["hidden_size"])
    shapes = large_shapes(config)
    total, done, parts = sum(map(prod, shapes.values())), 0, ({}, {})
    for name, shape in shapes.items():
        parts[2 * done >= total][name] = shape
        done += prod(shape)
    files, generator = {}, torch.Generator().manual_seed(1)
    for i, part in enumerate(parts):
        file = f"model-{i + 1:05}-of-{len(parts):05}.safetensors"
        write_bf16(folder / file, part, generator)
        files |= dict.fromkeys(part, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": 2 * total}, "weight_map": dict(sorted(files.items()))})
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--limit", type=int, default=LIMIT, metavar="TOKENS", help=f"longest text ({LIMIT})")
    parser.add_argument("--qwen-1.5b", dest="large", action="store_true")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in SHAPES]
    if unknown:
        sys.exit(f"{', '.join(unknown)}: not one of {', '.join(SHAPES)}")
    makers = {name: lambda folder, name=name: small(name, folder, args.limit) for name in args.names or ([] if args.large else SHAPES)}
    if args.large:
        makers["qwen-1.5b"] = large
    for name, make in makers.items():
        folder = args.output / name
        if folder.exists():
            print(f"{folder}: is there already")
            continue
        # The folder appears whole or not at all.
        partial = args.output / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        count = make(partial)
        partial.rename(folder)
        print(f"{folder}: {count / 1e6:,.1f} M parameters", flush=True)


if __name__ == "__main__":
    main()
