// One step of telling, whole: every operation of the network by one team of threads, without a call between them.
//
// A program is a list of operations over buffers [N width]; native_torch.py writes it, and its structures mirror those
// here field by field. N is a few rows: one more token in each of many texts, or stretches of some. Each output is
// summed by one thread in an order that neither the number of threads nor the other rows change, so that a text has
// the same bits alone and beside others. Nothing is allocated. Compiled by the machine's compiler for this processor.
// What is chosen after the last of them: sample.h.

#include <omp.h>
#include <sched.h>

#include "sample.h"
#include "matmul.h"

namespace {

enum Kind : int32_t { LOOKUP, PROJECT, ATTEND };
enum Norm : int32_t { PLAIN, ROOT_MEAN_SQUARE, LAYER };
enum Then : int32_t { STORE, GELU, GELU_TANH, SWIGLU, RECUR };
enum Format : int32_t { FLOATS, HALVES, BYTES };

struct Matrix {
    const void* weight;    // [rows inputs], row after row
    const float* scales;   // [rows]: what a byte stands for
    const float* bias;     // [rows], or null
    int64_t rows;
};

struct Operation {
    int32_t kind, norm, then, format;
    int32_t from, to, residual;  // buffers; to = -1: the logits; residual = -1: none
    int32_t memory;              // which part's memory; -1: none
    int32_t last;                // whether only the rows are wanted that something is chosen after
    int32_t matrices;            // one below the other; of SWIGLU and RECUR, two side by side
    int32_t heads, kv_heads, head_dim, pairs, halves;
    float eps;
    int64_t inputs;
    Matrix matrix[3];
    const float *norm_weight, *norm_bias;
    const float *table, *places;  // LOOKUP: rows by token, and by position or null
    const float *cos, *sin;       // ATTEND: [S pairs], or null
};

struct Stage {
    int64_t taken, done;
    int64_t padding[6];  // a line of the cache for each
};

struct Program {
    const Operation* operations;
    Stage* stages;  // two for each operation
    float* const* buffers;
    char* scratch;
    int64_t count, scratch_bytes;  // scratch: of each thread
    int32_t threads, padding;
};

struct Call {
    float* const* memories;  // [R 2 K S E] of attention, [R S] of a recurrence
    int64_t capacity;        // S of attention
    int64_t known;           // ids that there are rows for
    int64_t n, skip;         // rows, and how many of them need no logits
    const int64_t *tokens, *rows, *positions;
    float* logits;           // [n - skip, V]
    int64_t stretch;         // whether several rows may be of one text
};

constexpr int64_t PIECE = 65536;    // bytes of a weight that a thread takes at once: a few microseconds
constexpr int64_t PATIENCE = 4096;  // looks at another thread's work before the machine may do something else
constexpr int64_t BLOCK = 256;      // sums that are finished together, or more

// R rows of a weight with all n rows of x: found[r * n + i].
template <int R, class Weight, class X>
inline void all_rows(const Weight* weight, int64_t inputs, const X* x, int64_t n, float* found) {
    constexpr int COLUMNS = Tile<Weight>::COLUMNS;
    int64_t i = 0;
    for (; i + COLUMNS <= n; i += COLUMNS) {
        float result[R][COLUMNS];
        dots<R, COLUMNS>(weight, inputs, x + i * inputs, result);
        for (int r = 0; r < R; r++)
            for (int c = 0; c < COLUMNS; c++) found[r * n + i + c] = result[r][c];
    }
    for (; i < n; i++) {
        float result[R][1];
        dots<R, 1>(weight, inputs, x + i * inputs, result);
        for (int r = 0; r < R; r++) found[r * n + i] = result[r][0];
    }
}

// `count` rows of a matrix from `row` on, with bias.
template <class Weight, class X>
inline void some_rows(const Matrix& m, int64_t row, int64_t count, int64_t inputs, const X* x, const float* x_scales,
                      int64_t n, float* found) {
    const Weight* weight = static_cast<const Weight*>(m.weight) + row * inputs;
    constexpr int ROWS = Tile<Weight>::ROWS;
    int64_t done = 0;
    for (; done + ROWS <= count; done += ROWS) all_rows<ROWS>(weight + done * inputs, inputs, x, n, found + done * n);
    for (; done < count; done++) all_rows<1>(weight + done * inputs, inputs, x, n, found + done * n);
    if (x_scales)
        for (int64_t r = 0; r < count; r++)
            for (int64_t i = 0; i < n; i++) found[r * n + i] *= m.scales[row + r] * x_scales[i];
    if (m.bias)
        for (int64_t r = 0; r < count; r++)
            for (int64_t i = 0; i < n; i++) found[r * n + i] += m.bias[row + r];
}

// ---------------------------------------------------------------- one thread's part of each operation

// Threads take pieces of an operation until all are taken, and go on when all are done: one that the machine holds up
// holds up nobody else, unless it is in the middle of a piece.
struct Team {
    Stage* stages;
    int64_t size;
    char* scratch;

