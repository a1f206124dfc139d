#!/usr/bin/env python3
"""Do sentence-transformers and PEFT load what embeval trains, for every architecture? check_architectures.py EMBEVAL [NAME …] [--work DIR]

EMBEVAL is the binary. NAME is a folder of tests/data/architectures (default: all that hold a model). Of each: two steps on all weights, whose
checkpoint sentence-transformers must load as it is; two steps of a LoRA adapter on the modules that nobody named, which must be PEFT's own
choice where it has one, and whose every tensor must find its place in PEFT's model; and what `embeval merge adapter` makes of that adapter.
Each gives the embeddings of `embeval encode` to the tolerance, as a share of an embedding's usual length, and others than the base.
Prints a line an architecture. Exit code 0: alike; 1: not. --work keeps the files.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from check_model import add_adapter  # also: no network, no warnings

import numpy as np
import torch
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULT_TARGETS
from sentence_transformers import SentenceTransformer

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = ROOT / "tests/data/architectures"
PAIRS = ROOT / "tasks/everyday/pairs-train.jsonl"
# Folders whose config.json transformers 5 cannot read (it wants its own names in it), and where the same lies by those names.
NATIVE = {"nomic_bert": "nomic_bert_native"}
# No layers that an adapter could be on.
TABLES = ("static", "model2vec")
LEARNING_RATE = {"full": 1e-4, "lora": 1e-2}


class Fault(Exception):
    """What went wrong, in a line."""


def run(*command) -> None:
    try:
        done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        raise Fault("takes more than 300 s") from None
    if done.returncode:
        raise Fault((done.stderr.strip().splitlines() or [f"exit code {done.returncode}, and says nothing"])[-1])


def distance(some: np.ndarray, others: np.ndarray) -> float:
    """Largest difference of a value, as a share of the usual length of the others."""
    if some.shape != others.shape:
        raise Fault(f"shape {list(some.shape)} here, {list(others.shape)} there")
    return float(np.abs(some.astype(np.float64) - others).max() / np.median(np.linalg.norm(others, axis=1)))


class Check:
    """One architecture. `seen` holds the figures, `faults` what is wrong."""

    def __init__(self, binary: Path, base: Path, work: Path, texts: list[str], tolerance: float) -> None:
        self.binary, self.base, self.work, self.texts, self.tolerance = binary, base, work, texts, tolerance
        self.seen: list[str] = []
        self.faults: list[str] = []
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        self.input = work / "texts.jsonl"
        self.input.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")

    def encode(self, name: str, model: Path, *more) -> np.ndarray:
        output = self.work / f"{name}.npy"
        run(self.binary, "-q", "encode", model, "--input", self.input, "--output", output, *more)
        return np.load(output)

    def train(self, kind: str) -> Path:
        config, output = self.work / f"{kind}.yaml", self.work / kind
        config.write_text(f"""name: check-{kind}
