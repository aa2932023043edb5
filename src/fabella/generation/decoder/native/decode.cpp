// One decode step of a model: one team of threads runs every operation, without returning to Python in between.
//
// A program is a list of operations on buffers [n width]. bindings_torch.py writes it, and its structures mirror those
// of this file field by field. The n rows are one more token of many sequences, or chunks of some prompts. Each output
// is summed by one thread, in an order that depends neither on the number of threads nor on the other rows, so that a
// sequence has the same bits alone and in a batch. Nothing is allocated. sample.h samples the next token.

#include <omp.h>
#include <sched.h>

#include "sample.h"
#include "panels.h"

namespace {

enum Kind : int32_t { EMBED, PROJECT, ATTEND, MIX, CONVOLVE };
enum Norm : int32_t { NO_NORM, RMS_NORM, LAYER_NORM };
enum Epilogue : int32_t { STORE, GELU, GELU_TANH, SWIGLU, MINGRU };
enum Values : int32_t { OWN_VALUES, FIRST_VALUES, MIXED_VALUES };
enum Dtype : int32_t { FLOAT32, FLOAT16, INT8, BFLOAT16 };

struct Matrix {
    const void* weight;       // [rows inputs], contiguous; in panels unless it is float32
    const float* scales;      // [rows]: of an int8 weight
    const int32_t* row_sums;  // of an int8 weight, 16 for each panel
    const float* bias;        // [rows], or null
    int64_t rows;
};

struct Operation {
    int32_t kind, norm, epilogue, dtype;
    int32_t source, target, residual;  // buffers; target -1: the logits; residual -1: none
    int32_t cache;              // index of the KV cache, hidden state or inputs of a convolution; -1: none
    int32_t last_only;                // whether only rows with logits are computed
    int32_t matrices;            // concatenated; for SWIGLU and MINGRU, two that are combined
    int32_t heads, kv_heads, head_dim, rotary_pairs, half_rotation;
    int32_t kept;    // buffer, or -1: EMBED copies its rows to it, MIX adds it; ATTEND: values of the first layer;
                     // CONVOLVE: its normed input
    int32_t values;  // ATTEND: its own, which are kept in FIRST_VALUES and mixed with these in MIXED_VALUES
    int32_t gate;    // buffer, or -1; PROJECT: its silu multiplies the normed rows; ATTEND: gates of the heads, those in
                     // the source follow its values
    int32_t past;    // CONVOLVE: inputs before a token that it reads
    float own_weight, kept_weight;  // MIX, MIXED_VALUES: factors
    float eps;
    float scale;                 // ATTEND: factor of the products of queries and keys
    int64_t inputs;
    int64_t window;              // ATTEND: tokens that a token sees, itself included
    Matrix matrix[4];
    const float *norm_weight, *norm_bias, *key_norm_weight;  // ATTEND: norm_weight is that of a query head
    const float *table, *position_table;  // EMBED: rows by token, in int8 matrix[0]; rows by position, or null
    const float *cos, *sin;       // ATTEND: [S rotary_pairs], or null
    const float* taps;            // CONVOLVE: [past + 1 inputs], that of the token itself last
};

struct Stage {
    int64_t claimed, finished;
    int64_t padding[6];  // one cache line per stage: no false sharing
};

struct Program {
    const Operation* operations;
    Stage* stages;  // two per operation
    float* const* buffers;
    char* scratch;
    int64_t count, scratch_bytes;  // scratch bytes per thread
    int32_t threads, padding;
};

struct Call {
    float* const* caches;  // [R 2 K S E] for attention, [R S] for a recurrence, [R past D] for a convolution
    int64_t capacity;        // S of the KV caches
    int64_t embedding_rows;           // valid token ids are below it
    int64_t n, skip;         // rows; the first skip rows need no logits
    const int64_t *tokens, *rows, *positions;
    float* logits;           // [n - skip, V]
    int64_t prefill;         // whether rows may belong to the same sequence
};

constexpr int64_t CHUNK_BYTES = 65536;    // weight bytes that a thread claims at once: a few microseconds of work
constexpr int64_t SPINS_BEFORE_YIELD = 4096;  // polls of the other threads before the core is released
constexpr int64_t BLOCK = 256;      // minimum number of sums that are finished together

// Multiply R rows of a float32 weight by all n rows of x: products[i * stride + r].
template <int R>
inline void multiply_rows(const float* weight, int64_t inputs, const float* x, int64_t n, float* products,
                          int64_t stride) {
    int64_t i = 0;
    for (; i + TILE_COLUMNS <= n; i += TILE_COLUMNS) {
        float result[R][TILE_COLUMNS];
        const float* next = weight + (R + i / TILE_COLUMNS % R) * inputs;  // one of the next R rows
        dot_products<R, TILE_COLUMNS>(weight, inputs, x + i * inputs, next, result);
        for (int c = 0; c < TILE_COLUMNS; c++)
            for (int r = 0; r < R; r++) products[(i + c) * stride + r] = result[r][c];
    }
    for (; i < n; i++) {
        float result[R][1];
        dot_products<R, 1>(weight, inputs, x + i * inputs, weight, result);
        for (int r = 0; r < R; r++) products[i * stride + r] = result[r][0];
    }
}

// ---------------------------------------------------------------- products, a class for each weight dtype

// x, converted once per operation and thread, and products of rows row..row+count of a matrix.
struct Float32Product {
    typedef float X;
    static constexpr int ROWS = TILE_ROWS, ALIGNMENT = 1;  // rows at once; the stride is a multiple of ALIGNMENT
    static int64_t depth(int64_t inputs) { return inputs; }
    static void multiply(const Matrix& m, int64_t row, int64_t count, int64_t depth, const X* x, int64_t n,
                         float* products, int64_t stride) {
        const float* weight = static_cast<const float*>(m.weight) + row * depth;
        int64_t r = 0;
        for (; r + ROWS <= count; r += ROWS) multiply_rows<ROWS>(weight + r * depth, depth, x, n, products + r, stride);
        for (; r < count; r++) multiply_rows<1>(weight + r * depth, depth, x, n, products + r, stride);
    }
};

// Products of panels with vectors.
template <class Path>
struct PanelProduct {
    typedef typename Path::X X;
    typedef typename Path::Weight Weight;
    static constexpr int ROWS = PANEL_ROWS, ALIGNMENT = PANEL;
    static int64_t depth(int64_t inputs) { return round_up(inputs, DEPTH_BYTES / sizeof(Weight)); }
    static void multiply(const Matrix& m, int64_t row, int64_t count, int64_t depth, const X* x, int64_t n,
                         float* products, int64_t stride) {
        const Weight* panels = static_cast<const Weight*>(m.weight) + row * depth;
        multiply_vectors<Path>(panels, m.row_sums + row, depth, count, x, n, products, stride);
    }
};

#if defined(FABELLA_TILES)
template <class Path>
struct TileProduct {
    typedef typename Path::X X;
    typedef typename Path::Weight Weight;
    static constexpr int ROWS = PANEL_ROWS, ALIGNMENT = PANEL;
    static int64_t depth(int64_t inputs) { return round_up(inputs, DEPTH_BYTES / sizeof(Weight)); }
    static void multiply(const Matrix& m, int64_t row, int64_t count, int64_t depth, const X* x, int64_t n,
                         float* products, int64_t stride) {
        multiply_by_tiles<Path>(static_cast<const Weight*>(m.weight) + row * depth, depth, count, x, n, products, stride);
    }
};
#endif

// Call `run` with the class that multiplies n rows by weights of a dtype. Only int8 sums, which are exact, may depend on n.
template <class Run>
void with_product(int32_t dtype, int64_t n, const Run& run) {
#if defined(FABELLA_TILES)
    if (has_tiles && dtype == BFLOAT16) return run(TileProduct<BFloat16Tiles>{});
    if (has_tiles && dtype == INT8 && n >= MIN_TILE_ROWS) return run(TileProduct<Int8Tiles>{});
#endif
    if (dtype == INT8) return run(PanelProduct<Int8>{});
    if (dtype == BFLOAT16) return run(PanelProduct<BFloat16>{});
#if defined(__F16C__)
    if (dtype == FLOAT16) return run(PanelProduct<Float16>{});
#endif
    run(Float32Product{});
}

// ---------------------------------------------------------------- operations, as run by each thread

// Threads claim chunks of an operation until none is left, and continue when all are finished. A thread that the system
// suspends delays the others only if it is inside a chunk.
struct Team {
    Stage* stages;
    int64_t size;
    char* scratch;

