#!/usr/bin/env bash
# Runs a program that was built with --features cuda on a machine without a GPU, the kernels on the CPU:
#
#   tests/peers/cuda_emulate/run.sh PROGRAM [ARGUMENTS]      # such as target/debug/deps/cuda-HASH --test-threads 1
#
# LD_LIBRARY_PATH must have libcudart, which is linked but not used (tests/peers/cuda_build.sh fetches it).
# NVRTC, the driver, cuBLAS and cuRAND are those of driver.cpp, so what is launched, with which arguments, and what the kernels
# compute is what is tested; how fast it is, and what only a real GPU does (races within a warp, memory order), is not.
# EMULATED_FLAGS are given to g++ for the kernels; with EMULATED_ASAN=1 out-of-bounds accesses end the program.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${EMULATED_FOLDER:-$(mktemp -d)}
export EMULATED_FOLDER=$folder
mkdir -p "$folder"
cp "$here/shim.hpp" "$folder/"
program=$(realpath "$1"); shift
g++ -O2 -std=c++17 -fPIC -shared -w -o "$folder/libdriver.so" "$here/driver.cpp" -ldl
# What the program asks of the libraries and the driver has not is there by name, and ends the process if it is called.
needs=$(nm -D --undefined-only "$program" | awk '{print $2}' | sed 's/@.*//' | grep -E '^(cu[A-Z]|cublas|curand|nvrtc)' | sort -u)
has=$(nm -D --defined-only "$folder/libdriver.so" | awk '{print $3}' | sort -u)
{
  echo '#include <stdio.h>'
  echo '#include <stdlib.h>'
  comm -23 <(echo "$needs") <(echo "$has") |
    awk '{print "int " $1 "(void){fprintf(stderr, \"emulated GPU: no " $1 "\\n\"); abort();}"}'
} >"$folder/missing.c"
gcc -w -fPIC -c -o "$folder/missing.o" "$folder/missing.c"
g++ -O2 -std=c++17 -fPIC -shared -w -o "$folder/libemulated.so" "$here/driver.cpp" "$folder/missing.o" -ldl
for library in $(objdump -p "$program" | awk '/NEEDED/ {print $2}' | grep -E 'libcuda\.|libcublas|libcurand|libnvrtc'); do
  ln -sf libemulated.so "$folder/$library"
done
export LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
if [ -n "${EMULATED_ASAN:-}" ]; then
  export EMULATED_FLAGS="-fsanitize=address ${EMULATED_FLAGS:-}" LD_PRELOAD=$(gcc -print-file-name=libasan.so)
  export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0
fi
exec "$program" "$@"
