// What attention computes for each head, in one pass over memory: RMSNorm and rotary embedding, the output gate.

#pragma once

#include "scratch.h"
#include "vectors.h"

namespace {

// ---------------------------------------------------------------- RMSNorm and rotary embedding

// x [batch time heads dim], rotated in its first 2·pairs dimensions by the angles of each position; the others stay.
struct Rotation {
    int64_t batch, heads, time, dim, pairs;
    bool interleaved;         // pairs (0, 1), (2, 3) …; else (i, i + pairs)
    const float *cos, *sin;   // [time pairs]
};

// Rotate one head at position t in place; back if ``sign`` is −1, which is the gradient.
inline void rotate_head(const Rotation& r, int64_t t, float sign, float* head) {
    const float *c = r.cos + t * r.pairs, *s = r.sin + t * r.pairs;
    if (r.interleaved) {
        for (int64_t p = 0; p < r.pairs; p++) {
            const float even = head[2 * p], odd = head[2 * p + 1];
            head[2 * p] = even * c[p] - sign * odd * s[p];
            head[2 * p + 1] = odd * c[p] + sign * even * s[p];
        }
        return;
    }
    for (int64_t p = 0; p < r.pairs; p += WIDTH) {
        const int64_t n = r.pairs - p;
        const Vector first = load(head + p, n), second = load(head + r.pairs + p, n);
        const Vector cosine = load(c + p, n), sine = load(s + p, n) * sign;
        store(head + p, first * cosine - second * sine, n);
        store(head + r.pairs + p, second * cosine + first * sine, n);
    }
}

// Call ``function(t, from, row, head)`` for every head: its position, the offset in a tensor with ``strides`` (of batch,
// head and time), its number in [batch time heads], and room for its values.
template <class Function>
void for_each_head(const Rotation& r, const int64_t* strides, Function function) {
#pragma omp parallel
    {
        Scratch scratch(r.dim * sizeof(float));
        float* head = scratch.take<float>(r.dim);
#pragma omp for schedule(static) collapse(2)
        for (int64_t b = 0; b < r.batch; b++)
            for (int64_t t = 0; t < r.time; t++)
                for (int64_t h = 0; h < r.heads; h++)
                    function(t, b * strides[0] + h * strides[1] + t * strides[2], (b * r.time + t) * r.heads + h,
                             head);
    }
}

// result [batch time heads dim]. With ``inverse`` [batch time heads], heads are normed first: it receives their factors.
template <class Value>
void norm_rotate(const Rotation& r, const Value* x, const int64_t* strides, float sign, float eps, float* inverse,
                 Value* result) {
    for_each_head(r, strides, [=](int64_t t, int64_t from, int64_t row, float* head) {
        Vector squares{};
        for (int64_t i = 0; i < r.dim; i += WIDTH) {
            const Vector v = load(x + from + i, r.dim - i);
            squares += v * v;
            store(head + i, v, r.dim - i);
        }
        float scale = 1.0f;
        if (inverse) scale = inverse[row] = 1.0f / std::sqrt(sum(squares) / r.dim + eps);
        rotate_head(r, t, sign, head);
        Value* to = result + row * r.dim;
        for (int64_t i = 0; i < r.dim; i += WIDTH) store(to + i, load(head + i, r.dim - i) * scale, r.dim - i);
    });
}

// The gradient of ``norm_rotate`` with a norm, [batch time heads dim]; ``strides`` are those of ``gradient``, and
// ``x_strides`` those of x.
template <class Value>
void norm_rotate_backward(const Rotation& r, const Value* x, const int64_t* x_strides, const float* inverse,
                          const Value* gradient, const int64_t* strides, Value* x_gradient) {
    for_each_head(r, strides, [=](int64_t t, int64_t from, int64_t row, float* head) {
        for (int64_t i = 0; i < r.dim; i += WIDTH) store(head + i, load(gradient + from + i, r.dim - i), r.dim - i);
        rotate_head(r, t, -1.0f, head);
        const int64_t b = row / (r.heads * r.time), h = row % r.heads;
        const Value* values = x + b * x_strides[0] + h * x_strides[1] + t * x_strides[2];
        Vector products{};
        for (int64_t i = 0; i < r.dim; i += WIDTH) products += load(head + i, r.dim - i) * load(values + i, r.dim - i);
        const float scale = inverse[row], through_scale = sum(products) * scale * scale * scale / r.dim;
        Value* to = x_gradient + row * r.dim;
        for (int64_t i = 0; i < r.dim; i += WIDTH)
            store(to + i, load(head + i, r.dim - i) * scale - load(values + i, r.dim - i) * through_scale, r.dim - i);
    });
}

// ---------------------------------------------------------------- output gate

// x [rows heads dim], gate [rows heads]: result = x · 2σ(gate).
template <class Value>
void gate_heads(const Value* x, const Value* gate, int64_t rows, int64_t dim, Value* result) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const float factor = 2.0f / (1.0f + std::exp(-to_float(gate[r])));
        for (int64_t i = r * dim, end = i + dim; i < end; i += WIDTH)
            store(result + i, load(x + i, end - i) * factor, end - i);
    }
}

template <class Value>
void gate_heads_backward(const Value* x, const Value* gate, const Value* gradient, int64_t rows, int64_t dim,
                         Value* x_gradient, Value* gate_gradient) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const float factor = 2.0f / (1.0f + std::exp(-to_float(gate[r])));
        Vector products{};
        for (int64_t i = r * dim, end = i + dim; i < end; i += WIDTH) {
            const Vector g = load(gradient + i, end - i);
            products += g * load(x + i, end - i);
            store(x_gradient + i, g * factor, end - i);
        }
        store_one(gate_gradient + r, sum(products) * factor * (1.0f - 0.5f * factor));  // 2σ′ = 2σ·(1 − σ)
    }
}

}  // namespace
