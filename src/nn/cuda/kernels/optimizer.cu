// AdamW in place (`train/optimizer.rs` has the same on the CPU), and sums of squares.

extern "C" __global__ void adamw(float* p, const float* gradient, float* first, float* second, long long count,
                                 float beta1, float beta2, float rest1, float rest2, float scale, float lr_decay,
                                 float step_size, float root_correction, float eps) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) {
        float g = gradient[i] * scale;
        float m = beta1 * first[i] + rest1 * g;
        float v = beta2 * second[i] + rest2 * g * g;
        first[i] = m;
        second[i] = v;
        p[i] = p[i] * lr_decay - step_size * m / (sqrtf(v) / root_correction + eps);
    }
}

// Block b's share, [blocks] in f64: values b * share …; 256 threads.
extern "C" __global__ void square_partials(const float* x, double* partials, long long count, long long share) {
    __shared__ double sums[256];
    long long first = (long long)blockIdx.x * share;
    double sum = 0.0;
    for (long long i = first + threadIdx.x; i < first + share && i < count; i += blockDim.x) {
        sum += (double)x[i] * (double)x[i];
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int half = 128; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            sums[threadIdx.x] += sums[threadIdx.x + half];
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        partials[blockIdx.x] = sums[0];
    }
}
