#!/usr/bin/env python3
"""How fast sentence-transformers encodes: encode.py MODEL_DIR TEXTS [--dtype f32|bf16] [--output OUT.npy] -> one JSON line.

TEXTS: a text a line, or JSON lines with `text`, `query` or `sentence1`. CPU, THREADS threads (2), batch 32, its own sorting by length.
Tokens are real ones: special tokens counted, padding not. Loading and one warm-up batch are not timed; tokenization is.
"""

import argparse
import json
import os
import resource
import time
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import numpy as np
import torch
import transformers
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

THREADS = int(os.environ.get("THREADS", "2"))
torch.set_num_threads(THREADS)
transformers.logging.disable_progress_bar()
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def read_texts(path: str) -> list[str]:
    with open(path, encoding="utf-8") as lines:
        texts = [line.rstrip("\r\n") for line in lines]
    if not (path.endswith((".jsonl", ".ndjson")) or texts[:1] and texts[0].startswith("{")):
        return texts
    rows = [json.loads(text) for text in texts if text.strip()]
    return [next(row[key] for key in ("text", "query", "sentence1") if row.get(key) is not None) for row in rows]


def token_ids(model: SentenceTransformer, texts: list[str]) -> list[list[int]]:
    if isinstance(model.tokenizer, Tokenizer):  # static embeddings: no special tokens, no limit
        return [encoding.ids for encoding in model.tokenizer.encode_batch(texts, add_special_tokens=False)]
    return model.tokenizer(texts, truncation=True, max_length=model.max_seq_length)["input_ids"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("texts")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--output", help="keep the embeddings, to compare")
    args = parser.parse_args()
    model = SentenceTransformer(args.model, device="cpu", model_kwargs={"torch_dtype": DTYPES[args.dtype]})
    texts = read_texts(args.texts)
    tokens = sum(map(len, token_ids(model, texts)))
    model.encode(texts[:32], batch_size=32, show_progress_bar=False)
    start = time.perf_counter()
    embeddings = model.encode(texts, batch_size=32, show_progress_bar=False)
    seconds = time.perf_counter() - start
    if args.output:
        np.save(args.output, embeddings.astype(np.float32))
    print(json.dumps({
        "peer": f"sentence-transformers {args.dtype}", "threads": THREADS, "texts": len(texts), "tokens": tokens, "seconds": round(seconds, 4),
        "tokens_per_second": round(tokens / seconds), "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))


if __name__ == "__main__":
    main()
