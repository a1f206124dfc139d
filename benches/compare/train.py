#!/usr/bin/env python3
"""How fast sentence-transformers trains: train.py MODEL_DIR PAIRS.jsonl [--lora] [--steps 10] [--no-dropout] -> one JSON line.

PAIRS: JSON lines with `query` and `pos` (a text or a list, of which the first is taken), 32 a step in the file's order, from its start
again where it ends. MultipleNegativesRankingLoss at T = 0.05 with in-batch negatives alone, AdamW at a constant 2e-5 without decay,
gradients clipped at norm 1, f32, texts cut at 128 tokens; all weights, or LoRA (rank 8, alpha 16, query and value). CPU, THREADS threads
(2). Tokens are real ones, padding not counted. Loading and the first WARM_UP steps are not timed; tokenizing is.
"""

import argparse
import json
import time
import warnings

from common import BATCH, MAX_LENGTH, THREADS, read_pairs

warnings.filterwarnings("ignore")

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.losses import MultipleNegativesRankingLoss

WARM_UP = 2
torch.set_num_threads(THREADS)
torch.manual_seed(1)
transformers.logging.disable_progress_bar()


def load(model_dir: str) -> SentenceTransformer:
    return SentenceTransformer(model_dir, device="cpu", model_kwargs={"dtype": torch.float32})


def add_lora(model: SentenceTransformer, rank: int) -> None:
    from peft import LoraConfig, TaskType

    model.add_adapter(LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION, r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=["query", "value"]))


def train(model: SentenceTransformer, pairs: list[tuple[str, str]], steps: int, temperature: float = 0.05, rate: float = 2e-5):
    """Trains in place. Yields each step's loss and tokens."""
    limit, model.max_seq_length = model.max_seq_length, min(MAX_LENGTH, model.max_seq_length)
    tokenize = model.preprocess if hasattr(model, "preprocess") else model.tokenize
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    loss_of = MultipleNegativesRankingLoss(model, scale=1 / temperature)
    for step in range(steps):
        part = [pairs[row % len(pairs)] for row in range(step * BATCH, (step + 1) * BATCH)]
        features = [tokenize([pair[side] for pair in part]) for side in (0, 1)]
        loss = loss_of(features, None)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item(), sum(int(side["attention_mask"].sum()) for side in features)
    model.max_seq_length = limit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("pairs")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--steps", type=int, default=10, help="timed ones")
    parser.add_argument("--no-dropout", action="store_true")
    args = parser.parse_args()
    model = load(args.model)
    if args.lora:
        add_lora(model, rank=8)
    model.train(not args.no_dropout)
    pairs = read_pairs(args.pairs)
    losses, tokens, start = [], 0, time.perf_counter()
    for step, (loss, count) in enumerate(train(model, pairs, WARM_UP + args.steps), start=1):
        losses.append(loss)
        tokens += count
        if step == WARM_UP:
            tokens, start = 0, time.perf_counter()
    seconds = time.perf_counter() - start
    print(json.dumps({"tokens": tokens, "seconds": round(seconds, 4), "tokens_per_second": round(tokens / seconds), "losses": losses}))


if __name__ == "__main__":
    main()
