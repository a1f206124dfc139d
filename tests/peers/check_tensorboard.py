#!/usr/bin/env python3
"""Do TensorBoard and transformers read a run's logs? check_tensorboard.py FOLDER [--expect-steps N] | --golden

FOLDER holds `log.jsonl`, `tensorboard/`, `trainer_state.json` and EmbedRAG's three files. The event files are read with
TensorBoard's own accumulators, the one that its plugins use and the older one of scalars, keeping every event: each tag has each
step of the log exactly once, with the log's value (to f32) and time. `trainer_state.json` is loaded with transformers' TrainerState
and its history compared with the log; EmbedRAG's means are computed anew. Exit code 0: all is read and right; 1: something is not;
2: misused. --golden prints the records that src/train/log/tensorboard.rs expects of TensorBoard's writer, as hexadecimal digits.
"""

import argparse
import io
import json
import logging
import math
import struct
import sys
from pathlib import Path

from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util

logging.disable(logging.WARNING)

CURVES = ("loss", "learning_rate", "grad_norm", "epoch")
TEXT = "config/text_summary"
EMBEDRAG_STEP = {"epoch", "step", "global_step", "loss", "learning_rate", "step_duration", "timestamp"}
EMBEDRAG_EPOCH = {"epoch", "avg_loss", "total_loss", "num_steps", "epoch_duration", "learning_rate", "timestamp"}
EMBEDRAG_REPORT = {
    "training_completed",
    "completion_time",
    "total_duration_hours",
    "model_info",
    "training_args",
    "performance_summary",
    "loss_progression",
}
EMBEDRAG_SUMMARY = {"total_training_time", "total_epochs", "total_steps", "final_loss", "best_loss", "avg_step_duration"}


class Wrong(Exception):
    """Something is not as the log says."""


def check(condition: bool, message: str) -> None:
    if not condition:
        raise Wrong(message)


def close(a: float | None, b: float | None, tolerance: float = 1e-12) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=0.0)