    template <class Task>
    void parallel_for(int64_t stage, int64_t total, int64_t unit, const Task& task) const {
        const int64_t units = (total + unit - 1) / unit;
        Stage& state = stages[stage];
        for (;;) {
            const int64_t index = __atomic_fetch_add(&state.claimed, 1, __ATOMIC_RELAXED);
            if (index >= units) break;
            task(index * unit, (index + 1) * unit < total ? (index + 1) * unit : total);
            __atomic_fetch_add(&state.finished, 1, __ATOMIC_RELEASE);
        }
        for (int64_t spins = 1; __atomic_load_n(&state.finished, __ATOMIC_ACQUIRE) < units; spins++)
            if (spins % SPINS_BEFORE_YIELD == 0) sched_yield();
    }
};

// Return the number of weight rows to finish together: enough to fill vectors, few enough to stay in the L1 cache.
int64_t block_rows(int64_t unit, int64_t n) { return n * unit >= BLOCK ? unit : BLOCK / n / unit * unit; }

int64_t weight_bytes(int32_t dtype) { return dtype == FLOAT32 ? 4 : dtype == INT8 ? 1 : 2; }

bool is_paired(const Operation& op) { return op.epilogue == SWIGLU || op.epilogue == MINGRU; }

void normalize(const Operation& op, const float* x, int64_t n, float* result) {
    const int64_t width = op.inputs;
    for (int64_t i = 0; i < n; i++, x += width, result += width) {
        double total = 0, square = 0;  // so that the order of the sums, which depends on the CPU, does not show
        if (op.norm == LAYER_NORM) {
#pragma omp simd reduction(+ : total)
            for (int64_t k = 0; k < width; k++) total += x[k];
        }
        const float mean = static_cast<float>(total / width);
#pragma omp simd reduction(+ : square)
        for (int64_t k = 0; k < width; k++) {
            const double distance = x[k] - mean;
            square += distance * distance;
        }
        const float scale = 1.0f / std::sqrt(static_cast<float>(square / width) + op.eps);
        if (op.norm_bias)
            for (int64_t k = 0; k < width; k++) result[k] = (x[k] - mean) * scale * op.norm_weight[k] + op.norm_bias[k];
        else if (op.norm_weight)
            for (int64_t k = 0; k < width; k++) result[k] = (x[k] - mean) * scale * op.norm_weight[k];
        else
            for (int64_t k = 0; k < width; k++) result[k] = (x[k] - mean) * scale;
    }
}

// One PROJECT in one step.
struct Projection {
    const Operation& op;
    const Call& call;
    int64_t n, width;  // rows, outputs
    const float *residual, *gates;
    float* target;
};

void apply_gates(const float* gates, int64_t count, float* x) {
#pragma omp simd
    for (int64_t k = 0; k < count; k++) x[k] *= gates[k] * sigmoid(gates[k]);
}

// Apply the epilogue and the residual to `products` [n stride]; `other` is the product of the second matrix.
void apply_epilogue(const Projection& p, int64_t row, int64_t count, int64_t stride, float* products,
                    const float* other) {
    const int64_t n = p.n, epilogue = p.op.epilogue;
    if (epilogue == GELU)
#pragma omp simd
        for (int64_t k = 0; k < n * stride; k++) products[k] = gelu(products[k]);
    else if (epilogue == GELU_TANH)
#pragma omp simd
        for (int64_t k = 0; k < n * stride; k++) products[k] = gelu_tanh(products[k]);
    else if (epilogue == SWIGLU)
#pragma omp simd
        for (int64_t k = 0; k < n * stride; k++) products[k] = products[k] * sigmoid(products[k]) * other[k];
    else if (epilogue == MINGRU)  // h += z · (g(candidate) − h), in time order
        for (int64_t i = 0; i < n; i++) {
            float* hidden = p.call.caches[p.op.cache] + p.call.rows[i] * p.width + row;
#pragma omp simd
            for (int64_t r = 0; r < count; r++) {
                const float z = sigmoid(products[i * stride + r]), candidate = other[i * stride + r];
                const float h_tilde = candidate >= 0 ? candidate + 0.5f : sigmoid(candidate);
                products[i * stride + r] = hidden[r] = hidden[r] + z * (h_tilde - hidden[r]);
            }
        }
    for (int64_t i = 0; i < n; i++) {
        const float* residual = p.residual ? p.residual + i * p.width + row : nullptr;
        float* target = p.target + i * p.width + row;
        for (int64_t r = 0; r < count; r++) target[r] = products[i * stride + r] + (residual ? residual[r] : 0.0f);
    }
}

// Multiply rows row..row+count of a matrix by x, with scales and bias: products [n stride].
template <class Product>
void multiply_block(const Matrix& m, int64_t row, int64_t count, int64_t depth, const typename Product::X* x,
                    const float* x_scales, int64_t n, float* products, int64_t stride) {
    Product::multiply(m, row, count, depth, x, n, products, stride);
    for (int64_t i = 0; i < n; i++, products += stride) {
        if (m.scales)
            for (int64_t r = 0; r < count; r++) products[r] *= m.scales[row + r] * x_scales[i];
        if (m.bias)
            for (int64_t r = 0; r < count; r++) products[r] += m.bias[row + r];
    }
}

// Compute the outputs from `begin` to `end`.
template <class Product>
void project_rows(const Projection& p, int64_t begin, int64_t end, const typename Product::X* x, const float* x_scales,
                  float* products) {
    const Operation& op = p.op;
    const int64_t block = block_rows(Product::ROWS, p.n), depth = Product::depth(op.inputs);
    float* other = products + block * p.n;
    int64_t offset = 0;
    for (int m = 0; m < (is_paired(op) ? 1 : op.matrices); offset += op.matrix[m++].rows) {
        const int64_t first = begin > offset ? begin : offset, matrix_end = offset + op.matrix[m].rows;
        const int64_t stop = end < matrix_end ? end : matrix_end;
        for (int64_t row = first; row < stop; row += block) {
            const int64_t count = stop - row < block ? stop - row : block;
            const int64_t stride = round_up(count, Product::ALIGNMENT);
            multiply_block<Product>(op.matrix[m], row - offset, count, depth, x, x_scales, p.n, products, stride);
            if (is_paired(op))
                multiply_block<Product>(op.matrix[1], row, count, depth, x, x_scales, p.n, other, stride);
            apply_epilogue(p, row, count, stride, products, other);
        }
    }
}

int64_t chunk_rows(int64_t row_bytes, int64_t unit, int64_t width, int64_t threads) {
    const int64_t fitting = CHUNK_BYTES / row_bytes, even = (width + threads - 1) / threads;
    const int64_t rows = fitting < even ? fitting : even;
    return rows <= unit ? unit : round_up(rows, unit);
}

template <class Product>
void project_with(const Projection& p, const float* x, const Team& team, int64_t stage) {
    typedef typename Product::X X;
    const Operation& op = p.op;
    const int64_t n = p.n, depth = Product::depth(op.inputs);
    float* products = reinterpret_cast<float*>(team.scratch);
    float* scales = products + 2 * block_rows(Product::ROWS, n) * n;
    float* normed = scales + round_up(n, PANEL);
    X* converted = reinterpret_cast<X*>(normed + (op.norm == NO_NORM ? 0 : round_up(n * op.inputs, PANEL)));
    const X* x_converted = nullptr;
    const int64_t row_bytes = op.inputs * weight_bytes(op.dtype) * (is_paired(op) ? 2 : 1);
    const int64_t chunk = chunk_rows(row_bytes, Product::ROWS, p.width, team.size);
    team.parallel_for(stage, p.width, chunk, [&](int64_t begin, int64_t end) {
        if (!x_converted) {  // once per thread: cheaper than waiting for another one
            if (op.norm != NO_NORM) normalize(op, x, n, normed);
            if (p.gates) apply_gates(p.gates, n * op.inputs, normed);
            x_converted = convert(op.norm == NO_NORM ? x : normed, n, op.inputs, depth, converted, scales);
        }
        project_rows<Product>(p, begin, end, x_converted, scales, products);
    });
}

void project(const Operation& op, const Program& program, const Call& call, const Team& team, int64_t stage) {
    const int64_t skip = op.last_only ? call.skip : 0, n = call.n - skip;
    if (!n) return;
    int64_t width = op.matrix[0].rows;
    for (int m = 1; m < op.matrices && !is_paired(op); m++) width += op.matrix[m].rows;
    const float* residual = op.residual < 0 ? nullptr : program.buffers[op.residual] + skip * width;
    float* target = op.target < 0 ? call.logits : program.buffers[op.target] + skip * width;
    const float* gates = op.gate < 0 ? nullptr : program.buffers[op.gate] + skip * op.inputs;
    const Projection p = {op, call, n, width, residual, gates, target};
    with_product(op.dtype, n, [&](auto product) {
        project_with<decltype(product)>(p, program.buffers[op.source] + skip * op.inputs, team, stage);
    });
}

void embed(const Operation& op, const Program& program, const Call& call, const Team& team, int64_t stage) {
    const int64_t width = op.inputs;
    team.parallel_for(stage, call.n, 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
            const float* row = op.table + call.tokens[i] * width;
            const int8_t* quantized = static_cast<const int8_t*>(op.matrix[0].weight) + call.tokens[i] * width;
            const float scale = op.dtype == INT8 ? op.matrix[0].scales[call.tokens[i]] : 0.0f;
            const float* position = op.position_table ? op.position_table + call.positions[i] * width : nullptr;
            const float* residual = op.residual < 0 ? nullptr : program.buffers[op.residual] + i * width;
            float* target = program.buffers[op.target] + i * width;
            for (int64_t k = 0; k < width; k++)
                target[k] = (op.dtype == INT8 ? quantized[k] * scale : row[k]) + (position ? position[k] : 0.0f) +
                            (residual ? residual[k] : 0.0f);
            if (op.norm != NO_NORM) normalize(op, target, 1, target);
            if (op.kept >= 0) std::memcpy(program.buffers[op.kept] + i * width, target, width * sizeof(float));
        }
    });
}

