#!/usr/bin/env python3
"""Golden architectures: make_architectures.py [OUT_DIR [NAME ...]], by default all of them, into the folder that this script lies in.

For every architecture below: draws a tiny model from a fixed seed, writes it the way such models lie on the hub, loads the written
folder with sentence-transformers, and records what transformers, PyTorch and PEFT make of it: token ids, token vectors, embeddings,
gradients of InfoNCE, the losses of ten LoRA steps. README.md beside this script says what lies where and what is easy to get wrong.

Every number is also computed in f64 throughout (`exact` below); the largest difference is written beside it.
"""

import json
import re
import shutil
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager, nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))
import make_models as base  # also: no network, no warnings

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

torch.set_num_threads(1)

HIDDEN = 32
LIMIT = 48
STEPS = 10

TEXTS = [
    *(text for group in base.GROUPS[:3] for text in group),
    "",
    " ",
    base.LONG,
    base.LONG[:100],
    "a",
    "я",
    "猫",
    "?!",
    "  leading and trailing spaces   ",
    "two  spaces,\ttabs\tand\nnew lines",
    "Ёжик, й и ё; naïve café, Zürich — “quotes”… №5",
    "😀🎉 emoji 👩‍👩‍👧 猫🐱",
    "control\x00\x07\x7f\x85 characters \u200b\u200d\ufeff\u00ad\u2028 here",
    "unknown ཀ ꙮ 𝔘 𓀀 ტ",
    "[CLS] special [MASK] [SEP] [PAD] words <s> <mask> </s> <pad> <bos> <eos> <|endoftext|> too",
    "search_query: Где находится аптека?",
]


# ---- arithmetic ------------------------------------------------------------------------------------------------------------


@contextmanager
def exact():
    """f64 throughout: transformers takes norms, softmax and the angles of rotary positions to f32 whatever the weights are."""
    plain_to, plain_float, plain_softmax = torch.Tensor.to, torch.Tensor.float, F.softmax

    def to(self, *args, **options):
        if self.dtype == torch.float64:
            args = [torch.float64 if a is torch.float32 else a for a in args]
            options = {key: torch.float64 if a is torch.float32 else a for key, a in options.items()}
        return plain_to(self, *args, **options)

    def single(self, *args, **options):
        return self if self.dtype == torch.float64 else plain_float(self, *args, **options)

    def softmax(values, dim=None, dtype=None, **options):
        return plain_softmax(values, dim=dim, dtype=None if values.dtype == torch.float64 else dtype)

    torch.Tensor.to, torch.Tensor.float, F.softmax = to, single, softmax
    try:
        yield
    finally:
        torch.Tensor.to, torch.Tensor.float, F.softmax = plain_to, plain_float, plain_softmax


def exact_rotary(module: torch.nn.Module) -> None:
    """Cosines and sines of `position * theta ** (-2 i / head_dim)` in f64, the row of angles twice side by side."""
    config = module.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    def forward(x, position_ids, layer_type=None):
        parameters = config.rope_parameters[layer_type] if layer_type else config.rope_parameters
        assert parameters["rope_type"] == "default"
        frequencies = parameters["rope_theta"] ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        angles = position_ids[..., None].double() * frequencies
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos(), angles.sin()

    module.forward = forward


def randomize(model: torch.nn.Module, seed: int, centred: bool = False) -> None:
    """Wide weights, norms away from identity, biases away from zero. `centred`: norms multiply by one plus their weight. Relative
    positions count as much as content; T5's unscaled scores stay small enough not to blow rounding up."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(0.2 * noise if centred else 1 + 0.2 * noise)
            elif "relative_attention_bias" in name or "rel_embeddings" in name:
                parameter.copy_(noise)
            else:
                parameter.copy_((0.06 if name.endswith("SelfAttention.q.weight") else 0.15) * noise)


# ---- tokenizers ------------------------------------------------------------------------------------------------------------


def byte_pairs(special: list[str], size: int, pre_tokenizer=None) -> dict:
    """Vocabulary and merges of a byte-level BPE over our sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(base.corpus(), trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


def template(tokenizer: Tokenizer, single: str) -> processors.TemplateProcessing:
    """`single` as `[CLS] $A [SEP]`; the ids from the vocabulary."""
    pieces = [piece for piece in single.split() if piece != "$A"]
    return processors.TemplateProcessing(single=single, special_tokens=[(piece, tokenizer.token_to_id(piece)) for piece in pieces])


def byte_level(special: list[str], single: str, size: int = 330, normalizer=None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(**byte_pairs(special, size)))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = template(tokenizer, single)
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in special])
    return tokenizer


def unigram(special: list[str], single: str, unknown: int, pre_tokenizer, normalizer=None, last: tuple = ()) -> Tokenizer:
    """The pieces of make_models' Unigram between our special tokens."""
    pieces = json.loads(base.unigram().backend_tokenizer.to_str())["model"]["vocab"]
    pieces = [(piece, score) for piece, score in pieces if not (piece.startswith("<") and len(piece) > 1)]
    vocabulary = [*((piece, 0.0) for piece in special), *pieces, *((piece, 0.0) for piece in last)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=unknown, byte_fallback=False))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = template(tokenizer, single)
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in (*special, *last)])
    return tokenizer


def word_piece(first: tuple, last: tuple, single: str, unknown: str = "[UNK]") -> Tokenizer:
    """The pieces of make_models' WordPiece between our special tokens; lower-cased."""
    pieces = base.word_piece().get_vocab()
    pieces = [piece for piece in sorted(pieces, key=pieces.get) if not (piece.startswith("[") and len(piece) > 1)]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate((*first, *pieces, *last))}, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = template(tokenizer, single)
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in (*first, *last)])
    return tokenizer


