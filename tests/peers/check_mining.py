#!/usr/bin/env python3
"""Does sentence-transformers mine the same hard negatives?

check_mining.py golden tests/data/mining.json
    Writes what `mine_hard_negatives` (sentence-transformers 6.2, datasets 5.2) gives for fixed embeddings in many settings, and what
    FlagEmbedding's hn_mine may draw from, by its rule: the ranks in range, less the positives and the query.

check_mining.py texts INPUT.jsonl[.gz] FOLDER
    Writes FOLDER/queries.jsonl and FOLDER/documents.jsonl, the distinct queries and positives, to be embedded by `embeval encode` into
    queries.npy and documents.npy there.

check_mining.py compare INPUT.jsonl[.gz] FOLDER MINED.jsonl '{"relative_margin": 0.05}'
    Runs `mine_hard_negatives` on those embeddings and compares with MINED.jsonl, that `embeval mine --replace --scores --output-format
    triplet` wrote with the same settings. Exit code 0: every negative is the same, or scores within 2e-6 of the one in its place.
"""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers.util import mine_hard_negatives


class Table:
    """Stands in for a model: the embeddings of texts are looked up."""

    device = "cpu"

    def __init__(self, queries: dict[str, np.ndarray], documents: dict[str, np.ndarray]):
        self.queries, self.documents = queries, documents

    def encode_query(self, texts, **_):
        return normalised([self.queries[text] for text in texts])

    def encode_document(self, texts, **_):
        return normalised([self.documents[text] for text in texts])

    def similarity(self, a, b):
        return torch.as_tensor(a) @ torch.as_tensor(b).T

    def similarity_pairwise(self, a, b):
        return (torch.as_tensor(a) * torch.as_tensor(b)).sum(dim=1)


def normalised(rows) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def mined(model: Table, pairs: list[tuple[str, str]], **settings) -> list[dict]:
    data = Dataset.from_dict({"anchor": [q for q, _ in pairs], "positive": [p for _, p in pairs]})
    return mine_hard_negatives(data, model, output_scores=True, verbose=False, **settings).to_list()


SETTINGS = [
    {},
    {"num_negatives": 5, "range_min": 2},
    {"num_negatives": 4, "range_min": 3, "range_max": 10},
    {"num_negatives": 5, "absolute_margin": 0.1},
    {"num_negatives": 5, "absolute_margin": 0.0},
    {"num_negatives": 4, "absolute_margin": -0.1},
    {"num_negatives": 5, "relative_margin": 0.05},
    {"num_negatives": 6, "relative_margin": 0.1, "range_min": 1, "range_max": 8},
    {"num_negatives": 4, "max_score": 0.6},
    {"num_negatives": 10, "min_score": 0.3},
    {"num_negatives": 4, "range_min": 1, "absolute_margin": 0.02, "relative_margin": 0.05, "max_score": 0.8, "min_score": -0.2},
    {"num_negatives": 7, "range_max": 1000, "relative_margin": 0.3},
    {"num_negatives": 6, "range_max": 7, "min_score": 0.2, "max_score": 0.5},
]


