#!/usr/bin/env python3
"""What a token costs to encode: cost.py [--output reports/cost] [--model NAME] [--tokens N] [--longest TOKENS].

embeval encodes texts of exactly 16, 32, … 8,192 tokens (N in all, one text at least), and 1, 2, 4, … texts of 64, on one thread and on
THREADS (2), ROUNDS rounds (3) in turn, with a random model of 6 layers of 384 that has so many positions (tests/peers/make_random_models.py;
--model: bert, modern_bert …). Timed is what `encode` says: tokenizing and encoding, no loading and no warm-up.

Linear means: a token costs the same however long its text is and however many there are. Attention in full grows with the length L:
(1 + L/x) times as much, where at x = 2 hidden + intermediate it takes as many multiplications as the linear layers. Writes
cost.json (every run), README.md (medians) and two plots, length.svg and texts.svg. Run it on a quiet machine.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path
from xml.sax.saxutils import escape

import common
from common import ROOT, ROUNDS, THREADS, table

SHORT = 64  # tokens of the texts whose number grows
MOST = 512  # of them
COLOURS = ("#0072b2", "#d55e00", "#009e73")
Series = dict[str, list[tuple[float, float]]]


def make_text(words: list[str], length: int, draw: random.Random) -> str:
    return " ".join(draw.choices(words, k=length))


def single_words(tokenizer) -> tuple[list[str], int]:
    """Words that are a token each, and how many special tokens a text gets."""
    count = lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
    words = [word for word in sorted(tokenizer.get_vocab()) if word.isalpha() and word.isascii() and count(f"{word} {word} {word}") == 3]
    return words, len(tokenizer.encode(words[0]).ids) - 1


def measure(model: Path, points: set[tuple[int, int]], work: Path) -> list[dict]:
    """Runs of every (length, texts) on 1 and THREADS threads."""
    from tokenizers import Tokenizer

    words, special = single_words(Tokenizer.from_file(str(model / "tokenizer.json")))
    draw, runs, files = random.Random(1), [], {}
    for length, texts in sorted(points):
        rows = ({"text": make_text(words, length - special, draw)} for _ in range(texts))
        files[length, texts] = common.write_rows(work / f"{length}-{texts}.jsonl", rows)
    for number in range(ROUNDS):
        for (length, texts), path in files.items():
            for threads in sorted({1, THREADS}):
                command = [common.binary(), "-q", "encode", model, "--input", path, "--output", "out.npy", "--device", "cpu", "--format", "json"]
                run = common.run(command, work / f"{length}-{texts}-{threads}-{number}", {"RAYON_NUM_THREADS": str(threads)})
                if run["tokens"] != length * texts:
                    sys.exit(f"error: {texts} texts of {length} tokens were read as {run['tokens']} tokens")
                print(f"round {number + 1}, {threads} threads, {texts} x {length} tokens: {run['seconds']} s", file=sys.stderr, flush=True)
                runs.append({"length": length, "texts": texts, "threads": threads, "seconds": run["seconds"], "peak_mb": run["peak_mb"]})
    return runs


def speed(runs: list[dict], length: int, texts: int, threads: int) -> float:
    """Median tokens/s."""
    chosen = [run["seconds"] for run in runs if (run["length"], run["texts"], run["threads"]) == (length, texts, threads)]
    return length * texts / statistics.median(chosen)


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten."""
    steps = (factor * 10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for factor in (1, 2, 5))
    return [step for step in steps if low <= step <= high]