def write_tokenizer(folder: Path, tokenizer: Tokenizer, kind: str, **options) -> None:
    """tokenizer.json, and a tokenizer_config.json of transformers 4."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {str(i): {"content": token.content, "lstrip": token.lstrip, "normalized": token.normalized, "rstrip": token.rstrip,
                      "single_word": token.single_word, "special": token.special}
             for i, token in sorted(tokenizer.get_added_tokens_decoder().items())}
    write_plain(folder / "tokenizer_config.json", {
        "added_tokens_decoder": added, "clean_up_tokenization_spaces": False, **options, "tokenizer_class": kind})


# ---- folders ---------------------------------------------------------------------------------------------------------------


def write_plain(path: Path, content) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_json(path: Path, content: dict) -> None:
    base.write_json(path, {"generator": "tests/data/architectures/make_architectures.py", "versions": base.versions(), **content})


def write_weights(folder: Path, state: dict[str, torch.Tensor], shards: int = 1) -> None:
    """One file, or shards of about equal size behind an index."""
    state = {name: tensor.detach().contiguous().clone() for name, tensor in state.items()}
    if shards == 1:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return
    total = sum(tensor.nbytes for tensor in state.values())
    parts, done = [{} for _ in range(shards)], 0
    for name, tensor in state.items():
        parts[min(shards - 1, done * shards // total)][name] = tensor
        done += tensor.nbytes
    names = {}
    for i, part in enumerate(parts):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        names |= {name: file for name in part}
    write_plain(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": dict(sorted(names.items()))})


def write_modules(folder: Path, pooling: str, *after, limit: int = LIMIT, prompts: dict | None = None, width: int = HIDDEN) -> None:
    """The files of sentence-transformers up to 5.3. `after`: "Normalize", or (in, out, seed) of a Dense layer without bias."""
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    for module in after:
        kind = module if isinstance(module, str) else "Dense"
        path = f"{len(modules)}_{kind}"
        modules.append((kind, path))
        if kind == "Dense":
            inner, outer, seed = module
            write_plain(folder / path / "config.json", {
                "in_features": inner, "out_features": outer, "bias": False, "activation_function": "torch.nn.modules.linear.Identity"})
            dense = torch.nn.Linear(inner, outer, bias=False)
            randomize(dense, seed)
            save_file({"linear.weight": dense.weight.detach()}, folder / path / "model.safetensors", metadata={"format": "pt"})
    write_plain(folder / "modules.json", [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"} for i, (kind, path) in enumerate(modules)])
    keys = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    write_plain(folder / "1_Pooling" / "config.json", {
        "word_embedding_dimension": width, **{f"pooling_mode_{key}": key == pooling for key in keys}, "include_prompt": True})
    write_plain(folder / "sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False})
    write_plain(folder / "config_sentence_transformers.json", {
        "__version__": {"sentence_transformers": "3.3.1", "transformers": "4.48.0", "pytorch": "2.5.1"},
        "prompts": prompts or {}, "default_prompt_name": None, "similarity_fn_name": "cosine"})


def drawn(config: dict, seed: int, kind: str | None = None, centred: bool = False) -> torch.nn.Module:
    """The model that a config.json means, with weights from the seed."""
    with tempfile.TemporaryDirectory() as folder:
        write_plain(Path(folder) / "config.json", config)
        config = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, kind)(config) if kind else transformers.AutoModel.from_config(config, dtype=torch.float32)
    randomize(model, seed, centred)
    return model


def load(folder: Path, double: bool = False, attention: str = "eager") -> SentenceTransformer:
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32, "attn_implementation": attention})
    if double:
        model.double()
        for module in model.modules():
            if type(module).__name__.endswith("RotaryEmbedding"):
                exact_rotary(module)
    return model


# ---- what is expected of them ----------------------------------------------------------------------------------------------


def encoder(model: SentenceTransformer) -> torch.nn.Module:
    return model[0].auto_model


def views(model: SentenceTransformer, prompts: list[str]) -> dict[str, torch.Tensor]:
    """Every tensor that `expected.safetensors` holds."""
    tensors = {"hidden": base.hidden_states(model, TEXTS), "embeddings": base.embed(model, TEXTS)}
    for prompt in prompts:
        tensors[f"embeddings.{prompt}"] = base.embed(model, TEXTS, prompt_name=prompt)
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def check_tokenizer_file(folder: Path, limit: int, ids: list[list[int]]) -> None:
    """transformers 5 builds some tokenizers from the vocabulary alone; what lies in tokenizer.json must mean the same."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    for text, expected in zip(TEXTS, ids):
        assert tokenizer.encode(text).ids == expected, f"{folder.name}: {text!r}: {tokenizer.encode(text).ids} != {expected}"


def expect(folder: Path, prompts: tuple = (), opened=load) -> None:
    """`opened(folder, double)` gives the model."""
    model = opened(folder)
    limit = model.max_seq_length
    ids = base.token_ids(model, TEXTS)
    check_tokenizer_file(folder, limit, ids)
    assert max(map(len, ids)) == limit and min(map(len, ids)) <= 2, (folder.name, limit, sorted(map(len, ids)))
    tensors = views(model, prompts)
    with exact():
        reference = views(opened(folder, True), prompts)
    assert all(tensor.dtype == torch.float64 for tensor in reference.values())
    deviation = {key: float((tensors[key].double() - reference[key]).abs().max()) for key in tensors}
    check_attention(model, folder, tensors["hidden"])
    save_file(tensors, folder / "expected.safetensors")
    write_json(folder / "expected.json", {
        "max_seq_length": limit, "prompts": {k: v for k, v in model.prompts.items()}, "float64_deviation": deviation,
        "texts": TEXTS, "token_ids": ids})
    worst = max(deviation, key=deviation.get)
    print(f"{folder.name}: {len(TEXTS)} texts, {sum(map(len, ids))} tokens, limit {limit}, largest state "
          f"{float(tensors['hidden'].abs().max()):.1f}; f32 - f64 at most {deviation[worst]:.1e} ({worst})", flush=True)


def check_attention(model: SentenceTransformer, folder: Path, hidden: torch.Tensor) -> None:
    """A folder that says `is_causal: false`, or nothing causal, lets a later token change an earlier state; a causal one does not."""
    ids = torch.tensor([[7, 8, 9, 10, 11, 12]])
    other = ids.clone()
    other[0, -1] = 13
    with torch.no_grad():
        first, second = (encoder(model)(input_ids=x, attention_mask=torch.ones_like(x)).last_hidden_state[0, 0] for x in (ids, other))
    causal = folder.name in ("qwen3", "qwen2_causal")
    assert bool((first == second).all()) == causal, folder.name


