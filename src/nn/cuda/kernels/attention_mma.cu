// Attention over packed sequences in bf16 on tensor cores, forwards and backwards: the same as attention.cu and
// attention_backward.cu (which serve f32, and heads that do not fit here), with products of tiles by `mma.m16n8k16` (bf16 operands, sums
// in f32). Macros: DEPTH, a multiple of 16; COLUMNS, of 16; BIAS, DROPOUT. A block is 4 warps of 16 rows each.
//
// Lane 4 g + t of a warp has, of an accumulator of 16 x 8, the columns 2 t and 2 t + 1 of rows g and g + 8; of a left operand of
// 16 x 16 the same columns of both rows, and those 8 columns on; of a right operand of 16 x 8 the column g, rows 2 t, 2 t + 1
// and those 8 rows on. So an accumulator of probabilities is a left operand as it lies, and a right operand is read from shared memory as
// pairs where its 16 values of a column are neighbours.

#define WARPS 4
#define ROWS (16 * WARPS)
// Lines of tiles, by token and by value of a head, in pairs of values; the padding spreads them over the banks.
#define LINE ((DEPTH + 8) / 2)
#define TURNED ((COLUMNS + 8) / 2)
#define CHUNKS (DEPTH / 16)
#define TILES (COLUMNS / 8)

#ifndef EMULATED_MMA
__device__ inline void mma(float* d, const unsigned* a, const unsigned* b) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

__device__ inline unsigned pair(float low, float high) {
    bf16 two[2];
    store(two, 0, low);
    store(two, 1, high);
    return (unsigned)two[0].bits | (unsigned)two[1].bits << 16;
}

// Two neighbours, the first of an even number: rows are of a multiple of 16 values, and so aligned.
__device__ inline unsigned two_of(const T* at) {
    return *(const unsigned*)at;
}

// COLUMNS rows first … of a head into shared memory, by token and, where `turned` is not null, by value, too; zeros from `end` on.
__device__ inline void fill(unsigned* tile, unsigned* turned, const T* head, int stride, int first, int end) {
    unsigned short* by_value = (unsigned short*)turned;
    for (int i = threadIdx.x; i < COLUMNS * DEPTH / 2; i += 32 * WARPS) {
        int r = i / (DEPTH / 2), d = i % (DEPTH / 2);
        unsigned two = first + r < end ? two_of(head + (long long)(first + r) * stride + 2 * d) : 0u;
        if (tile) {
            tile[r * LINE + d] = two;
        }
        if (turned) {
            by_value[2 * d * 2 * TURNED + r] = (unsigned short)two;
            by_value[(2 * d + 1) * 2 * TURNED + r] = (unsigned short)(two >> 16);
        }
    }
}

// This warp's 16 rows of a head as left operands; zeros from `end` on.
__device__ inline void read_rows(unsigned a[CHUNKS][4], const T* head, int stride, int first, int end) {
    int g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
        for (int part = 0; part < 4; part++) {
            int row = first + g + 8 * (part & 1), d = 16 * c + 2 * t + 8 * (part >> 1);
            a[c][part] = row < end ? two_of(head + (long long)row * stride + d) : 0u;
        }
    }
}

// Products of this warp's rows with the rows of a tile by token: s[j] are columns 8 j … 8 j + 7.
__device__ inline void products(float s[TILES][4], const unsigned a[CHUNKS][4], const unsigned* tile) {
    int g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
#pragma unroll
    for (int j = 0; j < TILES; j++) {
        s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.0f;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            unsigned b[2] = {tile[(8 * j + g) * LINE + 8 * c + t], tile[(8 * j + g) * LINE + 8 * c + t + 4]};
            mma(s[j], a[c], b);
        }
    }
}

// `acc += p x` where x is a tile by value.
__device__ inline void accumulate(float acc[DEPTH / 8][4], const float p[TILES][4], const unsigned* turned) {
    int g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
#pragma unroll
    for (int c = 0; c < COLUMNS / 16; c++) {
        unsigned a[4] = {pair(p[2 * c][0], p[2 * c][1]), pair(p[2 * c][2], p[2 * c][3]),
                         pair(p[2 * c + 1][0], p[2 * c + 1][1]), pair(p[2 * c + 1][2], p[2 * c + 1][3])};
#pragma unroll
        for (int d = 0; d < DEPTH / 8; d++) {
            unsigned b[2] = {turned[(8 * d + g) * TURNED + 8 * c + t], turned[(8 * d + g) * TURNED + 8 * c + t + 4]};
            mma(acc[d], a, b);
        }
    }
}

