// The backward pass of attention.cu, whose text stands before this one. Probabilities are made anew from the scores and `lse`; each
// block writes what no other one writes, so sums have a fixed order (but for the bias's, which are added atomically).

// By the queries, and by the bias where `dbias` is not null; tiles of queries, the grid is (tiles, heads).
extern "C" __global__ void attention_queries(const T* q, const T* k, const T* v, const T* dout, const float* bias,
                                             const unsigned long long* places, const int* cu_seqlens, const int* tiles,
                                             const float* lse, const float* delta, T* dq, float* dbias, Shape shape) {
    extern __shared__ float shared[];
    float* qs = shared;
    float* gs = qs + ROWS * LINE;
    float* ks = gs + ROWS * LINE;
    float* vs = ks + COLUMNS * LINE;
    float* ds = vs + COLUMNS * LINE;
    int tx = threadIdx.x & 7, ty = threadIdx.x >> 3, h = blockIdx.y;
    int start = cu_seqlens[tiles[2 * blockIdx.x]], n = cu_seqlens[tiles[2 * blockIdx.x] + 1] - start;
    int first = tiles[2 * blockIdx.x + 1], last = min(first + ROWS, n) - 1;
    long long column_of = (long long)h * DEPTH;
    const T* kh = k + (long long)start * shape.k_stride + h / shape.group * DEPTH;
    const T* vh = v + (long long)start * shape.k_stride + h / shape.group * DEPTH;
    fill(qs, q + (long long)start * shape.q_stride + column_of, shape.q_stride, first, n, ROWS, shape.scale);
    fill(gs, dout + (long long)start * shape.out_stride + column_of, shape.out_stride, first, n, ROWS, 1.0f);
    float acc[RM][RD], total[RM], along[RM];
#if DROPOUT
    unsigned long long seed = mask_stream(shape.seed, h), draws[RM];
#endif
#pragma unroll
    for (int i = 0; i < RM; i++) {
        int query = first + ty + 16 * i;
        long long place = (long long)h * shape.tokens + start + query;
        total[i] = query < n ? lse[place] : 0.0f;
        along[i] = query < n ? delta[place] : 0.0f;
#pragma unroll
        for (int d = 0; d < RD; d++) {
            acc[i][d] = 0.0f;
        }
#if DROPOUT
        draws[i] = mask_row(seed, query < n ? places[start + query] : 0ull);
#endif
    }
    int from = first > shape.before ? first - shape.before : 0;
    int to = shape.after >= n - 1 - last ? n : last + shape.after + 1;
    for (int key = from; key < to; key += COLUMNS) {
        __syncthreads();
        fill(ks, kh, shape.k_stride, key, n, COLUMNS, 1.0f);
        fill(vs, vh, shape.k_stride, key, n, COLUMNS, 1.0f);
        __syncthreads();
        float s[RM][RN], g[RM][RN];
        products(s, qs, ks, ty, tx);
        products(g, gs, vs, ty, tx);
#pragma unroll
        for (int i = 0; i < RM; i++) {
            int query = first + ty + 16 * i;
#pragma unroll
            for (int j = 0; j < RN; j++) {
                int column = key + tx + 8 * j;
                float d = 0.0f;
                if (sees(shape, query, column, n)) {
                    float score = s[i][j], weight = g[i][j];
#if BIAS
                    score += bias[(long long)h * shape.bias_columns + shape.bias_zero + column - query];
#endif
#if DROPOUT
                    weight *= mask_factor(draws[i], column, shape.threshold, shape.kept);
#endif
                    d = expf(score - total[i]) * (weight - along[i]);
                }
                ds[(ty + 16 * i) * (COLUMNS + 1) + tx + 8 * j] = d;
            }
        }
        __syncthreads();
        accumulate(acc, ds, ks, ty, tx);
#if BIAS
        // A diagonal of the tile, of one distance, a thread.
        for (int diagonal = threadIdx.x; dbias && diagonal < ROWS + COLUMNS - 1; diagonal += 128) {
            float sum = 0.0f;
            for (int r = 0; r < ROWS; r++) {
                int c = r + diagonal - (ROWS - 1);
                if (c >= 0 && c < COLUMNS) {
                    sum += ds[r * (COLUMNS + 1) + c];
                }
            }
            int column = shape.bias_zero + key - first + diagonal - (ROWS - 1);
            if (sum != 0.0f && column >= 0 && column < shape.bias_columns) {
                atomicAdd(dbias + (long long)h * shape.bias_columns + column, sum);
            }
        }
#endif
    }
#pragma unroll
    for (int i = 0; i < RM; i++) {
        int query = first + ty + 16 * i;
#pragma unroll
        for (int d = 0; query < n && d < RD; d++) {
            if (tx + 8 * d < DEPTH) {
                store(dq, (long long)(start + query) * shape.q_stride + column_of + tx + 8 * d, acc[i][d] * shape.scale);
            }
        }
    }
}

