#!/usr/bin/env python3
"""embeval beside its peers on the same data: Markdown tables of medians, of the rounds' ratios, and of peak memory.

encode  ragged texts: sentence-transformers, ONNX Runtime and OpenVINO in f32, sentence-transformers and OpenVINO in bf16
train   full and LoRA steps on each file of pairs, and on texts of 128 tokens each: sentence-transformers and PEFT
score   task files: mteb, with what encoding takes and what all else takes
sweep   LoRA trainings, SLERP merges, and the scores of all of them: a Python script that does the same
cost    what a token costs embeval by length, number of texts and threads: cost.py

Sides take turns, each in a process of its own on THREADS threads (2), ROUNDS rounds (3). Tokens are real ones, padding not counted. Peers warm
up, embeval starts cold. Peak memory is the process's largest resident set. Run it on a quiet machine.
"""

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import common
from common import ALPHAS, BATCH, MAX_LENGTH, RANKS, ROOT, ROUNDS, SWEEP_RATE, TEMPERATURES, THREADS, median, peer, ratios, table, turns

EVERYDAY = ROOT / "tasks/everyday"
WARM_UP = 2  # steps of training that are not timed, on both sides; train.py's
LIBRARIES = ("sentence-transformers", "transformers", "torch", "peft", "mteb", "scikit-learn", "onnxruntime", "openvino")


def write_yaml(path: Path, content: dict) -> Path:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")  # JSON is YAML
    return path


def training(args, pairs: Path, name: str, **changes) -> dict:
    """embeval's config of what train.py does."""
    train = {"batch": BATCH, "lr": 2e-5, "schedule": "constant", "warmup": 0, "weight_decay": 0, "clip": 1.0, "seed": 1,
             "max_length": {"query": MAX_LENGTH, "document": MAX_LENGTH}}
    return {
        "name": name,
        "base": str(args.model),
        "data": {"train": str(pairs), "prompts": {"query": "", "document": ""}},
        "objective": "asymmetric",
        "loss": {"name": "info_nce", "temperature": 0.05, "hard_negatives": 0},
        "run": {"device": "cpu"},
        **changes,
        "train": train | changes.get("train", {}),
    }


def has_dtype(binary: Path) -> bool:
    return "--dtype" in subprocess.run([binary, "encode", "--help"], capture_output=True, text=True, check=True).stdout


def encode(args, work: Path) -> None:
    if args.texts:
        texts = args.texts
    else:
        texts = common.write_rows(work / "texts.jsonl", ({"text": text} for path in args.pairs for pair in common.read_pairs(path, 256) for text in pair))
    graph = work / "graph.onnx"
    common.run(peer("encode.py", args.model, "--export", graph), work / "export")
    binary = common.binary()
    theirs = lambda engine, dtype: peer("encode.py", args.model, texts, "--engine", engine, "--dtype", dtype, "--graph", graph, "--output", "out.npy")
    ours = [binary, "-q", "encode", args.model, "--input", texts, "--output", "out.npy", "--device", "cpu", "--format", "json"]
    sides = {
        "embeval f32": ours,
        "sentence-transformers f32": theirs("torch", "f32"),
        "ONNX Runtime f32": theirs("onnx", "f32"),
        "OpenVINO f32": theirs("openvino", "f32"),
        "embeval bf16": [*ours, "--dtype", "bf16"],
        "sentence-transformers bf16": theirs("torch", "bf16"),
        "OpenVINO bf16": theirs("openvino", "bf16"),
    }
    if not has_dtype(binary):
        del sides["embeval bf16"]
        print("embeval bf16 is left out: this binary's `encode` has no --dtype.\n")
    runs = turns("encode", sides, work)
    (tokens, *others) = {run["tokens"] for side in runs.values() for run in side}
    if others:
        print(f"The sides count other tokens ({tokens:,}, {others[0]:,}): they do not read the texts alike.\n")
    truth = runs["sentence-transformers f32"][0]["folder"] / "out.npy"
    rows = []
    for side, done in runs.items():
        own = runs.get(f"embeval {side.rsplit(' ', 1)[1]}")
        difference = max(common.difference(run["folder"] / "out.npy", truth) for run in done)
        over = ratios(own, done, "tokens_per_second") if own and own is not done else ""
        rows.append([side, f"{median(done, 'tokens_per_second'):,.0f}", over, f"{median(done, 'peak_mb'):,.0f}", f"{difference:.1e}"])
    print(f"{done[0]['texts']:,} texts, {tokens:,} tokens. Differences are of an embedding's value, the largest, from sentence-transformers f32.\n")
    print(table(["encode", "tokens/s", "embeval's over it (rounds)", "peak, MB", "difference"], rows))


