// LayerNorm (or RMSNorm, with RMS) of `dropout(x) + residual`, rows of WIDTH values, a block of THREADS a row.
// `residual` and `places` may be null. Mean and deviation are made anew in the backward pass.

#define PER ((WIDTH + THREADS - 1) / THREADS)

// This thread's values of a row: columns threadIdx.x, threadIdx.x + THREADS …
__device__ inline void read_row(float* v, const T* x, const T* residual, const unsigned long long* places,
                                unsigned long long seed, unsigned threshold, float scale, long long row) {
    unsigned long long draws = places ? mask_row(seed, places[row]) : 0ull;
#pragma unroll
    for (int j = 0; j < PER; j++) {
        int c = threadIdx.x + j * THREADS;
        v[j] = 0.0f;
        if (c < WIDTH) {
            float value = load(x, row * WIDTH + c);
            if (places) {
                value *= mask_factor(draws, c, threshold, scale);
            }
            v[j] = residual ? value + load(residual, row * WIDTH + c) : value;
        }
    }
}

// Centres the row and gives 1 / sqrt(variance + eps); columns past the width become 0.
__device__ inline float centre(float* v, float eps, float* scratch) {
    float mean = 0.0f;
#if !RMS
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < PER; j++) {
        sum += v[j];
    }
    mean = block_sum(sum, scratch) / WIDTH;
#endif
    float squares = 0.0f;
#pragma unroll
    for (int j = 0; j < PER; j++) {
        int c = threadIdx.x + j * THREADS;
        v[j] = c < WIDTH ? v[j] - mean : 0.0f;
        squares += v[j] * v[j];
    }
    return 1.0f / sqrtf(block_sum(squares, scratch) / WIDTH + eps);
}

// `bias` may be null; the scale is `weight + plus`.
extern "C" __global__ void norm_forward(const T* x, const T* residual, const float* weight, const float* bias,
                                        const unsigned long long* places, T* out, unsigned long long seed,
                                        unsigned threshold, float scale, float eps, float plus) {
    __shared__ float scratch[32];
    float v[PER];
    long long row = blockIdx.x;
    read_row(v, x, residual, places, seed, threshold, scale, row);
    float inverse = centre(v, eps, scratch);
#pragma unroll
    for (int j = 0; j < PER; j++) {
        int c = threadIdx.x + j * THREADS;
        if (c < WIDTH) {
            float y = v[j] * inverse * (weight[c] + plus);
            store(out, row * WIDTH + c, bias ? y + bias[c] : y);
        }
    }
}

// Block b takes rows b * share … `dsum` is the gradient by the sum, `dx` that by x where dropout makes it another. `partials`
// [blocks, 2, WIDTH]: this block's share of the gradients by scale and shift. The last three may be null.
extern "C" __global__ void norm_backward(const T* x, const T* residual, const float* weight,
                                         const unsigned long long* places, const T* dy, T* dsum, T* dx,
                                         float* partials, unsigned long long seed, unsigned threshold, float scale,
                                         float eps, float plus, int rows, int share) {
    __shared__ float scratch[32];
    float v[PER], dscale[PER], dshift[PER];
#pragma unroll
    for (int j = 0; j < PER; j++) {
        dscale[j] = dshift[j] = 0.0f;
    }
    long long first = (long long)blockIdx.x * share;
    for (long long row = first; row < first + share && row < rows; row++) {
        read_row(v, x, residual, places, seed, threshold, scale, row);
        float inverse = centre(v, eps, scratch);
        float g[PER];
        float sum = 0.0f, along = 0.0f;
#pragma unroll
        for (int j = 0; j < PER; j++) {
            int c = threadIdx.x + j * THREADS;
            v[j] *= inverse;
            float d = c < WIDTH ? load(dy, row * WIDTH + c) : 0.0f;
            dscale[j] += d * v[j];
            dshift[j] += d;
            g[j] = c < WIDTH ? d * (weight[c] + plus) : 0.0f;
            sum += g[j];
            along += g[j] * v[j];
        }
        if (!dsum && !dx) {
            continue;
        }
        float mean = 0.0f;
#if !RMS
        mean = block_sum(sum, scratch) / WIDTH;
#endif
        float share_along = block_sum(along, scratch) / WIDTH;
        unsigned long long draws = places ? mask_row(seed, places[row]) : 0ull;
#pragma unroll
        for (int j = 0; j < PER; j++) {
            int c = threadIdx.x + j * THREADS;
            if (c < WIDTH) {
                float d = inverse * (g[j] - mean - v[j] * share_along);
                if (dsum) {
                    store(dsum, row * WIDTH + c, d);
                }
                if (dx) {
                    store(dx, row * WIDTH + c, places ? d * mask_factor(draws, c, threshold, scale) : d);
                }
            }
        }
    }
    if (partials) {
        float* own = partials + (long long)blockIdx.x * 2 * WIDTH;
#pragma unroll
        for (int j = 0; j < PER; j++) {
            int c = threadIdx.x + j * THREADS;
            if (c < WIDTH) {
                own[c] = dscale[j];
                own[WIDTH + c] = dshift[j];
            }
        }
    }
}
