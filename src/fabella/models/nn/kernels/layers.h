// Elementwise layers of a block, each in one pass over memory: SwiGLU, GELU, RMSNorm.

#pragma once

#include "vectors.h"

namespace {

// ---------------------------------------------------------------- SwiGLU and GELU

constexpr int64_t PIECE = 4096;  // elements of a task

// result = function(operands) for ``count`` elements; function takes and returns vectors.
template <class Function>
void for_each_vector(int64_t count, Function function) {
#pragma omp parallel for schedule(static)
    for (int64_t start = 0; start < count; start += PIECE) {
        const int64_t end = start + PIECE < count ? start + PIECE : count;
        for (int64_t i = start; i < end; i += WIDTH) function(i, end - i);
    }
}

template <class Value>
void swiglu(const Value* gate, const Value* up, int64_t count, Value* result) {
    for_each_vector(count, [=](int64_t i, int64_t n) {
        const Vector g = load(gate + i, n);
        store(result + i, g * sigmoid(g) * load(up + i, n), n);
    });
}

template <class Value>
void swiglu_backward(const Value* gate, const Value* up, const Value* gradient, int64_t count, Value* gate_gradient,
                     Value* up_gradient) {
    for_each_vector(count, [=](int64_t i, int64_t n) {
        const Vector g = load(gate + i, n), d = load(gradient + i, n), s = sigmoid(g), silu = g * s;
        store(up_gradient + i, d * silu, n);
        store(gate_gradient + i, d * load(up + i, n) * s * (1.0f + g - silu), n);
    });
}

template <class Value>
void gelu(const Value* x, int64_t count, bool tanh, Value* result) {
    for_each_vector(count, [=](int64_t i, int64_t n) {
        const Vector v = load(x + i, n);
        const Vector share = tanh ? sigmoid(1.59576912f * (v + 0.044715f * v * v * v))
                                  : 0.5f * (1.0f + error_function(v * 0.70710678f));
        store(result + i, v * share, n);
    });
}

template <class Value>
void gelu_backward(const Value* x, const Value* gradient, int64_t count, bool tanh, Value* result) {
    for_each_vector(count, [=](int64_t i, int64_t n) {
        const Vector v = load(x + i, n);
        Vector slope;
        if (tanh) {
            const Vector s = sigmoid(1.59576912f * (v + 0.044715f * v * v * v));
            slope = s + v * s * (1.0f - s) * (1.59576912f + 0.21406564f * v * v);
        } else {
            slope = 0.5f * (1.0f + error_function(v * 0.70710678f)) + v * 0.39894228f * exponential(-0.5f * v * v);
        }
        store(result + i, slope * load(gradient + i, n), n);
    });
}

// ---------------------------------------------------------------- RMSNorm

// Rows [rows dim]: result = x·weight/√(mean(x²) + eps); inverse [rows] is the factor of each row.
template <class Result>
void rms_norm(const float* x, const float* weight, int64_t rows, int64_t dim, float eps, Result* result,
              float* inverse) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const float* row = x + r * dim;
        Vector squares{};
        for (int64_t i = 0; i < dim; i += WIDTH) {
            const Vector v = load(row + i, dim - i);
            squares += v * v;
        }
        inverse[r] = 1.0f / std::sqrt(sum(squares) / dim + eps);
        for (int64_t i = 0; i < dim; i += WIDTH) {
            const Vector scaled = load(row + i, dim - i) * inverse[r];
            store(result + r * dim + i, scaled * load(weight + i, dim - i), dim - i);
        }
    }
}

constexpr int64_t NORM_ROWS = 64;  // rows whose weight gradients are added by one task, whatever the number of threads

// partial [⌈rows/NORM_ROWS⌉ dim]: the weight's gradient of each block of rows, in its order.
template <class Result>
void rms_norm_backward(const float* x, const float* weight, const float* inverse, const Result* gradient, int64_t rows,
                       int64_t dim, float* x_gradient, float* partial) {
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < (rows + NORM_ROWS - 1) / NORM_ROWS; block++) {
        float* weight_gradient = partial + block * dim;
        std::memset(weight_gradient, 0, dim * sizeof(float));
        const int64_t end = (block + 1) * NORM_ROWS < rows ? (block + 1) * NORM_ROWS : rows;
        for (int64_t r = block * NORM_ROWS; r < end; r++) {
            const float *row = x + r * dim, scale = inverse[r];
            Vector products{};
            for (int64_t i = 0; i < dim; i += WIDTH) {
                const int64_t n = dim - i;
                const Vector gx = load(gradient + r * dim + i, n) * load(row + i, n);
                products += gx * load(weight + i, n);
                store(weight_gradient + i, load(weight_gradient + i, n) + gx * scale, n);
            }
            // y = s·w·x and ∂s/∂x = −s³·x/D
            const float through_scale = sum(products) * scale * scale * scale / dim;
            for (int64_t i = 0; i < dim; i += WIDTH) {
                const int64_t n = dim - i;
                const Vector direct = load(gradient + r * dim + i, n) * load(weight + i, n) * scale;
                store(x_gradient + r * dim + i, direct - load(row + i, n) * through_scale, n);
            }
        }
    }
}

}  // namespace