__device__ inline void clear(float acc[DEPTH / 8][4]) {
#pragma unroll
    for (int d = 0; d < DEPTH / 8; d++) {
        acc[d][0] = acc[d][1] = acc[d][2] = acc[d][3] = 0.0f;
    }
}

// Writes an accumulator's rows, times a factor each, to rows first … of a head.
__device__ inline void write_rows(T* head, int stride, int first, int end, const float acc[DEPTH / 8][4], const float* factors) {
    int g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int row = first + g + 8 * i;
        if (row < end) {
#pragma unroll
            for (int d = 0; d < DEPTH / 8; d++) {
                T* at = head + (long long)row * stride + 8 * d + 2 * t;
                store(at, 0, acc[d][2 * i] * factors[i]);
                store(at, 1, acc[d][2 * i + 1] * factors[i]);
            }
        }
    }
}

#ifndef BACKWARD
// As attention_forward of attention.cu.
extern "C" __global__ void attention_forward(const T* q, const T* k, const T* v, const float* bias,
                                             const unsigned long long* places, const int* cu_seqlens, const int* tiles,
                                             T* out, float* lse, Shape shape) {
    extern __shared__ float shared[];
    unsigned* ks = (unsigned*)shared;
    unsigned* vs = ks + COLUMNS * LINE;
    int g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3, h = blockIdx.y;
    int start = cu_seqlens[tiles[2 * blockIdx.x]], n = cu_seqlens[tiles[2 * blockIdx.x] + 1] - start;
    int first = tiles[2 * blockIdx.x + 1], last = min(first + ROWS, n) - 1, own = first + 16 * (threadIdx.x / 32);
    const T* kh = k + (long long)start * shape.k_stride + h / shape.group * DEPTH;
    const T* vh = v + (long long)start * shape.k_stride + h / shape.group * DEPTH;
    unsigned a[CHUNKS][4];
    read_rows(a, q + (long long)start * shape.q_stride + h * DEPTH, shape.q_stride, own, n);
    float acc[DEPTH / 8][4], top[2] = {NONE, NONE}, sum[2] = {0.0f, 0.0f};
    clear(acc);
#if DROPOUT
    unsigned long long seed = mask_stream(shape.seed, h), draws[2];
    for (int i = 0; i < 2; i++) {
        int query = own + g + 8 * i;
        draws[i] = mask_row(seed, query < n ? places[start + query] : 0ull);
    }
#endif
    int from = first > shape.before ? first - shape.before : 0;
    int to = shape.after >= n - 1 - last ? n : last + shape.after + 1;
    for (int key = from; key < to; key += COLUMNS) {
        __syncthreads();
        fill(ks, nullptr, kh, shape.k_stride, key, n);
        fill(nullptr, vs, vh, shape.k_stride, key, n);
        __syncthreads();
        float s[TILES][4];
        products(s, a, ks);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int query = own + g + 8 * i;
            float most = NONE;
#pragma unroll
            for (int e = 0; e < 2 * TILES; e++) {
                int column = key + 8 * (e / 2) + 2 * t + (e & 1);
                float* score = &s[e / 2][2 * i + (e & 1)];
                bool seen = sees(shape, query, column, n);
                *score *= shape.scale;
#if BIAS
                if (seen) {
                    *score += bias[(long long)h * shape.bias_columns + shape.bias_zero + column - query];
                }
#endif
                *score = seen ? *score : NONE;
                most = fmaxf(most, *score);
            }
            for (int step = 2; step > 0; step /= 2) {
                most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
            }
            float next = fmaxf(top[i], most), factor = expf(top[i] - next), part = 0.0f;
#pragma unroll
            for (int e = 0; e < 2 * TILES; e++) {
                float* score = &s[e / 2][2 * i + (e & 1)];
                float p = *score > NONE ? expf(*score - next) : 0.0f;
                part += p;
#if DROPOUT
                p *= mask_factor(draws[i], key + 8 * (e / 2) + 2 * t + (e & 1), shape.threshold, shape.kept);
#endif
                *score = p;
            }
            for (int step = 2; step > 0; step /= 2) {
                part += __shfl_xor_sync(0xffffffffu, part, step);
            }
            top[i] = next;
            sum[i] = sum[i] * factor + part;
#pragma unroll
            for (int d = 0; d < DEPTH / 8; d++) {
                acc[d][2 * i] *= factor;
                acc[d][2 * i + 1] *= factor;
            }
        }
        accumulate(acc, s, vs);
    }
    float factors[2] = {1.0f / sum[0], 1.0f / sum[1]};
    write_rows(out + (long long)start * shape.out_stride + h * DEPTH, shape.out_stride, own, n, acc, factors);
    for (int i = 0; lse && t == 0 && i < 2; i++) {
        int query = own + g + 8 * i;
        if (query < n) {
            lse[(long long)h * shape.tokens + start + query] = top[i] + logf(sum[i]);
        }
    }
}

