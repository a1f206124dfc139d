#!/usr/bin/env python3
"""embeval and sentence-transformers in turn on one GPU: gpu.py MODEL_DIR PAIRS.jsonl [BINARY] -> a table of tokens a second.

Encoding (f32 and bf16) of the queries and first positives of PAIRS, TEXTS of them (20000); training (f32, and bf16 products with f32
weights) of all weights, 32 pairs of at most 128 tokens a step, as train.py has it. BINARY (default target/release/embeval) must have been
built with --features cuda. It compiles its kernels when it starts, which a long run does not notice and a short one does: its speed is
the difference between a run and one of a quarter of the length. The peer is timed after a warm-up. Tokens are real ones, padding not
counted; the peer's batches are of BATCH texts (128), sorted by length by itself. ROUNDS rounds (3), medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
TEXTS, BATCH, ROUNDS = (int(os.environ.get(key, usual)) for key, usual in (("TEXTS", 20_000), ("BATCH", 128), ("ROUNDS", 3)))
STEPS = 80


def rows(path: str) -> list[tuple[str, str]]:
    pairs = []
    with open(path, encoding="utf-8") as lines:
        for row in map(json.loads, filter(str.strip, lines)):
            pairs.append((row["query"], row["pos"] if isinstance(row["pos"], str) else row["pos"][0]))
    return pairs


def repeated(items: list, count: int) -> list:
    """As many items, none of them twice in a row of the same number: encoders may encode what repeats once."""
    out = []
    for turn in range(-(-count // len(items))):
        out.extend(items if turn == 0 else [tuple(f"{text} {turn}" for text in item) for item in items])
    return out[:count]


def peer_encode(model_path: str, texts: list[str], dtype: str) -> dict:
    import torch
    from sentence_transformers import SentenceTransformer

    kinds = {"f32": torch.float32, "bf16": torch.bfloat16}
    model = SentenceTransformer(model_path, device="cuda", model_kwargs={"torch_dtype": kinds[dtype]})
    tokens = sum(map(len, model.tokenizer(texts, truncation=True, max_length=model.max_seq_length)["input_ids"]))
    model.encode(texts[: 4 * BATCH], batch_size=BATCH, show_progress_bar=False)
    torch.cuda.synchronize()
    start = time.perf_counter()
    model.encode(texts, batch_size=BATCH, show_progress_bar=False)
    return {"tokens": tokens, "seconds": time.perf_counter() - start, "card": torch.cuda.get_device_name(0)}


def peer_train(model_path: str, pairs: list[tuple[str, str]], dtype: str) -> dict:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    torch.manual_seed(1)
    model = SentenceTransformer(model_path, device="cuda", model_kwargs={"torch_dtype": torch.float32})
    model.max_seq_length = min(128, model.max_seq_length)
    tokenize = model.preprocess if hasattr(model, "preprocess") else model.tokenize
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-5, fused=True)
    loss_of = MultipleNegativesRankingLoss(model, scale=20.0)
    model.train()
    start, tokens, warm_up = 0.0, 0, 5
    for step in range(len(pairs) // 32):
        if step == warm_up:
            torch.cuda.synchronize()
            start, tokens = time.perf_counter(), 0
        part = pairs[step * 32 : (step + 1) * 32]
        features = [tokenize([pair[side] for pair in part]) for side in (0, 1)]
        tokens += sum(int(side["attention_mask"].sum()) for side in features)
        features = [{key: value.to("cuda") if hasattr(value, "to") else value for key, value in side.items()} for side in features]
        with torch.autocast("cuda", torch.bfloat16, enabled=dtype == "bf16"):
            loss = loss_of(features, None)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    torch.cuda.synchronize()
    return {"tokens": tokens, "seconds": time.perf_counter() - start, "card": torch.cuda.get_device_name(0)}


def last_line(command: list[str]) -> dict:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"error: failed: {' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def between(short: dict, long: dict) -> float:
    """Tokens a second of what the longer run did beyond the shorter one."""
    return (long["tokens"] - short["tokens"]) / (long["seconds"] - short["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("pairs")
    parser.add_argument("binary", nargs="?", default="target/release/embeval")
    parser.add_argument("--peer", nargs=2, metavar=("WHAT", "DTYPE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    pairs = rows(args.pairs)
    texts = [text for pair in repeated(pairs, -(-TEXTS // 2)) for text in pair][:TEXTS]
    if args.peer:
        what, dtype = args.peer
        done = peer_encode(args.model, texts, dtype) if what == "encode" else peer_train(args.model, repeated(pairs, 32 * STEPS), dtype)
        print(json.dumps(done))
        return
    speeds: dict[str, list[list[float]]] = {}
    card = "?"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name, part in (("short", texts[: len(texts) // 4]), ("long", texts)):
            (work / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in part), encoding="utf-8")
        train = "".join(json.dumps({"query": q, "pos": [p]}, ensure_ascii=False) + "\n" for q, p in repeated(pairs, 32 * STEPS))
        (work / "train.jsonl").write_text(train, encoding="utf-8")
        for turn in range(ROUNDS):
            for dtype in ("f32", "bf16"):
                encode = [args.binary, "-q", "encode", args.model, "--device", "cuda", "--dtype", dtype, "--format", "json"]
                runs = [last_line([*encode, "--input", str(work / f"{name}.jsonl"), "--output", str(work / "out.npy")]) for name in ("short", "long")]
                peer = last_line([sys.executable, __file__, args.model, args.pairs, "--peer", "encode", dtype])
                speeds.setdefault(f"encode {dtype}", []).append([between(*runs), peer["tokens"] / peer["seconds"]])
                runs = []
                for steps in (STEPS // 4, STEPS):
                    config = work / f"{dtype}-{steps}.yaml"
                    config.write_text(
                        f"name: gpu\nbase: {json.dumps(args.model)}\ndata: {{train: {json.dumps(str(work / 'train.jsonl'))}, "
                        "prompts: {query: '', document: ''}}\nobjective: asymmetric\n"
                        "loss: {name: info_nce, temperature: 0.05, hard_negatives: 0}\nadapter: {kind: full}\n"
                        f"train: {{epochs: 1, max_steps: {steps}, batch: 32, lr: 2e-5, clip: 1.0, "
                        f"max_length: {{query: 128, document: 128}}, seed: 1}}\nrun: {{device: cuda, dtype: {dtype}}}\n")
                    output = work / f"run-{turn}-{dtype}-{steps}"
                    runs.append(last_line([args.binary, "-q", "train", str(config), "--output", str(output), "--format", "json"]))
                peer = last_line([sys.executable, __file__, args.model, args.pairs, "--peer", "train", dtype])
                speeds.setdefault(f"train {dtype}", []).append([between(*runs), peer["tokens"] / peer["seconds"]])
                card = peer["card"]
    print(f"{card}; medians of {ROUNDS}\n\n| | embeval, tokens/s | sentence-transformers, tokens/s | ratio (of the rounds) |\n|---|---|---|---|")
    for case, rounds in speeds.items():
        ours, theirs = (statistics.median(side) for side in zip(*rounds))
        ratios = " ".join(f"{a / b:.2f}" for a, b in rounds)
        print(f"| {case} | {ours:,.0f} | {theirs:,.0f} | {ours / theirs:.2f} ({ratios}) |")


if __name__ == "__main__":
    main()
