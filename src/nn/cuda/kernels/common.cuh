// What all kernels share. A kernel is compiled at run time for the type of its elements, ELEMENT (`float` or `bf16`), and for the
// sizes that it is given as macros. Sums are always in f32.

struct bf16 {
    unsigned short bits;
};

typedef ELEMENT T;

__device__ inline float load(const float* p, long long i) {
    return p[i];
}

__device__ inline float load(const bf16* p, long long i) {
    return __uint_as_float((unsigned)p[i].bits << 16);
}

__device__ inline void store(float* p, long long i, float x) {
    p[i] = x;
}

// To the nearest, ties to even.
__device__ inline void store(bf16* p, long long i, float x) {
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        p[i].bits = 0x7fff;
    } else {
        p[i].bits = (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    }
}

// Sum over the 32 lanes of a warp, in all of them.
__device__ inline float warp_sum(float x) {
    for (int step = 16; step > 0; step /= 2) {
        x += __shfl_xor_sync(0xffffffffu, x, step);
    }
    return x;
}

// Sum over a block of at most 1024 threads, whose number is a multiple of 32; `scratch` has 32 values.
__device__ inline float block_sum(float x, float* scratch) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    x = warp_sum(x);
    __syncthreads();
    if (lane == 0) {
        scratch[warp] = x;
    }
    __syncthreads();
    float sum = 0.0f;
    for (int w = 0; w < warps; w++) {
        sum += scratch[w];
    }
    return sum;
}

// Dropout's draws: the functions of `kernel/mask.rs`, bit for bit.
__device__ inline unsigned long long mix(unsigned long long z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

#define GOLDEN 0x9e3779b97f4a7c15ull

// Another mask of the same probability.
__device__ inline unsigned long long mask_stream(unsigned long long seed, unsigned index) {
    return mix(seed ^ (((unsigned long long)index + 1ull) * GOLDEN));
}

// The draws of a row.
__device__ inline unsigned long long mask_row(unsigned long long seed, unsigned long long place) {
    return mix(seed + place * GOLDEN);
}

// 0 where a column is dropped, `scale` elsewhere.
__device__ inline float mask_factor(unsigned long long row, unsigned column, unsigned threshold, float scale) {
    unsigned x = column ^ (unsigned)(row >> 32);
    x = ((x ^ (x >> 16)) * 0x7feb352du) ^ (unsigned)row;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x < threshold ? 0.0f : scale;
}
