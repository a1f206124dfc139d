#!/usr/bin/env python3
"""A small sweep by sentence-transformers, PEFT and mteb, as a script of one's own does it: sweep.py MODEL_DIR PAIRS.jsonl --steps N TASK.yaml…
-> one JSON document.

LoRA of query and value at every rank and temperature of common.py, N steps of 32 pairs each (train.py's loop at the sweep's rate), merged
into the base; for every rank SLERP, tensor by tensor, of the models of the two temperatures at every α; the base, the trained and
the merged models scored on the tasks (score.py's). One process, THREADS threads, libraries and tasks' classes loaded once, models handed
on in memory. `seconds` says where the time went; that of the whole process, its start included, is for the caller to take.
"""

import argparse
import gc
import json
import time
import warnings
from pathlib import Path

from common import ALPHAS, RANKS, SWEEP_RATE, TEMPERATURES, read_pairs

warnings.filterwarnings("ignore")

import torch
from sentence_transformers import SentenceTransformer

import score
import train

Weights = dict[str, torch.Tensor]


def trained(model_dir: str, pairs: list[tuple[str, str]], rank: int, temperature: float, steps: int) -> Weights:
    """The base with a LoRA adapter that was trained and merged into it."""
    model = train.load(model_dir)
    train.add_lora(model, rank)
    model.train()
    for _ in train.train(model, pairs, steps, temperature, SWEEP_RATE):
        pass
    # What PEFT left in place of each linear layer: base_layer, lora_A, lora_B.
    for name, module in list(model.named_modules()):
        if hasattr(module, "lora_A"):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    return model.state_dict()


def slerp(first: Weights, second: Weights, alpha: float) -> Weights:
    """Each tensor by itself; as good as parallel ones linearly."""

    def one(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if not a.is_floating_point() or torch.equal(a, b):
            return a
        x, y = a.double().flatten(), b.double().flatten()
        cosine = torch.clamp(x @ y / (x.norm() * y.norm()), -1, 1)
        if cosine.abs() > 0.9995:
            return torch.lerp(a, b, alpha)
        angle = torch.acos(cosine)
        merged = (torch.sin((1 - alpha) * angle) * x + torch.sin(alpha * angle) * y) / torch.sin(angle)
        return merged.reshape(a.shape).to(a.dtype)

    return {name: one(a, second[name]) for name, a in first.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("pairs")
    parser.add_argument("tasks", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, required=True)
    args = parser.parse_args()
    pairs = read_pairs(args.pairs)
    seconds, means = dict.fromkeys(("train", "merge", "score"), 0.0), {}

    def timed(what: str, work, *arguments):
        start = time.perf_counter()
        result = work(*arguments)
        gc.collect()  # a model and what watches it hold each other
        seconds[what] += time.perf_counter() - start
        return result

    def rate(name: str, weights: Weights | None) -> None:
        model = train.load(args.model)
        if weights is not None:
            model.load_state_dict(weights)
        scores = [task["main_score"] for task in score.score(model, args.tasks)]
        means[name] = sum(scores) / len(scores)

    models = {(rank, t): timed("train", trained, args.model, pairs, rank, t, args.steps) for rank in RANKS for t in TEMPERATURES}
    timed("score", rate, "base", None)
    for (rank, temperature), weights in models.items():
        timed("score", rate, f"r{rank} T{temperature}", weights)
    for rank in RANKS:
        for alpha in ALPHAS:
            merged = timed("merge", slerp, *(models[rank, temperature] for temperature in TEMPERATURES), alpha)
            timed("score", rate, f"slerp r{rank} α={alpha}", merged)
    print(json.dumps({"seconds": seconds, "means": means}, ensure_ascii=False))


if __name__ == "__main__":
    main()