def distinct_pairs(path: Path) -> list[tuple[str, str]]:
    """Pairs none of whose texts came before (embeval takes the same text elsewhere in a batch for no negative, the peer takes it for one),
    shuffled, since embeval draws its own order and neighbours in a file may be alike."""
    seen: set[str] = set()
    pairs = []
    for pair in common.read_pairs(path, 4000):
        if seen.isdisjoint(pair):
            seen.update(pair)
            pairs.append(pair)
    random.Random(1).shuffle(pairs)
    return pairs


def of_one_length(model: Path, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs whose texts are repeated until they fill MAX_LENGTH; training cuts what is too much."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def filled(text: str) -> str:
        count = len(tokenizer.encode(text, add_special_tokens=False).ids)
        return " ".join([text] * -(-MAX_LENGTH // max(count, 1)))

    return [(filled(query), filled(positive)) for query, positive in pairs]


def after_warm_up(run: dict) -> dict:
    """embeval's run without its first WARM_UP steps, from its log."""
    steps = [row for row in common.read_rows(run["folder"] / "run/log.jsonl") if row["type"] == "step"]
    warm, last = steps[WARM_UP - 1], steps[-1]
    return run | {"tokens_per_second": (last["tokens"] - warm["tokens"]) / (last["seconds"] - warm["seconds"])}


def train(args, work: Path) -> None:
    binary, rows = common.binary(), []
    sets = {path.parent.name if path.name.startswith("train.") else path.name.split(".")[0]: distinct_pairs(path) for path in args.pairs}
    sets[f"{MAX_LENGTH} tokens each"] = of_one_length(args.model, list(sets.values())[-1])
    steps = args.steps + WARM_UP
    for name, pairs in sets.items():
        if len(pairs) < steps * BATCH:
            sys.exit(f"error: {name}: has {len(pairs)} rows of texts that do not repeat, {steps * BATCH} are needed")
        folder = work / name.replace(" ", "-")
        folder.mkdir()
        many = common.write_pairs(folder / "many.jsonl", pairs[: steps * BATCH])
        batch = common.write_pairs(folder / "batch.jsonl", pairs[:BATCH])  # one batch, whatever order its rows are drawn in
        for kind, adapter in {"full": {"kind": "full"}, "lora": {"kind": "lora", "rank": 8, "alpha": 16, "dropout": 0.0, "targets": ["query", "value"]}}.items():
            case, lora = f"{name} {kind}", ["--lora"] if kind == "lora" else []
            config = write_yaml(folder / f"{kind}.yaml", training(args, many, kind, adapter=adapter))
            still = write_yaml(folder / f"{kind}-still.yaml", training(args, batch, kind, adapter=adapter, train={"epochs": 5, "dropout": 0}))
            ours = lambda config: [binary, "-q", "train", config, "--output", "run", "--format", "json"]
            same = turns(f"{case} losses", {
                "embeval": ours(still), "peer": peer("train.py", args.model, batch, *lora, "--steps", 5 - WARM_UP, "--no-dropout")}, folder, rounds=1)
            runs = turns(case, {"embeval": ours(config), "peer": peer("train.py", args.model, many, *lora, "--steps", args.steps)}, folder)
            mine, theirs = [after_warm_up(run) for run in runs["embeval"]], runs["peer"]
            last = [same[side][0]["losses"][-1] for side in ("embeval", "peer")]
            means = [statistics.fmean(side[0]["losses"]) for side in (mine, theirs)]
            rows.append([
                name, kind, *(f"{median(side, 'tokens_per_second'):,.0f}" for side in (mine, theirs)), ratios(mine, theirs, "tokens_per_second"),
                *(f"{median(side, 'peak_mb'):,.0f}" for side in (mine, theirs)), *(f"{loss:.5f}" for loss in last), *(f"{loss:.3f}" for loss in means)])
    print(f"{args.steps} timed steps of {BATCH} pairs. Losses of step 5 over one batch without dropout, which must agree (LoRA: but for its random start), and the mean of all timed runs' "
          "steps, over the same rows in another order with dropout.\n")
    print(table(["pairs", "weights", "embeval, tokens/s", "peer, tokens/s", "ratio (rounds)", "embeval, MB", "peer, MB", "loss 5, embeval", "loss 5, peer",
                 "mean loss, embeval", "mean loss, peer"], rows, words=2))


def score(args, work: Path) -> None:
    tasks = ["--tasks", *args.tasks]
    ours = [common.binary(), "-q", "score", args.model, *tasks, "--cache-size", 0, "--device", "cpu", "--format", "json"]
    runs = turns("score", {"embeval": ours, "mteb": peer("score.py", args.model, *args.tasks)}, work)
    by_name = {side: [{task["name"]: task for task in run["tasks"]} for run in done] for side, done in runs.items()}
    seconds = lambda side, name, part: statistics.median(run[name]["seconds"][part] for run in by_name[side])
    sums, rows = dict.fromkeys(("encode", "encode mteb", "feed", "rest", "rest mteb"), 0.0), []
    for name, task in by_name["embeval"][0].items():
        times = [seconds("embeval", name, "encode"), seconds("mteb", name, "encode"), seconds("mteb", name, "feed"),
                 seconds("embeval", name, "rest"), seconds("mteb", name, "rest")]
        sums = {key: total + time for (key, total), time in zip(sums.items(), times, strict=True)}
        difference = task["main_score"] - by_name["mteb"][0][name]["main_score"]
        rows.append([name, task["type"], f"{task['main_score']:.6f}", f"{difference:+.1e}", *(f"{time:.2f}" for time in times[:3]),
                     f"{times[3]:.4f}", f"{times[4]:.3f}", f"{times[4] / max(times[3], 1e-4):,.0f}"])
    rows.append(["sum", "", "", "", *(f"{sums[key]:.2f}" for key in ("encode", "encode mteb", "feed")), f"{sums['rest']:.4f}",
                 f"{sums['rest mteb']:.3f}", f"{sums['rest mteb'] / sums['rest']:,.0f}"])
    print("Seconds, medians of the rounds. The rest: classifiers, k-means, searches, measures; mteb's loader, which feeds its encoder, is not in it. "
          "embeval tells the rest to 0.1 ms.\n")
    print(table(["task", "type", "score", "difference to mteb", "encoding", "mteb's", "mteb's feeding", "the rest", "mteb's rest", "times"], rows, words=2))
    print(f"Wall time of the process: {median(runs['embeval'], 'wall'):.1f} s, mteb {median(runs['mteb'], 'wall'):.1f} s; mteb's over embeval's: "
          f"{ratios(runs['mteb'], runs['embeval'], 'wall')}. Peak: {median(runs['embeval'], 'peak_mb'):,.0f} MB, mteb {median(runs['mteb'], 'peak_mb'):,.0f} MB.\n")


def sweep(args, work: Path) -> None:
    steps, tasks = args.steps, [str(path) for path in args.tasks[: args.sweep_tasks]]
    pairs = common.write_pairs(work / "sweep.jsonl", distinct_pairs(args.pairs[0])[: steps * BATCH])
    ends = {"first": {"loss.temperature": TEMPERATURES[0]}, "second": {"loss.temperature": TEMPERATURES[1]}}
    config = write_yaml(work / "sweep.yaml", training(
        args, pairs, "sweep", adapter={"kind": "lora", "targets": ["query", "value"]}, train={"epochs": 1_000, "max_steps": steps, "lr": SWEEP_RATE},
        grid={"adapter.rank": list(RANKS), "loss.temperature": list(TEMPERATURES)}, merge=[{"slerp": ends | {"alpha": list(ALPHAS)}}],
        score={"tasks": tasks, "checkpoints": "last", "seeds": 1}, choose={"on": "test", "by": "mean_task", "seeds": 1}))
    runs = turns("sweep", {
        "embeval": [common.binary(), "-q", "sweep", config], "script": peer("sweep.py", args.model, pairs, *tasks, "--steps", steps)}, work)
    trained, merged = len(RANKS) * len(TEMPERATURES), len(RANKS) * len(ALPHAS)
    print(f"{trained} LoRA trainings of {steps} steps, {merged} SLERP merges, {1 + trained + merged} models scored on {len(tasks)} tasks; embeval also writes its report, "
          "intervals and tests. Wall time from start to end; of several processes, the largest one's memory.\n")
    rows = [[side, f"{median(done, 'wall'):.1f}", "" if side == "embeval" else ratios(done, runs["embeval"], "wall"), f"{median(done, 'peak_mb'):,.0f}"]
            for side, done in runs.items()]
    print(table(["sweep", "seconds", "over embeval's (rounds)", "peak, MB"], rows))
    script = runs["script"][0]
    print(f"The script's seconds: {', '.join(f'{what} {seconds:.1f}' for what, seconds in script['seconds'].items())}.")
    report = runs["embeval"][0]["folder"] / "reports/sweep/README.md"
    ours = [line.split("|")[1:3] for line in report.read_text(encoding="utf-8").splitlines() if line.startswith(("| base", "| r", "| slerp"))][: len(script["means"])]
    print("Means of the scores, embeval's and the script's:\n")
    print(table(["embeval", "mean", "script", "mean"], [[label.strip(), mean.split("±")[0].strip(" *"), name, f"{100 * theirs:.1f}"] for (label, mean), (name, theirs)
                in zip(ours, script["means"].items(), strict=True)]))


def cost(args, work: Path) -> None:
    subprocess.run(peer("cost.py", "--output", args.cost_output), check=True)


CASES = {case.__name__: case for case in (encode, train, score, sweep, cost)}


def about() -> str:
    """What ran where."""
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo", encoding="utf-8") if line.startswith("model name")), platform.machine())
    versions = []
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"no {name}")
    ours = subprocess.run([common.binary(), "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return f"{ours}; {', '.join(versions)}; {cpu}, {THREADS} threads, {ROUNDS} rounds; load at the start {os.getloadavg()[0]:.1f}.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"{', '.join(CASES)} (default: encode train score)")
    parser.add_argument("--model", type=Path, help="default: the small English model of PEER; mean pooling, normalised")
    parser.add_argument("--texts", type=Path, help="encode: JSON lines (default: texts of the pairs)")
    parser.add_argument("--pairs", type=Path, action="append", help="train, sweep (the first file): JSON lines with query and pos; may be given again")
    parser.add_argument("--tasks", type=Path, action="append", help="score, sweep: a task file or a folder of them; may be given again (default: tasks/everyday)")
    parser.add_argument("--steps", type=int, default=10, help="train, sweep: steps of a training (10)")
    parser.add_argument("--sweep-tasks", type=int, default=3, help="sweep: how many of the tasks, from the first (3)")
    parser.add_argument("--cost-output", type=Path, default=ROOT / "reports/cost", help="cost: the folder of its table and plots (reports/cost)")
    args = parser.parse_args()
    unknown = [case for case in args.cases if case not in CASES]
    if unknown:
        parser.error(f"{', '.join(unknown)}: not one of {', '.join(CASES)}")
    args.model = (args.model or Path(os.environ["PEER"]) / "all-MiniLM-L6-v2").resolve()
    args.texts = args.texts and args.texts.resolve()
    args.pairs = [path.resolve() for path in args.pairs or [EVERYDAY / "pairs-train.jsonl"]]
    folders = [path.resolve() for path in args.tasks or [EVERYDAY]]
    args.tasks = [task for path in folders for task in (sorted(path.glob("*.yaml")) if path.is_dir() else [path])]
    args.cost_output = args.cost_output.resolve()
    with common.work_folder() as work:
        os.environ["BINARY"] = shutil.copy(common.binary(), work)  # whoever builds meanwhile changes nothing
        print(about(), flush=True)
        for case in args.cases or ("encode", "train", "score"):
            folder = Path(work) / case
            folder.mkdir()
            CASES[case](args, folder)
            sys.stdout.flush()


if __name__ == "__main__":
    main()
