"""What the comparisons share: readers, a run of one side in a process of its own, tables.

Standard library alone, and little held: the kernel counts what the parent held when it started a child as that child's peak memory.
"""

import array
import gzip
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
THREADS = int(os.environ.get("THREADS", "2"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
BATCH = 32
MAX_LENGTH = 128  # tokens of a training text
RANKS, TEMPERATURES, ALPHAS = (8, 32), (0.02, 0.05), (0.25, 0.5, 0.75)  # the sweep: trainings, and merges of the two temperatures' models
SWEEP_RATE = 1e-3

# To be set before a library that reads them is imported.
os.environ |= {key: str(THREADS) for key in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
os.environ |= {"THREADS": str(THREADS), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while they wait take time from whatever else runs


def read_rows(path: Path | str, most: int | None = None) -> Iterator[dict]:
    """Rows of JSON lines, gzipped or not, `most` at the most."""
    with (gzip.open if str(path).endswith(".gz") else open)(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(line for line in lines if line.strip()):
            if number == most:
                return
            yield json.loads(line)


def write_rows(path: Path, rows: Iterable[dict]) -> Path:
    with open(path, "w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def read_texts(path: Path | str) -> list[str]:
    return [next(row[key] for key in ("text", "query", "sentence1") if row.get(key) is not None) for row in read_rows(path)]


def read_pairs(path: Path | str, most: int | None = None) -> list[tuple[str, str]]:
    """(query, first positive) of each row."""
    return [(row["query"], row["pos"] if isinstance(row["pos"], str) else row["pos"][0]) for row in read_rows(path, most)]


def write_pairs(path: Path, pairs: Iterable[tuple[str, str]]) -> Path:
    return write_rows(path, ({"query": query, "pos": [positive]} for query, positive in pairs))


def read_embeddings(path: Path) -> array.array:
    """Values of a .npy file of f32, row by row."""
    content = path.read_bytes()
    if content[:6] != b"\x93NUMPY" or b"'<f4'" not in content[:128]:
        raise ValueError(f"{path}: not a .npy file of f32")
    start = 10 + int.from_bytes(content[8:10], "little")
    return array.array("f", content[start:])


def difference(first: Path, second: Path) -> float:
    """The largest difference of a value; infinite where shapes differ or a value is no number."""
    a, b = read_embeddings(first), read_embeddings(second)
    if len(a) != len(b):
        return math.inf
    return max((math.inf if math.isnan(x - y) else abs(x - y) for x, y in zip(a, b)), default=0.0)


def binary() -> Path:
    """embeval: BINARY, or the release build."""
    path = Path(os.environ.get("BINARY") or ROOT / "target/release/embeval").resolve()
    return path if path.is_file() else sys.exit(f"error: {path}: not there; build it (cargo build --release), or name it in BINARY")


def peer(script: str, *arguments) -> list:
    """The command of a script beside this file."""
    return [sys.executable, Path(__file__).with_name(script), *arguments]


def run(command: list, folder: Path, environment: dict | None = None) -> dict:
    """Runs a command in a new folder: its JSON on standard output, with `wall` (seconds, start and end of the process in them), `peak_mb`
    (peak resident memory; of several processes, the largest one's) and `folder`."""
    folder.mkdir(parents=True)
    command = [str(part) for part in command]
    own = {"EMBEVAL_CACHE": str(folder / "cache"), **(environment or {})}
    with open(folder / "stdout", "w+", encoding="utf-8") as out, open(folder / "stderr", "w+", encoding="utf-8") as err:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=err, env=os.environ | own)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            sys.exit(f"error: {' '.join(command)}\n{err.read().strip()[-4000:]}")
        said = out.read().strip()
    result = json.loads(said) if said.startswith("{") else {}
    return result | {"wall": wall, "peak_mb": usage.ru_maxrss / 1024, "folder": folder}


def turns(case: str, sides: dict[str, list], work: Path, rounds: int = ROUNDS) -> dict[str, list[dict]]:
    """Runs each side in turn, `rounds` times. Runs by side."""
    runs: dict[str, list[dict]] = {side: [] for side in sides}
    for number in range(1, rounds + 1):
        for place, (side, command) in enumerate(sides.items()):
            print(f"{case}, {side}, round {number} of {rounds}", file=sys.stderr, flush=True)
            runs[side].append(run(command, work / f"{case.replace(' ', '-')}-{place}-{number}"))
    return runs


def median(runs: list[dict], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def ratios(over: list[dict], under: list[dict], key: str) -> str:
    """The median of the rounds' ratios, and each."""
    each = [a[key] / b[key] for a, b in zip(over, under, strict=True)]
    return f"{statistics.median(each):.2f} ({', '.join(f'{ratio:.2f}' for ratio in each)})"


def table(head: list[str], rows: list[list], words: int = 1) -> str:
    """Markdown; the first `words` columns are words, the others figures."""
    lines = [head, ["---"] * words + ["---:"] * (len(head) - words), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def work_folder() -> tempfile.TemporaryDirectory:
    """A folder for what a comparison writes, in WORK's place if that is set."""
    return tempfile.TemporaryDirectory(prefix="compare-", dir=os.environ.get("WORK"))