    template <class Work>
    void each(int64_t stage, int64_t total, int64_t unit, const Work& work) const {
        const int64_t units = (total + unit - 1) / unit;
        Stage& now = stages[stage];
        for (;;) {
            const int64_t mine = __atomic_fetch_add(&now.taken, 1, __ATOMIC_RELAXED);
            if (mine >= units) break;
            work(mine * unit, (mine + 1) * unit < total ? (mine + 1) * unit : total);
            __atomic_fetch_add(&now.done, 1, __ATOMIC_RELEASE);
        }
        for (int64_t waited = 1; __atomic_load_n(&now.done, __ATOMIC_ACQUIRE) < units; waited++)
            if (waited % PATIENCE == 0) sched_yield();
    }
};

int64_t rows_at_once(const Operation& op) {
    return op.format == FLOATS ? Tile<float>::ROWS : op.format == HALVES ? Tile<uint16_t>::ROWS : Tile<int8_t>::ROWS;
}

// Rows of a weight whose products are finished together: enough for whole vectors, too few to leave the cache.
int64_t block_of(const Operation& op, int64_t n) {
    const int64_t rows = rows_at_once(op);
    return n * rows >= BLOCK ? rows : BLOCK / n / rows * rows;
}

bool is_paired(const Operation& op) { return op.then == SWIGLU || op.then == RECUR; }

void normed(const Operation& op, const float* x, int64_t n, float* result) {
    const int64_t width = op.inputs;
    for (int64_t i = 0; i < n; i++, x += width, result += width) {
        float mean = 0, square = 0;
        if (op.norm == LAYER) {
#pragma omp simd reduction(+ : mean)
            for (int64_t k = 0; k < width; k++) mean += x[k];
            mean /= width;
        }
#pragma omp simd reduction(+ : square)
        for (int64_t k = 0; k < width; k++) square += (x[k] - mean) * (x[k] - mean);
        const float scale = 1.0f / std::sqrt(square / width + op.eps);
        if (op.norm_bias)
            for (int64_t k = 0; k < width; k++) result[k] = (x[k] - mean) * scale * op.norm_weight[k] + op.norm_bias[k];
        else if (op.norm_weight)
            for (int64_t k = 0; k < width; k++) result[k] = (x[k] - mean) * scale * op.norm_weight[k];
        else
            for (int64_t k = 0; k < width; k++) result[k] = (x[k] - mean) * scale;
    }
}

// What follows a product: `found` [rows n], `other` the same of the second matrix where there are two.
void finish(const Operation& op, const Call& call, const float* residual, float* to, int64_t width, int64_t row,
            int64_t count, int64_t n, float* found, const float* other) {
    float* memory = op.memory >= 0 ? call.memories[op.memory] : nullptr;
    if (op.then == GELU)
#pragma omp simd
        for (int64_t k = 0; k < count * n; k++) found[k] = gelu(found[k]);
    else if (op.then == GELU_TANH)
#pragma omp simd
        for (int64_t k = 0; k < count * n; k++) found[k] = gelu_tanh(found[k]);
    else if (op.then == SWIGLU)
#pragma omp simd
        for (int64_t k = 0; k < count * n; k++) found[k] = found[k] * sigmoid(found[k]) * other[k];
    else if (op.then == RECUR)  // h += z · (g(candidate) − h), in the order of time
        for (int64_t r = 0; r < count; r++)
            for (int64_t i = 0; i < n; i++) {
                float& hidden = memory[call.rows[i] * width + row + r];
                const float z = sigmoid(found[r * n + i]), candidate = other[r * n + i];
                const float towards = candidate >= 0 ? candidate + 0.5f : sigmoid(candidate);
                found[r * n + i] = hidden = hidden + z * (towards - hidden);
            }
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = 0; r < count; r++)
            to[i * width + row + r] = found[r * n + i] + (residual ? residual[i * width + row + r] : 0.0f);
}

// Outputs from `begin` to `end`.
template <class Weight, class X>
void multiply(const Operation& op, const Call& call, int64_t begin, int64_t end, const X* x, const float* x_scales,
              int64_t n, const float* residual, float* to, int64_t width, float* found) {
    const bool paired = is_paired(op);
    const int64_t block = block_of(op, n);
    int64_t above = 0;
    for (int m = 0; m < (paired ? 1 : op.matrices); above += op.matrix[m++].rows) {
        const int64_t from = begin > above ? begin : above, below = above + op.matrix[m].rows;
        const int64_t until = end < below ? end : below;
        for (int64_t row = from; row < until; row += block) {
            const int64_t count = until - row < block ? until - row : block;
            float* other = found + block * n;
            some_rows<Weight>(op.matrix[m], row - above, count, op.inputs, x, x_scales, n, found);
            if (paired) some_rows<Weight>(op.matrix[1], row, count, op.inputs, x, x_scales, n, other);
            finish(op, call, residual, to, width, row, count, n, found, other);
        }
    }
}

