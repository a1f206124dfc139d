#!/usr/bin/env python3
"""embeval and sentence-transformers encode with, or train, one model after another: architectures.py EMBEVAL MODELS [NAME …] --output TABLE.md

MODELS is the folder that tests/peers/make_random_models.py filled (default: every model in it). The texts, 1,000 of 5 to 200 Russian and English
words (log-uniform), are made here. Per model, ROUNDS rounds in turn, each side a process of its own on THREADS threads: f32, batches of 32 by
length there, packed here. Both tell tokens (special ones counted, padding not) and the seconds of tokenizing and encoding; loading, and there a
pass to warm up, are not timed. With --train STEPS each trains all weights instead, as run.py's `train` does, on pairs of such texts, most of
which its 128 tokens cut; static embeddings are left out, and what the sides have learnt is not compared. Memory is the process's peak. TABLE.md has medians of what is measured so far, TABLE.json every run: stopped
at any time, or called with one NAME at a time, it goes on from there. Run it on a quiet machine. Exit code 1: the embeddings do not agree.
"""

import argparse
import hashlib
import json
import math
import random
import sys
from pathlib import Path

from common import BATCH, MAX_LENGTH, ROUNDS, THREADS, difference, median, peer, ratios, run, table, work_folder, write_pairs, write_rows
from run import WARM_UP, after_warm_up, training, write_yaml

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


def parameters(folder: Path) -> int:
    """Values in the folder's files of weights."""
    total = 0
    for path in folder.glob("**/*.safetensors"):
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        total += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total


def write(path: Path, content: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(content, encoding="utf-8")
    partial.replace(path)


def report(state: dict) -> str:
    head = ["architecture", "parameters", "ours, tokens/s", "peer, tokens/s", "ratio (of the rounds)", "ours, MB", "peer, MB", "tokens"]
    rows = []
    for name, model in state["models"].items():
        sides = [[each[side] for each in model["rounds"]] for side in ("ours", "peer")]
        speeds, memory = ([f"{median(side, key):,.0f}" for side in sides] for key in ("tokens_per_second", "peak_mb"))
        rows.append([name, f"{model['parameters'] / 1e6:,.1f} M", *speeds, ratios(*sides, "tokens_per_second"), *memory, f"{sides[0][0]['tokens']:,}"])
    if state["train"]:
        return f"{table(head, rows)}\n{state['train']} timed steps of {BATCH} pairs, all weights, texts cut at {MAX_LENGTH} tokens, {state['threads']} threads; tokens are of all steps.\n"
    worst = max(model["difference"] for model in state["models"].values())
    return f"{table(head, rows)}\n{state['texts']:,} texts, {state['threads']} threads. Largest difference between the embeddings: {worst:.1e}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("models", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--train", type=int, default=0, metavar="STEPS")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    args.models = args.models.resolve()
    binary, names = args.binary.resolve(), args.names or sorted(path.parent.name for path in args.models.glob("*/modules.json") if not args.train or path.parent.name != "static")
    missing = [name for name in names if not (args.models / name / "modules.json").is_file()]
    if missing or not names:
        sys.exit(f"{args.models}: has no {', '.join(missing) or 'models'}")
    print_of_binary = hashlib.sha256(binary.read_bytes()).hexdigest()[:16]
    store, settings = args.output.with_suffix(".json"), {"texts": args.texts, "train": args.train, "threads": THREADS, "binary": print_of_binary, "models": {}}
    state = json.loads(store.read_text(encoding="utf-8")) if store.is_file() else settings
    state.setdefault("train", 0)
    if any(state[key] != settings[key] for key in ("texts", "train", "threads", "binary")):
        sys.exit(f"{store}: measured with another binary, other texts, steps or threads: remove it, or choose another --output")
    unlike = []
    with work_folder() as temporary:
        work = Path(temporary)
        texts = write_rows(work / "texts.jsonl", ({"text": text} for text in make_texts(args.texts)))
        drawn = make_texts(2 * BATCH * (args.train + WARM_UP))
        pairs = write_pairs(work / "pairs.jsonl", zip(drawn[::2], drawn[1::2]))
        for name in names:
            folder = args.models / name
            model = state["models"].get(name, {"parameters": parameters(folder), "difference": 0.0, "rounds": []})
            while len(model["rounds"]) < args.rounds:
                print(f"{name}, round {len(model['rounds']) + 1} of {args.rounds}", file=sys.stderr, flush=True)
                sides = {
                    "ours": [binary, "-q", "encode", folder, "--input", texts, "--output", "out.npy", "--device", "cpu", "--format", "json"],
                    "peer": peer("encode.py", folder, texts, "--output", "out.npy"),
                }
                if args.train:
                    config = write_yaml(work / f"{name}.yaml", training(argparse.Namespace(model=folder), pairs, "full", adapter={"kind": "full"}))
                    sides = {
                        "ours": [binary, "-q", "train", config, "--output", "run", "--format", "json"],
                        "peer": peer("train.py", folder, pairs, "--steps", args.train),
                    }
                done = {side: run(command, work / f"{name}-{side}-{len(model['rounds'])}") for side, command in sides.items()}
                if args.train:
                    done["ours"] = after_warm_up(done["ours"])
                folders = [each.pop("folder") for each in done.values()]
                if not args.train:
                    model["difference"] = max(model["difference"], difference(*(folder / "out.npy" for folder in folders)))
                model["rounds"].append(done)
                state["models"][name] = model
                write(store, json.dumps(state, indent=1) + "\n")
                write(args.output, report(state))
            tokens = [model["rounds"][0][side]["tokens"] for side in ("ours", "peer")]
            # Of a training the peer tells the timed steps' alone.
            if tokens[0] != tokens[1] and not args.train:
                unlike.append(f"{name}: {tokens[0]} tokens here, {tokens[1]} there: they do not read the texts alike")
            if not model["difference"] <= LIMIT:
                unlike.append(f"{name}: embeddings differ by {model['difference']:.1e}")
    print(report(state), end="")
    for line in unlike:
        print(f"error: {line}", file=sys.stderr)
    return 1 if unlike else 0


if __name__ == "__main__":
    sys.exit(main())