def golden(path: Path) -> None:
    rng = np.random.default_rng(7)
    names = {"queries": [f"q{i}" for i in range(20)], "documents": [f"d{i}" for i in range(30)], "pool": [f"x{i}" for i in range(25)]}
    vectors = {
        side: {text: np.round(rng.normal(size=5), 3).astype(np.float32) for text in texts} for side, texts in names.items()
    }
    # One positive each, near its query but not always nearest; some queries have two or three, one of them against it, one pair is there twice.
    pairs = []
    for i, query in enumerate(names["queries"]):
        for j in range(1 + (i % 5 == 0) + (i % 10 == 0)):
            document = f"d{(i + 7 * j) % 30}"
            pairs.append((query, document))
            if j < 2:
                noise = rng.normal(size=5) * 0.5
                vectors["documents"][document] = np.round(vectors["queries"][query] + noise, 3).astype(np.float32)
    vectors["documents"]["d3"] = np.round(-0.3 * vectors["queries"]["q3"] + rng.normal(size=5) * 0.3, 3).astype(np.float32)
    order = rng.permutation(len(pairs))
    pairs = [pairs[i] for i in order] + [pairs[order[0]]]
    pairs += [("q1", "d20")] + [("q19", f"d{i}") for i in range(21, 30)]
    model = Table(vectors["queries"], {**vectors["documents"], **vectors["pool"]})

    cases = []
    for pool in (None, names["pool"] + names["pool"][:3]):
        for number, settings in enumerate(SETTINGS):
            for layout in ("triplet", "n-tuple") if number % 4 == 3 else ("triplet",):
                rows = mined(model, pairs, corpus=pool, output_format=layout, **settings)
                for row in rows:
                    row["scores"] = [round(score, 5) for score in row["scores"]]
                rows = [list(row.values()) for row in rows]
                cases.append({"settings": settings, "pool": pool is not None, "layout": layout, "rows": rows})

    # hn_mine: a row is a query with all its positives.
    positives: dict[str, list[str]] = {}
    for query, positive in pairs:
        positives.setdefault(query, [])
        if positive not in positives[query]:
            positives[query].append(positive)
    allowed = []
    for pool in (None, names["pool"]):
        corpus = pool if pool is not None else list(dict.fromkeys(p for _, p in pairs))
        for low, high in ((0, 6), (3, 12), (10, 210)):
            scores = model.encode_query(list(positives)).astype(np.float64) @ model.encode_document(corpus).astype(np.float64).T
            ranks = np.argsort(-scores, axis=1)[:, :high][:, low:]
            texts = [[corpus[i] for i in row if corpus[i] not in positives[q]] for q, row in zip(positives, ranks)]
            allowed.append({"pool": pool is not None, "range": [low, high], "in_range": texts})

    plain = {side: {text: [float(f"{v:.3f}") for v in row] for text, row in rows.items()} for side, rows in vectors.items()}
    path.write_text(json.dumps({"pairs": pairs, **plain, "cases": cases, "hn_mine": allowed}, separators=(",", ":")) + "\n")
    print(f"{len(cases)} cases, {len(allowed)} ranges, {path.stat().st_size} bytes")


def read(path: Path) -> list[tuple[str, str]]:
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    with opened as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    return [(row["query"], positive) for row in rows for positive in row["pos"]]


def distinct(pairs: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return list(dict.fromkeys(q for q, _ in pairs)), list(dict.fromkeys(p for _, p in pairs))


def texts(data: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, side in zip(("queries", "documents"), distinct(read(data))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in side))
        print(f"{len(side)} {name}")


def compare(data: Path, folder: Path, ours_path: Path, settings: dict) -> int:
    pairs = read(data)
    sides = [dict(zip(side, np.load(folder / f"{name}.npy"))) for name, side in zip(("queries", "documents"), distinct(pairs))]
    theirs = mined(Table(*sides), pairs, output_format="triplet", **settings)
    ours = [json.loads(line) for line in ours_path.read_text(encoding="utf-8").splitlines()]
    same = near = far = 0
    largest = 0.0
    for a, b in zip(ours, theirs):
        if (a["anchor"], a["positive"]) != (b["anchor"], b["positive"]):
            print(f"another pair: {a['anchor']!r} / {b['anchor']!r}")
            return 1
        gap = max(abs(x - y) for x, y in zip(a["scores"], b["scores"]))
        largest = max(largest, gap)
        same += a["negative"] == b["negative"]
        near += a["negative"] != b["negative"] and gap <= 2e-6
        far += gap > 2e-6
    print(f"{len(ours)} lines, theirs {len(theirs)}: {same} the same, {near} of equal score, {far} others; scores differ by at most {largest:.1e}")
    return int(len(ours) != len(theirs) or far > 0)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["golden", path]:
            golden(Path(path))
        case ["texts", data, folder]:
            texts(Path(data), Path(folder))
        case ["compare", data, folder, ours, settings]:
            sys.exit(compare(Path(data), Path(folder), Path(ours), json.loads(settings)))
        case _:
            sys.exit(__doc__)