// Mix the residual stream with the embeddings.
void mix(const Operation& op, const Program& program, const Call& call, const Team& team, int64_t stage) {
    float* target = program.buffers[op.target];
    const float* kept = program.buffers[op.kept];
    team.parallel_for(stage, call.n, 16, [&](int64_t begin, int64_t end) {
        for (int64_t k = begin * op.inputs; k < end * op.inputs; k++)
            target[k] = op.own_weight * target[k] + op.kept_weight * kept[k];
    });
}

// Norm the rows, and add to each the weighted sum of the last inputs of its sequence, in time order.
void convolve(const Operation& op, const Program& program, const Call& call, const Team& team, int64_t stage) {
    const int64_t width = op.inputs, past = op.past;
    float *normed = program.buffers[op.kept], *target = program.buffers[op.target];
    team.parallel_for(stage, call.n, 1, [&](int64_t i, int64_t) {
        normalize(op, program.buffers[op.source] + i * width, 1, normed + i * width);
    });
    team.parallel_for(stage + 1, width, 64, [&](int64_t begin, int64_t end) {  // channels
        for (int64_t i = 0; i < call.n; i++) {
            float* inputs = call.caches[op.cache] + call.rows[i] * past * width;
            const float* x = normed + i * width;
            float* y = target + i * width;
            std::memcpy(y + begin, x + begin, (end - begin) * sizeof(float));
            for (int64_t t = 0; t <= past; t++) {
                const float *input = t < past ? inputs + t * width : x, *tap = op.taps + t * width;
#pragma omp simd
                for (int64_t k = begin; k < end; k++) y[k] += input[k] * tap[k];
            }
            for (int64_t t = 0; t < past; t++)  // the oldest input is dropped
                std::memcpy(inputs + t * width + begin, (t + 1 < past ? inputs + (t + 1) * width : x) + begin,
                            (end - begin) * sizeof(float));
        }
    });
}