def same_tensors(folder: Path, other: Path, opened=load, tolerance: float = 2e-6) -> None:
    """`folder` gives what `other` gives: its expected.json names the other's tensors."""
    model = opened(folder)
    content = json.loads((other / "expected.json").read_text())
    tensors = load_file(other / "expected.safetensors")
    ids = base.token_ids(model, TEXTS)
    check_tokenizer_file(folder, model.max_seq_length, ids)
    assert ids == content["token_ids"] and model.max_seq_length == content["max_seq_length"]
    got = views(model, [])
    for key, tensor in got.items():
        difference = float((tensor - tensors[key]).abs().max())
        assert difference <= tolerance, (folder.name, key, difference)
    write_json(folder / "expected.json", {
        "tensors": f"../{other.name}/expected.safetensors", "max_seq_length": content["max_seq_length"], "prompts": model.prompts,
        "float64_deviation": content["float64_deviation"], "texts": TEXTS, "token_ids": ids})
    print(f"{folder.name}: as {other.name}", flush=True)


# ---- gradients -------------------------------------------------------------------------------------------------------------


def gradients(model: SentenceTransformer, batch: dict[str, list[str]]) -> dict[str, torch.Tensor]:
    model.train()
    model.zero_grad()
    loss = base.info_nce(model, batch)
    loss.backward()
    named = base.parameter_names(model)
    return {"loss": loss.detach().reshape(1), **{name: p.grad.clone() for name, p in named.items() if p.grad is not None}}


def files_parameters(folder: Path) -> set[str]:
    """Names in the files of weights, a Dense layer's behind its folder."""
    names = set()
    for path in sorted(folder.glob("**/model*.safetensors")):
        inner = path.parent.name + "." if path.parent != folder else ""
        names |= {inner + name for name in load_file(path)}
    return names


def expect_gradients(folder: Path, opened=load) -> None:
    batch = base.triples(0, 6)
    tensors = gradients(opened(folder), batch)
    with exact():
        reference = gradients(opened(folder, True), batch)
    without = sorted(name for name in base.parameter_names(opened(folder)) if name not in tensors)
    assert all(name.startswith("pooler.") for name in without), without
    assert set(tensors) - {"loss"} | set(without) == files_parameters(folder), set(tensors) ^ files_parameters(folder)
    deviation = {key: float((tensors[key].double() - reference[key]).abs().max()) for key in tensors}
    largest = {key: float(tensor.abs().max()) for key, tensor in tensors.items()}
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "gradients.safetensors")
    write_json(folder / "gradients.json", {
        "temperature": base.TEMPERATURE, "loss": float(tensors["loss"]), "loss_float64": float(reference["loss"]),
        "float64_deviation": max(deviation.values()), "largest_gradient": max(largest.values()),
        "without_gradient": without, **batch})
    weak = min((key for key in largest), key=largest.get)
    print(f"{folder.name}: {len(tensors)} gradients, loss {float(tensors['loss']):.4f}; f32 - f64 at most {max(deviation.values()):.1e}; "
          f"weakest {largest[weak]:.1e} ({weak})", flush=True)


# ---- training --------------------------------------------------------------------------------------------------------------

TRAINING = {**base.TRAINING, "steps": STEPS, "max_length": LIMIT}
LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}


def record(path: Path, model_of, more: dict) -> None:
    """`model_of(double)` gives the model ready to train. The loop is make_models', with our number of steps."""
    batches = [base.triples(6 * step, 6) for step in range(STEPS)]
    base.TRAINING = TRAINING | {"max_length": more.pop("max_length", LIMIT)}

    def run(double: bool):
        with exact() if double else nullcontext():
            model = model_of(double)
            losses, norms = base.train(model, batches)
            return losses, norms, base.embed(model, base.SHORT)

    single, double = run(False), run(True)
    base.record(path, batches, single, double, {"generator": "tests/data/architectures/make_architectures.py", **more})


def expect_lora(folder: Path, targets: list[str], opened=load) -> None:
    """Ten steps on the adapter alone: a Dense layer behind the pooling stays as it is."""
    init = folder / "lora_init"

    def model_of(double: bool) -> SentenceTransformer:
        model = opened(folder)
        model.requires_grad_(False)
        torch.manual_seed(base.SEED)
        peft = get_peft_model(encoder(model), LoraConfig(
            task_type=TaskType.FEATURE_EXTRACTION, r=LORA["rank"], lora_alpha=LORA["alpha"], lora_dropout=LORA["dropout"],
            target_modules=targets))
        if not double:
            save_adapter(peft, init, folder.name)
            return model
        model.double()
        for module in model.modules():
            if type(module).__name__.endswith("RotaryEmbedding"):
                exact_rotary(module)
        return model

    record(folder / "training_lora.json", model_of, {**LORA, "targets": targets, "max_length": opened(folder).max_seq_length})


def save_adapter(peft, folder: Path, name: str) -> None:
    base.save_adapter(peft, folder)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": name}
    write_plain(path, config)


# ---- ModernBERT ------------------------------------------------------------------------------------------------------------

FOUR_PROMPTS = {name: f"{name}: " for name in ("search_query", "search_document", "classification", "clustering")}


