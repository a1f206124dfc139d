// Attention over packed sequences, forwards, one tile of queries of one head a block of 128 threads; keys pass through shared memory
// tile by tile with a running softmax (Dao et al. 2022), so nothing of the size of the square of a length is held.
// Macros: DEPTH, values of a head; ROWS (a multiple of 16) and COLUMNS (of 8), the tile; BIAS, DROPOUT.
//
// Thread (ty, tx) = (id / 8, id % 8) has rows ty + 16 i, columns tx + 8 j, values tx + 8 d of a result's row: the eight
// threads of a row are neighbours in a warp.

#define RM (ROWS / 16)
#define RN (COLUMNS / 8)
#define RD ((DEPTH + 7) / 8)
#define LINE (DEPTH + 1)

// Rows first … of a head into shared memory, times `factor`; zeros from `end` on.
__device__ inline void fill(float* tile, const T* head, int stride, int first, int end, int rows, float factor) {
    for (int i = threadIdx.x; i < rows * DEPTH; i += 128) {
        int r = i / DEPTH, d = i % DEPTH;
        tile[r * LINE + d] = first + r < end ? factor * load(head, (long long)(first + r) * stride + d) : 0.0f;
    }
}

// This thread's products of rows of `a` with rows of `b`.
__device__ inline void products(float s[RM][RN], const float* a, const float* b, int ty, int tx) {
#pragma unroll
    for (int i = 0; i < RM; i++) {
#pragma unroll
        for (int j = 0; j < RN; j++) {
            s[i][j] = 0.0f;
        }
    }
    for (int d = 0; d < DEPTH; d++) {
        float left[RM], right[RN];
#pragma unroll
        for (int i = 0; i < RM; i++) {
            left[i] = a[(ty + 16 * i) * LINE + d];
        }
#pragma unroll
        for (int j = 0; j < RN; j++) {
            right[j] = b[(tx + 8 * j) * LINE + d];
        }
#pragma unroll
        for (int i = 0; i < RM; i++) {
#pragma unroll
            for (int j = 0; j < RN; j++) {
                s[i][j] += left[i] * right[j];
            }
        }
    }
}

// `acc += p b`: p [ROWS, COLUMNS + 1], b rows of values.
__device__ inline void accumulate(float acc[RM][RD], const float* p, const float* b, int ty, int tx) {
    for (int c = 0; c < COLUMNS; c++) {
        float left[RM];
#pragma unroll
        for (int i = 0; i < RM; i++) {
            left[i] = p[(ty + 16 * i) * (COLUMNS + 1) + c];
        }
#pragma unroll
        for (int d = 0; d < RD; d++) {
            // With DEPTH no multiple of 8 the last column may be past the row; what is summed there is not written.
            float right = tx + 8 * d < DEPTH ? b[c * LINE + tx + 8 * d] : 0.0f;
#pragma unroll
            for (int i = 0; i < RM; i++) {
                acc[i][d] += left[i] * right;
            }
        }
    }
}

#ifndef BACKWARD
// `tiles` [tiles, 2]: a tile's sequence and first query; the grid is (tiles, heads). `lse` [heads, tokens] may be null.
extern "C" __global__ void attention_forward(const T* q, const T* k, const T* v, const float* bias,
                                             const unsigned long long* places, const int* cu_seqlens, const int* tiles,
                                             T* out, float* lse, Shape shape) {
    extern __shared__ float shared[];
    float* qs = shared;
    float* ks = qs + ROWS * LINE;
    float* vs = ks + COLUMNS * LINE;
    float* ps = vs + COLUMNS * LINE;
    int tx = threadIdx.x & 7, ty = threadIdx.x >> 3, h = blockIdx.y;
    int start = cu_seqlens[tiles[2 * blockIdx.x]], n = cu_seqlens[tiles[2 * blockIdx.x] + 1] - start;
    int first = tiles[2 * blockIdx.x + 1], last = min(first + ROWS, n) - 1;
    const T* qh = q + (long long)start * shape.q_stride + h * DEPTH;
    const T* kh = k + (long long)start * shape.k_stride + h / shape.group * DEPTH;
    const T* vh = v + (long long)start * shape.k_stride + h / shape.group * DEPTH;
    fill(qs, qh, shape.q_stride, first, n, ROWS, shape.scale);
    float acc[RM][RD], top[RM], sum[RM];
#pragma unroll
    for (int i = 0; i < RM; i++) {
        top[i] = NONE;
        sum[i] = 0.0f;
#pragma unroll
        for (int d = 0; d < RD; d++) {
            acc[i][d] = 0.0f;
        }
    }
#if DROPOUT
    unsigned long long seed = mask_stream(shape.seed, h), draws[RM];
#pragma unroll
    for (int i = 0; i < RM; i++) {
        draws[i] = mask_row(seed, first + ty + 16 * i < n ? places[start + first + ty + 16 * i] : 0ull);
    }
#endif
    int from = first > shape.before ? first - shape.before : 0;
    int to = shape.after >= n - 1 - last ? n : last + shape.after + 1;
    for (int key = from; key < to; key += COLUMNS) {
        __syncthreads();
        fill(ks, kh, shape.k_stride, key, n, COLUMNS, 1.0f);
        fill(vs, vh, shape.k_stride, key, n, COLUMNS, 1.0f);
        __syncthreads();
        float s[RM][RN];
        products(s, qs, ks, ty, tx);
#pragma unroll
        for (int i = 0; i < RM; i++) {
            int query = first + ty + 16 * i;
            float most = NONE;
#pragma unroll
            for (int j = 0; j < RN; j++) {
                int column = key + tx + 8 * j;
                bool seen = sees(shape, query, column, n);
#if BIAS
                if (seen) {
                    s[i][j] += bias[(long long)h * shape.bias_columns + shape.bias_zero + column - query];
                }
#endif
                s[i][j] = seen ? s[i][j] : NONE;
                most = fmaxf(most, s[i][j]);
            }
            for (int step = 4; step > 0; step /= 2) {
                most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
            }
            float next = fmaxf(top[i], most), factor = expf(top[i] - next), part = 0.0f;
#pragma unroll
            for (int j = 0; j < RN; j++) {
                float p = s[i][j] > NONE ? expf(s[i][j] - next) : 0.0f;
                part += p;
#if DROPOUT
                p *= mask_factor(draws[i], key + tx + 8 * j, shape.threshold, shape.kept);
#endif
                ps[(ty + 16 * i) * (COLUMNS + 1) + tx + 8 * j] = p;
            }
            for (int step = 4; step > 0; step /= 2) {
                part += __shfl_xor_sync(0xffffffffu, part, step);
            }
            top[i] = next;
            sum[i] = sum[i] * factor + part;
#pragma unroll
            for (int d = 0; d < RD; d++) {
                acc[i][d] *= factor;
            }
        }
        __syncthreads();
        accumulate(acc, ps, vs, ty, tx);
    }
#pragma unroll
    for (int i = 0; i < RM; i++) {
        int query = first + ty + 16 * i;
        if (query >= n) {
            continue;
        }
#pragma unroll
        for (int d = 0; d < RD; d++) {
            if (tx + 8 * d < DEPTH) {
                store(out, (long long)(start + query) * shape.out_stride + h * DEPTH + tx + 8 * d, acc[i][d] / sum[i]);
            }
        }
        if (lse && tx == 0) {
            lse[(long long)h * shape.tokens + start + query] = top[i] + logf(sum[i]);
        }
    }
}
#endif