// RMSNorm of one head, if the attention norms them.
void normalize_head(const Operation& op, const float* weight, float* head) {
    if (op.norm == NO_NORM) return;
    double square = 0;  // as in normalize
#pragma omp simd reduction(+ : square)
    for (int64_t e = 0; e < op.head_dim; e++) square += static_cast<double>(head[e]) * head[e];
    const float scale = 1.0f / std::sqrt(static_cast<float>(square / op.head_dim) + op.eps);
    for (int64_t e = 0; e < op.head_dim; e++) head[e] = head[e] * scale * weight[e];
}

void apply_rotary(const Operation& op, float* head, int64_t position) {
    if (!op.cos) return;
    const float *cos = op.cos + position * op.rotary_pairs, *sin = op.sin + position * op.rotary_pairs;
    const int64_t stride = op.half_rotation ? 1 : 2, partner = op.half_rotation ? op.rotary_pairs : 1;
    for (int64_t p = 0; p < op.rotary_pairs; p++) {
        const float first = head[p * stride], second = head[p * stride + partner];
        head[p * stride] = first * cos[p] - second * sin[p];
        head[p * stride + partner] = second * cos[p] + first * sin[p];
    }
}

// Sum VECTORS * WIDTH dimensions of the values, weighted.
template <int VECTORS>
inline void weighted_sum(const float* weights, const float* values, int64_t length, int64_t dim, float* target) {
    Vector even[VECTORS] = {}, odd[VECTORS] = {};
    int64_t k = 0;
    for (; k + 2 <= length; k += 2)
        for (int v = 0; v < VECTORS; v++) {
            even[v] = multiply_add(weights[k] - Vector{}, load(values + k * dim + v * WIDTH), even[v]);
            odd[v] = multiply_add(weights[k + 1] - Vector{}, load(values + (k + 1) * dim + v * WIDTH), odd[v]);
        }
    for (int v = 0; v < VECTORS; v++) {
        if (k < length) even[v] = multiply_add(weights[k] - Vector{}, load(values + k * dim + v * WIDTH), even[v]);
        store(target + v * WIDTH, even[v] + odd[v]);
    }
}

