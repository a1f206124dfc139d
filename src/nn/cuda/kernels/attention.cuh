// What all kernels of attention share.

// A score that is none.
#define NONE (-1e30f)

// What all blocks share.
struct Shape {
    int heads, group, q_stride, k_stride, out_stride, tokens;
    // The farthest key before a query and after it.
    int before, after;
    float scale;
    // Columns of the bias, the one of distance 0, and the mask of dropout.
    int bias_columns, bias_zero;
    unsigned threshold;
    float kept;
    unsigned long long seed;
};

// Whether query q sees key k of n.
__device__ inline bool sees(const Shape& shape, int q, int k, int n) {
    return q < n && k < n && k >= 0 && q - k <= shape.before && k - q <= shape.after;
}

#ifdef BACKWARD
// `delta` [heads, tokens]: the products of rows of the result with their gradients; a warp a row.
extern "C" __global__ void attention_delta(const T* out, const T* dout, float* delta, Shape shape) {
    long long unit = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (unit >= (long long)shape.heads * shape.tokens) {
        return;
    }
    long long h = unit / shape.tokens, token = unit % shape.tokens;
    long long row = token * shape.out_stride + h * DEPTH;
    float sum = 0.0f;
    for (int d = threadIdx.x & 31; d < DEPTH; d += 32) {
        sum += load(out, row + d) * load(dout, row + d);
    }
    sum = warp_sum(sum);
    if ((threadIdx.x & 31) == 0) {
        delta[unit] = sum;
    }
}
#endif