def read_json(path: Path):
    """Strict JSON: Python alone takes NaN and Infinity for numbers."""

    def refuse(name: str):
        raise Wrong(f"{path}: {name} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def read_log(path: Path) -> tuple[list[dict], list[dict]]:
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    check(all(record["type"] in ("step", "eval") for record in records), f"{path}: a record of neither type")
    places = [(record["step"], record["type"] == "eval") for record in records]
    check(places == sorted(places), f"{path}: records are out of order")
    steps = [record for record in records if record["type"] == "step"]
    check([r["step"] for r in steps] == list(range(1, len(steps) + 1)), f"{path}: steps are missing or double")
    return steps, [record for record in records if record["type"] == "eval"]


def expected_curves(steps: list[dict], evals: list[dict]) -> dict[str, list[tuple[int, float | None, float]]]:
    curves: dict[str, list] = {}
    for record in steps:
        figures = {name: record[name] for name in CURVES} | {**record.get("extra", {})}
        for name, value in figures.items():
            curves.setdefault(f"train/{name}", []).append((record["step"], value, record["time"]))
    for record in evals:
        for name, value in record["metrics"].items():
            curves.setdefault(f"eval/{name}", []).append((record["step"], value, record["time"]))
    return curves


def f32(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


def compare_curves(reader: str, read: dict[str, list], expected: dict[str, list]) -> int:
    check(set(read) == set(expected), f"{reader}: tags {sorted(read)}, expected {sorted(expected)}")
    points = 0
    for tag, events in read.items():
        steps = [step for step, _, _ in events]
        check(steps == [step for step, _, _ in expected[tag]], f"{reader}: {tag} has steps {steps}")
        for (step, value, time), (_, logged, logged_time) in zip(events, expected[tag], strict=True):
            same = not math.isfinite(value) if logged is None else value == f32(logged)
            check(same, f"{reader}: {tag} at step {step} is {value}, the log has {logged}")
            check(abs(time - logged_time) < 1e-6, f"{reader}: {tag} at step {step} is of {time}, the log has {logged_time}")
            points += 1
    return points


def check_tensorboard(folder: Path, expected: dict[str, list]) -> int:
    old = event_accumulator.EventAccumulator(
        str(folder), size_guidance={event_accumulator.SCALARS: 0, event_accumulator.TENSORS: 0}
    )
    old.Reload()
    scalars = {tag: [(e.step, e.value, e.wall_time) for e in old.Scalars(tag)] for tag in old.Tags()["scalars"]}
    points = compare_curves("EventAccumulator", scalars, expected)
    check(old.Tags()["tensors"] == [TEXT], f"texts are {old.Tags()['tensors']}")

    new = plugin_event_accumulator.EventAccumulator(
        str(folder), size_guidance={plugin_event_accumulator.TENSORS: 0}, tensor_size_guidance={"scalars": 0, "text": 0}
    )
    new.Reload()
    tags = set(new.PluginTagToContent("scalars"))
    tensors = {
        tag: [(e.step, float(tensor_util.make_ndarray(e.tensor_proto)), e.wall_time) for e in new.Tensors(tag)]
        for tag in tags
    }
    compare_curves("plugin EventAccumulator", tensors, expected)
    check(set(new.PluginTagToContent("text")) == {TEXT}, "the text plugin does not find the configuration")
    text = tensor_util.make_ndarray(new.Tensors(TEXT)[0].tensor_proto)
    check(text.shape == (1,), f"the configuration's text has shape {text.shape}")
    settings = "\n".join(line for line in text[0].decode("utf-8").split("\n") if line.startswith("    "))
    json.loads(settings)
    return points


def without_null(figures: dict) -> dict:
    return {name: value for name, value in figures.items() if value is not None}


def check_trainer_state(path: Path, steps: list[dict], evals: list[dict]) -> str:
    from transformers.modelcard import parse_log_history
    from transformers.trainer_callback import TrainerControl, TrainerState

    read_json(path)
    state = TrainerState.load_from_json(str(path))
    again = io.StringIO()
    json.dump(vars(state), again, sort_keys=True)
    check(json.loads(again.getvalue()) == read_json(path), f"{path}: does not survive TrainerState")
    check(state.global_step == steps[-1]["step"], f"{path}: global_step is {state.global_step}")
    check(close(state.epoch, steps[-1]["epoch"]), f"{path}: epoch is {state.epoch}")
    check(state.num_input_tokens_seen == steps[-1]["tokens"], f"{path}: tokens are {state.num_input_tokens_seen}")
    TrainerControl(**state.stateful_callbacks["TrainerControl"]["args"])

    entries = []
    for record in sorted([*steps, *evals], key=lambda record: (record["step"], record["type"] == "eval")):
        figures = {"epoch": record["epoch"], "step": record["step"]}
        if record["type"] == "step":
            figures |= {name: record[name] for name in CURVES} | record.get("extra", {})
        else:
            figures |= {f"eval_{name}": value for name, value in record["metrics"].items()}
        entries.append(without_null(figures))
    check(len(state.log_history) == len(entries) + 1, f"{path}: {len(state.log_history)} entries for {len(entries)} records")
    for entry, expected in zip(state.log_history, entries):
        same = set(entry) == set(expected) and all(close(entry[name], expected[name]) for name in expected)
        check(same, f"{path}: {entry} for {expected}")
    end = state.log_history[-1]
    check(close(end["train_runtime"], steps[-1]["seconds"]), f"{path}: train_runtime is {end['train_runtime']}")

    if state.best_metric is not None:
        best = [r for r in evals if r["step"] == state.best_global_step and state.best_metric in r["metrics"].values()]
        check(bool(best), f"{path}: no evaluation has {state.best_metric} at step {state.best_global_step}")
    if state.best_model_checkpoint is not None:
        check(Path(state.best_model_checkpoint).is_dir(), f"{path}: {state.best_model_checkpoint} is not there")
    _, lines, results = parse_log_history(state.log_history)
    with_loss = [record for record in evals if record["metrics"].get("loss") is not None]
    check(len(lines) == len(with_loss), f"{path}: a model card would have {len(lines)} rows")
    check(not with_loss or close(results["Loss"], with_loss[-1]["metrics"]["loss"]), f"{path}: last evaluation {results}")
    return f"{len(state.log_history)} entries, best {state.best_metric} at step {state.best_global_step}"


def check_embedrag(folder: Path, steps: list[dict]) -> str:
    detailed, losses, report = (
        read_json(folder / name)
        for name in ("detailed_training_logs.json", "training_losses.json", "training_summary_report.json")
    )
    epochs: dict[int, list[dict]] = {}
    for record in steps:
        epochs.setdefault(math.ceil(record["epoch"] - 1e-9), []).append(record)
    means = {}
    for epoch, records in epochs.items():
        values = [record["loss"] for record in records]
        means[epoch] = None if None in values else math.fsum(values) / len(values)
    check([entry["epoch"] for entry in losses] == list(means), f"training_losses.json has {losses}")
    for entry, progress in zip(losses, report["loss_progression"], strict=True):
        check(close(entry["loss"], means[entry["epoch"]]), f"training_losses.json: {entry}, expected {means}")
        check(progress == {"epoch": entry["epoch"], "avg_loss": entry["loss"]}, f"loss_progression: {progress}")
    check(len(detailed["step_logs"]) == len(steps), f"{len(detailed['step_logs'])} step_logs for {len(steps)} steps")
    for log, record in zip(detailed["step_logs"], steps):
        check(EMBEDRAG_STEP <= set(log), f"step_logs: {log} lacks {EMBEDRAG_STEP - set(log)}")
        same = log["global_step"] == record["step"] - 1 and close(log["loss"], record["loss"])
        check(same, f"step_logs: {log} for {record}")
    check(all(EMBEDRAG_EPOCH <= set(log) for log in detailed["epoch_logs"]), "epoch_logs lack a key")
    check(EMBEDRAG_REPORT <= set(report), f"the report lacks {EMBEDRAG_REPORT - set(report)}")
    summary = report["performance_summary"]
    check(EMBEDRAG_SUMMARY <= set(summary), f"the summary lacks {EMBEDRAG_SUMMARY - set(summary)}")
    check(summary["total_steps"] == len(steps), f"total_steps is {summary['total_steps']}")
    finite = [mean for mean in means.values() if mean is not None]
    check(close(summary["best_loss"], min(finite, default=None)), f"best_loss is {summary['best_loss']}")
    check(close(summary["final_loss"], means[max(means)]), f"final_loss is {summary['final_loss']}")
    return f"{len(losses)} epochs, best loss {summary['best_loss']}"


def golden() -> None:
    scalars = summary_pb2.Summary()
    scalars.value.add(tag="train/loss", simple_value=0.75)
    scalars.value.add(tag="train/learning_rate", simple_value=0.0)
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    text = text_pb("config/text_summary", ["**r** = 8"])
    for value in text.value:
        value.metadata.plugin_data.content = b""
    events = [
        event_pb2.Event(wall_time=1.5, file_version="brain.Event:2"),
        event_pb2.Event(wall_time=1.5, step=301, session_log=start),
        event_pb2.Event(wall_time=1.5, step=300, summary=scalars),
        event_pb2.Event(wall_time=1.5, step=7, summary=text),
    ]
    for event in events:
        file = io.BytesIO()
        RecordWriter(file).write(event.SerializeToString(deterministic=True))
        print(file.getvalue().hex())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--expect-steps", type=int, metavar="N")
    parser.add_argument("--golden", action="store_true")
    arguments = parser.parse_args()
    if arguments.golden:
        golden()
        return 0
    if arguments.folder is None:
        parser.error("FOLDER is missing")
    folder = arguments.folder
    try:
        steps, evals = read_log(folder / "log.jsonl")
        check(bool(steps), "the log has no step")
        expected = arguments.expect_steps
        check(expected in (None, len(steps)), f"the log has {len(steps)} steps, expected {expected}")
        curves = expected_curves(steps, evals)
        points = check_tensorboard(folder / "tensorboard", curves)
        state = check_trainer_state(folder / "trainer_state.json", steps, evals)
        embedrag = check_embedrag(folder, steps)
    except (Wrong, OSError, ValueError, KeyError, TypeError) as error:
        print(f"{folder}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"{folder}: {len(steps)} steps, {len(evals)} evaluations")
    print(f"  TensorBoard: {points} points under {len(curves)} tags: {', '.join(sorted(curves))}")
    print(f"  trainer_state.json: {state}")
    print(f"  EmbedRAG: {embedrag}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