// Compute softmax(scale · q·K) V over `length` positions; `scores` [length] is scratch.
void attend_query(const float* query, const float* keys, const float* values, int64_t length, int64_t dim, float scale,
                  float* scores, float* target) {
    int64_t s = 0;
    for (; s + 4 <= length; s += 4) dot_products_of_heads<4>(keys + s * dim, dim, query, scores + s);
    for (; s < length; s++) dot_products_of_heads<1>(keys + s * dim, dim, query, scores + s);
    for (s = 0; s < length; s++) scores[s] *= scale;
    float top = scores[0];
#pragma omp simd reduction(max : top)
    for (int64_t k = 1; k < length; k++) top = scores[k] > top ? scores[k] : top;
    for (int64_t k = 0; k < length; k++) scores[k] = exponential(scores[k] - top);
    double total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t k = 0; k < length; k++) total += scores[k];
    const float sum_of_scores = static_cast<float>(total);
    for (int64_t k = 0; k < length; k++) scores[k] /= sum_of_scores;
    int64_t e = 0;
    for (; e + 2 * WIDTH <= dim; e += 2 * WIDTH) weighted_sum<2>(scores, values + e, length, dim, target + e);
    for (; e + WIDTH <= dim; e += WIDTH) weighted_sum<1>(scores, values + e, length, dim, target + e);
    for (; e < dim; e++) {
        float sums[2] = {};  // even and odd positions, as in the vectors
        for (int64_t k = 0; k < length; k++)
            sums[k % 2] = multiply_add(scores[k], values[k * dim + e], sums[k % 2]);
        target[e] = sums[0] + sums[1];
    }
}

