#!/usr/bin/env python3
"""embeval and sentence-transformers encode with one model after another: architectures.py EMBEVAL MODELS [NAME …] --output TABLE.md

MODELS is the folder that tests/peers/make_random_models.py filled (default: every model in it). The texts, 1,000 of 5 to 200 Russian and English
words (log-uniform), are made here. Per model, ROUNDS rounds in turn, each side a process of its own on THREADS threads: f32, batches of 32 by
length there, packed here. Both tell tokens (special ones counted, padding not) and the seconds of tokenizing and encoding; loading, and there a
batch to warm up, are not timed. Memory is the process's peak. TABLE.md has medians of what is measured so far, TABLE.json every run: stopped
at any time, or called with one NAME at a time, it goes on from there. Run it on a quiet machine. Exit code 1: the sides do not agree.
"""

import argparse
import hashlib
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIMIT = 1e-3  # largest difference of two embeddings of length 1

RUSSIAN = """аптека банк берег билет больше весна врач вышла где гитара гора город далёкой двести дети длинный дня добавьте дождь завтра закон закрыт звезда
играют как книгу команда комната кошка лето мост музей мёд находится немного новый ночь обновления один окна она отказал ошибка пешком планета поезд
получился после построили программы простуда процентов прочитала пять река ремонт рис самолёт семь силу сколько снег собирают соли спит старый стоит
страна строке телефон третий тёплом угол утра учёные фильм футбол хлеб цены школы январе""".split()
ENGLISH = """add after ago all bank bees boil book boring bread bridge built burst cat children closed cold comes corner country cure days distant doctor
does expected film five football found gather guitar honey hotel how hundred january law leaves line little loan long lost mistake more morning
mountains museum near nearest new night north old one percent pharmacy phone plane planet play prices program rains read refused rice river room salt
school scientists seen seven sleeping snow spring stands star summer team third three ticket tomorrow train turned two until update walking warm where
window yard years""".split()


def make_texts(count: int) -> list[str]:
    """A third each of Russian, English and mixed texts."""
    rng = random.Random(1)
    pools = (RUSSIAN, ENGLISH, RUSSIAN + ENGLISH)
    lengths = [round(math.exp(rng.uniform(math.log(5), math.log(200)))) for _ in range(count)]
    return [" ".join(rng.choice(pools[i % 3]) for _ in range(length)) for i, length in enumerate(lengths)]


def measure(command: list, environment: dict) -> dict:
    """The last line that the process prints, which is JSON."""
    done = subprocess.run(list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, command))}\n{done.stderr.strip()}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def parameters(folder: Path) -> int:
    """Values in the folder's files of weights."""
    total = 0
    for path in folder.glob("**/*.safetensors"):
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        total += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total


def difference(ours: Path, theirs: Path) -> float:
    import numpy as np

    ours, theirs = np.load(ours).astype(np.float64), np.load(theirs)
    return float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else math.inf


def write(path: Path, content: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(content, encoding="utf-8")
    partial.replace(path)


def table(state: dict) -> str:
    rows = ["| architecture | parameters | ours, tokens/s | peer, tokens/s | ratio (of the rounds) | ours, MB | peer, MB | tokens |", "|---|" + "---:|" * 7]
    for name, model in state["models"].items():
        ours, peer = ([run[side] for run in model["rounds"]] for side in ("ours", "peer"))
        speeds = [statistics.median(run["tokens_per_second"] for run in side) for side in (ours, peer)]
        memory = [statistics.median(run["peak_mb"] for run in side) for side in (ours, peer)]
        ratios = ", ".join(f"{a['tokens_per_second'] / b['tokens_per_second']:.2f}" for a, b in zip(ours, peer))
        rows.append(
            f"| {name} | {model['parameters'] / 1e6:,.1f} M | {speeds[0]:,.0f} | {speeds[1]:,.0f} | {speeds[0] / speeds[1]:.2f} ({ratios}) "
            f"| {memory[0]:,.0f} | {memory[1]:,.0f} | {ours[0]['tokens']:,} |")
    worst = max(model["difference"] for model in state["models"].values())
    return "\n".join([*rows, "", f"{state['texts']:,} texts, {state['threads']} threads. Largest difference between the embeddings: {worst:.1e}", ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("models", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("ROUNDS", "3")))
    args = parser.parse_args()
    binary, names = args.binary.resolve(), args.names or sorted(path.parent.name for path in args.models.glob("*/modules.json"))
    missing = [name for name in names if not (args.models / name / "modules.json").is_file()]
    if missing or not names:
        sys.exit(f"{args.models}: has no {', '.join(missing) or 'models'}")
    threads = os.environ.get("THREADS", "2")
    # Threads that spin while they wait take time from whatever else runs.
    spread = {key: threads for key in ("THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = {**os.environ, **spread, "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "true"}
    print_of_binary = hashlib.sha256(binary.read_bytes()).hexdigest()[:16]
    store, settings = args.output.with_suffix(".json"), {"texts": args.texts, "threads": int(threads), "binary": print_of_binary, "models": {}}
    state = json.loads(store.read_text(encoding="utf-8")) if store.is_file() else settings
    if any(state[key] != settings[key] for key in ("texts", "threads", "binary")):
        sys.exit(f"{store}: measured with another binary, other texts or threads: remove it, or choose another --output")
    unlike = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        texts = work / "texts.jsonl"
        texts.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in make_texts(args.texts)), encoding="utf-8")
        for name in names:
            folder = args.models / name
            model = state["models"].get(name, {"parameters": parameters(folder), "difference": 0.0, "rounds": []})
            while len(model["rounds"]) < args.rounds:
                print(f"{name}, round {len(model['rounds']) + 1} of {args.rounds}", file=sys.stderr, flush=True)
                ours = measure(
                    [binary, "-q", "encode", folder, "--input", texts, "--output", work / "ours.npy", "--device", "cpu", "--format", "json"], environment)
                peer = measure([sys.executable, HERE / "encode.py", folder, texts, "--output", work / "peer.npy"], environment)
                model["difference"] = max(model["difference"], difference(work / "ours.npy", work / "peer.npy"))
                model["rounds"].append({"ours": ours, "peer": peer})
                state["models"][name] = model
                write(store, json.dumps(state, indent=1) + "\n")
                write(args.output, table(state))
            tokens = [model["rounds"][0][side]["tokens"] for side in ("ours", "peer")]
            if tokens[0] != tokens[1]:
                unlike.append(f"{name}: {tokens[0]} tokens here, {tokens[1]} there: they do not read the texts alike")
            if not model["difference"] <= LIMIT:
                unlike.append(f"{name}: embeddings differ by {model['difference']:.1e}")
    print(table(state), end="")
    for line in unlike:
        print(f"error: {line}", file=sys.stderr)
    return 1 if unlike else 0


if __name__ == "__main__":
    sys.exit(main())