#else
// As attention_queries of attention_backward.cu; a value of the bias's gradient is added atomically for each pair of tokens.
extern "C" __global__ void attention_queries(const T* q, const T* k, const T* v, const T* dout, const float* bias,
                                             const unsigned long long* places, const int* cu_seqlens, const int* tiles,
                                             const float* lse, const float* delta, T* dq, float* dbias, Shape shape) {
    extern __shared__ float shared[];
    unsigned* ks = (unsigned*)shared;
    unsigned* vs = ks + COLUMNS * LINE;
    unsigned* turned = vs + COLUMNS * LINE;
    int g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3, h = blockIdx.y;
    int start = cu_seqlens[tiles[2 * blockIdx.x]], n = cu_seqlens[tiles[2 * blockIdx.x] + 1] - start;
    int first = tiles[2 * blockIdx.x + 1], last = min(first + ROWS, n) - 1, own = first + 16 * (threadIdx.x / 32);
    const T* kh = k + (long long)start * shape.k_stride + h / shape.group * DEPTH;
    const T* vh = v + (long long)start * shape.k_stride + h / shape.group * DEPTH;
    unsigned qa[CHUNKS][4], ga[CHUNKS][4];
    read_rows(qa, q + (long long)start * shape.q_stride + h * DEPTH, shape.q_stride, own, n);
    read_rows(ga, dout + (long long)start * shape.out_stride + h * DEPTH, shape.out_stride, own, n);
    float acc[DEPTH / 8][4], total[2], along[2];
    clear(acc);
#if DROPOUT
    unsigned long long seed = mask_stream(shape.seed, h), draws[2];
#endif
    for (int i = 0; i < 2; i++) {
        int query = own + g + 8 * i;
        long long place = (long long)h * shape.tokens + start + query;
        total[i] = query < n ? lse[place] : 0.0f;
        along[i] = query < n ? delta[place] : 0.0f;
#if DROPOUT
        draws[i] = mask_row(seed, query < n ? places[start + query] : 0ull);
#endif
    }
    int from = first > shape.before ? first - shape.before : 0;
    int to = shape.after >= n - 1 - last ? n : last + shape.after + 1;
    for (int key = from; key < to; key += COLUMNS) {
        __syncthreads();
        fill(ks, turned, kh, shape.k_stride, key, n);
        fill(vs, nullptr, vh, shape.k_stride, key, n);
        __syncthreads();
        float s[TILES][4], w[TILES][4];
        products(s, qa, ks);
        products(w, ga, vs);
#pragma unroll
        for (int e = 0; e < 4 * TILES; e++) {
            int i = e >> 1 & 1, query = own + g + 8 * i, column = key + 8 * (e / 4) + 2 * t + (e & 1);
            float d = 0.0f;
            if (sees(shape, query, column, n)) {
                float score = s[e / 4][e & 3] * shape.scale, weight = w[e / 4][e & 3];
#if BIAS
                score += bias[(long long)h * shape.bias_columns + shape.bias_zero + column - query];
#endif
#if DROPOUT
                weight *= mask_factor(draws[i], column, shape.threshold, shape.kept);
#endif
                d = expf(score - total[i]) * (weight - along[i]);
#if BIAS
                if (dbias) {
                    atomicAdd(dbias + (long long)h * shape.bias_columns + shape.bias_zero + column - query, d);
                }
#endif
            }
            s[e / 4][e & 3] = d;
        }
        accumulate(acc, s, turned);
    }
    float factors[2] = {shape.scale, shape.scale};
    write_rows(dq + (long long)start * shape.q_stride + h * DEPTH, shape.q_stride, own, n, acc, factors);
}