struct Attention {
    const Operation& op;
    const Program& program;
    const Call& call;
    const int64_t dim = op.head_dim, group = op.heads / op.kv_heads, projected = (op.heads + 2 * op.kv_heads) * dim;
    const int64_t width = projected + (op.gate == op.source ? op.heads : 0);
    const int64_t head_size = call.capacity * dim, values_offset = op.kv_heads * head_size;

    float* keys(int64_t i, int64_t g) const {
        return call.caches[op.cache] + call.rows[i] * 2 * values_offset + g * head_size;
    }

    void store_value(int64_t i, int64_t g, const float* value, float* slot) const {
        float* first = op.values == OWN_VALUES ? nullptr : program.buffers[op.kept] + (i * op.kv_heads + g) * dim;
        if (op.values == FIRST_VALUES) std::memcpy(first, value, dim * sizeof(float));
        if (op.values == MIXED_VALUES)
            for (int64_t e = 0; e < dim; e++) slot[e] = op.own_weight * value[e] + op.kept_weight * first[e];
        else
            std::memcpy(slot, value, dim * sizeof(float));
    }

    void store_key_value(int64_t i, int64_t g) const {
        float* row = program.buffers[op.source] + i * width;
        float* key = row + (op.heads + g) * dim;
        float* slot = keys(i, g) + call.positions[i] * dim;
        normalize_head(op, op.key_norm_weight, key);
        apply_rotary(op, key, call.positions[i]);
        std::memcpy(slot, key, dim * sizeof(float));
        store_value(i, g, key + op.kv_heads * dim, slot + values_offset);
        for (int64_t h = g * group; h < (g + 1) * group; h++) {
            normalize_head(op, op.norm_weight, row + h * dim);
            apply_rotary(op, row + h * dim, call.positions[i]);
        }
    }

