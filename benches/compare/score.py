#!/usr/bin/env python3
"""mteb on task files of this project: score.py MODEL_DIR TASK.yaml… -> one JSON document.

Tasks over jsonl files (plain or .gz) of all eight types, run by mteb's own classes and `mteb.evaluate`; f32, CPU, THREADS threads (2),
batches of 32, no prompts, seed 42. Per task the main score and seconds: `encode` in SentenceTransformer.encode, `feed` in mteb's data loader around
it, `rest` in all else (classifiers, k-means, measures). Loading the model, a batch to warm up and reading the files are not timed.
"""

import argparse
import json
import logging
import math
import time
import warnings
from pathlib import Path

from common import BATCH, THREADS, read_rows

warnings.filterwarnings("ignore")

import datasets
import mteb
import torch
import yaml
from datasets import Dataset, DatasetDict
from mteb import abstasks
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.abstasks.text import reranking
from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
from sentence_transformers import SentenceTransformer

torch.set_num_threads(THREADS)
datasets.disable_progress_bars()
logging.disable(logging.WARNING)

# Type -> mteb's class, our column -> its column, our setting -> its attribute.
TYPES = {
    "Classification": (abstasks.AbsTaskClassification, {"text": "text", "label": "label"}, {}),
    "MultilabelClassification": (abstasks.AbsTaskMultilabelClassification, {"text": "text", "labels": "label"}, {}),
    "Clustering": (abstasks.AbsTaskClustering, {"sentences": "sentences", "labels": "labels"}, {"max_documents": "max_document_to_embed", "bootstrap_size": "max_documents_per_cluster", "batch_size": "k_mean_batch_size"}),
    "Sets": (abstasks.AbsTaskClusteringLegacy, {"sentences": "sentences", "labels": "labels"}, {}),
    "STS": (abstasks.AbsTaskSTS, {"sentence1": "sentence1", "sentence2": "sentence2", "score": "score"}, {"min_score": "min_score", "max_score": "max_score"}),
    "PairClassification": (abstasks.AbsTaskPairClassification, {c: c for c in ("sentence1", "sentence2", "labels")}, {}),
    "BitextMining": (abstasks.AbsTaskBitextMining, {c: c for c in ("sentence1", "sentence2")}, {}),
    "Reranking": (reranking.AbsTaskReranking, {c: c for c in ("query", "positive", "negative")}, {"ignore_identical_ids": "ignore_identical_ids"}),
    "Retrieval": (abstasks.AbsTaskRetrieval, {}, {"ignore_identical_ids": "ignore_identical_ids"}),
}


def retrieval(files: dict, folder: Path, split: str) -> dict:
    qrels: dict = {}
    with open(folder / files["qrels"][split], encoding="utf-8") as lines:
        next(lines)
        for line in lines:
            query, document, grade = line.rstrip("\r\n").split("\t")
            qrels.setdefault(query, {})[document] = int(grade)
    corpus, queries = (read_rows(folder / files[part]) for part in ("corpus", "queries"))
    queries = [row for row in queries if str(row["_id"]) in qrels]
    parts = {
        "corpus": Dataset.from_list([{"id": str(r["_id"]), "title": r.get("title") or "", "text": r["text"]} for r in corpus]),
        "queries": Dataset.from_list([{"id": str(r["_id"]), "text": r["text"]} for r in queries]),
        "relevant_docs": qrels,
        "top_ranked": None,
    }
    return {"default": {split: parts}}


def build(path: Path):
    """The mteb task of a task file, its data loaded."""
    spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    files, split = spec["data"]["files"], spec["splits"]["test"]
    kind = spec["type"]
    base, columns, known = TYPES[kind]
    if kind == "Retrieval":
        data = retrieval(files, path.parent, split)
    else:
        data = DatasetDict()
        for name in {split, spec["splits"].get("train", split)} if "lassification" in kind and kind != "PairClassification" else {split}:
            rows = list(read_rows(path.parent / files[name]))
            source = {c: (spec.get("columns") or {}).get(c, c) for c in columns}
            data[name] = Dataset.from_dict({theirs: [row[source[ours]] for row in rows] for ours, theirs in columns.items()})
        if kind == "Clustering" and isinstance(data[split][0]["labels"], list):
            base, columns, known = TYPES["Sets"]
    attributes = {known[k]: v for k, v in (spec.get("settings") or {}).items() if k in known}
    if base is abstasks.AbsTaskClustering:
        attributes = {"max_document_to_embed": 2048, "max_fraction_of_documents_to_embed": None} | attributes
    if kind == "STS":
        gold = data[split]["score"]
        attributes = {"min_score": math.floor(min(gold)), "max_score": math.ceil(max(gold))} | attributes
    if "train" in spec["splits"]:
        attributes["train_split"] = spec["splits"]["train"]
    metadata = TaskMetadata(
        name=spec["name"], description=spec["name"], dataset={"path": "local/files", "revision": "1"}, type=kind, category="t2t",
        modalities=["text"], eval_splits=[split], eval_langs=spec["languages"], main_score=spec["metric"], bibtex_citation="",
    )

    def load_data(self, *_, **__):
        if self.data_loaded:
            return
        if kind == "Reranking":
            if self.metadata.name not in reranking.OLD_FORMAT_RERANKING_TASKS:
                reranking.OLD_FORMAT_RERANKING_TASKS.append(self.metadata.name)
            self.transform_old_dataset_format(data)
        else:
            self.dataset = data
        self.data_loaded = True

    task = type(spec["name"], (base,), {"metadata": metadata, "load_data": load_data, **attributes})(seed=42)
    task.load_data()
    return task, split


class Watched(SentenceTransformerEncoderWrapper):
    """mteb's own wrapper of a model, with clocks in and around `encode`."""

    def __init__(self, model: SentenceTransformer):
        super().__init__(model)
        self.inside = self.around = 0.0
        inner = model.encode

        def timed(*args, **kwargs):  # encode_query and encode_document end here, too
            start = time.perf_counter()
            result = inner(*args, **kwargs)
            self.inside += time.perf_counter() - start
            return result

        model.encode = timed

    def encode(self, *args, **kwargs):
        start = time.perf_counter()
        result = super().encode(*args, **kwargs)
        self.around += time.perf_counter() - start
        return result


def score(model: SentenceTransformer, paths: list[Path]) -> list[dict]:
    """Scores and seconds of each task."""
    watched, done = Watched(model), []
    for path in paths:
        task, split = build(path)
        watched.inside = watched.around = 0.0
        start = time.perf_counter()
        result = mteb.evaluate(watched, task, cache=None, co2_tracker=False, show_progress_bar=False,
                               encode_kwargs={"batch_size": BATCH, "show_progress_bar": False})
        total = time.perf_counter() - start
        (scores,) = result.task_results[0].scores[split]
        seconds = {"encode": watched.inside, "feed": watched.around - watched.inside, "rest": total - watched.around}
        done.append({"name": task.metadata.name, "main_score": float(scores["main_score"]), "seconds": seconds})
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("tasks", type=Path, nargs="+")
    options = parser.parse_args()
    model = SentenceTransformer(options.model, device="cpu", model_kwargs={"dtype": torch.float32})
    model.encode(["warm up"] * BATCH, show_progress_bar=False)
    print(json.dumps({"tasks": score(model, options.tasks)}))


if __name__ == "__main__":
    main()
