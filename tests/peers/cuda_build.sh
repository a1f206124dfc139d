#!/usr/bin/env bash
# cuda_build.sh [FOLDER]: checks the CUDA build on a machine without a GPU and without CUDA.
#
# 1. Puts a CUDA 13.0 toolkit (compiler, headers, libraries to link with) into FOLDER (default: target/cuda-toolkit, some 2 GB) from
#    NVIDIA's wheels on PyPI; where one is there, nothing is fetched.
# 2. Compiles every kernel for compute capabilities 8.0 and 9.0 and both element types with nvcc, down to machine code, so that ptxas
#    has its say; refuses those that spill registers.
# 3. cargo build and clippy with --features cuda.
# 4. The kernels through NVRTC, as the program compiles them (tests/cuda.rs), and all other tests of the kernels on an emulated
#    GPU (tests/peers/cuda_emulate); the latter only with EMULATE=1, for it takes minutes.
#
# libcuda.so here is a stub that says that there is no GPU. candle's own kernels take some 10 minutes on two cores the first time.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
toolkit=$(realpath -m "${1:-$root/target/cuda-toolkit}")

if [ ! -e "$toolkit/.complete" ]; then
  rm -rf "$toolkit"
  mkdir -p "$toolkit"
  fetched=$(mktemp -d)
  trap 'rm -rf "$fetched"' EXIT
  python3 -m venv "$fetched/venv"
  "$fetched/venv/bin/pip" install --quiet --disable-pip-version-check --target "$fetched/site" \
    nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 \
    nvidia-cuda-nvrtc==13.0.88 nvidia-cuda-cccl==13.0.85 nvidia-cublas==13.0.2.14 nvidia-curand==10.4.0.35
  cp -a "$fetched/site/nvidia/cu13/." "$toolkit/"
  ln -sfn lib "$toolkit/lib64"
  for library in "$toolkit"/lib/*.so.*; do # wheels have no plain names, which linkers ask for
    plain="${library%%.so.*}.so"
    [ -e "$plain" ] || ln -s "$(basename "$library")" "$plain"
  done
  touch "$toolkit/.complete"
fi
# The driver's library comes with a driver. All of its functions say CUDA_ERROR_NO_DEVICE, and those that name an error name it.
if [ ! -e "$toolkit/stub/libcuda.so" ]; then
  mkdir -p "$toolkit/stub"
  {
    echo 'int cuGetErrorName(int e, const char **s) { *s = "CUDA_ERROR_NO_DEVICE"; return 0; }'
    echo 'int cuGetErrorString(int e, const char **s) { *s = "no CUDA-capable device is detected"; return 0; }'
    grep -ohE '\bcu[A-Z][A-Za-z0-9_]*' "$toolkit/include/cuda.h" | sort -u | grep -vxE 'cuGetError(Name|String)' |
      awk '{ print "int " $1 "(void) { return 100; }" }'
  } >"$toolkit/stub/stub.c"
  gcc -w -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$toolkit/stub/libcuda.so" "$toolkit/stub/stub.c"
  ln -sf libcuda.so "$toolkit/stub/libcuda.so.1"
fi
export CUDA_HOME=$toolkit CUDA_PATH=$toolkit CUDA_ROOT=$toolkit CUDA_TOOLKIT_ROOT_DIR=$toolkit
export PATH=$toolkit/bin:$PATH CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90}
export LIBRARY_PATH=$toolkit/lib:$toolkit/stub${LIBRARY_PATH:+:$LIBRARY_PATH}
export RUSTFLAGS="${RUSTFLAGS:-} -L $toolkit/lib -L $toolkit/stub -C link-arg=-Wl,--allow-shlib-undefined"

kernels=$root/src/nn/cuda/kernels
work=$(mktemp -d)
trap 'rm -rf "$work" "${fetched:-$work}"' EXIT
compiled=0
compile() { # compile FILE MACRO=VALUE…
  local name=$1 element capability
  shift
  for element in float bf16; do
    if [ "$name" = attention_mma ] && [ $element = float ]; then continue; fi
    {
      printf '#define ELEMENT %s\n' "$element"
      local macro
      for macro in "$@"; do printf '#define %s\n' "${macro/=/ }"; done
      cat "$kernels/common.cuh"
      case $name in attention*) cat "$kernels/attention.cuh" ;; esac
      if [ "$name" = attention_backward ]; then cat "$kernels/attention.cu"; fi
      cat "$kernels/$name.cu"
    } >"$work/$name.cu"
    for capability in 80 90; do
      nvcc -ptx -arch="compute_$capability" -o "$work/$name.ptx" "$work/$name.cu"
      nvcc -cubin -arch="sm_$capability" -Xptxas -v -o "$work/$name.cubin" "$work/$name.cu" 2>"$work/log" || { cat "$work/log"; exit 1; }
      if grep -E '[1-9][0-9]* bytes spill' "$work/log"; then
        echo "error: $name ($element, $capability, $*) spills registers" >&2
        exit 1
      fi
      compiled=$((compiled + 1))
    done
  done
}
for rms in 0 1; do compile norm WIDTH=384 THREADS=96 RMS=$rms; done
compile norm WIDTH=1024 THREADS=256 RMS=0
for activation in 0 1 2 3 4 5; do compile elements ACTIVATION=$activation; done
for mode in 0 1 2 3 4 5; do compile pooling MODE=$mode; done
compile rows
compile optimizer
for norms in 0 1; do compile rotary DEPTH=128 NORMS=$norms; done
for kind in "BIAS=0 DROPOUT=0" "BIAS=1 DROPOUT=1"; do
  # shellcheck disable=SC2086
  {
    compile attention DEPTH=64 ROWS=64 COLUMNS=32 $kind
    compile attention DEPTH=128 ROWS=32 COLUMNS=32 $kind
    compile attention DEPTH=256 ROWS=16 COLUMNS=16 $kind
    compile attention_backward DEPTH=64 ROWS=32 COLUMNS=32 BACKWARD=1 $kind
    compile attention_backward DEPTH=128 ROWS=32 COLUMNS=16 BACKWARD=1 $kind
    compile attention_backward DEPTH=256 ROWS=16 COLUMNS=8 BACKWARD=1 $kind
    compile attention_mma DEPTH=64 COLUMNS=64 $kind
    compile attention_mma DEPTH=128 COLUMNS=64 $kind
    compile attention_mma DEPTH=64 COLUMNS=32 BACKWARD=1 $kind
  }
done
echo "kernels: $compiled compilations (float and bf16, 8.0 and 9.0), none spills"

cd "$root"
cargo build --features cuda
cargo clippy --features cuda --all-targets -- -D warnings
echo "cargo build and clippy with --features cuda: clean"
LD_LIBRARY_PATH=$toolkit/lib:$toolkit/stub cargo test --features cuda --test cuda --test cuda_models
echo "tests: the kernels compile through NVRTC; what needs a GPU was skipped"
if [ -n "${EMULATE:-}" ]; then
  cargo test --features cuda --test cuda --test cuda_models --no-run --message-format json 2>/dev/null |
    grep -o '"executable":"[^"]*"' | cut -d'"' -f4 | while read -r program; do
    LD_LIBRARY_PATH=$toolkit/lib tests/peers/cuda_emulate/run.sh "$program" --test-threads 1
  done
  echo "tests: passed on an emulated GPU"
fi
