#!/usr/bin/env python3
"""Does mteb read these results? check_results.py FOLDER [--expect TASK=SCORE]…

FOLDER holds `<model>/<revision>/<Task>.json` and `model_meta.json`. Every task file is read with mteb's own loader, alone and as a
results cache; prints the main score that mteb reads, one line a task. Tasks that mteb does not know are read too. Exit code 0: all is
read; 1: a file is not read or has no score, or a score is not the expected one (to 1e-6); 2: misused.
"""

import argparse
import json
import logging
import math
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import mteb
from mteb.results import TaskResult

logging.disable(logging.WARNING)

TOLERANCE = 1e-6
META = "model_meta.json"


def expectation(text: str) -> tuple[str, float]:
    task, _, score = text.rpartition("=")
    try:
        value = float(score)
    except ValueError:
        value = math.nan
    if not task or not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"`{text}` is not TASK=SCORE, such as RuSTSBenchmarkSTS=0.801")
    return task, value


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def score_of(result: TaskResult) -> float:
    """The main score as mteb aggregates it over splits and subsets; neither looks the task up by its name."""
    empty = [split for split, entries in result.scores.items() if not entries]
    if empty or not result.scores:
        raise ValueError(f"has no scores{f' for split {empty[0]}' if empty else ''}")
    if any(entry["main_score"] is None for entries in result.scores.values() for entry in entries):
        raise ValueError("its main score is null")
    score = float(result.get_score())
    if not math.isfinite(score):
        raise ValueError(f"its main score is {score}")
    return score


def read_alone(path: Path) -> tuple[tuple[str, str, str], float]:
    """(model, revision, task) and the score of one file."""
    # mteb takes a file without it for one of before 1.11, and then asks for that format's keys.
    if not {"mteb_version", "mteb_dataset_name"} & json.loads(path.read_text(encoding="utf-8")).keys():
        raise ValueError("has no mteb_version, so mteb does not read it")
    result = TaskResult.from_disk(path)
    if result.task_name != path.stem:
        raise ValueError(f"holds the task {result.task_name}: mteb finds results by file name")
    score = score_of(result)
    meta_path = path.parent / META
    if not meta_path.is_file():
        raise ValueError(f"there is no {META} beside it: mteb passes over such results")
    meta = json.loads(meta_path.read_text(encoding="utf-8"))
    folder = meta["name"].replace("/", "__").replace(" ", "_")
    if (folder, meta["revision"]) != (path.parent.parent.name, path.parent.name):
        raise ValueError(f"{META} says {meta['name']} {meta['revision']}: mteb looks for this model in {folder}/{meta['revision']}")
    return (meta["name"], meta["revision"], result.task_name), score


def read_as_cache(folder: Path) -> dict[tuple[str, str, str], float]:
    """(model, revision, task) → score, through mteb's ResultCache."""
    with tempfile.TemporaryDirectory() as temporary:
        shutil.copytree(folder, Path(temporary) / "results")
        cache = mteb.ResultCache(cache_path=temporary)
        loaded = cache.load_results(include_remote=False)
    return {
        (model.model_name, model.model_revision or "", result.task_name): score_of(result)
        for model in loaded.model_results
        for result in model.task_results
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="holds <model>/<revision>/<Task>.json")
    parser.add_argument("--expect", type=expectation, action="append", default=[], metavar="TASK=SCORE")
    args = parser.parse_args()
    if not args.folder.is_dir():
        parser.error(f"{args.folder}: no such folder")
    paths = sorted(path for path in args.folder.glob("*/*/*.json") if path.name != META)
    if not paths:
        print(f"FAILED {args.folder}: holds no <model>/<revision>/<Task>.json")
        return 1

    faults: list[str] = []
    alone: dict[tuple[str, str, str], float] = {}
    for path in paths:
        shown = path.relative_to(args.folder)
        try:
            key, score = read_alone(path)
        except Exception as error:  # whatever the loader raises is the finding
            faults.append(f"{shown}: {one_line(error)}")
        else:
            alone[key] = score
            print(f"{shown}: {score:.6f}")

    if not faults:
        try:
            cached = read_as_cache(args.folder)
        except Exception as error:
            faults.append(f"as a results cache: {one_line(error)}")
        else:
            for key in sorted(alone.keys() | cached.keys()):
                if alone.get(key) != cached.get(key):
                    faults.append(f"{' '.join(key)}: {alone.get(key)} read alone, {cached.get(key)} from the results cache")

    for task, expected in args.expect:
        found = [score for (_, _, name), score in alone.items() if name == task]
        if not found:
            faults.append(f"{task}: expected {expected:g}, but no file that mteb reads has this task")
        for score in found:
            if abs(score - expected) > TOLERANCE:
                faults.append(f"{task}: mteb reads {score:.8g}, expected {expected:.8g}")

    for fault in faults:
        print(f"FAILED {fault}")
    if not faults:
        models = len({key[:2] for key in alone})
        print(f"ok {args.folder}: mteb {mteb.__version__} reads {len(alone)} results of {models} model{'s' if models != 1 else ''}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