def plot(title: str, x_label: str, measured: Series, expected: Series, mark: tuple[float, str] | None = None) -> str:
    """An SVG, both axes logarithmic: tokens/s on the left, the same as ms/token on the right; what is expected is dashed."""
    width, height, left, right, top, bottom = 760, 440, 80, 80, 44, 56
    points = [point for line in (*measured.values(), *expected.values()) for point in line]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low_x, high_x, low_y, high_y = min(xs) / 1.15, max(xs) * 1.15, min(ys) / 1.3, max(ys) * 1.6
    at_x = lambda x: left + (width - left - right) * math.log(x / low_x) / math.log(high_x / low_x)
    at_y = lambda y: height - bottom - (height - top - bottom) * math.log(y / low_y) / math.log(high_y / low_y)
    text = lambda x, y, words, more="": f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(words)}</text>'
    line = lambda x1, y1, x2, y2, more: f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {more}/>'
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="sans-serif" font-size="12" '
           'fill="#222">', f'<rect width="{width}" height="{height}" fill="#fff"/>', text(width / 2, 22, title, 'text-anchor="middle" font-size="15"')]
    for x in sorted({x for line_ in measured.values() for x, _ in line_}):
        out += [line(at_x(x), top, at_x(x), height - bottom, 'stroke="#eee"'), text(at_x(x), height - bottom + 18, f"{x:,.0f}", 'text-anchor="middle"')]
    for y in ticks(low_y, high_y):
        out += [line(left, at_y(y), width - right, at_y(y), 'stroke="#eee"'), text(left - 8, at_y(y) + 4, f"{y:,.0f}", 'text-anchor="end"')]
    for cost in ticks(1000 / high_y, 1000 / low_y):
        y = at_y(1000 / cost)
        out += [line(width - right, y, width - right + 5, y, 'stroke="#888"'), text(width - right + 8, y + 4, f"{cost:g}")]
    out.append(f'<rect x="{left}" y="{top}" width="{width - left - right}" height="{height - top - bottom}" fill="none" stroke="#888"/>')
    out.append(text((left + width - right) / 2, height - 14, x_label, 'text-anchor="middle"'))
    for x, label in ((20, "tokens/s"), (width - 12, "ms/token")):
        out.append(text(x, height / 2, label, f'text-anchor="middle" transform="rotate(-90 {x} {height / 2})"'))
    if mark and low_x < mark[0] < high_x:
        x = at_x(mark[0])
        out += [line(x, top, x, height - bottom, 'stroke="#888" stroke-dasharray="2 3"'), text(x - 6, top + 16, mark[1], 'text-anchor="end" fill="#555"')]
    styles = [(name, line_, "#888" if name in expected else COLOURS[place % len(COLOURS)], name in expected)
              for place, (name, line_) in enumerate([*measured.items(), *expected.items()])]
    for place, (name, line_, colour, dashed) in enumerate(styles):
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in line_)
        dash = f' stroke-dasharray="{6 - 2 * (place % 2)} 4"' if dashed else ""
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{1.3 if dashed else 2}"{dash}/>')
        if not dashed:
            out += [f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3.5" fill="{colour}"/>' for x, y in line_]
        y = height - bottom - 12 - 17 * (len(styles) - 1 - place)
        out += [line(left + 12, y - 4, left + 40, y - 4, f'stroke="{colour}" stroke-width="2"{dash}'), text(left + 46, y, name)]
    return "\n".join([*out, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "reports/cost")
    parser.add_argument("--model", default="bert", metavar="NAME", help="a name of make_random_models.py (bert)")
    parser.add_argument("--tokens", type=int, default=32768, help="of a measurement, at least a text (32768)")
    parser.add_argument("--longest", type=int, default=8192)
    args = parser.parse_args()
    lengths = [2**power for power in range(4, 14) if 2**power <= args.longest]
    counts = [2**power for power in range(0, 10) if 2**power <= min(MOST, args.tokens // SHORT)]
    number = {length: max(1, args.tokens // length) for length in lengths}
    with common.work_folder() as folder:
        work = Path(folder)
        maker = [sys.executable, ROOT / "tests/peers/make_random_models.py", work / "models", args.model, "--limit", args.longest]
        subprocess.run(list(map(str, maker)), check=True, stdout=subprocess.DEVNULL)
        model = work / "models" / args.model
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        runs = measure(model, {*number.items(), *((SHORT, count) for count in counts)}, work)
    even = 2 * config["hidden_size"] + config["intermediate_size"]
    threads = sorted({1, THREADS})
    label = lambda many: f"{many} thread{'s' * (many > 1)}"
    by_length = {label(many): [(length, speed(runs, length, number[length], many)) for length in lengths] for many in threads}
    by_count = {label(many): [(count, speed(runs, SHORT, count, many)) for count in counts] for many in threads}
    # Anchored in the middle of what was measured: the shape is what is expected, not the height.
    best = by_length[label(threads[-1])]
    height = statistics.median(y * (1 + x / even) for x, y in best)
    expected = {"linear: a token costs the same": [(x, height) for x, _ in best], "with attention's share: (1 + L/x) as much": [(x, height / (1 + x / even)) for x, _ in best]}
    full = by_count[label(threads[-1])][-1][1]
    args.output.mkdir(parents=True, exist_ok=True)
    keep = lambda name, content: (args.output / name).write_text(content, encoding="utf-8")
    keep("length.svg", plot(f"Cost of a token by length ({args.model}, {args.tokens:,} tokens a run)", "tokens of a text", by_length, expected,
                            (even, f"x = {even:,}: attention costs as much as the layers")))
    keep("texts.svg", plot(f"Cost of a token by number of texts ({args.model}, {SHORT} tokens each)", "texts", by_count,
                           {"linear: a text costs the same": [(count, full) for count in counts]}))
    about = {"model": args.model, "threads": THREADS, "rounds": ROUNDS, "load_average": round(os.getloadavg()[0], 2)}
    keep("cost.json", json.dumps({**about, "runs": runs}, indent=1) + "\n")

    def rows(lines: Series, which) -> list[list]:
        out = []
        for (x, one), (_, all_) in zip(lines[label(1)], lines[label(threads[-1])], strict=True):
            memory = statistics.median(run["peak_mb"] for run in runs if which(run, x) and run["threads"] == threads[-1])
            out.append([f"{x:,}", f"{one:,.0f}", f"{1000 / one:.4f}", f"{all_:,.0f}", f"{1000 / all_:.4f}", f"{all_ / one:.2f}", f"{memory:,.0f}"])
        return out

    head = ["tokens/s, 1 thread", "ms/token", f"tokens/s, {label(THREADS)}", "ms/token", "times", "peak, MB"]
    lines = [table(["length", *head], rows(by_length, lambda run, x: (run["length"], run["texts"]) == (x, number[x]))),
             table([f"texts of {SHORT} tokens", *head], rows(by_count, lambda run, x: (run["length"], run["texts"]) == (SHORT, x)))]
    text = "# What a token costs\n\nMedians of `benches/compare/cost.py`, whose head says what is measured.\n\n![](length.svg)\n\n![](texts.svg)\n\n" + "\n".join(lines)
    keep("README.md", text)
    print(text, end="")


if __name__ == "__main__":
    main()
