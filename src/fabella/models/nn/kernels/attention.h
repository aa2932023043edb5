// Causal attention forward and backward, exact, with memory in O(time) for a head.
//
// The queries of a head are processed in blocks of rows against all keys that they see (forward), or against blocks of
// them (backward), so that scores of a block exist only in the cache. Keys and values are packed once for all queries
// that share them. One task is one key/value head of one sequence: no sum depends on the number of threads.
// Scores and probabilities: Rabe & Staats 2021, arXiv 2112.05682; backward pass from the log-sum-exp: Dao et al. 2022,
// arXiv 2205.14135, algorithm 4.

#pragma once

#include "products.h"
#include "scratch.h"

namespace {

constexpr int64_t FORWARD_ROWS = 32, BACKWARD_ROWS = 64, BACKWARD_KEYS = 512;
#if defined(FABELLA_TILES)
constexpr int64_t DIM_MULTIPLE = 32;
#else
constexpr int64_t DIM_MULTIPLE = WIDTH > 8 ? WIDTH : 8;
#endif

// [batch heads time head_dim] in memory; the last dimension is contiguous.
template <class Value>
struct Heads {
    Value* data;
    const int64_t* strides;  // of batch, head and time
    Value* at(int64_t b, int64_t h, int64_t t = 0) const {
        return data + b * strides[0] + h * strides[1] + t * strides[2];
    }
};

struct AttentionShape {
    int64_t batch, heads, kv_heads, time, head_dim;
    float scale;
    const int32_t* first;  // [batch time]: the first key that each query sees; null: 0
    int64_t padded_time() const { return round_up(time, BACKWARD_ROWS); }
    int64_t time_row() const { return padded_time() + 16; }  // rows a power of two apart would collide in the cache
    int64_t padded_dim() const { return round_up(head_dim, DIM_MULTIPLE); }
    int64_t first_key(int64_t b, int64_t query) const {
        return first && query < time ? first[b * time + query] : 0;
    }
};

// ---------------------------------------------------------------- packing

// Rows of A or C: [time padded_dim] elements, zeros beyond the tensor.
template <class Value, class Element>
void pack_rows(const Value* x, int64_t x_row, const AttentionShape& s, Element* rows) {
    const int64_t dim = s.padded_dim();
    for (int64_t t = 0; t < s.padded_time(); t++, rows += dim) {
        if (t >= s.time) {
            std::memset(static_cast<void*>(rows), 0, dim * sizeof(Element));
            continue;
        }
        for (int64_t e = 0; e < dim; e += WIDTH)
            store(rows + e, e < s.head_dim ? load(x + t * x_row + e, s.head_dim - e) : Vector{});
    }
}

// [rows columns] lanes to [columns rows].
template <class Lane>
void transpose(const Lane* x, int64_t x_row, int64_t rows, int64_t columns, Lane* result, int64_t result_row) {
    constexpr int64_t SIDE = 16;
    for (int64_t r = 0; r < rows; r += SIDE)
        for (int64_t c = 0; c < columns; c += SIDE) {
            const int64_t last_row = r + SIDE < rows ? r + SIDE : rows;
            const int64_t last_column = c + SIDE < columns ? c + SIDE : columns;
            for (int64_t j = c; j < last_column; j++)
                for (int64_t i = r; i < last_row; i++) result[j * result_row + i] = x[i * x_row + j];
        }
}

// B for a sum over time: [time/PER_LANE padded_dim] lanes, from packed rows.
inline void pack_over_time(const float* rows, const AttentionShape& s, float* lanes) {
    std::memcpy(lanes, rows, s.padded_time() * s.padded_dim() * sizeof(float));
}

#if defined(__AVX512BF16__)
inline void pack_over_time(const BFloat16* rows, const AttentionShape& s, uint32_t* lanes) {
    const int64_t dim = s.padded_dim();
    for (int64_t t = 0; t < s.padded_time(); t += 2, rows += 2 * dim, lanes += dim)
        for (int64_t e = 0; e < dim; e += WIDTH) Pairs::store_two(lanes + e, 0, load(rows + e), load(rows + dim + e));
}
#endif

// B for a sum over the head's dimensions: [padded_dim/PER_LANE time] lanes, from packed rows.
template <class Path>
void pack_over_dim(const typename Path::Element* rows, const AttentionShape& s, typename Path::Lane* lanes) {
    const int64_t width = s.padded_dim() / Path::PER_LANE;
    transpose(reinterpret_cast<const typename Path::Lane*>(rows), width, s.padded_time(), width, lanes, s.time_row());
}

// Rows [dim time] of C, transposed, to a head of a tensor.
template <class Value>
void unpack_transposed(const float* c, float* rows, const AttentionShape& s, Value* x, int64_t x_row) {
    const int64_t dim = s.padded_dim();
    transpose(c, s.time_row(), dim, s.padded_time(), rows, dim);
    for (int64_t t = 0; t < s.time; t++)
        for (int64_t e = 0; e < s.head_dim; e += WIDTH)
            store(x + t * x_row + e, load(rows + t * dim + e), s.head_dim - e);
}

// ---------------------------------------------------------------- softmax

// v in the lanes whose keys j … j + WIDTH − 1 are between the first and the last that a query sees, ``other`` elsewhere.
inline Vector visible(Vector v, int64_t j, int64_t first, int64_t last, Vector other) {
    if (j >= first && j + WIDTH - 1 <= last) return v;
    const Integers keys = lane_numbers() + static_cast<int32_t>(j);
    return (keys >= static_cast<int32_t>(first)) & (keys <= static_cast<int32_t>(last)) ? v : other;
}

// Scores of a query with the keys from ``start`` on to unnormalized probabilities; returns their sum and their maximum.
template <class Element>
inline float softmax_row(const float* scores, int64_t start, int64_t end, int64_t first, int64_t query, float scale,
                         Element* probabilities, float* top) {
    const Vector lowest = fill(-INFINITY);
    const int64_t from = start + (first - start) / WIDTH * WIDTH, to = from + round_up(query + 1 - from, WIDTH);
    Vector tops = lowest, sums{};
    for (int64_t j = from; j < to; j += WIDTH)
        tops = largest(tops, visible(load(scores + j - start), j, first, query, lowest));
    *top = maximum(tops) * scale;
    const Vector shift = fill(*top);
    for (int64_t j = start; j < from; j += WIDTH) store(probabilities + j - start, Vector{});
    for (int64_t j = from; j < to; j += WIDTH) {
        const Vector p = visible(exponential(load(scores + j - start) * scale - shift), j, first, query, Vector{});
        sums += p;
        store(probabilities + j - start, p);
    }
    for (int64_t j = to; j < end; j += WIDTH) store(probabilities + j - start, Vector{});
    return sum(sums);
}

// ---------------------------------------------------------------- forward

template <class Path, class Value>
void forward_head(const AttentionShape& s, int64_t b, int64_t h, const Heads<const Value>& query,
                  const typename Path::Lane* keys, const typename Path::Lane* values, const Heads<Value>& result,
                  float* log_sums, Scratch& scratch, const Tiles& tiles) {
    typedef typename Path::Lane Lane;
    typedef typename Path::Element Element;
    const int64_t dim = s.padded_dim(), row = s.time_row();
    Element* queries = scratch.take<Element>(s.padded_time() * dim);
    float* scores = scratch.take<float>(FORWARD_ROWS * row);
    Element* probabilities = scratch.take<Element>(FORWARD_ROWS * row);
    float* output = scratch.take<float>(FORWARD_ROWS * dim);
    pack_rows(query.at(b, h), query.strides[2], s, queries);
    for (int64_t i = 0; i < s.time; i += FORWARD_ROWS) {
        const int64_t start = s.first_key(b, i) / 32 * 32, end = i + FORWARD_ROWS, keys_count = end - start;
        product<Path>(tiles, reinterpret_cast<Lane*>(queries + i * dim), dim / Path::PER_LANE, keys + start, row,
                      dim / Path::PER_LANE, scores, row, FORWARD_ROWS, keys_count, false);
        float totals[FORWARD_ROWS];
        for (int64_t r = 0; r < FORWARD_ROWS; r++) {
            const int64_t t = i + r < s.time ? i + r : s.time - 1;  // rows beyond the tensor are computed and dropped
            float top;
            totals[r] = softmax_row(scores + r * row, start, end, s.first_key(b, t), t, s.scale,
                                    probabilities + r * row, &top);
            if (i + r < s.time) log_sums[t] = top + std::log(totals[r]);
        }
        product<Path>(tiles, reinterpret_cast<Lane*>(probabilities), row / Path::PER_LANE,
                      values + start / Path::PER_LANE * dim, dim, keys_count / Path::PER_LANE, output, dim,
                      FORWARD_ROWS, dim, false);
        for (int64_t r = 0; r < FORWARD_ROWS && i + r < s.time; r++)
            for (int64_t e = 0; e < s.head_dim; e += WIDTH)
                store(result.at(b, h, i + r) + e, load(output + r * dim + e) * (1.0f / totals[r]), s.head_dim - e);
    }
}

template <class Path, class Value>
void attention_forward(const AttentionShape& s, Heads<const Value> query, Heads<const Value> key,
                       Heads<const Value> value, Heads<Value> result, float* log_sums) {
    typedef typename Path::Lane Lane;
    typedef typename Path::Element Element;
    const int64_t group = s.heads / s.kv_heads, size = s.padded_time() * s.padded_dim(), row = s.time_row();
    const size_t packed = 3 * size * sizeof(Element) + s.padded_dim() * row * sizeof(Element);
    const size_t blocks = FORWARD_ROWS * row * 8 + FORWARD_ROWS * s.padded_dim() * 4 + 4096;
#pragma omp parallel for schedule(dynamic, 1) collapse(2)
    for (int64_t b = 0; b < s.batch; b++)
        for (int64_t k = 0; k < s.kv_heads; k++) {
            const Tiles tiles;
            Scratch shared(packed);
            Element* rows = shared.take<Element>(size);
            Lane* keys = shared.take<Lane>(s.padded_dim() / Path::PER_LANE * row);
            Lane* values = shared.take<Lane>(size / Path::PER_LANE);
            pack_rows(key.at(b, k), key.strides[2], s, rows);
            pack_over_dim<Path>(rows, s, keys);
            pack_rows(value.at(b, k), value.strides[2], s, rows);
            pack_over_time(rows, s, values);
            for (int64_t h = k * group; h < (k + 1) * group; h++) {
                Scratch own(size * sizeof(Element) + blocks);
                forward_head<Path>(s, b, h, query, keys, values, result, log_sums + (b * s.heads + h) * s.time, own,
                                   tiles);
            }
        }
}

// ---------------------------------------------------------------- backward

// Packed keys and values of a task, and the transposed sums of their gradients.
template <class Path>
struct PackedKeys {
    typename Path::Lane *keys_over_dim, *keys_over_time, *values_over_dim;
    float *key_gradient, *value_gradient;
};

template <class Path>
struct BackwardBlock {
    float *scores, *slopes, *query_gradient;
    typename Path::Element* score_gradients;                          // rows of A
    typename Path::Lane *probabilities, *score_gradients_over_time;  // B, summed over queries
    float sums[BACKWARD_ROWS], dots[BACKWARD_ROWS];
};

// P = exp(scale·S − log-sum-exp) and its gradient scale·P·(dP − dO·O), of the keys from ``start`` to ``end``.
template <class Path>
void score_gradients(const AttentionShape& s, int64_t b, int64_t query, int64_t start, int64_t end,
                     BackwardBlock<Path>& block, int64_t row) {
    for (int64_t r = 0; r < BACKWARD_ROWS; r += 2)
        for (int64_t j = start; j < end; j += WIDTH) {
            Vector p[2], g[2];
            for (int64_t u = 0; u < 2; u++) {
                const int64_t at = (r + u) * row + j - start;
                const int64_t last = query + r + u < s.time ? query + r + u : -1;  // no key beyond the tensor
                const Vector all = exponential(load(block.scores + at) * s.scale - block.sums[r + u]);
                p[u] = visible(all, j, s.first_key(b, query + r + u), last, Vector{});
                g[u] = p[u] * s.scale * (load(block.slopes + at) - block.dots[r + u]);
                store(block.score_gradients + at, g[u]);
            }
            const int64_t at = r / Path::PER_LANE * row + j - start;
            Path::store_two(block.probabilities + at, row, p[0], p[1]);
            Path::store_two(block.score_gradients_over_time + at, row, g[0], g[1]);
        }
}

template <class Element, class Value>
float dot(const Element* a, const Value* b, int64_t n) {
    Vector sums{};
    for (int64_t e = 0; e < n; e += WIDTH) sums += load(a + e, n - e) * load(b + e, n - e);
    return sum(sums);
}

template <class Path, class Value>
void backward_head(const AttentionShape& s, int64_t b, int64_t h, const Heads<const Value>& query,
                   const Heads<const Value>& result, const Heads<const Value>& gradient, const float* log_sums,
                   const PackedKeys<Path>& packed, const Heads<Value>& query_gradient, Scratch& scratch,
                   const Tiles& tiles) {
    typedef typename Path::Lane Lane;
    typedef typename Path::Element Element;
    const int64_t dim = s.padded_dim(), row = s.time_row(), size = s.padded_time() * dim, lanes = dim / Path::PER_LANE;
    const int64_t block_row = BACKWARD_KEYS + 16, time_lanes = s.padded_time() / Path::PER_LANE;
    const int64_t step = BACKWARD_ROWS / Path::PER_LANE;
    Element *queries = scratch.take<Element>(size), *gradients = scratch.take<Element>(size);
    Lane *over_time = scratch.take<Lane>(size / Path::PER_LANE);
    Lane *queries_transposed = scratch.take<Lane>(dim * time_lanes), *gradients_transposed = scratch.take<Lane>(dim * time_lanes);
    BackwardBlock<Path> block;
    block.scores = scratch.take<float>(BACKWARD_ROWS * block_row);
    block.slopes = scratch.take<float>(BACKWARD_ROWS * block_row);
    block.query_gradient = scratch.take<float>(BACKWARD_ROWS * dim);
    block.score_gradients = scratch.take<Element>(BACKWARD_ROWS * block_row);
    block.probabilities = scratch.take<Lane>(step * block_row);
    block.score_gradients_over_time = scratch.take<Lane>(step * block_row);
    pack_rows(query.at(b, h), query.strides[2], s, queries);
    pack_over_time(queries, s, over_time);
    transpose(over_time, dim, time_lanes, dim, queries_transposed, time_lanes);
    pack_rows(gradient.at(b, h), gradient.strides[2], s, gradients);
    pack_over_time(gradients, s, over_time);
    transpose(over_time, dim, time_lanes, dim, gradients_transposed, time_lanes);
    for (int64_t i = 0; i < s.time; i += BACKWARD_ROWS) {
        for (int64_t r = 0; r < BACKWARD_ROWS; r++) {
            const bool exists = i + r < s.time;
            block.sums[r] = exists ? log_sums[i + r] : 0.0f;
            block.dots[r] = exists ? dot(gradients + (i + r) * dim, result.at(b, h, i + r), s.head_dim) : 0.0f;
        }
        const int64_t first = s.first_key(b, i) / 32 * 32, last = i + BACKWARD_ROWS;
        for (int64_t start = first; start < last; start += BACKWARD_KEYS) {
            const int64_t end = start + BACKWARD_KEYS < last ? start + BACKWARD_KEYS : last, keys = end - start;
            product<Path>(tiles, reinterpret_cast<Lane*>(queries + i * dim), lanes, packed.keys_over_dim + start, row,
                          lanes, block.scores, block_row, BACKWARD_ROWS, keys, false);
            product<Path>(tiles, reinterpret_cast<Lane*>(gradients + i * dim), lanes, packed.values_over_dim + start,
                          row, lanes, block.slopes, block_row, BACKWARD_ROWS, keys, false);
            score_gradients<Path>(s, b, i, start, end, block, block_row);
            product<Path>(tiles, reinterpret_cast<Lane*>(block.score_gradients), block_row / Path::PER_LANE,
                          packed.keys_over_time + start / Path::PER_LANE * dim, dim, keys / Path::PER_LANE,
                          block.query_gradient, dim, BACKWARD_ROWS, dim, start > first);
            product<Path>(tiles, gradients_transposed + i / Path::PER_LANE, time_lanes, block.probabilities, block_row,
                          step, packed.value_gradient + start, row, dim, keys, true);
            product<Path>(tiles, queries_transposed + i / Path::PER_LANE, time_lanes, block.score_gradients_over_time,
                          block_row, step, packed.key_gradient + start, row, dim, keys, true);
        }
        for (int64_t r = 0; r < BACKWARD_ROWS && i + r < s.time; r++)
            for (int64_t e = 0; e < s.head_dim; e += WIDTH)
                store(query_gradient.at(b, h, i + r) + e, load(block.query_gradient + r * dim + e), s.head_dim - e);
    }
}

template <class Value>
struct AttentionGradients {
    Heads<Value> query, key, value;
};

template <class Path, class Value>
void attention_backward(const AttentionShape& s, Heads<const Value> query, Heads<const Value> key,
                        Heads<const Value> value, Heads<const Value> result, const float* log_sums,
                        Heads<const Value> gradient, const AttentionGradients<Value>& gradients) {
    typedef typename Path::Lane Lane;
    typedef typename Path::Element Element;
    const int64_t group = s.heads / s.kv_heads, dim = s.padded_dim(), row = s.time_row(), size = s.padded_time() * dim;
    const int64_t block = BACKWARD_ROWS * (BACKWARD_KEYS + 16);
    const size_t shared_bytes = (2 * size + 2 * dim * row) * sizeof(Element) + (2 * dim * row + size) * 4 + 4096;
    const size_t own_bytes = 5 * size * sizeof(Element) + block * 20 + BACKWARD_ROWS * dim * 4 + 4096;
#pragma omp parallel for schedule(dynamic, 1) collapse(2)
    for (int64_t b = 0; b < s.batch; b++)
        for (int64_t k = 0; k < s.kv_heads; k++) {
            const Tiles tiles;
            Scratch shared(shared_bytes);
            Element* rows = shared.take<Element>(size);
            float* transposed = shared.take<float>(size);
            PackedKeys<Path> packed;
            packed.keys_over_dim = shared.take<Lane>(dim / Path::PER_LANE * row);
            packed.keys_over_time = shared.take<Lane>(size / Path::PER_LANE);
            packed.values_over_dim = shared.take<Lane>(dim / Path::PER_LANE * row);
            packed.key_gradient = shared.take<float>(dim * row);
            packed.value_gradient = shared.take<float>(dim * row);
            std::memset(packed.key_gradient, 0, dim * row * sizeof(float));
            std::memset(packed.value_gradient, 0, dim * row * sizeof(float));
            pack_rows(value.at(b, k), value.strides[2], s, rows);
            pack_over_dim<Path>(rows, s, packed.values_over_dim);
            pack_rows(key.at(b, k), key.strides[2], s, rows);
            pack_over_dim<Path>(rows, s, packed.keys_over_dim);
            pack_over_time(rows, s, packed.keys_over_time);
            for (int64_t h = k * group; h < (k + 1) * group; h++) {
                Scratch own(own_bytes);
                backward_head<Path>(s, b, h, query, result, gradient, log_sums + (b * s.heads + h) * s.time, packed,
                                    gradients.query, own, tiles);
            }
            unpack_transposed(packed.key_gradient, transposed, s, gradients.key.at(b, k), gradients.key.strides[2]);
            unpack_transposed(packed.value_gradient, transposed, s, gradients.value.at(b, k),
                              gradients.value.strides[2]);
        }
}

}  // namespace
