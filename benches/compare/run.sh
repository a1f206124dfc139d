#!/usr/bin/env bash
# run.sh MODEL_DIR PAIRS.jsonl [BINARY]: embeval and sentence-transformers in turn on the same texts: medians and ratios.
#
# Encoding: the queries and first positives of the first rows of PAIRS (TEXTS of them, 512). Training: 10 steps of 32 pairs at 128
# tokens, all weights and LoRA. ROUNDS rounds (3), one after the other on THREADS threads (2): run it on a quiet machine.
# PEER is the folder that tests/peers/setup.sh made (default: target/peer); BINARY defaults to target/release/embeval.
set -euo pipefail

usage="usage: run.sh MODEL_DIR PAIRS.jsonl [BINARY]"
model=$(realpath -e "${1:?$usage}")
pairs=$(realpath -e "${2:?$usage}")
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
binary=$(realpath -e "${3:-$root/target/release/embeval}")
python=${PEER:-$root/target/peer}/venv/bin/python
[ -x "$python" ] || { echo "error: $python: not there; run tests/peers/setup.sh FOLDER and set PEER=FOLDER" >&2; exit 2; }

export THREADS=${THREADS:-2}
# Threads that spin while they wait take time from whatever else runs.
export RAYON_NUM_THREADS=$THREADS OMP_NUM_THREADS=$THREADS MKL_NUM_THREADS=$THREADS OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=true
rounds=${ROUNDS:-3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" - "$pairs" "${TEXTS:-512}" >"$work/texts.jsonl" <<'PYTHON'
import json, sys
count = int(sys.argv[2])
with open(sys.argv[1], encoding="utf-8") as lines:
    for line in lines:
        if not line.strip() or count <= 0:
            continue
        row = json.loads(line)
        for text in (row["query"], row["pos"] if isinstance(row["pos"], str) else row["pos"][0])[:count]:
            print(json.dumps({"text": text}, ensure_ascii=False))
            count -= 1
PYTHON

config() { # config NAME ADAPTER
    cat >"$work/$1.yaml" <<YAML
name: $1
base: "$model"
data: {train: "$pairs", prompts: {query: "", document: ""}}
objective: asymmetric
loss: {name: info_nce, temperature: 0.05, hard_negatives: 0}
adapter: $2
train: {epochs: 1, max_steps: 10, batch: 32, lr: 2e-5, clip: 1.0, max_length: {query: 128, document: 128}, seed: 1}
run: {device: cpu}
YAML
}
config full '{kind: full}'
config lora '{kind: lora, rank: 8, alpha: 16, dropout: 0.0, targets: [query, value]}'

turn() { # turn CASE SIDE COMMAND…: runs it and keeps its JSON line
    local case=$1 side=$2
    shift 2
    echo "$case, $side" >&2
    "$@" 2>"$work/log" | tail -n 1 >>"$work/$case.$side" || { cat "$work/log" >&2; echo "error: failed: $*" >&2; exit 1; }
}

for round in $(seq "$rounds"); do
    echo "round $round of $rounds" >&2
    turn encode ours "$binary" -q encode "$model" --input "$work/texts.jsonl" --output "$work/ours.npy" --device cpu --format json
    turn encode peer "$python" "$here/encode.py" "$model" "$work/texts.jsonl" --output "$work/peer.npy"
    for kind in full lora; do
        turn "train-$kind" ours "$binary" -q train "$work/$kind.yaml" --output "$work/run-$kind-$round" --format json
        turn "train-$kind" peer "$python" "$here/train.py" "$model" "$pairs" $([ "$kind" = lora ] && echo --lora)
    done
done

"$python" - "$work" <<'PYTHON'
import json, statistics, sys
from pathlib import Path

import numpy as np

work = Path(sys.argv[1])
print("| | ours, tokens/s | peer, tokens/s | ratio (of the rounds) | ours, MB | peer, MB | tokens, ours and peer's |")
print("|---|---|---|---|---|---|---|")
for case in ("encode", "train-full", "train-lora"):
    ours, peer = ([json.loads(line) for line in (work / f"{case}.{side}").read_text().splitlines()] for side in ("ours", "peer"))
    speed = [statistics.median(run["tokens_per_second"] for run in side) for side in (ours, peer)]
    memory = [statistics.median(run["peak_mb"] for run in side) for side in (ours, peer)]
    ratios = " ".join(f"{a['tokens_per_second'] / b['tokens_per_second']:.2f}" for a, b in zip(ours, peer))
    print(f"| {case} | {speed[0]:,.0f} | {speed[1]:,.0f} | {speed[0] / speed[1]:.2f} ({ratios}) | {memory[0]:,.0f} | {memory[1]:,.0f} "
          f"| {ours[0]['tokens']:,} / {peer[0]['tokens']:,} |")
    if case == "encode" and ours[0]["tokens"] != peer[0]["tokens"]:
        print("warning: the two sides count other tokens: they do not read the texts alike", file=sys.stderr)
difference = np.abs(np.load(work / "ours.npy").astype(np.float64) - np.load(work / "peer.npy")).max()
print(f"\nLargest difference between the embeddings: {difference:.1e}")
PYTHON
