// CUDA C++ as far as the project's kernels use it, for a compiler of C++: the threads of a block are coroutines, blocks run one
// after the other, and what is shared by a block is static.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>

struct Index {
    unsigned x, y, z;
};

// Given by the driver (driver.cpp).
extern "C" {
extern Index emulated_thread, emulated_block, emulated_block_dim, emulated_grid_dim;
extern char* emulated_shared;
// What the lanes of a warp bring to a product of tiles: 4 + 2 words each.
uint32_t* emulated_operands();
// Waits for the block, or for the warp.
void emulated_wait(int warp);
// The warp's slots: a value a lane.
uint32_t* emulated_slots();
}

#define threadIdx emulated_thread
#define blockIdx emulated_block
#define blockDim emulated_block_dim
#define gridDim emulated_grid_dim

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static

inline void __syncthreads() {
    emulated_wait(0);
}

inline void __syncwarp() {
    emulated_wait(1);
}

inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}

inline float __shfl_xor_sync(unsigned, float x, int other) {
    unsigned lane = threadIdx.x & 31;
    emulated_slots()[lane] = __float_as_uint(x);
    emulated_wait(1);
    float theirs = __uint_as_float(emulated_slots()[lane ^ other]);
    emulated_wait(1);
    return theirs;
}

// `d += a b` of a warp: mma.m16n8k16 with operands of bf16, whose lanes' places are those of the PTX manual (9.7.14.5.8).
#define EMULATED_MMA
inline void mma(float* d, const unsigned* a, const unsigned* b) {
    unsigned lane = threadIdx.x & 31, group = lane >> 2, in_group = lane & 3;
    uint32_t* all = emulated_operands();
    for (int i = 0; i < 4; i++) all[6 * lane + i] = a[i];
    for (int i = 0; i < 2; i++) all[6 * lane + 4 + i] = b[i];
    emulated_wait(1);
    auto half = [](uint32_t two, int high) { return __uint_as_float(high ? two & 0xffff0000u : two << 16); };
    for (int i = 0; i < 4; i++) {
        unsigned row = group + (i >= 2 ? 8 : 0), column = 2 * in_group + (i & 1);
        for (unsigned k = 0; k < 16; k++) {
            unsigned left = 4 * (row % 8) + k % 8 / 2, right = 4 * column + k % 8 / 2;
            d[i] += half(all[6 * left + (row >= 8) + 2 * (k >= 8)], k & 1) * half(all[6 * right + 4 + (k >= 8)], k & 1);
        }
    }
    emulated_wait(1);
}

inline float atomicAdd(float* p, float x) {
    float before = *p;
    *p = before + x;
    return before;
}

inline float rsqrtf(float x) {
    return 1.0f / sqrtf(x);
}

inline int min(int a, int b) {
    return a < b ? a : b;
}

inline int max(int a, int b) {
    return a > b ? a : b;
}

// Calls a kernel with arguments that are given as the driver gives them.
template <class... A, size_t... I>
inline void emulated_call(void (*kernel)(A...), void** args, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<std::remove_reference_t<A>>*>(args[I])...);
}

template <class... A>
inline void emulated_call(void (*kernel)(A...), void** args) {
    emulated_call(kernel, args, std::index_sequence_for<A...>{});
}