int64_t piece_of(const Operation& op, int64_t width, int64_t threads) {
    const int64_t size = op.format == FLOATS ? 4 : op.format == HALVES ? 2 : 1;
    const int64_t whole = PIECE / (op.inputs * size * (is_paired(op) ? 2 : 1)), even = (width + threads - 1) / threads;
    const int64_t rows = whole < even ? whole : even, unit = rows_at_once(op);
    return rows <= unit ? unit : (rows + unit - 1) / unit * unit;
}

void project(const Operation& op, const Program& program, const Call& call, const Team& team, int64_t stage) {
    const int64_t skip = op.last ? call.skip : 0, n = call.n - skip;
    if (!n) return;
    int64_t width = op.matrix[0].rows;
    for (int m = 1; m < op.matrices && !is_paired(op); m++) width += op.matrix[m].rows;
    const float* x = program.buffers[op.from] + skip * op.inputs;
    const float* residual = op.residual < 0 ? nullptr : program.buffers[op.residual];
    float* to = op.to < 0 ? call.logits : program.buffers[op.to] + skip * width;
    float* found = reinterpret_cast<float*>(team.scratch);
    float* scales = found + 2 * block_of(op, n) * n;
    float* own = scales + (n + 15) / 16 * 16;
    int8_t* bytes = reinterpret_cast<int8_t*>(own + (op.norm == PLAIN ? 0 : n * op.inputs));
    bool ready = false;
    team.each(stage, width, piece_of(op, width, team.size), [&](int64_t begin, int64_t end) {
        if (!ready) {  // each thread for itself: it takes less time than to wait for another
            if (op.norm != PLAIN) {
                normed(op, x, n, own);
                x = own;
            }
            if (op.format == BYTES) in_bytes(x, n, op.inputs, bytes, scales);
            ready = true;
        }
        if (op.format == BYTES)
            multiply<int8_t>(op, call, begin, end, bytes, scales, n, residual, to, width, found);
        else if (op.format == FLOATS)
            multiply<float>(op, call, begin, end, x, nullptr, n, residual, to, width, found);
#if defined(__F16C__)
        else
            multiply<uint16_t>(op, call, begin, end, x, nullptr, n, residual, to, width, found);
#endif
    });
}

void look_up(const Operation& op, const Program& program, const Call& call, const Team& team, int64_t stage) {
    const int64_t width = op.inputs;
    team.each(stage, call.n, 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
            const float* row = op.table + call.tokens[i] * width;
            const float* place = op.places ? op.places + call.positions[i] * width : nullptr;
            const float* residual = op.residual < 0 ? nullptr : program.buffers[op.residual] + i * width;
            float* to = program.buffers[op.to] + i * width;
            for (int64_t k = 0; k < width; k++)
                to[k] = row[k] + (place ? place[k] : 0.0f) + (residual ? residual[k] : 0.0f);
        }
    });
}

void turn(const Operation& op, float* head, int64_t position) {
    if (!op.cos) return;
    const float *cos = op.cos + position * op.pairs, *sin = op.sin + position * op.pairs;
    const int64_t stride = op.halves ? 1 : 2, apart = op.halves ? op.head_dim / 2 : 1;
    for (int64_t p = 0; p < op.pairs; p++) {
        const float first = head[p * stride], second = head[p * stride + apart];
        head[p * stride] = first * cos[p] - second * sin[p];
        head[p * stride + apart] = second * cos[p] + first * sin[p];
    }
}

// Some dims of the values, by their shares.
template <int VECTORS>
inline void mix(const float* shares, const float* values, int64_t seen, int64_t dim, float* to) {
    Vector even[VECTORS] = {}, odd[VECTORS] = {};
    int64_t k = 0;
    for (; k + 2 <= seen; k += 2)
        for (int v = 0; v < VECTORS; v++) {
            even[v] = fused(shares[k] - Vector{}, load(values + k * dim + v * WIDTH), even[v]);
            odd[v] = fused(shares[k + 1] - Vector{}, load(values + (k + 1) * dim + v * WIDTH), odd[v]);
        }
    for (int v = 0; v < VECTORS; v++) {
        if (k < seen) even[v] = fused(shares[k] - Vector{}, load(values + k * dim + v * WIDTH), even[v]);
        store(to + v * WIDTH, even[v] + odd[v]);
    }
}

