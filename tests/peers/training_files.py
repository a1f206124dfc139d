"""Writes training files with pandas, pyarrow and datasets, and says whose turn it is in datasets and sentence-transformers.

    python tests/peers/training_files.py tests/data/training

Needs datasets (which brings pandas and pyarrow) and sentence-transformers.
"""

import json
import sys
from pathlib import Path

import datasets
import pandas
import pyarrow
import pyarrow.parquet
from torch.utils.data import BatchSampler, ConcatDataset, SequentialSampler

try:
    from sentence_transformers.base.sampler import RoundRobinBatchSampler
except ImportError:
    from sentence_transformers.sampler import RoundRobinBatchSampler

PAIRS = [
    {"query": "кто написал «Войну и мир»?", "pos": ["Лев Толстой"], "neg": ["Фёдор Достоевский", "Антон Чехов"]},
    {"query": 'a "quoted", text\nof two lines', "pos": ["one", "two"], "neg": ["three"]},
    {"query": "5\" pipe", "pos": ["[1]"], "neg": []},
    {"query": "2024", "pos": ["null"], "neg": ["a\u2028b", "tab\there"]},
    {"query": "repeated", "pos": ["same"], "neg": ["same again"]},
    {"query": "repeated", "pos": ["same"], "neg": ["same again"]},
]
TRIPLETS = [
    {"query": row["query"], "pos": row["pos"][:1], "neg": (row["neg"] + ["filler one", "filler two"])[:2]} for row in PAIRS
]
SCORED = [
    {"query": row["query"], "pos": row["pos"][:1], "score": score}
    for row, score in zip(PAIRS, [0.1, 1.0, -0.25, 0.0, 3.3333333333333335, 1e-7])
]
LABELLED = [{"query": row["query"], "label": str(i % 3)} for i, row in enumerate(PAIRS)]


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files = {}

    def file(name: str, kind: str) -> str:
        files[name] = kind
        return str(folder / name)

    pairs = datasets.Dataset.from_list(PAIRS)
    pairs.to_parquet(file("pairs_datasets.parquet", "pairs"), batch_size=2)
    pairs.to_json(file("pairs_datasets.jsonl", "pairs"), force_ascii=True)
    table = pyarrow.Table.from_pylist(PAIRS)
    for codec in ["snappy", "gzip", "zstd", "none"]:
        path = file(f"pairs_{codec}.parquet", "pairs")
        pyarrow.parquet.write_table(table, path, compression=codec, data_page_version="2.0" if codec == "zstd" else "1.0")

    columns = [
        {"anchor": r["query"], "positive": r["pos"][0], "negative_1": r["neg"][0], "negative_2": r["neg"][1]} for r in TRIPLETS
    ]
    frame = pandas.DataFrame(columns)
    frame.to_csv(file("triplets.csv", "triplets"), index=False)
    frame.to_csv(file("triplets_index.tsv", "triplets"), sep="\t")
    frame.to_json(file("triplets_array.json", "triplets"), orient="records", indent=1)
    large = pyarrow.schema([(name, pyarrow.large_string()) for name in frame.columns])
    pyarrow.parquet.write_table(pyarrow.Table.from_pandas(frame, large, preserve_index=False), file("triplets_large.parquet", "triplets"))

    scored = pandas.DataFrame([{"sentence1": r["query"], "sentence2": r["pos"][0], "score": r["score"]} for r in SCORED])
    scored.to_csv(file("scored.csv.gz", "scored"), index=False, compression={"method": "gzip", "mtime": 1})
    scored.astype({"score": "float32"}).to_parquet(file("scored_float32.parquet", "scored"), index=False)

    labelled = pandas.DataFrame([{"text": r["query"], "label": int(r["label"])} for r in LABELLED])
    labelled.astype({"label": "int32"}).to_parquet(file("labelled_int32.parquet", "labelled"), index=False)

    turns = []
    for sizes in [[12, 10, 20], [3, 4, 5], [5, 1]]:
        sets = [datasets.Dataset.from_dict({"set": [i] * size}) for i, size in enumerate(sizes)]
        for stop in ["first_exhausted", "all_exhausted"]:
            mixed = datasets.interleave_datasets(sets, stopping_strategy=stop)
            turns.append({"by": "row", "sizes": sizes, "stop": stop, "turns": mixed["set"][:]})
        samplers = [BatchSampler(SequentialSampler(range(size)), batch_size=4, drop_last=False) for size in sizes]
        sampler = RoundRobinBatchSampler(ConcatDataset([range(size) for size in sizes]), batch_samplers=samplers)
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        order = [next(i for i, end in enumerate(ends) if batch[0] < end) for batch in sampler]
        assert len(order) == len(sampler)
        turns.append({"by": "batch", "sizes": sizes, "stop": "first_exhausted", "turns": order})

    expected = {
        "versions": {m.__name__: m.__version__ for m in [datasets, pandas, pyarrow]},
        "files": files,
        "pairs": PAIRS,
        "triplets": TRIPLETS,
        "scored": SCORED,
        "labelled": LABELLED,
        "turns": turns,
    }
    (folder / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
