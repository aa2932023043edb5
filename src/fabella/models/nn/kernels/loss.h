// Softmax cross-entropy of rows of logits. The gradient, softmax − one-hot, replaces them.

#pragma once

#include "vectors.h"

namespace {

// Row ``logits`` [size]; returns the loss in nats. A negative target has loss 0 and gradient 0.
template <class Value>
float row_loss(Value* logits, int64_t size, int64_t target) {
    const int64_t whole = size / WIDTH * WIDTH, rest = size - whole;
    if (target < 0) {
        std::memset(logits, 0, size * sizeof(Value));
        return 0.0f;
    }
    const float target_logit = to_float(logits[target]);
    Vector tops[4] = {fill(-INFINITY), fill(-INFINITY), fill(-INFINITY), fill(-INFINITY)};
    int64_t j = 0;
    for (; j + 4 * WIDTH <= size; j += 4 * WIDTH)
        for (int k = 0; k < 4; k++) tops[k] = largest(tops[k], load(logits + j + k * WIDTH));
    for (; j < whole; j += WIDTH) tops[0] = largest(tops[0], load(logits + j));
    float top = maximum(largest(largest(tops[0], tops[1]), largest(tops[2], tops[3])));
    for (; j < size; j++) top = to_float(logits[j]) > top ? to_float(logits[j]) : top;
    Vector sums[4] = {};
    for (j = 0; j + 4 * WIDTH <= size; j += 4 * WIDTH)
        for (int k = 0; k < 4; k++) sums[k] += exponential(load(logits + j + k * WIDTH) - top);
    for (; j < whole; j += WIDTH) sums[0] += exponential(load(logits + j) - top);
    if (rest) sums[1] += first_lanes(exponential(load(logits + j, rest) - top), rest);
    const float total = sum((sums[0] + sums[1]) + (sums[2] + sums[3])), shift = top + std::log(total);
    for (j = 0; j < size; j += WIDTH) {
        const int64_t n = size - j;
        store(logits + j, exponential(load(logits + j, n) - shift), n);
    }
    store_one(logits + target, std::exp(target_logit - shift) - 1.0f);
    return shift - target_logit;
}

template <class Value>
void losses(Value* logits, int64_t stride, int64_t rows, int64_t size, const int64_t* targets, float* result) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) result[i] = row_loss(logits + i * stride, size, targets[i]);
}

}  // namespace
