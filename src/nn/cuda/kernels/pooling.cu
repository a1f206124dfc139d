// Pooling, a thread a sequence and column. MODE: 0 first token, 1 maximum, 2 mean, 3 mean over the root, 4 mean weighted by
// position, 5 last token. `ranges` [sequences, 4]: the sequence's first token, the first that is pooled, the end, and the position
// of the first that is pooled.

// Weight of the i-th of n tokens, the first at position `from`.
__device__ inline float weight(int i, int n, int from) {
#if MODE == 0
    return i == 0 ? 1.0f : 0.0f;
#elif MODE == 2
    return 1.0f / n;
#elif MODE == 3
    return 1.0f / sqrtf((float)n);
#elif MODE == 4
    float total = (float)((double)n * (from + 1) + 0.5 * (double)n * (n - 1));
    return (from + i + 1) / total;
#else
    return i == n - 1 ? 1.0f : 0.0f;
#endif
}

extern "C" __global__ void pool_forward(const T* x, const int* ranges, float* out, int width) {
    int c = blockIdx.y * blockDim.x + threadIdx.x;
    if (c >= width) {
        return;
    }
    const int* range = ranges + 4 * blockIdx.x;
    int start = range[1], n = range[2] - range[1];
    float value = 0.0f;
#if MODE == 1
    if (n > 0) {
        value = load(x, (long long)start * width + c);
    }
    for (int i = 1; i < n; i++) {
        value = fmaxf(value, load(x, (long long)(start + i) * width + c));
    }
#elif MODE == 0 || MODE == 5
    if (n > 0) {
        value = load(x, (long long)(MODE == 0 ? start : start + n - 1) * width + c);
    }
#else
    for (int i = 0; i < n; i++) {
        value += weight(i, n, range[3]) * load(x, (long long)(start + i) * width + c);
    }
#endif
    out[(long long)blockIdx.x * width + c] = value;
}

extern "C" __global__ void pool_backward(const T* x, const int* ranges, const float* dy, T* dx, int width) {
    int c = blockIdx.y * blockDim.x + threadIdx.x;
    if (c >= width) {
        return;
    }
    const int* range = ranges + 4 * blockIdx.x;
    int start = range[1], n = range[2] - range[1];
    float d = dy[(long long)blockIdx.x * width + c];
    // Of tokens that pooling does not see.
    for (int token = range[0]; token < start; token++) {
        store(dx, (long long)token * width + c, 0.0f);
    }
#if MODE == 1
    int best = 0;
    float top = n > 0 ? load(x, (long long)start * width + c) : 0.0f;
    for (int i = 1; i < n; i++) {
        float value = load(x, (long long)(start + i) * width + c);
        if (value > top) {
            top = value;
            best = i;
        }
    }
    for (int i = 0; i < n; i++) {
        store(dx, (long long)(start + i) * width + c, i == best ? d : 0.0f);
    }
#else
    for (int i = 0; i < n; i++) {
        store(dx, (long long)(start + i) * width + c, weight(i, n, range[3]) * d);
    }
#endif
}
