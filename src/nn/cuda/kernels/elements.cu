// Element by element: activations, plain and gated, a bias before them, and dropout.
// ACTIVATION: 0 none, 1 GELU, 2 GELU by tanh, 3 SiLU, 4 tanh, 5 ReLU.

__device__ inline float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

__device__ inline float activate(float x) {
#if ACTIVATION == 1
    return 0.5f * x * (1.0f + erff(x * 0.70710678f));
#elif ACTIVATION == 2
    return x * sigmoid(1.5957691f * (x + 0.044715f * x * x * x));
#elif ACTIVATION == 3
    return x * sigmoid(x);
#elif ACTIVATION == 4
    return tanhf(x);
#elif ACTIVATION == 5
    return fmaxf(x, 0.0f);
#else
    return x;
#endif
}

__device__ inline float slope(float x) {
#if ACTIVATION == 1
    return 0.5f * (1.0f + erff(x * 0.70710678f)) + x * 0.3989423f * expf(-0.5f * x * x);
#elif ACTIVATION == 2
    float s = sigmoid(1.5957691f * (x + 0.044715f * x * x * x));
    return s + x * s * (1.0f - s) * 1.5957691f * (1.0f + 0.134145f * x * x);
#elif ACTIVATION == 3
    float s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
#elif ACTIVATION == 4
    float y = tanhf(x);
    return 1.0f - y * y;
#elif ACTIVATION == 5
    return x > 0.0f ? 1.0f : 0.0f;
#else
    return 1.0f;
#endif
}

__device__ inline long long thread_index() {
    return (long long)blockIdx.x * blockDim.x + threadIdx.x;
}

// `x = activation(x + bias)` in place, rows of `width`; `bias` may be null.
extern "C" __global__ void bias_activation(T* x, const float* bias, long long count, int width) {
    long long i = thread_index();
    if (i < count) {
        float value = load(x, i);
        store(x, i, activate(bias ? value + bias[i % width] : value));
    }
}

extern "C" __global__ void activation_forward(const T* x, T* out, long long count) {
    long long i = thread_index();
    if (i < count) {
        store(out, i, activate(load(x, i)));
    }
}

extern "C" __global__ void activation_backward(const T* x, const T* dy, T* dx, long long count) {
    long long i = thread_index();
    if (i < count) {
        store(dx, i, load(dy, i) * slope(load(x, i)));
    }
}

// `out = activation(gate) * up`; rows of `inner` values in `out`, of `stride` in gate and up, which start `column` apart in `x`
// if they are in one tensor.
extern "C" __global__ void gated_forward(const T* gate, const T* up, T* out, long long count, int inner, int stride,
                                         int column) {
    long long i = thread_index();
    if (i < count) {
        long long from = i / inner * stride + i % inner;
        store(out, i, activate(load(gate, from)) * load(up, from + column));
    }
}

extern "C" __global__ void gated_backward(const T* gate, const T* up, const T* dy, T* dgate, T* dup, long long count,
                                          int inner, int stride, int column) {
    long long i = thread_index();
    if (i < count) {
        long long from = i / inner * stride + i % inner;
        float g = load(gate, from), u = load(up, from + column), d = load(dy, i);
        store(dgate, from, d * u * slope(g));
        store(dup, from + column, d * activate(g));
    }
}

// Dropout of rows of `width` values by their tokens' places, a draw for every `group` neighbouring columns.
extern "C" __global__ void token_dropout(const T* x, const unsigned long long* places, T* out, long long count,
                                         int width, int group, unsigned long long seed, unsigned threshold,
                                         float scale) {
    long long i = thread_index();
    if (i < count) {
        unsigned long long row = mask_row(seed, places[i / width]);
        store(out, i, load(x, i) * mask_factor(row, (unsigned)(i % width) / group, threshold, scale));
    }
}

// Dropout by an element's number (`dropout.rs`).
extern "C" __global__ void element_dropout(const T* x, T* out, long long count, unsigned long long seed,
                                           unsigned long long threshold, float scale) {
    long long i = thread_index();
    if (i < count) {
        unsigned long long draw = mix((seed + (unsigned long long)i) * GOLDEN) >> 32;
        store(out, i, draw < threshold ? 0.0f : load(x, i) * scale);
    }
}
