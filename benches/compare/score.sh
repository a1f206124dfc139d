#!/usr/bin/env bash
# score.sh MODEL_DIR TASKS_DIR [BINARY]: embeval and mteb score a model on the same task files, one after the other: times and ratios.
#
# All tasks of TASKS_DIR (over jsonl files), THREADS threads (2), nothing cached: run it on a quiet machine. PEER is the folder that
# tests/peers/setup.sh made (default: target/peer); BINARY defaults to target/release/embeval. mteb's JSON lines are kept in MTEB, if
# that is set, and taken from there if they are there.
set -euo pipefail

usage="usage: score.sh MODEL_DIR TASKS_DIR [BINARY]"
model=$(realpath -e "${1:?$usage}")
tasks=$(realpath -e "${2:?$usage}")
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
binary=$(realpath -e "${3:-$root/target/release/embeval}")
python=${PEER:-$root/target/peer}/venv/bin/python
[ -x "$python" ] || { echo "error: $python: not there; run tests/peers/setup.sh FOLDER and set PEER=FOLDER" >&2; exit 2; }

export THREADS=${THREADS:-2}
export RAYON_NUM_THREADS=$THREADS OMP_NUM_THREADS=$THREADS MKL_NUM_THREADS=$THREADS OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=true
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
peer=${MTEB:-$work/mteb.jsonl}

echo "embeval" >&2
start=$(date +%s.%N)
"$binary" -q score "$model" --tasks "$tasks" --cache-size 0 --device cpu --format json >"$work/ours.json"
ours=$(echo "$(date +%s.%N) - $start" | bc)
if [ ! -s "$peer" ]; then
    echo "mteb" >&2
    "$python" "$here/score.py" "$model" "$tasks"/*.yaml >"$peer.part"
    mv "$peer.part" "$peer"
fi

"$python" - "$work/ours.json" "$peer" "$ours" <<'PYTHON'
import json, sys

ours = json.load(open(sys.argv[1]))["tasks"]
peer = {row["name"]: row for row in map(json.loads, open(sys.argv[2]))}
print("| task | type | ours | mteb | difference | encoding: ours, mteb, s | the rest: ours, mteb, s |")
print("|---|---|---:|---:|---:|---:|---:|")
sums = [0.0] * 4
for task in ours:
    other = peer[task["name"]]
    times = (task["seconds"]["encode"], other["encode"], task["seconds"]["rest"], other["rest"])
    sums = [a + b for a, b in zip(sums, times)]
    print(f"| {task['name']} | {task['type']} | {task['main_score']:.6f} | {other['main_score']:.6f} | {task['main_score'] - other['main_score']:+.1e} "
          f"| {times[0]:.1f}, {times[1]:.1f} | {times[2]:.2f}, {times[3]:.2f} |")
total = sum(row["total"] for row in peer.values())
wall = float(sys.argv[3])
print(f"\nWall time: ours {wall:.1f} s (start, model and reading of files in it), mteb {total:.1f} s (without these): {total / wall:.2f} times sooner.")
print(f"Encoding: {sums[0]:.1f} and {sums[1]:.1f} s, {sums[1] / sums[0]:.2f} times. The rest: {sums[2]:.2f} and {sums[3]:.2f} s, {sums[3] / sums[2]:.1f} times.")
PYTHON