// By keys and values; tiles of keys, the grid is (tiles, heads of keys). Rows are keys here, columns queries.
extern "C" __global__ void attention_keys(const T* q, const T* k, const T* v, const T* dout, const float* bias,
                                          const unsigned long long* places, const int* cu_seqlens, const int* tiles,
                                          const float* lse, const float* delta, T* dk, T* dv, Shape shape) {
    extern __shared__ float shared[];
    float* ks = shared;
    float* vs = ks + ROWS * LINE;
    float* qs = vs + ROWS * LINE;
    float* gs = qs + COLUMNS * LINE;
    float* ps = gs + COLUMNS * LINE;
    float* ds = ps + ROWS * (COLUMNS + 1);
    int tx = threadIdx.x & 7, ty = threadIdx.x >> 3, kv = blockIdx.y;
    int start = cu_seqlens[tiles[2 * blockIdx.x]], n = cu_seqlens[tiles[2 * blockIdx.x] + 1] - start;
    int first = tiles[2 * blockIdx.x + 1], last = min(first + ROWS, n) - 1;
    long long own = (long long)start * shape.k_stride + (long long)kv * DEPTH;
    fill(ks, k + own, shape.k_stride, first, n, ROWS, 1.0f);
    fill(vs, v + own, shape.k_stride, first, n, ROWS, 1.0f);
    float by_key[RM][RD], by_value[RM][RD];
#pragma unroll
    for (int i = 0; i < RM; i++) {
#pragma unroll
        for (int d = 0; d < RD; d++) {
            by_key[i][d] = by_value[i][d] = 0.0f;
        }
    }
    // Queries that see one of these keys.
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
            fill(qs, qh, shape.q_stride, query, n, COLUMNS, shape.scale);
            fill(gs, gh, shape.out_stride, query, n, COLUMNS, 1.0f);
            __syncthreads();
            float s[RM][RN], g[RM][RN];
            products(s, ks, qs, ty, tx);
            products(g, vs, gs, ty, tx);
#pragma unroll
            for (int j = 0; j < RN; j++) {
                int row = query + tx + 8 * j;
                long long place = (long long)h * shape.tokens + start + row;
                float total = row < n ? lse[place] : 0.0f, along = row < n ? delta[place] : 0.0f;
#if DROPOUT
                unsigned long long draws = mask_row(seed, row < n ? places[start + row] : 0ull);
#endif
#pragma unroll
                for (int i = 0; i < RM; i++) {
                    int column = first + ty + 16 * i;
                    float p = 0.0f, d = 0.0f;
                    if (sees(shape, row, column, n)) {
                        float score = s[i][j], factor = 1.0f;
#if BIAS
                        score += bias[(long long)h * shape.bias_columns + shape.bias_zero + column - row];
#endif
#if DROPOUT
                        factor = mask_factor(draws, column, shape.threshold, shape.kept);
#endif
                        p = expf(score - total);
                        d = p * (g[i][j] * factor - along);
                        p *= factor;
                    }
                    ps[(ty + 16 * i) * (COLUMNS + 1) + tx + 8 * j] = p;
                    ds[(ty + 16 * i) * (COLUMNS + 1) + tx + 8 * j] = d;
                }
            }
            __syncthreads();
            accumulate(by_value, ps, gs, ty, tx);
            // The queries are scaled already.
            accumulate(by_key, ds, qs, ty, tx);
        }
    }
#pragma unroll
    for (int i = 0; i < RM; i++) {
        int key = first + ty + 16 * i;
#pragma unroll
        for (int d = 0; key < n && d < RD; d++) {
            if (tx + 8 * d < DEPTH) {
                long long at = own + (long long)key * shape.k_stride + tx + 8 * d;
                store(dk, at, by_key[i][d]);
                store(dv, at, by_value[i][d]);
            }
        }
    }
}
