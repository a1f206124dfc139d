#!/usr/bin/env bash
# retrieval.sh [BINARY]: what exact retrieval over embeddings made elsewhere costs at 10k, 100k and 1M documents of 384 dimensions.
#
# Random unit vectors; 1,000 queries, each near one document, which must be found. Files in WORK (a temporary folder of 2 GB otherwise), THREADS
# threads (2). PEER is the folder that tests/peers/setup.sh made (for NumPy); BINARY defaults to target/release/embeval.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
binary=$(realpath -e "${1:-$root/target/release/embeval}")
python=${PEER:-$root/target/peer}/venv/bin/python
work=${WORK:-$(mktemp -d)}
[ -n "${WORK:-}" ] || trap 'rm -rf "$work"' EXIT
export RAYON_NUM_THREADS=${THREADS:-2}

"$python" - "$work" <<'PYTHON'
import json, sys
from pathlib import Path

import numpy as np

work = Path(sys.argv[1])
dim, queries = 384, 1000
for count in (10_000, 100_000, 1_000_000):
    name = f"Retrieval{count}"
    folder = work / "embeddings" / name
    if (folder / "queries.npy").exists():
        continue
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(count)
    documents = np.lib.format.open_memmap(folder / "documents.npy", "w+", np.float32, (count, dim))
    for start in range(0, count, 50_000):
        block = random.standard_normal((min(50_000, count - start), dim), dtype=np.float32)
        documents[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    wanted = random.choice(count, queries, replace=False)
    noise = random.standard_normal((queries, dim), dtype=np.float32) * (0.8 / dim**0.5)
    np.save(folder / "queries.npy", documents[np.sort(wanted)] + noise)
    with open(work / f"{name}.corpus.jsonl", "w") as out:
        out.writelines(f'{{"_id": "d{i}", "text": "document {i}"}}\n' for i in range(count))
    with open(work / f"{name}.queries.jsonl", "w") as out:
        out.writelines(f'{{"_id": "q{i}", "text": "query {i}"}}\n' for i in range(queries))
    with open(work / f"{name}.qrels.tsv", "w") as out:
        out.write("query-id\tcorpus-id\tscore\n")
        out.writelines(f"q{i}\td{d}\t1\n" for i, d in enumerate(np.sort(wanted)))
    (work / f"{name}.yaml").write_text(json.dumps({
        "name": name, "type": "Retrieval", "splits": {"test": "test"},
        "data": {"files": {"corpus": f"{name}.corpus.jsonl", "queries": f"{name}.queries.jsonl", "qrels": {"test": f"{name}.qrels.tsv"}}},
    }))
PYTHON

echo "| documents | wall, s | search and measures, s | reading embeddings, s | peak memory, MB | nDCG@10 |"
echo "|---:|---:|---:|---:|---:|---:|"
for count in 10000 100000 1000000; do
    start=$(date +%s.%N)
    "$binary" -q score --embeddings "$work/embeddings" --tasks "$work/Retrieval$count.yaml" --format json >"$work/out.json"
    wall=$(echo "$(date +%s.%N) - $start" | bc)
    "$python" - "$work/out.json" "$count" "$wall" <<'PYTHON'
import json, sys

board = json.load(open(sys.argv[1]))
task = board["tasks"][0]
print(f"| {int(sys.argv[2]):,} | {float(sys.argv[3]):.1f} | {task['seconds']['rest']:.1f} | {task['seconds']['encode']:.1f} "
      f"| {board['peak_mb']:,.0f} | {task['main_score']:.4f} |")
PYTHON
done