def modern_bert(out: Path) -> None:
    """As transformers 4.48 wrote USER2: the pattern of layers and both thetas are numbers of their own."""
    folder = out / "modern_bert"
    tokenizer = byte_level(["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"], "[CLS] $A [SEP]", normalizer=normalizers.NFC())
    size = tokenizer.get_vocab_size()
    config = {
        "architectures": ["ModernBertModel"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
        "classifier_activation": "gelu", "classifier_bias": False, "classifier_dropout": 0.0, "classifier_pooling": "mean",
        "cls_token_id": 1, "decoder_bias": True, "deterministic_flash_attn": False, "embedding_dropout": 0.0, "eos_token_id": 2,
        "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "gradient_checkpointing": False, "hidden_activation": "gelu",
        "hidden_size": HIDDEN, "initializer_cutoff_factor": 2.0, "initializer_range": 0.02, "intermediate_size": 40,
        "layer_norm_eps": 1e-05, "local_attention": 8, "local_rope_theta": 100.0, "max_position_embeddings": 8192, "mlp_bias": False,
        "mlp_dropout": 0.0, "model_type": "modernbert", "norm_bias": False, "norm_eps": 1e-05, "num_attention_heads": 4,
        "num_hidden_layers": 4, "pad_token_id": 3, "position_embedding_type": "absolute", "reference_compile": None,
        "repad_logits_with_grad": False, "sep_token_id": 2, "sparse_pred_ignore_index": -100, "sparse_prediction": False,
        "torch_dtype": "float32", "transformers_version": "4.48.0", "vocab_size": size}
    write_plain(folder / "config.json", config)
    model = drawn(config, 101)
    assert model.config.layer_types == ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    assert [model.config.rope_parameters[kind]["rope_theta"] for kind in ("full_attention", "sliding_attention")] == [160000.0, 100.0]
    assert model.config.sliding_window == 4
    write_weights(folder, model.state_dict())
    special = dict(cls_token="[CLS]", mask_token="[MASK]", pad_token="[PAD]", sep_token="[SEP]", unk_token="[UNK]",
                   model_input_names=["input_ids", "attention_mask"])
    write_tokenizer(folder, tokenizer, "PreTrainedTokenizerFast", model_max_length=8192, **special)
    write_modules(folder, "mean_tokens", prompts=FOUR_PROMPTS)
    expect(folder, ("search_query", "classification"))
    expect_gradients(folder)
    expect_lora(folder, ["Wqkv", "Wo", "Wi"])

    # The same encoder under a masked-language-model head, as transformers 5 writes it: a plain folder.
    masked = out / "modern_bert_masked"
    masked.mkdir(exist_ok=True)
    gone = ("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta", "gradient_checkpointing", "layer_norm_eps",
            "position_embedding_type", "reference_compile", "repad_logits_with_grad", "torch_dtype", "transformers_version",
            "architectures")
    whole = transformers.ModernBertForMaskedLM(transformers.ModernBertConfig(
        **{key: value for key, value in config.items() if key not in gone},
        layer_types=model.config.layer_types, rope_parameters=model.config.rope_parameters))
    randomize(whole, 102)
    whole.model.load_state_dict(model.state_dict())
    whole.save_pretrained(masked)
    write_tokenizer(masked, tokenizer, "PreTrainedTokenizerFast", model_max_length=LIMIT, **special)
    same_tensors(masked, folder)


# ---- Qwen ------------------------------------------------------------------------------------------------------------------

END = "<|endoftext|>"
TURNS = ["<|im_start|>", "<|im_end|>"]
INSTRUCTION = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def qwen_tokenizer(size: int = 330) -> Tokenizer:
    """Special tokens behind the vocabulary; the end of the text is put behind every text."""
    split = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer = Tokenizer(models.BPE(**byte_pairs([], size, split)))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in (END, *TURNS)])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False), template(tokenizer, f"$A {END}")])
    return tokenizer


