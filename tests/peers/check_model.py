#!/usr/bin/env python3
"""Does sentence-transformers see the same model? check_model.py MODEL_DIR EMBEDDINGS TEXTS.json [--adapter DIR] [--tolerance 2e-5]

Loads MODEL_DIR (and with PEFT the LoRA adapter DIR on its transformer), encodes the JSON list of texts in f32, and compares with
EMBEDDINGS: the tensor `embeddings` of a .safetensors file, or a .npy file, `[texts, dim]`. Prints one line. Exit code 0: alike;
1: a value differs by more than the tolerance, a shape differs, or a tensor of the adapter did not find its place.
"""

import argparse
import json
import os
import sys
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import numpy as np
import torch
import transformers
from peft import PeftModel, get_peft_model_state_dict
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from sentence_transformers import SentenceTransformer

torch.set_num_threads(int(os.environ.get("THREADS", "2")))
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def read_embeddings(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path)
    tensors = load_file(path)
    if "embeddings" not in tensors:
        sys.exit(f"{path}: has no tensor `embeddings`, only {', '.join(sorted(tensors))}")
    return tensors["embeddings"]


def misplaced(stored: dict[str, torch.Tensor], loaded: dict[str, torch.Tensor]) -> list[str]:
    """What of `stored` is not in `loaded` with the same values, and what `loaded` has beyond it."""
    faults = [f"`{name}` is missing in the file" for name in sorted(loaded.keys() - stored.keys())]
    for name, tensor in sorted(stored.items()):
        if name not in loaded:
            faults.append(f"`{name}` has no place in the model")
        elif loaded[name].shape != tensor.shape:
            faults.append(f"`{name}` has shape {list(tensor.shape)}, the model's {list(loaded[name].shape)}")
        elif not torch.equal(loaded[name].float(), tensor.float()):
            faults.append(f"`{name}` was not loaded")
    return faults


def add_adapter(model: SentenceTransformer, folder: Path) -> list[str]:
    """Puts the adapter on the transformer, in place, and says which of its tensors did not fit."""
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        sys.exit(f"{path}: no such file")
    peft = PeftModel.from_pretrained(model[0].auto_model, str(folder))
    peft.eval()
    return misplaced(load_tensors(path), get_peft_model_state_dict(peft))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("embeddings", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--prompt-name", help="one of the model's prompts")
    parser.add_argument("--tolerance", type=float, default=2e-5)
    args = parser.parse_args()
    texts = json.loads(args.texts.read_text(encoding="utf-8"))
    ours = read_embeddings(args.embeddings)
    model = SentenceTransformer(str(args.model), device="cpu")
    faults = add_adapter(model, args.adapter) if args.adapter else []
    theirs = model.encode(texts, batch_size=32, prompt_name=args.prompt_name, show_progress_bar=False)
    what = f"{args.model}{f' + {args.adapter}' if args.adapter else ''}"
    if ours.shape != theirs.shape:
        print(f"FAILED {what}: shape {list(ours.shape)}, sentence-transformers has {list(theirs.shape)}")
        return 1
    difference = np.abs(ours.astype(np.float64) - theirs).max(initial=0.0) if len(texts) else 0.0
    alike = difference <= args.tolerance and not faults  # false for NaN
    detail = "".join(f"; {fault}" for fault in faults[:5]) + (f"; {len(faults) - 5} more" if len(faults) > 5 else "")
    print(f"{'ok' if alike else 'FAILED'} {what}: {len(texts)} texts, largest difference {difference:.2e} (tolerance {args.tolerance:g}){detail}")
    return 0 if alike else 1


if __name__ == "__main__":
    sys.exit(main())