// softmax(q·K/√E) V over the positions up to its own; scores: room for as many.
void look_back(const float* query, const float* keys, const float* values, int64_t seen, int64_t dim, float* scores,
               float* to) {
    const float scale = 1.0f / std::sqrt(float(dim));
    int64_t s = 0;
    for (; s + 4 <= seen; s += 4) {
        float result[4][1];
        dots<4, 1>(keys + s * dim, dim, query, result);
        for (int r = 0; r < 4; r++) scores[s + r] = result[r][0] * scale;
    }
    for (; s < seen; s++) {
        float result[1][1];
        dots<1, 1>(keys + s * dim, dim, query, result);
        scores[s] = result[0][0] * scale;
    }
    float top = scores[0], total = 0;
#pragma omp simd reduction(max : top)
    for (int64_t k = 1; k < seen; k++) top = scores[k] > top ? scores[k] : top;
#pragma omp simd reduction(+ : total)
    for (int64_t k = 0; k < seen; k++) {
        scores[k] = exponential(scores[k] - top);
        total += scores[k];
    }
    for (int64_t k = 0; k < seen; k++) scores[k] /= total;
    int64_t e = 0;
    for (; e + 2 * WIDTH <= dim; e += 2 * WIDTH) mix<2>(scores, values + e, seen, dim, to + e);
    for (; e + WIDTH <= dim; e += WIDTH) mix<1>(scores, values + e, seen, dim, to + e);
    for (; e < dim; e++) {
        to[e] = 0;
        for (int64_t k = 0; k < seen; k++) to[e] += scores[k] * values[k * dim + e];
    }
}

struct Attention {
    const Operation& op;
    const Program& program;
    const Call& call;
    const int64_t dim = op.head_dim, group = op.heads / op.kv_heads, width = (op.heads + 2 * op.kv_heads) * dim;
    const int64_t head_size = call.capacity * dim, half = op.kv_heads * head_size;

    float* keys(int64_t i, int64_t g) const {
        return call.memories[op.memory] + call.rows[i] * 2 * half + g * head_size;
    }

    void remember(int64_t i, int64_t g) const {
        float* row = program.buffers[op.from] + i * width;
        float* key = row + (op.heads + g) * dim;
        float* kept = keys(i, g) + call.positions[i] * dim;
        turn(op, key, call.positions[i]);
        std::memcpy(kept, key, dim * sizeof(float));
        std::memcpy(kept + half, key + op.kv_heads * dim, dim * sizeof(float));
        for (int64_t h = g * group; h < (g + 1) * group; h++) turn(op, row + h * dim, call.positions[i]);
    }

    void look(int64_t i, int64_t g, float* scores) const {
        for (int64_t h = g * group; h < (g + 1) * group; h++)
            look_back(program.buffers[op.from] + i * width + h * dim, keys(i, g), keys(i, g) + half,
                      call.positions[i] + 1, dim, scores, program.buffers[op.to] + (i * op.heads + h) * dim);
    }
};

void attend(const Operation& op, const Program& program, const Call& call, const Team& team, int64_t stage) {
    const Attention all = {op, program, call};
    const int64_t kv_heads = op.kv_heads;
    float* scores = reinterpret_cast<float*>(team.scratch);
    if (call.stretch)  // the keys that one piece remembers are looked at by others
        team.each(stage++, call.n * kv_heads, 4, [&](int64_t begin, int64_t end) {
            for (int64_t unit = begin; unit < end; unit++) all.remember(unit / kv_heads, unit % kv_heads);
        });
    team.each(stage, call.n * kv_heads, 1, [&](int64_t unit, int64_t) {
        if (!call.stretch) all.remember(unit / kv_heads, unit % kv_heads);
        all.look(unit / kv_heads, unit % kv_heads, scores);
    });
}

}  // namespace

extern "C" {

// Whether this processor has what a format needs.
int32_t fabella_has(int32_t format) {
#if defined(__F16C__)
    return format == FLOATS || format == HALVES || format == BYTES;
#else
    return format == FLOATS || format == BYTES;
#endif
}

// 1, and nothing done, where a token is none.
int32_t fabella_step(const Program* program, const Call* call) {
    for (int64_t i = 0; i < call->n; i++)
        if (call->tokens[i] < 0 || call->tokens[i] >= call->known) return 1;
    std::memset(program->stages, 0, 2 * program->count * sizeof(Stage));
#pragma omp parallel num_threads(program->threads)
    {
        const Team team = {program->stages, omp_get_num_threads(),
                           program->scratch + omp_get_thread_num() * program->scratch_bytes};
        for (int64_t k = 0; k < program->count; k++) {
            const Operation& op = program->operations[k];
            if (op.kind == LOOKUP)
                look_up(op, *program, *call, team, 2 * k);
            else if (op.kind == PROJECT)
                project(op, *program, *call, team, 2 * k);
            else
                attend(op, *program, *call, team, 2 * k);
        }
    }
    return 0;
}
}