QWEN_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def qwen3(out: Path) -> None:
    """As Qwen3-Embedding: sharded bf16. What is expected is computed in f32 from the weights as they lie there."""
    folder = out / "qwen3"
    tokenizer = qwen_tokenizer()
    end = tokenizer.token_to_id(END)
    config = {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": end,
        "eos_token_id": end, "head_dim": 16, "hidden_act": "silu", "hidden_size": HIDDEN, "initializer_range": 0.02,
        "intermediate_size": 40, "max_position_embeddings": 32768, "max_window_layers": 3, "model_type": "qwen3",
        "num_attention_heads": 4, "num_hidden_layers": 3, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_scaling": None,
        "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "transformers_version": "4.51.3", "use_cache": True, "use_sliding_window": False, "vocab_size": tokenizer.get_vocab_size()}
    write_plain(folder / "config.json", config)
    write_weights(folder, drawn(config, 111).bfloat16().state_dict(), shards=2)
    write_tokenizer(folder, tokenizer, "Qwen2Tokenizer", add_bos_token=False, add_prefix_space=False, bos_token=None,
                    eos_token=TURNS[1], pad_token=END, errors="replace", model_max_length=131072, padding_side="left", unk_token=None)
    write_modules(folder, "lasttoken", "Normalize", prompts={"query": INSTRUCTION, "document": ""})
    expect(folder, ("query", "document"))
    expect_gradients(folder)
    expect_lora(folder, QWEN_TARGETS)


def qwen2(out: Path) -> None:
    """As gte-Qwen2-1.5B-instruct: every token sees every token. Then the same without `is_causal`."""
    tokenizer = qwen_tokenizer(300)
    end = tokenizer.token_to_id(END)
    config = {
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": end, "eos_token_id": end,
        "hidden_act": "silu", "hidden_size": HIDDEN, "initializer_range": 0.02, "intermediate_size": 40, "is_causal": False,
        "max_position_embeddings": 131072, "max_window_layers": 2, "model_type": "qwen2", "num_attention_heads": 4,
        "num_hidden_layers": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 131072,
        "tie_word_embeddings": False, "torch_dtype": "float32", "transformers_version": "4.41.2", "use_cache": True,
        "use_sliding_window": False, "vocab_size": tokenizer.get_vocab_size()}
    for name in ("qwen2", "qwen2_causal"):
        folder = out / name
        written = {key: value for key, value in config.items() if key != "is_causal" or name == "qwen2"}
        write_plain(folder / "config.json", written)
        write_weights(folder, drawn(written, 121).state_dict())
        write_tokenizer(folder, tokenizer, "Qwen2Tokenizer", add_eos_token=True, add_prefix_space=False, bos_token=None, eos_token=END,
                        pad_token=END, errors="replace", model_max_length=32768, unk_token=None)
        write_modules(folder, "lasttoken", "Normalize", prompts={"query": INSTRUCTION, "document": ""} if name == "qwen2" else None)
        expect(folder, ("query", "document") if name == "qwen2" else ())
    folder = out / "qwen2"
    expect_gradients(folder)
    expect_lora(folder, QWEN_TARGETS)


# ---- T5 --------------------------------------------------------------------------------------------------------------------

SEVEN_PROMPTS = {name: f"{name}: " for name in (
    "search_query", "search_document", "paraphrase", "categorize", "categorize_sentiment", "categorize_topic", "categorize_entailment")}


def t5_config(tokenizer: Tokenizer, **more) -> dict:
    return {
        "architectures": ["T5EncoderModel"], "classifier_dropout": 0.0, "d_ff": 40, "d_kv": 12, "d_model": HIDDEN,
        "decoder_start_token_id": 0, "dropout_rate": 0.0, "initializer_factor": 1.0, "is_encoder_decoder": True,
        "layer_norm_epsilon": 1e-06, "model_type": "t5", "num_decoder_layers": 2, "num_heads": 3, "num_layers": 2, "pad_token_id": 0,
        "relative_attention_max_distance": 20, "relative_attention_num_buckets": 8, "torch_dtype": "float32",
        "transformers_version": "4.45.1", "use_cache": True, "vocab_size": tokenizer.get_vocab_size(), **more}


def t5_gated(out: Path) -> None:
    """As FRIDA."""
    folder = out / "t5_gated"
    tokenizer = byte_level(["<pad>", "[CLS]", "</s>", "<unk>"], "[CLS] $A </s>")
    config = t5_config(tokenizer, dense_act_fn="gelu_new", eos_token_id=2, feed_forward_proj="gated-gelu", is_gated_act=True,
                       tie_word_embeddings=False)
    write_plain(folder / "config.json", config)
    write_weights(folder, t5_state(drawn(config, 131, "T5EncoderModel")))
    write_tokenizer(folder, tokenizer, "PreTrainedTokenizerFast", model_max_length=512, cls_token="[CLS]", eos_token="</s>",
                    pad_token="<pad>", unk_token="<unk>", model_input_names=["input_ids", "attention_mask"])
    write_modules(folder, "cls_token", prompts=SEVEN_PROMPTS)
    expect(folder, ("search_query", "categorize_entailment"))
    expect_gradients(folder)
    expect_lora(folder, ["q", "k", "v", "o", "wi_0", "wi_1", "wo"])


def t5_relu(out: Path) -> None:
    """As sentence-t5."""
    folder = out / "t5_relu"
    split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always", split=True)])
    tokenizer = unigram(["<pad>", "</s>", "<unk>"], "$A </s>", 2, split)
    config = t5_config(tokenizer, eos_token_id=1, feed_forward_proj="relu", is_gated_act=False, n_positions=512, output_past=True)
    write_plain(folder / "config.json", config)
    write_weights(folder, t5_state(drawn(config, 132, "T5EncoderModel")))
    write_tokenizer(folder, tokenizer, "T5Tokenizer", model_max_length=512, eos_token="</s>", extra_ids=0, pad_token="<pad>",
                    unk_token="<unk>")
    write_modules(folder, "mean_tokens", (HIDDEN, 24, 133), "Normalize")
    expect(folder)
    expect_gradients(folder)
    expect_lora(folder, ["q", "k", "v", "o", "wi", "wo"])


def t5_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Without the token table's second name."""
    return {name: tensor for name, tensor in model.state_dict().items() if name != "encoder.embed_tokens.weight"}


# ---- DistilBERT, MPNet -----------------------------------------------------------------------------------------------------

BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BERT_NAMES = dict(cls_token="[CLS]", mask_token="[MASK]", pad_token="[PAD]", sep_token="[SEP]", unk_token="[UNK]", do_lower_case=True,
                  strip_accents=None, tokenize_chinese_chars=True)


def distilbert(out: Path) -> None:
    folder = out / "distilbert"
    tokenizer = word_piece(BERT_SPECIAL, (), "[CLS] $A [SEP]")
    config = {
        "activation": "gelu", "architectures": ["DistilBertModel"], "attention_dropout": 0.0, "dim": HIDDEN, "dropout": 0.0,
        "hidden_dim": 40, "initializer_range": 0.02, "max_position_embeddings": 64, "model_type": "distilbert", "n_heads": 4,
        "n_layers": 2, "pad_token_id": 0, "qa_dropout": 0.1, "seq_classif_dropout": 0.2, "sinusoidal_pos_embds": False,
        "tie_weights_": True, "torch_dtype": "float32", "transformers_version": "4.39.3", "vocab_size": tokenizer.get_vocab_size()}
    write_plain(folder / "config.json", config)
    write_weights(folder, drawn(config, 141).state_dict())
    write_tokenizer(folder, tokenizer, "DistilBertTokenizer", model_max_length=64, **BERT_NAMES)
    write_modules(folder, "mean_tokens")
    expect(folder)
    expect_gradients(folder)
    expect_lora(folder, ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"])


def mpnet(out: Path) -> None:
    """As all-mpnet-base-v2. Buckets are 32 with distance 128 whatever the file says, so the longest text has to be long."""
    folder = out / "mpnet"
    tokenizer = word_piece(("<s>", "<pad>", "</s>", "[UNK]"), ("<mask>",), "<s> $A </s>")
    config = {
        "architectures": ["MPNetModel"], "attention_probs_dropout_prob": 0.0, "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0, "hidden_size": HIDDEN, "initializer_range": 0.02, "intermediate_size": 40, "layer_norm_eps": 1e-05,
        "max_position_embeddings": 150, "model_type": "mpnet", "num_attention_heads": 4, "num_hidden_layers": 2, "pad_token_id": 1,
        "relative_attention_num_buckets": 32, "torch_dtype": "float32", "transformers_version": "4.44.2",
        "vocab_size": tokenizer.get_vocab_size()}
    write_plain(folder / "config.json", config)
    write_weights(folder, drawn(config, 142).state_dict())
    write_tokenizer(folder, tokenizer, "MPNetTokenizer", model_max_length=148, bos_token="<s>", cls_token="<s>", do_lower_case=True,
                    eos_token="</s>", mask_token="<mask>", pad_token="<pad>", sep_token="</s>", strip_accents=None,
                    tokenize_chinese_chars=True, unk_token="[UNK]")
    write_modules(folder, "mean_tokens", "Normalize", limit=140)
    expect(folder)
    expect_gradients(folder)
    expect_lora(folder, ["q", "k", "v", "o", "intermediate.dense", "output.dense"])


# ---- NomicBERT -------------------------------------------------------------------------------------------------------------


class Nomic(torch.nn.Module):
    """NomicBERT by the names in the file: queries, keys and values from one matrix, so that its gradient and an adapter on it are
    one as well. transformers splits it on loading; both are compared."""

    class Layer(torch.nn.Module):
        def __init__(self, width: int, inner: int):
            super().__init__()
            self.attn, self.mlp = torch.nn.Module(), torch.nn.Module()
            self.attn.Wqkv = torch.nn.Linear(width, 3 * width, bias=False)
            self.attn.out_proj = torch.nn.Linear(width, width, bias=False)
            self.mlp.fc11 = torch.nn.Linear(width, inner, bias=False)
            self.mlp.fc12 = torch.nn.Linear(width, inner, bias=False)
            self.mlp.fc2 = torch.nn.Linear(inner, width, bias=False)
            self.norm1, self.norm2 = torch.nn.LayerNorm(width, eps=1e-12), torch.nn.LayerNorm(width, eps=1e-12)

    def __init__(self, config):
        super().__init__()
        self.config, width = config, config.hidden_size
        self.embeddings, self.encoder = torch.nn.Module(), torch.nn.Module()
        self.embeddings.word_embeddings = torch.nn.Embedding(config.vocab_size, width)
        self.embeddings.token_type_embeddings = torch.nn.Embedding(config.type_vocab_size, width)
        self.emb_ln = torch.nn.LayerNorm(width, eps=1e-12)
        self.encoder.layers = torch.nn.ModuleList(self.Layer(width, config.intermediate_size) for _ in range(config.num_hidden_layers))

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, **_):
        batch, length = input_ids.shape
        heads, size = self.config.num_attention_heads, self.config.head_dim
        x = self.emb_ln(self.embeddings.word_embeddings(input_ids) + self.embeddings.token_type_embeddings.weight[0])
        exactly = x.dtype == torch.float64
        theta = torch.tensor(self.config.rope_parameters["rope_theta"], dtype=torch.float64)
        angles = torch.outer(torch.arange(length).double(), theta ** (-torch.arange(0, size, 2).double() / size))
        angles = angles if exactly else angles.float()
        cosine, sine = angles.cos(), angles.sin()

        def rotated(values):
            first, second = values.chunk(2, dim=-1)
            return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)

        hidden = (attention_mask == 0)[:, None, None, :]
        for layer in self.encoder.layers:
            query, key, value = layer.attn.Wqkv(x).view(batch, length, 3, heads, size).permute(2, 0, 3, 1, 4)
            scores = rotated(query) @ rotated(key).transpose(-1, -2) / size**0.5
            mixed = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1) @ value
            x = layer.norm1(x + layer.attn.out_proj(mixed.transpose(1, 2).reshape(batch, length, -1)))
            x = layer.norm2(x + layer.mlp.fc2(layer.mlp.fc11(x) * F.silu(layer.mlp.fc12(x))))
        return transformers.modeling_outputs.BaseModelOutput(last_hidden_state=x)


