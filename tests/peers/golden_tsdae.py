#!/usr/bin/env python3
"""Golden values of TSDAE: golden_tsdae.py [OUT_DIR], by default tests/data/tsdae.

Draws two tiny encoders (`bert`, `xlm_roberta`) with a tokenizer of whole words, saves them as sentence-transformers folders, loads
them again into `DenoisingAutoEncoderLoss` with `tie_encoder_decoder=True`, and records its loss and the gradients of all tensors for fixed
token ids; dropout is off, everything is computed in f64.

In each folder beside the model: `golden.json` (`source` and `target` token ids, `loss`, versions) and `golden.safetensors`: the decoder's own
tensors by their names in the decoder's state dict, and `gradient.<name>`, where <name> is the encoder's name of a shared tensor, or
`decoder.` and the decoder's name.
"""

import json
import logging
import os
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
warnings.filterwarnings("ignore")

import torch
import transformers
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.losses import DenoisingAutoEncoderLoss
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
logging.disable(logging.WARNING)

SEED = 7


def tokenizer(vocabulary: int, special: dict[str, str], limit: int) -> PreTrainedTokenizerFast:
    words = list(special.values())
    words += [f"w{i}" for i in range(vocabulary - len(words))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=special["unk_token"]))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    first, last = special["cls_token"], special["sep_token"]
    inner.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, words.index(first)), (last, words.index(last))])
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=limit, **special)


def randomize(module: torch.nn.Module, seed: int, names=lambda name: True) -> None:
    """Wide weights, LayerNorm away from identity, biases away from zero: a swapped or forgotten tensor shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if not names(name):
                continue
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(0.2 * noise)


def save_model(folder: Path, model, words: PreTrainedTokenizerFast, hidden: int) -> None:
    plain = folder / "plain"
    model.save_pretrained(plain)
    words.save_pretrained(plain)
    whole = SentenceTransformer(modules=[Transformer(str(plain)), Pooling(hidden, "mean")], device="cpu")
    whole.save(str(folder), create_model_card=False)
    for file in sorted(plain.rglob("*"), reverse=True):
        file.unlink()
    plain.rmdir()


def batch(ids: list[list[int]], padding: int) -> dict[str, torch.Tensor]:
    width = max(map(len, ids))
    return {
        "input_ids": torch.tensor([row + [padding] * (width - len(row)) for row in ids]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids]),
    }


def golden(folder: Path, source: list[list[int]], target: list[list[int]], padding: int) -> None:
    model = SentenceTransformer(str(folder), device="cpu")
    loss = DenoisingAutoEncoderLoss(model, tie_encoder_decoder=True)
    base = loss.decoder.base_model
    shared = dict(model[0].auto_model.named_parameters())
    ids = {id(parameter) for parameter in shared.values()}
    own = {name: p for name, p in loss.decoder.named_parameters() if id(p) not in ids}
    # All of the decoder's encoder is the encoder's, and so is the output table.
    prefix = loss.decoder.base_model_prefix + "."
    assert not [name for name in own if name.startswith(prefix) and "crossattention" not in name]
    assert loss.decoder.get_output_embeddings().weight is shared["embeddings.word_embeddings.weight"]
    assert base.embeddings.word_embeddings.weight is shared["embeddings.word_embeddings.weight"]
    randomize(loss.decoder, SEED + 1, lambda name: name in own)
    tensors = {name: p.detach().clone().float() for name, p in own.items()}
    loss.double().eval()
    value = loss([batch(source, padding), batch(target, padding)], None)
    value.backward()
    for name, parameter in shared.items():
        if parameter.grad is not None:
            tensors[f"gradient.{name}"] = parameter.grad.float()
    for name, parameter in own.items():
        if "crossattention.self.query" in name or "crossattention.self.key" in name:
            # A softmax over one key: no part in anything, but for rounding.
            assert parameter.grad is None or parameter.grad.abs().max() < 1e-12
            tensors.pop(name)
            continue
        tensors[f"gradient.decoder.{name}"] = parameter.grad.float()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "golden.safetensors")
    names = ("torch", "transformers", "sentence-transformers", "tokenizers", "safetensors")
    content = {
        "generator": "tests/peers/golden_tsdae.py",
        "versions": {name: version(name) for name in names},
        "source": source,
        "target": target,
        "loss": value.item(),
    }
    lines = [f" {json.dumps(key)}: {json.dumps(entry)}" for key, entry in content.items()]
    (folder / "golden.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "data/tsdae"
    generator = torch.Generator().manual_seed(SEED)

    def texts(lengths: list[int], first: int, last: int, low: int, high: int) -> list[list[int]]:
        return [[first, *torch.randint(low, high, (n,), generator=generator).tolist(), last] for n in lengths]

    special = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
    model = BertModel(BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, max_position_embeddings=24,
        initializer_range=0.05), add_pooling_layer=False)
    randomize(model, SEED)
    save_model(out / "bert", model, tokenizer(60, special, 24), 32)
    golden(out / "bert", texts([3, 1, 6, 0], 2, 3, 5, 60), texts([9, 1, 14, 4], 2, 3, 5, 60), 0)

    special = dict(cls_token="<s>", pad_token="<pad>", sep_token="</s>", unk_token="<unk>", mask_token="<mask>")
    model = XLMRobertaModel(XLMRobertaConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, max_position_embeddings=26,
        type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2), add_pooling_layer=False)
    randomize(model, SEED + 2)
    save_model(out / "xlm_roberta", model, tokenizer(50, special, 24), 16)
    golden(out / "xlm_roberta", texts([2, 5, 7], 0, 2, 5, 50), texts([4, 11, 8], 0, 2, 5, 50), 1)


if __name__ == "__main__":
    main()
