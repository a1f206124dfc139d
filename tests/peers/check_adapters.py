#!/usr/bin/env python3
"""Do PEFT and embeval see the same adapters? check_adapters.py EMBEVAL [--model DIR]… [--saved DIR] [--tolerance 2e-5]

EMBEVAL is the binary. For every model (default: tests/data/models/bert) and every kind of adapter of peft_adapters.py: PEFT makes it with random
values, `embeval encode --adapter` embeds with it, and so does the model that `embeval merge adapter` writes; both must give PEFT's embeddings.
Besides, the base after quantisation and back, which `--into dequantized` gives with an adapter that changes nothing, must be what bitsandbytes
makes of every weight.
DIR of --saved is what tests/adapters.rs leaves (`target/tmp/adapters`): adapters of tests/data/models/bert that embeval saved, each with its
embeddings; PEFT must load every tensor and embed alike. Exit code 0: alike; 1: not.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import bitsandbytes.functional as F
import numpy as np
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft_adapters import CASES, embed, make
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from sentence_transformers import SentenceTransformer

TESTS = Path(__file__).parent.parent
TEXTS = ["The quick brown fox", "Быстрая коричневая лиса", "a", "jumps over the lazy dog, and sleeps", "Ленивая собака спит весь день"] + [
    f"Text number {i} of several, some of which are longer than others. " * (1 + i % 5) for i in range(20)
]


def encode(binary: Path, model: Path, output: Path, texts: Path, adapter: Path | None = None) -> np.ndarray:
    command = [binary, "encode", model, "--input", texts, "--output", output, "--quiet"]
    subprocess.run([*map(str, command), *(["--adapter", str(adapter)] if adapter else [])], check=True, stdout=subprocess.DEVNULL)
    return np.load(output)


class Report:
    def __init__(self, tolerance: float) -> None:
        self.tolerance, self.failed, self.worst = tolerance, 0, 0.0

    def compare(self, what: str, ours: np.ndarray, theirs: np.ndarray, faults: list[str] = []) -> None:
        difference = np.abs(ours.astype(np.float64) - theirs).max() if ours.shape == theirs.shape else np.inf
        self.worst = max(self.worst, difference)
        alike = difference <= self.tolerance and not faults  # false for NaN
        self.failed += not alike
        print(f"{'ok' if alike else 'FAILED'} {what}: largest difference {difference:.1e}{''.join('; ' + f for f in faults[:5])}", flush=True)


def from_peft(binary: Path, model: Path, report: Report) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = folder / "texts.jsonl"
        texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
        for seed, case in enumerate(CASES):
            adapter = folder / case
            theirs = make(model, case, adapter, TEXTS, seed + 100)
            report.compare(f"{model.name} {case}: unmerged", encode(binary, model, folder / "a.npy", texts, adapter), theirs)
            merged = folder / f"{case}-merged"
            command = [binary, "merge", "adapter", model, adapter, "--output", merged, "--quiet"]
            subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
            report.compare(f"{model.name} {case}: merged", encode(binary, merged, folder / "m.npy", texts), theirs)


def dequantized(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """A weight after quantisation and back, by bitsandbytes."""
    if kind == "int8":
        codes, absmax, _ = F.int8_vectorwise_quant(weight.clone())
        return F.int8_vectorwise_dequant(codes, absmax)
    codes, state = F.quantize_4bit(weight.reshape(-1), quant_type="nf4", compress_statistics=kind == "nf4")
    return F.dequantize_4bit(codes, state).reshape(weight.shape)


def quantized_bases(binary: Path, model: Path, report: Report) -> None:
    before = load_tensors(model / "model.safetensors")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoder = SentenceTransformer(str(model), device="cpu")[0].auto_model
        get_peft_model(encoder, LoraConfig(r=1, target_modules=["query"])).save_pretrained(str(folder / "adapter"))
        for kind in ("nf4", "nf4-single", "int8"):
            command = [binary, "merge", "adapter", model, folder / "adapter", "--output", folder / kind, "--quiet"]
            command += ["--into", "dequantized", "--quantization", kind, "--quantized-embeddings"]
            subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
            after = load_tensors(folder / kind / "model.safetensors")
            faults, changed = [], 0
            for key, weight in after.items():
                want = before[key].float()
                if key.endswith("word_embeddings.weight"):
                    want = dequantized(want, "int8")
                elif key.startswith("encoder.") and want.ndim == 2:
                    want = dequantized(want, kind)
                changed += not torch.equal(want, before[key])
                if not torch.equal(weight, want):
                    faults.append(f"`{key}` differs")
            report.compare(f"{model.name} {kind}: {changed} weights after quantisation and back", np.zeros(1), np.zeros(1), faults)


def from_embeval(saved: Path, report: Report) -> None:
    texts = json.loads((TESTS / "data/adapters/peft/texts.json").read_text(encoding="utf-8"))
    folders = sorted(path for path in saved.iterdir() if path.is_dir())
    if not folders:
        sys.exit(f"{saved}: no adapters here: run the tests of embeval first")
    for folder in folders:
        theirs, model = embed(TESTS / "data/models/bert", folder, texts)
        stored, loaded = load_tensors(folder / "adapter_model.safetensors"), get_peft_model_state_dict(model)
        faults = [f"`{name}` has no place in PEFT's model" for name in sorted(stored.keys() - loaded.keys())]
        faults += [f"`{name}` is missing in the file" for name in sorted(loaded.keys() - stored.keys())]
        faults += [f"`{n}` was not loaded" for n in sorted(stored.keys() & loaded.keys()) if not (stored[n] == loaded[n]).all()]
        report.compare(f"saved {folder.name}", load_file(folder / "expected.safetensors")["embeddings"], theirs, faults)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("--model", type=Path, action="append")
    parser.add_argument("--saved", type=Path)
    parser.add_argument("--tolerance", type=float, default=2e-5)
    args = parser.parse_args()
    report = Report(args.tolerance)
    for model in args.model or [TESTS / "data/models/bert"]:
        from_peft(args.binary.resolve(), model, report)
        quantized_bases(args.binary.resolve(), model, report)
    if args.saved:
        from_embeval(args.saved, report)
    print(f"{report.failed} failed; largest difference {report.worst:.1e} (tolerance {args.tolerance:g})")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
