#!/usr/bin/env python3
"""Writes tests/data/adapters/peft/: adapters of tests/data/models/bert made by PEFT, one folder a kind, and PEFT's embeddings with each.

golden_adapters.py [OUTPUT]

`expected.safetensors` has `base` and a tensor a kind, `[texts, dim]`; `texts.json` the texts. tests/adapters.rs reads them.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from peft_adapters import CASES, make
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer

TESTS = Path(__file__).parent.parent
TEXTS = ["The quick brown fox", "Быстрая коричневая лиса", "a", "jumps over the lazy dog, and sleeps", "Ленивая собака спит весь день"]


def main() -> int:
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else TESTS / "data/adapters/peft"
    model = TESTS / "data/models/bert"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    expected = {"base": SentenceTransformer(str(model), device="cpu").encode(TEXTS, show_progress_bar=False)}
    for seed, case in enumerate(CASES):
        folder = output / case
        expected[case] = make(model, case, folder, TEXTS, seed)
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text())
        config["base_model_name_or_path"] = "bert"
        path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        print(f"{case}: differs from the base by {np.abs(expected[case] - expected['base']).max():.2f}")
    save_file({name: np.ascontiguousarray(value) for name, value in expected.items()}, output / "expected.safetensors")
    (output / "texts.json").write_text(json.dumps(TEXTS, ensure_ascii=False, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
