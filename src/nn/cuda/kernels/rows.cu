// Over rows: sums of columns, unit length, rows of tables.

// Block b's share of the sums of columns: rows b * share … of `x`, [rows, width] → [blocks, width].
extern "C" __global__ void column_partials(const T* x, float* partials, int rows, int width, int share) {
    int c = blockIdx.y * blockDim.x + threadIdx.x;
    if (c >= width) {
        return;
    }
    long long first = (long long)blockIdx.x * share;
    float sum = 0.0f;
    for (long long row = first; row < first + share && row < rows; row++) {
        sum += load(x, row * width + c);
    }
    partials[(long long)blockIdx.x * width + c] = sum;
}

// The shares in their order: [blocks, width] → [width].
extern "C" __global__ void column_sums(const float* partials, float* sums, int blocks, int width) {
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= width) {
        return;
    }
    float sum = 0.0f;
    for (int b = 0; b < blocks; b++) {
        sum += partials[(long long)b * width + c];
    }
    sums[c] = sum;
}

// Rows to unit length, a warp a row.
extern "C" __global__ void normalize_forward(const T* x, T* out, int rows, int width) {
    long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int lane = threadIdx.x & 31;
    if (row >= rows) {
        return;
    }
    float squares = 0.0f;
    for (int c = lane; c < width; c += 32) {
        float value = load(x, row * width + c);
        squares += value * value;
    }
    float length = fmaxf(sqrtf(warp_sum(squares)), 1e-12f);
    for (int c = lane; c < width; c += 32) {
        store(out, row * width + c, load(x, row * width + c) / length);
    }
}

extern "C" __global__ void normalize_backward(const T* x, const T* dy, T* dx, int rows, int width) {
    long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int lane = threadIdx.x & 31;
    if (row >= rows) {
        return;
    }
    float squares = 0.0f, products = 0.0f;
    for (int c = lane; c < width; c += 32) {
        float value = load(x, row * width + c);
        squares += value * value;
        products += value * load(dy, row * width + c);
    }
    float norm = sqrtf(warp_sum(squares));
    float length = fmaxf(norm, 1e-12f);
    products = warp_sum(products);
    // Below the bound the divisor is constant and only scales.
    float along = norm < 1e-12f ? 0.0f : products / length;
    for (int c = lane; c < width; c += 32) {
        float y = load(x, row * width + c) / length;
        store(dx, row * width + c, (load(dy, row * width + c) - y * along) / length);
    }
}

// `word[ids] + position[positions] + kind[0]`, a block a token; the last two tables may be null.
extern "C" __global__ void embed(const T* word, const unsigned* ids, const T* position, const unsigned* positions,
                                 const T* kind, T* out, int width) {
    long long token = blockIdx.x;
    const T* words = word + (long long)ids[token] * width;
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        float value = load(words, c);
        if (position) {
            value += load(position, (long long)positions[token] * width + c);
        }
        if (kind) {
            value += load(kind, c);
        }
        store(out, token * width + c, value);
    }
}

// The gradient of a table by the rows that were looked up: row `targets[g]` gets the sum, in their order, of rows
// `order[bounds[g]..bounds[g + 1]]` of `dy`.
extern "C" __global__ void embed_backward(const T* dy, const unsigned* targets, const unsigned* bounds,
                                          const unsigned* order, T* table, int width) {
    int c = blockIdx.y * blockDim.x + threadIdx.x;
    if (c >= width) {
        return;
    }
    float sum = 0.0f;
    for (unsigned i = bounds[blockIdx.x]; i < bounds[blockIdx.x + 1]; i++) {
        sum += load(dy, (long long)order[i] * width + c);
    }
    store(table, (long long)targets[blockIdx.x] * width + c, sum);
}
