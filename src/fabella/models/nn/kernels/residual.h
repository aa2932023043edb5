// The residual stream: weighted sums of two tensors, alone or with the RMSNorm of the sum, in one pass over memory.

#pragma once

#include "vectors.h"

namespace {

constexpr int64_t SUM_ROWS = 64;  // rows whose parameter gradients are added by one task, whatever the number of threads

inline int64_t sum_blocks(int64_t rows) { return (rows + SUM_ROWS - 1) / SUM_ROWS; }

// Rows [rows dim]: result = factors[0]·x + factors[1]·z.
template <class Value>
void scaled_sum(const Value* x, const Value* z, const float* factors, int64_t rows, int64_t dim, Value* result) {
    const float a = factors[0], b = factors[1];
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = r * dim, end = i + dim; i < end; i += WIDTH)
            store(result + i, a * load(x + i, end - i) + b * load(z + i, end - i), end - i);
}

// partial [⌈rows/SUM_ROWS⌉ 2]: the gradients of the factors, of each block of rows, in its order.
template <class Value>
void scaled_sum_backward(const Value* x, const Value* z, const float* factors, const Value* gradient, int64_t rows,
                         int64_t dim, Value* x_gradient, Value* z_gradient, float* partial) {
    const float a = factors[0], b = factors[1];
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < sum_blocks(rows); block++) {
        Vector of_x{}, of_z{};
        const int64_t last = (block + 1) * SUM_ROWS < rows ? (block + 1) * SUM_ROWS : rows;
        for (int64_t r = block * SUM_ROWS; r < last; r++)
            for (int64_t i = r * dim, end = i + dim; i < end; i += WIDTH) {
                const Vector g = load(gradient + i, end - i);
                of_x += g * load(x + i, end - i);
                of_z += g * load(z + i, end - i);
                store(x_gradient + i, a * g, end - i);
                store(z_gradient + i, b * g, end - i);
            }
        partial[2 * block] = sum(of_x);
        partial[2 * block + 1] = sum(of_z);
    }
}

// Rows [rows dim]: y = factors[0]·x + factors[1]·z, normed = y·weight/√(mean(y²) + eps); factors null: 1 and 1.
// inverse [rows] is the factor of each row of the norm.
template <class Value, class Result>
void sum_norm(const float* x, const Value* z, const float* factors, const float* weight, int64_t rows, int64_t dim,
              float eps, float* y, Result* normed, float* inverse) {
    const float a = factors ? factors[0] : 1.0f, b = factors ? factors[1] : 1.0f;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        float* row = y + r * dim;
        Vector squares{};
        for (int64_t i = 0; i < dim; i += WIDTH) {
            const int64_t n = dim - i;
            const Vector v = a * load(x + r * dim + i, n) + b * load(z + r * dim + i, n);
            squares += v * v;
            store(row + i, v, n);
        }
        inverse[r] = 1.0f / std::sqrt(sum(squares) / dim + eps);
        for (int64_t i = 0; i < dim; i += WIDTH)
            store(normed + r * dim + i, load(row + i, dim - i) * inverse[r] * load(weight + i, dim - i), dim - i);
    }
}

// The gradients of ``sum_norm``: y_gradient of the sum, normed_gradient of its norm. With factors, partial_factors
// [⌈rows/SUM_ROWS⌉ 2] receives their gradients as in ``scaled_sum_backward``; x and z are not read without them.
// partial_weight [⌈rows/SUM_ROWS⌉ dim]: the gradient of the weight of the norm, likewise.
template <class Value, class Result>
void sum_norm_backward(const float* x, const Value* z, const float* factors, const float* weight, const float* y,
                       const float* inverse, const float* y_gradient, const Result* normed_gradient, int64_t rows,
                       int64_t dim, float* x_gradient, Value* z_gradient, float* partial_weight,
                       float* partial_factors) {
    const float a = factors ? factors[0] : 1.0f, b = factors ? factors[1] : 1.0f;
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < sum_blocks(rows); block++) {
        float* weight_gradient = partial_weight + block * dim;
        std::memset(weight_gradient, 0, dim * sizeof(float));
        Vector of_x{}, of_z{};
        const int64_t last = (block + 1) * SUM_ROWS < rows ? (block + 1) * SUM_ROWS : rows;
        for (int64_t r = block * SUM_ROWS; r < last; r++) {
            const float *row = y + r * dim, scale = inverse[r];
            Vector products{};
            for (int64_t i = 0; i < dim; i += WIDTH) {
                const int64_t n = dim - i;
                const Vector gy = load(normed_gradient + r * dim + i, n) * load(row + i, n);
                products += gy * load(weight + i, n);
                store(weight_gradient + i, load(weight_gradient + i, n) + gy * scale, n);
            }
            const float through_scale = sum(products) * scale * scale * scale / dim;  // see rms_norm_backward
            for (int64_t i = 0; i < dim; i += WIDTH) {
                const int64_t n = dim - i, at = r * dim + i;
                const Vector direct = load(normed_gradient + at, n) * load(weight + i, n) * scale;
                const Vector g = load(y_gradient + at, n) + direct - load(row + i, n) * through_scale;
                if (factors) {
                    of_x += g * load(x + at, n);
                    of_z += g * load(z + at, n);
                }
                store(x_gradient + at, a * g, n);
                store(z_gradient + at, b * g, n);
            }
        }
        if (factors) {
            partial_factors[2 * block] = sum(of_x);
            partial_factors[2 * block + 1] = sum(of_z);
        }
    }
}

}  // namespace