    void attend_heads(int64_t i, int64_t g, float* scores) const {
        const int64_t seen = call.positions[i] + 1, length = seen < op.window ? seen : op.window;
        const float* first = keys(i, g) + (seen - length) * dim;
        const float* row = program.buffers[op.source] + i * width;
        const float* gates = op.gate < 0 ? nullptr
            : op.gate == op.source ? row + projected : program.buffers[op.gate] + i * op.heads;
        for (int64_t h = g * group; h < (g + 1) * group; h++) {
            float* target = program.buffers[op.target] + (i * op.heads + h) * dim;
            attend_query(row + h * dim, first, first + values_offset, length, dim, op.scale, scores, target);
            if (!gates) continue;
            const float gate = 2.0f * sigmoid(gates[h]);
            for (int64_t e = 0; e < dim; e++) target[e] *= gate;
        }
    }
};

void attend(const Operation& op, const Program& program, const Call& call, const Team& team, int64_t stage) {
    const Attention heads = {op, program, call};
    const int64_t kv_heads = op.kv_heads;
    float* scores = reinterpret_cast<float*>(team.scratch);
    if (call.prefill)  // other chunks read the keys that a chunk stores
        team.parallel_for(stage++, call.n * kv_heads, 4, [&](int64_t begin, int64_t end) {
            for (int64_t unit = begin; unit < end; unit++) heads.store_key_value(unit / kv_heads, unit % kv_heads);
        });
    team.parallel_for(stage, call.n * kv_heads, 1, [&](int64_t unit, int64_t) {
        if (!call.prefill) heads.store_key_value(unit / kv_heads, unit % kv_heads);
        heads.attend_heads(unit / kv_heads, unit % kv_heads, scores);
    });
}

}  // namespace

extern "C" {

// Return whether this build supports a weight dtype.
int32_t fabella_supports_dtype(int32_t dtype) {
#if defined(__F16C__)
    if (dtype == FLOAT16) return 1;
#endif
    return dtype == FLOAT32 || dtype == INT8 || dtype == BFLOAT16;
}

// Run one step. Returns 1, without computing anything, if a token id is out of range.
int32_t fabella_decode(const Program* program, const Call* call) {
    for (int64_t i = 0; i < call->n; i++)
        if (call->tokens[i] < 0 || call->tokens[i] >= call->embedding_rows) return 1;
    std::memset(program->stages, 0, 2 * program->count * sizeof(Stage));
#pragma omp parallel num_threads(program->threads)
    {
        const Tiles tiles;
        const Team team = {program->stages, omp_get_num_threads(),
                           program->scratch + omp_get_thread_num() * program->scratch_bytes};
        for (int64_t k = 0; k < program->count; k++) {
            const Operation& op = program->operations[k];
            if (op.kind == EMBED)
                embed(op, *program, *call, team, 2 * k);
            else if (op.kind == PROJECT)
                project(op, *program, *call, team, 2 * k);
            else if (op.kind == MIX)
                mix(op, *program, *call, team, 2 * k);
            else if (op.kind == CONVOLVE)
                convolve(op, *program, *call, team, 2 * k);
            else
                attend(op, *program, *call, team, 2 * k);
        }
    }
    return 0;
}
}