def load_nomic(folder: Path, double: bool = False) -> SentenceTransformer:
    """The modules and the tokenizer by way of the native folder, the encoder by the hub's names."""
    model = load(folder.parent / "nomic_bert_native")
    inner = Nomic(encoder(model).config)
    inner.load_state_dict(load_file(folder / "model.safetensors"))
    model[0].model = inner
    return model.double() if double else model


def nomic_bert(out: Path) -> None:
    """As nomic-embed-text-v1.5, and as transformers 5 writes it: the same names in the file of weights, another config.json."""
    folder, native = out / "nomic_bert", out / "nomic_bert_native"
    tokenizer = word_piece(BERT_SPECIAL, (), "[CLS] $A [SEP]")
    config = {
        "activation_function": "swiglu", "architectures": ["NomicBertModel"], "attn_pdrop": 0.0, "bos_token_id": None, "causal": False,
        "dense_seq_output": True, "embd_pdrop": 0.0, "eos_token_id": None, "fused_bias_fc": True, "fused_dropout_add_ln": True,
        "initializer_range": 0.02, "layer_norm_epsilon": 1e-12, "max_trained_positions": 2048, "mlp_fc1_bias": False,
        "mlp_fc2_bias": False, "model_type": "nomic_bert", "n_embd": HIDDEN, "n_head": 4, "n_inner": 40, "n_layer": 2,
        "n_positions": 8192, "pad_vocab_size_multiple": 64, "parallel_block": False, "parallel_block_tied_norm": False,
        "prenorm": False, "qkv_proj_bias": False, "reorder_and_upcast_attn": False, "resid_pdrop": 0.0, "rotary_emb_base": 500,
        "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False, "rotary_emb_scale_base": None, "rotary_scaling_factor": None,
        "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True, "torch_dtype": "float32",
        "transformers_version": "4.37.2", "type_vocab_size": 2, "use_cache": True, "use_flash_attn": True, "use_rms_norm": False,
        "use_xentropy": True, "vocab_size": tokenizer.get_vocab_size()}
    model = transformers.NomicBertModel(transformers.NomicBertConfig(
        vocab_size=config["vocab_size"], hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0}))
    randomize(model, 151)
    model.save_pretrained(native)
    write_plain(folder / "config.json", config)
    write_weights(folder, load_file(native / "model.safetensors"))
    for place in (folder, native):
        write_tokenizer(place, tokenizer, "BertTokenizer", model_max_length=8192, **BERT_NAMES)
        write_modules(place, "mean_tokens", "Normalize", prompts=FOUR_PROMPTS)
    expect(folder, ("search_query", "classification"), load_nomic)
    same_tensors(native, folder)
    expect_gradients(folder, load_nomic)
    # Adapters belong to modules, and those are transformers'.
    modules = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
    expect_lora(folder, modules, lambda _: load(native))


# ---- Gemma 3 ---------------------------------------------------------------------------------------------------------------


def gemma_tokenizer(characters: int = 60, merges: int = 60) -> Tokenizer:
    """BPE over characters, other characters as bytes; spaces as \u2581 at the end of a word."""
    words = Counter(word for text in base.corpus() for word in re.findall("[^\u2581]*\u2581|[^\u2581]+", text.replace(" ", "\u2581")))
    alphabet = base.frequent(Counter(c for word, n in words.items() for c in word for _ in range(n)), characters)
    splits, chosen = {word: list(word) for word in words}, []
    while len(chosen) < merges:
        pairs = Counter()
        for word, pieces in splits.items():
            for pair in zip(pieces, pieces[1:]):
                if all(set(piece) <= set(alphabet) for piece in pair):
                    pairs[pair] += words[word]
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        chosen.append(best)
        for word, pieces in splits.items():
            joined = []
            for piece in pieces:
                if joined and (joined[-1], piece) == best:
                    joined[-1] += piece
                else:
                    joined.append(piece)
            splits[word] = joined
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *alphabet, *("".join(pair) for pair in chosen)]
    vocabulary = {}
    for piece in pieces:
        vocabulary.setdefault(piece, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=chosen, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = template(tokenizer, "<bos> $A <eos>")
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in special])
    return tokenizer


