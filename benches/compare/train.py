#!/usr/bin/env python3
"""How fast sentence-transformers trains: train.py MODEL_DIR PAIRS.jsonl [--lora] [--batch 32] [--steps 10] -> one JSON line.

PAIRS: JSON lines with `query` and `pos` (a text or a list, of which the first is taken), in the file's order. MultipleNegativesRankingLoss
at T = 0.05 with in-batch negatives alone, AdamW at 2e-5, gradients clipped at norm 1, f32, texts cut at 128 tokens; all weights, or LoRA
(rank 8, alpha 16, query and value, no dropout). CPU, THREADS threads (2). Tokens are real ones, padding not counted. Loading and two
warm-up steps are not timed; tokenization is.
"""

import argparse
import json
import os
import resource
import time
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.losses import MultipleNegativesRankingLoss

THREADS = int(os.environ.get("THREADS", "2"))
torch.set_num_threads(THREADS)
torch.manual_seed(1)
transformers.logging.disable_progress_bar()
WARM_UP = 2


def read_pairs(path: str, most: int) -> list[tuple[str, str]]:
    pairs = []
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.strip() and len(pairs) < most:
                row = json.loads(line)
                positive = row["pos"] if isinstance(row["pos"], str) else row["pos"][0]
                pairs.append((row["query"], positive))
    if len(pairs) < most:
        raise SystemExit(f"{path}: has {len(pairs)} rows, {most} are needed")
    return pairs


def add_lora(model: SentenceTransformer) -> None:
    from peft import LoraConfig, TaskType

    model.add_adapter(LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION, r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["query", "value"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("pairs")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    model = SentenceTransformer(args.model, device="cpu", model_kwargs={"torch_dtype": torch.float32})
    model.max_seq_length = min(128, model.max_seq_length)
    if args.lora:
        add_lora(model)
    pairs = read_pairs(args.pairs, args.batch * (args.steps + WARM_UP))
    tokenize = model.preprocess if hasattr(model, "preprocess") else model.tokenize
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-5)
    loss_of = MultipleNegativesRankingLoss(model, scale=20.0)
    model.train()
    start, tokens, losses = 0.0, 0, []
    for step in range(WARM_UP + args.steps):
        if step == WARM_UP:
            start, tokens, losses = time.perf_counter(), 0, []
        part = pairs[step * args.batch : (step + 1) * args.batch]
        features = [tokenize([pair[side] for pair in part]) for side in (0, 1)]
        tokens += sum(int(side["attention_mask"].sum()) for side in features)
        loss = loss_of(features, None)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(round(loss.item(), 5))
    seconds = time.perf_counter() - start
    print(json.dumps({
        "peer": f"sentence-transformers {'lora' if args.lora else 'full'}", "threads": THREADS, "steps": args.steps, "tokens": tokens,
        "seconds": round(seconds, 4), "tokens_per_second": round(tokens / seconds), "losses": losses,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))


if __name__ == "__main__":
    main()
