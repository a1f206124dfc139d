// Queries and keys before attention, in rows of (heads + 2 key_values) * DEPTH: with NORMS the RMSNorm of each head, then the
// rotation of its halves against each other. A warp a token and head; `angles` [positions, 2, HALF] are cosines and sines,
// `weights` [2, DEPTH] the norms' scales of queries and of keys.

#define HALF (DEPTH / 2)
#define PAIRS ((HALF + 31) / 32)

// This lane's pairs of a head, and of two vectors that go with them.
struct Pairs {
    float a[PAIRS], b[PAIRS];
};

__device__ inline Pairs read_head(const T* head) {
    Pairs p;
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
        int i = (threadIdx.x & 31) + 32 * j;
        p.a[j] = i < HALF ? load(head, i) : 0.0f;
        p.b[j] = i < HALF ? load(head, i + HALF) : 0.0f;
    }
    return p;
}

// Backwards with sign −1.
__device__ inline void rotate(Pairs& p, const float* angles, float sign) {
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
        int i = (threadIdx.x & 31) + 32 * j;
        if (i < HALF) {
            float c = angles[i], s = sign * angles[HALF + i];
            float a = p.a[j], b = p.b[j];
            p.a[j] = a * c - b * s;
            p.b[j] = b * c + a * s;
        }
    }
}

// 1 / sqrt(mean of squares + eps).
__device__ inline float inverse_root(const Pairs& p, float eps) {
    float squares = 0.0f;
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
        squares += p.a[j] * p.a[j] + p.b[j] * p.b[j];
    }
    return rsqrtf(warp_sum(squares) / DEPTH + eps);
}

__device__ inline void write_head(T* head, const Pairs& p) {
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
        int i = (threadIdx.x & 31) + 32 * j;
        if (i < HALF) {
            store(head, i, p.a[j]);
            store(head, i + HALF, p.b[j]);
        }
    }
}

extern "C" __global__ void prepare_forward(const T* qkv, const float* weights, const unsigned* positions,
                                           const float* angles, T* out, long long units, int heads, int key_values,
                                           float eps) {
    long long unit = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (unit >= units) {
        return;
    }
    int all = heads + 2 * key_values, head = (int)(unit % all);
    Pairs p = read_head(qkv + unit * DEPTH);
    if (head < heads + key_values) {
#if NORMS
        float inverse = inverse_root(p, eps);
        const float* w = weights + (head < heads ? 0 : DEPTH);
#pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            int i = (threadIdx.x & 31) + 32 * j;
            if (i < HALF) {
                p.a[j] *= inverse * w[i];
                p.b[j] *= inverse * w[i + HALF];
            }
        }
#endif
        rotate(p, angles + (long long)positions[unit / all] * DEPTH, 1.0f);
    }
    write_head(out + unit * DEPTH, p);
}

extern "C" __global__ void prepare_backward(const T* qkv, const float* weights, const unsigned* positions,
                                            const float* angles, const T* dout, T* dqkv, long long units, int heads,
                                            int key_values, float eps) {
    long long unit = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (unit >= units) {
        return;
    }
    int all = heads + 2 * key_values, head = (int)(unit % all);
    Pairs d = read_head(dout + unit * DEPTH);
    if (head < heads + key_values) {
        rotate(d, angles + (long long)positions[unit / all] * DEPTH, -1.0f);
#if NORMS
        Pairs p = read_head(qkv + unit * DEPTH);
        float inverse = inverse_root(p, eps), along = 0.0f;
        const float* w = weights + (head < heads ? 0 : DEPTH);
#pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            int i = (threadIdx.x & 31) + 32 * j;
            p.a[j] *= inverse;
            p.b[j] *= inverse;
            d.a[j] *= i < HALF ? w[i] : 0.0f;
            d.b[j] *= i < HALF ? w[i + HALF] : 0.0f;
            along += d.a[j] * p.a[j] + d.b[j] * p.b[j];
        }
        along = warp_sum(along) / DEPTH;
#pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            d.a[j] = inverse * (d.a[j] - p.a[j] * along);
            d.b[j] = inverse * (d.b[j] - p.b[j] * along);
        }
#endif
    }
    write_head(dqkv + unit * DEPTH, d);
}

#if NORMS
// Block b's share, of the tokens and heads b * share …, of the gradients by the norms' scales: [blocks, 2, DEPTH]. 4 warps.
extern "C" __global__ void norm_partials(const T* qkv, const unsigned* positions, const float* angles, const T* dout,
                                         float* partials, long long units, int share, int heads, int key_values,
                                         float eps) {
    __shared__ float sums[4][2 * DEPTH];
    int warp = threadIdx.x / 32, lane = threadIdx.x & 31, all = heads + 2 * key_values;
    for (int i = lane; i < 2 * DEPTH; i += 32) {
        sums[warp][i] = 0.0f;
    }
    __syncwarp();
    long long first = (long long)blockIdx.x * share;
    for (long long unit = first + warp; unit < first + share && unit < units; unit += 4) {
        int head = (int)(unit % all);
        if (head >= heads + key_values) {
            continue;
        }
        Pairs d = read_head(dout + unit * DEPTH), p = read_head(qkv + unit * DEPTH);
        rotate(d, angles + (long long)positions[unit / all] * DEPTH, -1.0f);
        float inverse = inverse_root(p, eps);
        float* own = sums[warp] + (head < heads ? 0 : DEPTH);
#pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            int i = lane + 32 * j;
            if (i < HALF) {
                own[i] += d.a[j] * p.a[j] * inverse;
                own[i + HALF] += d.b[j] * p.b[j] * inverse;
            }
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * DEPTH; i += blockDim.x) {
        partials[(long long)blockIdx.x * 2 * DEPTH + i] = sums[0][i] + sums[1][i] + sums[2][i] + sums[3][i];
    }
}
#endif
