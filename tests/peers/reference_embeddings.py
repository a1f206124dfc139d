#!/usr/bin/env python3
"""What sentence-transformers embeds: reference_embeddings.py MODEL_DIR TEXTS.json OUT.npy [--prompt-name NAME]

TEXTS is a JSON list; OUT gets `[texts, dim]`, f32, in its order. CPU, f32, two threads (THREADS), batch 32.
"""

import argparse
import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers
from sentence_transformers import SentenceTransformer

torch.set_num_threads(int(os.environ.get("THREADS", "2")))
transformers.logging.disable_progress_bar()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--prompt-name")
    args = parser.parse_args()
    texts = json.loads(args.texts.read_text(encoding="utf-8"))
    model = SentenceTransformer(str(args.model), device="cpu", model_kwargs={"torch_dtype": torch.float32})
    embeddings = model.encode(texts, batch_size=32, prompt_name=args.prompt_name, show_progress_bar=False)
    np.save(args.output, embeddings.astype(np.float32))
    print(f"{args.output}: {embeddings.shape[0]} texts, {embeddings.shape[1]} dimensions, at most {model.max_seq_length} tokens")


if __name__ == "__main__":
    main()