// As attention_keys of attention_backward.cu: rows are keys, columns queries.
extern "C" __global__ void attention_keys(const T* q, const T* k, const T* v, const T* dout, const float* bias,
                                          const unsigned long long* places, const int* cu_seqlens, const int* tiles,
                                          const float* lse, const float* delta, T* dk, T* dv, Shape shape) {
    extern __shared__ float shared[];
    unsigned* qs = (unsigned*)shared;
    unsigned* gs = qs + COLUMNS * LINE;
    unsigned* q_turned = gs + COLUMNS * LINE;
    unsigned* g_turned = q_turned + DEPTH * TURNED;
    int g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3, kv = blockIdx.y;
    int start = cu_seqlens[tiles[2 * blockIdx.x]], n = cu_seqlens[tiles[2 * blockIdx.x] + 1] - start;
    int first = tiles[2 * blockIdx.x + 1], last = min(first + ROWS, n) - 1, own = first + 16 * (threadIdx.x / 32);
    long long at = (long long)start * shape.k_stride + (long long)kv * DEPTH;
    unsigned ka[CHUNKS][4], va[CHUNKS][4];
    read_rows(ka, k + at, shape.k_stride, own, n);
    read_rows(va, v + at, shape.k_stride, own, n);
    float by_key[DEPTH / 8][4], by_value[DEPTH / 8][4];
    clear(by_key);
    clear(by_value);
    int from = first > shape.after ? first - shape.after : 0;
    int to = shape.before >= n - 1 - last ? n : last + shape.before + 1;
    for (int h = kv * shape.group; h < (kv + 1) * shape.group; h++) {
#if DROPOUT
        unsigned long long seed = mask_stream(shape.seed, h);
#endif
        const T* qh = q + (long long)start * shape.q_stride + (long long)h * DEPTH;
        const T* gh = dout + (long long)start * shape.out_stride + (long long)h * DEPTH;
        for (int query = from; query < to; query += COLUMNS) {
            __syncthreads();
            fill(qs, q_turned, qh, shape.q_stride, query, n);
            fill(gs, g_turned, gh, shape.out_stride, query, n);
            __syncthreads();
            float s[TILES][4], w[TILES][4];
            products(s, ka, qs);
            products(w, va, gs);
#pragma unroll
            for (int e = 0; e < 2 * TILES; e++) {
                int row = query + 8 * (e / 2) + 2 * t + (e & 1);
                long long place = (long long)h * shape.tokens + start + row;
                float total = row < n ? lse[place] : 0.0f, along = row < n ? delta[place] : 0.0f;
#if DROPOUT
                unsigned long long draws = mask_row(seed, row < n ? places[start + row] : 0ull);
#endif
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    int column = own + g + 8 * i;
                    float p = 0.0f, d = 0.0f;
                    if (sees(shape, row, column, n)) {
                        float score = s[e / 2][2 * i + (e & 1)] * shape.scale, factor = 1.0f;
#if BIAS
                        score += bias[(long long)h * shape.bias_columns + shape.bias_zero + column - row];
#endif
#if DROPOUT
                        factor = mask_factor(draws, column, shape.threshold, shape.kept);
#endif
                        p = expf(score - total);
                        d = p * (w[e / 2][2 * i + (e & 1)] * factor - along);
                        p *= factor;
                    }
                    s[e / 2][2 * i + (e & 1)] = p;
                    w[e / 2][2 * i + (e & 1)] = d;
                }
            }
            accumulate(by_value, s, g_turned);
            accumulate(by_key, w, q_turned);
        }
    }
    float scales[2] = {shape.scale, shape.scale}, ones[2] = {1.0f, 1.0f};
    write_rows(dk + at, shape.k_stride, own, n, by_key, scales);
    write_rows(dv + at, shape.k_stride, own, n, by_value, ones);
}
#endif