def gemma3(out: Path) -> None:
    """As embeddinggemma-300m."""
    folder = out / "gemma3"
    tokenizer = gemma_tokenizer()
    config = {
        "_sliding_window_pattern": 6, "architectures": ["Gemma3TextModel"], "attention_bias": False, "attention_dropout": 0.0,
        "attn_logit_softcapping": None, "bos_token_id": 2, "dtype": "float32", "eos_token_id": 1, "final_logit_softcapping": None,
        "head_dim": 12, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": HIDDEN, "initializer_range": 0.02,
        "intermediate_size": 40, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "max_position_embeddings": 2048, "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 3,
        "num_key_value_heads": 2, "pad_token_id": 0, "query_pre_attn_scalar": 20, "rms_norm_eps": 1e-06, "rope_local_base_freq": 100.0,
        "rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": 5, "transformers_version": "4.57.0.dev0",
        "use_bidirectional_attention": True, "use_cache": True, "vocab_size": tokenizer.get_vocab_size()}
    write_plain(folder / "config.json", config)
    model = drawn(config, 161, centred=True)
    assert model.config.sliding_window == 3  # distances below 3
    assert [model.config.rope_parameters[kind]["rope_theta"] for kind in ("full_attention", "sliding_attention")] == [1e6, 100.0]
    write_weights(folder, model.state_dict())
    write_tokenizer(folder, tokenizer, "GemmaTokenizer", add_bos_token=True, add_eos_token=True, bos_token="<bos>", eos_token="<eos>",
                    mask_token="<mask>", model_max_length=2048, pad_token="<pad>", padding_side="right", unk_token="<unk>")
    prompts = {"query": "task: search result | query: ", "document": "title: none | text: ",
               "Classification": "task: classification | query: ", "Clustering": "task: clustering | query: ",
               "STS": "task: sentence similarity | query: "}
    write_modules(folder, "mean_tokens", (HIDDEN, 48, 162), (48, HIDDEN, 163), "Normalize", prompts=prompts)
    expect(folder, ("query", "document"))
    check_window(folder, 2)
    expect_gradients(folder)
    expect_lora(folder, QWEN_TARGETS)


def check_window(folder: Path, reach: int) -> None:
    """After one local layer a token's state depends on tokens up to `reach` away, and no further."""
    inner = encoder(load(folder))
    inner.layers = inner.layers[:1]
    inner.config.num_hidden_layers = 1
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        states = inner(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        other = ids.clone()
        other[0, 10] = 99
        changed = (inner(input_ids=other, attention_mask=torch.ones_like(ids)).last_hidden_state[0] != states).any(dim=1)
    assert changed.nonzero().flatten().tolist() == list(range(10 - reach, 10 + reach + 1)), changed.nonzero().flatten().tolist()


# ---- DeBERTa ---------------------------------------------------------------------------------------------------------------


def deberta_config(tokenizer: Tokenizer, **more) -> dict:
    return {
        "attention_probs_dropout_prob": 0.0, "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": HIDDEN,
        "initializer_range": 0.02, "intermediate_size": 40, "layer_norm_eps": 1e-07, "max_position_embeddings": 512,
        "num_attention_heads": 4, "num_hidden_layers": 2, "pad_token_id": 0, "pooler_dropout": 0, "pooler_hidden_act": "gelu",
        "pooler_hidden_size": HIDDEN, "position_biased_input": False, "relative_attention": True, "torch_dtype": "float32",
        "transformers_version": "4.37.1", "type_vocab_size": 0, "vocab_size": tokenizer.get_vocab_size(), **more}


DEBERTA_NAMES = dict(bos_token="[CLS]", cls_token="[CLS]", eos_token="[SEP]", mask_token="[MASK]", pad_token="[PAD]", sep_token="[SEP]",
                     unk_token="[UNK]")


def deberta(out: Path) -> None:
    """As USER-base."""
    folder = out / "deberta"
    tokenizer = byte_level(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"], "[CLS] $A [SEP]")
    config = deberta_config(tokenizer, architectures=["DebertaModel"], max_relative_positions=12, model_type="deberta",
                            pos_att_type="c2p|p2c")
    write_plain(folder / "config.json", config)
    write_weights(folder, drawn(config, 171).state_dict())
    write_tokenizer(folder, tokenizer, "DebertaTokenizer", add_prefix_space=False, errors="replace", model_max_length=512, **DEBERTA_NAMES)
    write_modules(folder, "mean_tokens")
    expect(folder)
    expect_gradients(folder)
    expect_lora(folder, ["in_proj", "pos_proj", "pos_q_proj", "intermediate.dense", "output.dense"])


def deberta_v2(out: Path) -> None:
    """As mdeberta-v3-base."""
    folder = out / "deberta_v2"
    spaces = normalizers.Sequence([
        normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "), normalizers.NFC(), normalizers.Strip(left=False, right=True)])
    split = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme="always")])
    tokenizer = unigram(["[PAD]", "[CLS]", "[SEP]", "[UNK]"], "[CLS] $A [SEP]", 3, split, spaces, ("[MASK]",))
    config = deberta_config(tokenizer, architectures=["DebertaV2Model"], max_relative_positions=24, model_type="deberta-v2",
                            norm_rel_ebd="layer_norm", pos_att_type="p2c|c2p", position_buckets=8, share_att_key=True)
    write_plain(folder / "config.json", config)
    write_weights(folder, drawn(config, 172).state_dict())
    write_tokenizer(folder, tokenizer, "DebertaV2Tokenizer", do_lower_case=False, model_max_length=512, split_by_punct=False,
                    **DEBERTA_NAMES)
    write_modules(folder, "mean_tokens")
    expect(folder)
    expect_gradients(folder)
    expect_lora(folder, ["query_proj", "key_proj", "value_proj", "intermediate.dense", "output.dense"])


# ---- token vectors alone ---------------------------------------------------------------------------------------------------


def load_static(folder: Path, double: bool = False) -> SentenceTransformer:
    model = SentenceTransformer(str(folder), device="cpu")
    return model.double() if double else model


def static_ids(model: SentenceTransformer) -> list[list[int]]:
    return [model[0].tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]


def expect_static(folder: Path, more) -> None:
    """`hidden` is the rows of the tokens. `more(ids, table)`: further tensors, in f64."""
    model = load_static(folder)
    ids = static_ids(model)
    assert min(map(len, ids)) == 0 and max(map(len, ids)) > 100
    table = model[0].embedding.weight.detach()
    tensors = {"hidden": table[[i for text in ids for i in text]], "embeddings": base.embed(model, TEXTS)}
    exact_tensors = {"hidden": tensors["hidden"].double(), "embeddings": base.embed(load_static(folder, True), TEXTS)}
    for name, values in more(ids, table.double().numpy()).items():
        exact_tensors[name] = torch.from_numpy(values)
        tensors[name] = exact_tensors[name].float()
    assert bool((tensors["embeddings"][TEXTS.index("")] == 0).all())
    deviation = {key: float((tensors[key].double() - exact_tensors[key]).abs().max()) for key in tensors}
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "expected.safetensors")
    write_json(folder / "expected.json", {
        "max_seq_length": None, "prompts": model.prompts, "float64_deviation": deviation, "texts": TEXTS, "token_ids": ids})
    print(f"{folder.name}: {len(TEXTS)} texts, {sum(map(len, ids))} tokens; f32 - f64 at most {max(deviation.values()):.1e}", flush=True)