base: {json.dumps(str(self.base))}
data: {{train: {json.dumps(str(PAIRS))}}}
adapter: {{kind: {kind}}}
loss: {{hard_negatives: 1}}
train: {{max_steps: 2, batch: 8, lr: {LEARNING_RATE[kind]:f}, warmup: 0, max_length: 32}}
""", encoding="utf-8")
        run(self.binary, "-q", "train", config, "--output", output)
        checkpoints = sorted(output.glob("checkpoint-*"))
        if not checkpoints:
            raise Fault(f"no checkpoint in {output}")
        return checkpoints[-1]

    def open(self, folder: Path, **options) -> SentenceTransformer:
        """With transformers' names in config.json, where the base's folder has others; what we write has both."""
        native = NATIVE.get(self.base.name)
        if native and FOLDERS in Path(folder).parents:
            copy = self.work / f"{folder.name}-native"
            shutil.copytree(folder, copy)
            shutil.copy(FOLDERS / native / "config.json", copy / "config.json")
            folder = copy
        return SentenceTransformer(str(folder), device="cpu", **options)

    def embed(self, model: SentenceTransformer) -> np.ndarray:
        return model.encode(self.texts, batch_size=32, show_progress_bar=False)

    def compare(self, what: str, ours: np.ndarray, theirs: np.ndarray, base: np.ndarray) -> None:
        difference, change = distance(ours, theirs), distance(ours, base)
        self.seen.append(f"{what} {difference:.1e} (change {change:.0e})")
        if not difference <= self.tolerance:  # NaN, too
            self.faults.append(f"{what}: differs by {difference:.1e}")
        if not change > 10 * self.tolerance:
            self.faults.append(f"{what}: changes the embeddings by {change:.1e} alone")

    def full(self, base: np.ndarray) -> None:
        checkpoint = self.train("full")
        self.compare("full", self.encode("full", checkpoint), self.embed(self.open(checkpoint)), base)

    def lora(self, base: np.ndarray) -> None:
        adapter = self.train("lora")
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            if not (adapter / name).is_file():
                raise Fault(f"{adapter} has no {name}")
        ours = self.encode("lora", self.base, "--adapter", adapter)
        model = self.open(self.base, model_kwargs={"dtype": torch.float32})
        inner = model[0].auto_model
        chosen = set(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["target_modules"])
        targets = DEFAULT_TARGETS.get(inner.config.model_type)
        if targets:
            theirs = {name for name, _ in inner.named_modules() if any(name == t or name.endswith(f".{t}") for t in targets)}
            if chosen != theirs:
                self.faults.append(f"lora: on {some(chosen - theirs)}, not on {some(theirs - chosen)}, unlike PEFT's own choice {targets}")
        self.faults += [f"lora: {fault}" for fault in add_adapter(model, adapter)[:5]]
        self.compare("lora", ours, self.embed(model), base)
        self.seen[-1] += f" on {', '.join(sorted({name.rsplit('.', 1)[-1] for name in chosen}))}{'' if targets else ', PEFT has no choice'}"
        merged = self.work / "merged"
        run(self.binary, "-q", "merge", "adapter", self.base, adapter, "--output", merged)
        self.compare("merged", ours, self.embed(self.open(merged)), base)

    def all(self) -> None:
        what = "base"
        try:
            base = self.encode("base", self.base)
            for what in ("full",) if self.base.name in TABLES else ("full", "lora"):
                try:
                    getattr(self, what)(base)
                except Exception as error:  # ours or theirs: what follows is checked none the less
                    self.faults.append(told(what, error))
        except Exception as error:
            self.faults.append(told(what, error))


def told(what: str, error: Exception) -> str:
    return f"{what}: {' '.join(str(error).split())[:300] or repr(error)}"


def some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "none"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--count", type=int, default=60, help="texts")
    parser.add_argument("--tolerance", type=float, default=2e-5)
    args = parser.parse_args()
    names = args.names or sorted({path.relative_to(FOLDERS).parts[0] for path in FOLDERS.glob("*/**/model*.safetensors")})
    unknown = [name for name in names if not (FOLDERS / name).is_dir()]
    if unknown or not names:
        sys.exit(f"{FOLDERS}: has no {', '.join(unknown) or 'models'}")
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        texts = work / "texts.json"
        run(sys.executable, Path(__file__).parent / "reference_texts.py", texts, "--count", args.count)
        failed, start = 0, time.monotonic()
        for name in names:
            begin = time.monotonic()
            base = (FOLDERS / name).resolve()
            check = Check(args.binary.resolve(), base, work / base.name, json.loads(texts.read_text(encoding="utf-8")), args.tolerance)
            check.all()
            failed += bool(check.faults)
            words = "; ".join([*(f"FAULT {fault}" for fault in check.faults), *check.seen])
            print(f"{'FAILED' if check.faults else 'ok'} {base.name}: {words}; {time.monotonic() - begin:.1f} s", flush=True)
        print(f"{failed} of {len(names)} failed (tolerance {args.tolerance:g}), {time.monotonic() - start:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
