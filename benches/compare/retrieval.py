#!/usr/bin/env python3
"""What exact retrieval over embeddings made elsewhere costs embeval: retrieval.py [DOCUMENTS …] (default: 10,000, 100,000 and 1,000,000).

Random unit vectors of 384 dimensions; 1,000 queries, each near one document, which must be found. Files in a temporary folder (2 GB for the
default; WORK names its place), THREADS threads (2), BINARY as in run.sh. Prints a Markdown table.
"""

import argparse
import json
import multiprocessing
from pathlib import Path

import common

DIM, QUERIES = 384, 1000


def make(count: int, work: Path) -> None:
    """Embeddings, texts that none of them is made of, and the task file."""
    import numpy as np

    name = f"Retrieval{count}"
    folder = work / "embeddings" / name
    folder.mkdir(parents=True)
    random = np.random.default_rng(count)
    documents = np.lib.format.open_memmap(folder / "documents.npy", "w+", np.float32, (count, DIM))
    for start in range(0, count, 50_000):
        block = random.standard_normal((min(50_000, count - start), DIM), dtype=np.float32)
        documents[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    wanted = np.sort(random.choice(count, QUERIES, replace=False))
    noise = random.standard_normal((QUERIES, DIM), dtype=np.float32) * (0.8 / DIM**0.5)
    np.save(folder / "queries.npy", documents[wanted] + noise)
    common.write_rows(work / f"{name}.corpus.jsonl", ({"_id": f"d{i}", "text": f"document {i}"} for i in range(count)))
    common.write_rows(work / f"{name}.queries.jsonl", ({"_id": f"q{i}", "text": f"query {i}"} for i in range(QUERIES)))
    qrels = "".join(f"q{i}\td{document}\t1\n" for i, document in enumerate(wanted))
    (work / f"{name}.qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels, encoding="utf-8")
    files = {"corpus": f"{name}.corpus.jsonl", "queries": f"{name}.queries.jsonl", "qrels": {"test": f"{name}.qrels.tsv"}}
    (work / f"{name}.yaml").write_text(json.dumps({"name": name, "type": "Retrieval", "splits": {"test": "test"}, "data": {"files": files}}), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    rows = []
    with common.work_folder() as temporary:
        work = Path(temporary)
        for count in parser.parse_args().documents:
            making = multiprocessing.Process(target=make, args=(count, work))  # its memory is not to count
            making.start()
            making.join()
            run = common.run([common.binary(), "-q", "score", "--embeddings", work / "embeddings", "--tasks", work / f"Retrieval{count}.yaml", "--format", "json"], work / f"run-{count}")
            (scored,) = run["tasks"]
            seconds = scored["seconds"]
            rows.append([f"{count:,}", f"{run['wall']:.1f}", f"{seconds['rest']:.2f}", f"{seconds['encode']:.2f}", f"{run['peak_mb']:,.0f}", f"{scored['main_score']:.4f}"])
    print(common.table(["documents", "wall, s", "search and measures, s", "reading embeddings, s", "peak, MB", "nDCG@10"], rows), end="")


if __name__ == "__main__":
    main()