def means(ids: list[list[int]], table: np.ndarray) -> np.ndarray:
    """Mean of the rows, normalised; zeros for no rows."""
    rows = np.stack([table[text].mean(axis=0) if text else np.zeros(table.shape[1]) for text in ids])
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def static(out: Path) -> None:
    folder = out / "static"
    inner = folder / "0_StaticEmbedding"
    inner.mkdir()
    tokenizer = word_piece(BERT_SPECIAL, (), "[CLS] $A [SEP]")
    tokenizer.save(str(inner / "tokenizer.json"))
    table = torch.nn.Embedding(tokenizer.get_vocab_size(), HIDDEN)
    randomize(table, 181)
    write_weights(inner, {"embedding.weight": table.weight})
    write_plain(folder / "modules.json", [
        {"idx": 0, "name": "0", "path": "0_StaticEmbedding", "type": "sentence_transformers.models.StaticEmbedding"},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"}])
    write_plain(folder / "config_sentence_transformers.json", {
        "__version__": {"sentence_transformers": "3.3.1", "transformers": "4.48.0", "pytorch": "2.5.1"},
        "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"})
    expect_static(folder, lambda ids, table: {})

    batch = base.triples(0, 6)
    tensors, reference = ({name.removeprefix("0."): tensor for name, tensor in gradients(load_static(folder, double), batch).items()}
                          for double in (False, True))
    assert set(tensors) == {"loss", "embedding.weight"}
    save_file(tensors, folder / "gradients.safetensors")
    write_json(folder / "gradients.json", {
        "temperature": base.TEMPERATURE, "loss": float(tensors["loss"]), "loss_float64": float(reference["loss"]),
        "float64_deviation": max(float((tensors[key].double() - reference[key]).abs().max()) for key in tensors),
        "largest_gradient": max(float(t.abs().max()) for t in tensors.values()), "without_gradient": [], **batch})
    record(folder / "training.json", lambda double: load_static(folder, double), {"max_length": None})


def model2vec(out: Path) -> None:
    """As Model2Vec writes it. What Model2Vec itself makes of the texts is computed here: the unknown token left out, 512 tokens."""
    folder = out / "model2vec"
    tokenizer = word_piece(BERT_SPECIAL, (), "[CLS] $A [SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    table = torch.nn.Embedding(tokenizer.get_vocab_size(), HIDDEN)
    randomize(table, 182)
    save_file({"embeddings": table.weight.detach()}, folder / "model.safetensors")
    write_plain(folder / "config.json", {
        "model_type": "model2vec", "architectures": ["StaticModel"], "tokenizer_name": "bert", "apply_pca": HIDDEN, "apply_zipf": True,
        "hidden_dim": HIDDEN, "seq_length": 1000000, "normalize": True})
    write_plain(folder / "modules.json", [
        {"idx": 0, "name": "0", "path": ".", "type": "sentence_transformers.models.StaticEmbedding"},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"}])
    unknown = tokenizer.token_to_id("[UNK]")
    expect_static(folder, lambda ids, table: {
        "embeddings.model2vec": means([[i for i in text if i != unknown][:512] for text in ids], table)})


# ---- buckets ---------------------------------------------------------------------------------------------------------------


def relative_buckets(out: Path) -> None:
    """Bucket of the distance `key - query` from -limit to limit (T5, MPNet) or of `query - key` (DeBERTa v2)."""
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder
    from transformers.models.t5.modeling_t5 import T5Attention

    def entry(limit: int, of, **settings) -> dict:
        return {**settings, "first_distance": -limit, "values": of(torch.arange(-limit, limit + 1)).long().tolist()}

    t5 = lambda buckets, distance: entry(
        distance * 3 // 2, lambda d: T5Attention._relative_position_bucket(d, num_buckets=buckets, max_distance=distance),
        buckets=buckets, max_distance=distance)
    v2 = lambda buckets, distance: entry(
        distance * 5 // 4, lambda d: make_log_bucket_position(d, buckets, distance),
        position_buckets=buckets, max_relative_positions=distance)
    write_json(out / "relative_buckets.json", {
        "t5": [t5(32, 128), t5(8, 20)], "mpnet": [entry(192, MPNetEncoder.relative_position_bucket, buckets=32, max_distance=128)],
        "deberta_v2": [v2(256, 512), v2(8, 24)]})


MAKERS = {
    modern_bert: ("modern_bert", "modern_bert_masked"),
    qwen3: ("qwen3",),
    qwen2: ("qwen2", "qwen2_causal"),
    t5_gated: ("t5_gated",),
    t5_relu: ("t5_relu",),
    distilbert: ("distilbert",),
    mpnet: ("mpnet",),
    nomic_bert: ("nomic_bert", "nomic_bert_native"),
    gemma3: ("gemma3",),
    deberta: ("deberta",),
    deberta_v2: ("deberta_v2",),
    static: ("static",),
    model2vec: ("model2vec",),
    relative_buckets: (),
}


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent).resolve()
    wanted = sys.argv[2:]
    for maker, names in MAKERS.items():
        if wanted and not set(wanted) & {maker.__name__, *names}:
            continue
        for name in names:
            shutil.rmtree(out / name, ignore_errors=True)
            (out / name).mkdir(parents=True)
        maker(out)


if __name__ == "__main__":
    main()
