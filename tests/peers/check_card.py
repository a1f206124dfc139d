#!/usr/bin/env python3
"""Is a shipped model what its card says? check_card.py MODEL_DIR [--embeddings FILE.npy --texts TEXTS.json] [--tolerance 2e-5]

Reads MODEL_DIR/README.md with huggingface_hub: the metadata parse, the results of the model-index survive a round trip one for one,
every value is a fraction, and no line holds a path of this machine. Loads the folder with sentence-transformers, which must encode,
and whose dimension and length must be those that the card names; with --embeddings compares with what `embeval encode` gave. Where
there is an adapter/, its PEFT config must parse. Prints one line. Exit code 0: all as said; 1: not.
"""

import argparse
import json
import os
import re
import sys
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import numpy as np
import torch
import transformers
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index
from sentence_transformers import SentenceTransformer

torch.set_num_threads(int(os.environ.get("THREADS", "2")))
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

RELATIONS = {"finetune", "merge", "adapter", "quantized"}
TASKS = {"sentence-similarity", "text-classification", "text-retrieval", "text-ranking", "translation", "feature-extraction"}


def faults_of_metadata(card: ModelCard, text: str) -> list[str]:
    data = card.data
    faults = []
    if data.library_name != "sentence-transformers" or data.pipeline_tag != "sentence-similarity":
        faults.append(f"library {data.library_name}, pipeline {data.pipeline_tag}")
    if not {"sentence-transformers", "sentence-similarity", "feature-extraction", "embeval"} <= set(data.tags or []):
        faults.append(f"tags {data.tags}")
    relation = data.get("base_model_relation")
    if relation is not None and (relation not in RELATIONS or not data.base_model):
        faults.append(f"relation {relation} of {data.base_model}")
    if data.base_model and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", data.base_model):
        faults.append(f"base_model {data.base_model} can be no id")
    for language in data.language or []:
        if not isinstance(language, str) or not re.fullmatch(r"[a-z]{2,3}", language):
            faults.append(f"language {language!r}")
    results = data.eval_results or []
    written = text.count("    - type: ")
    if not results or len(results) != written:
        faults.append(f"{len(results)} results of {written} written")
    for result in results:
        if result.task_type not in TASKS:
            faults.append(f"task type {result.task_type}")
        if not isinstance(result.metric_value, float) or not -1 <= result.metric_value <= 1:
            faults.append(f"{result.dataset_name}: value {result.metric_value!r}")
        if result.verified is not False:
            faults.append(f"{result.dataset_name}: verified {result.verified!r}")
    if results and len(eval_results_to_model_index(data.model_name, results)[0]["results"]) != written:
        faults.append("results fall together in a round trip")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--embeddings", type=Path)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--tolerance", type=float, default=2e-5)
    args = parser.parse_args()
    text = (args.model / "README.md").read_text(encoding="utf-8")
    card = ModelCard.load(args.model / "README.md")
    faults = faults_of_metadata(card, text)
    faults += [f"a path: {line.strip()}" for line in text.splitlines() if re.search(r"(^|[\s`\"'(])(/[\w.-]+){2,}", line)]
    model = SentenceTransformer(str(args.model), device="cpu")
    dimension, length = model.get_sentence_embedding_dimension(), model.max_seq_length
    if f"vectors of {dimension} values" not in text:
        faults.append(f"dimension {dimension} is not what the card says")
    if f"Longest text: {length} tokens" not in text:
        faults.append(f"length {length} is not what the card says")
    for prompt in model.prompts:
        if model.prompts[prompt] and f"`{prompt}`" not in text:
            faults.append(f"prompt {prompt} is not in the card")
    texts = json.loads(args.texts.read_text(encoding="utf-8")) if args.texts else ["a text", "Ещё один текст"]
    theirs = model.encode(texts, batch_size=32, show_progress_bar=False)
    if not np.isfinite(theirs).all():
        faults.append("embeddings are not finite")
    detail = ""
    if args.embeddings:
        ours = np.load(args.embeddings)
        if ours.shape != theirs.shape:
            faults.append(f"shape {ours.shape}, sentence-transformers has {theirs.shape}")
        else:
            difference = np.abs(ours.astype(np.float64) - theirs).max(initial=0.0)
            detail = f", largest difference {difference:.2e} (tolerance {args.tolerance:g})"
            if not difference <= args.tolerance:
                faults.append("embeddings differ")
    if (args.model / "adapter").is_dir():
        from peft import PeftConfig

        config = PeftConfig.from_pretrained(str(args.model / "adapter"))
        if config.base_model_name_or_path.startswith(("/", "~", ".")):
            faults.append(f"adapter/ names a path: {config.base_model_name_or_path}")
        detail += f", adapter r={config.r}"
    said = f"{args.model}: {len(card.data.eval_results or [])} results, {len(texts)} texts{detail}"
    print(f"{'FAILED' if faults else 'ok'} {said}" + "".join(f"; {fault}" for fault in faults[:6]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
