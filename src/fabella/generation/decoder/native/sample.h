// Sample the next token from logits, by the rule of sampling_torch.py: invert the cumulative distribution.

#pragma once

#include <omp.h>

#include "matmul.h"

namespace {

struct SamplerParams {
    float temperature, top_p, min_p, penalty;
    int64_t top_k;
    const uint8_t* seen;  // [V]: ids of the repetition penalty, or null
    const float* added;   // [V]: added to the logits after it, or null
};

constexpr int64_t BUCKETS = 1024;
constexpr int DIGITS = 3, BITS = 10;
constexpr int64_t PARALLEL_MIN_LOGITS = 32768;  // below, one thread is faster than two

// Return the rank of a weight in [0, 1]: larger for smaller weights, three digits of ten bits.
inline uint32_t rank_of(float weight) {
    uint32_t bits;
    std::memcpy(&bits, &weight, 4);
    return 0x3F800000u - bits;
}

// Return the smallest of the largest weights: the first `target` of them (COUNTED), or those that reach the share
// `target` of the total. A radix selection, digit by digit of the rank, sorts nothing. `scratch` [count] and `sums`
// [BUCKETS] are overwritten.
template <bool COUNTED>
float threshold_of(const float* weights, int64_t count, double target, float* scratch, double* sums) {
    double above = 0;
    for (int digit = DIGITS - 1; digit >= 0; digit--) {
        std::memset(sums, 0, BUCKETS * sizeof(double));
        for (int64_t k = 0; k < count; k++)
            sums[rank_of(weights[k]) >> digit * BITS & (BUCKETS - 1)] += COUNTED ? 1.0 : weights[k];
        if (!COUNTED && digit == DIGITS - 1) {
            double total = 0;
            for (int64_t b = 0; b < BUCKETS; b++) total += sums[b];
            target *= total;
        }
        uint32_t bucket = 0;  // where the sum reaches the target; the last one if rounding keeps it below
        double sum = above;
        for (uint32_t b = 0; b < BUCKETS; b++) {
            if (sums[b] == 0) continue;
            bucket = b;
            above = sum;
            sum += sums[b];
            if (sum >= target) break;
        }
        int64_t survivors = 0;
        for (int64_t k = 0; k < count; k++)
            if ((rank_of(weights[k]) >> digit * BITS & (BUCKETS - 1)) == bucket) scratch[survivors++] = weights[k];
        weights = scratch;
        count = survivors;
    }
    return weights[0];
}

// Return whether a row can be sampled. Sets `max_logit` to its largest logit, or to NaN if it has one.
inline bool is_sampleable(const float* logits, int64_t vocab_size, float* max_logit) {
    float largest = logits[0];
    int32_t nans = 0;
#pragma omp simd reduction(max : largest) reduction(+ : nans)
    for (int64_t k = 0; k < vocab_size; k++) {
        largest = logits[k] > largest ? logits[k] : largest;
        nans += logits[k] != logits[k];
    }
    *max_logit = nans ? NAN : largest;
    return std::isfinite(*max_logit);
}

// Return the token id at quantile `uniform`; -1 if the row cannot be sampled. `weights` and `scratch`: [vocab_size].
inline int64_t sample_one(const SamplerParams& params, const float* logits, int64_t vocab_size, float uniform,
                          float* weights, float* scratch, double* sums, float* max_logit) {
    if (params.seen) {
        for (int64_t k = 0; k < vocab_size; k++) {
            const float x = logits[k], penalized = x > 0 ? x / params.penalty : x * params.penalty;
            weights[k] = params.seen[k] ? penalized : x;
        }
        logits = weights;
    }
    if (params.added) {
        for (int64_t k = 0; k < vocab_size; k++) weights[k] = logits[k] + params.added[k];
        logits = weights;
    }
    if (!is_sampleable(logits, vocab_size, max_logit)) return -1;
    const float largest = *max_logit;
    if (params.temperature == 0)
        for (int64_t k = 0;; k++)
            if (logits[k] == largest) return k;
#pragma omp simd
    for (int64_t k = 0; k < vocab_size; k++) {
        const float x = (logits[k] - largest) / params.temperature;
        weights[k] = x < -87.0f ? 0.0f : exponential(x);
    }
    float threshold = params.min_p;
    if (params.top_k > 0 && params.top_k < vocab_size) {
        const float last = threshold_of<true>(weights, vocab_size, static_cast<double>(params.top_k), scratch, sums);
        threshold = last > threshold ? last : threshold;
        for (int64_t k = 0; k < vocab_size; k++) weights[k] = weights[k] >= last ? weights[k] : 0.0f;
    }
    if (params.top_p < 1) {
        const float last = threshold_of<false>(weights, vocab_size, static_cast<double>(params.top_p), scratch, sums);
        threshold = last > threshold ? last : threshold;
    }
    double total = 0, sum = 0;
    for (int64_t k = 0; k < vocab_size; k++)
        if (weights[k] >= threshold) total += weights[k];
    int64_t sampled = -1;
    for (int64_t k = 0; k < vocab_size && (sampled < 0 || sum <= uniform * total); k++)
        if (weights[k] >= threshold && weights[k] > 0) {
            sum += weights[k];
            sampled = k;
        }
    return sampled;
}

}  // namespace

extern "C" {

struct SampleCall {
    const SamplerParams* params;  // [n]
    const float *uniform, *logits;
    int64_t n, vocab_size, stride;  // stride: from one row of logits to the next
    char* scratch;
    int64_t scratch_bytes;  // per thread
    int64_t* sampled;        // [n]
    float* max_logits;            // [n]: largest logit of each row
    int64_t threads;
};

// Sample one token per row. Returns the first row that cannot be sampled; -1 if there is none.
int64_t fabella_sample(const SampleCall* call) {
    const bool parallel = call->n > 1 && call->n * call->vocab_size >= PARALLEL_MIN_LOGITS;
#pragma omp parallel for num_threads(call->threads) schedule(dynamic, 1) if (parallel)
    for (int64_t i = 0; i < call->n; i++) {
        double* sums = reinterpret_cast<double*>(call->scratch + omp_get_thread_num() * call->scratch_bytes);
        float* weights = reinterpret_cast<float*>(sums + BUCKETS);
        call->sampled[i] = sample_one(call->params[i], call->logits + i * call->stride, call->vocab_size,
                                      call->uniform[i], weights, weights + call->vocab_size, sums, call->max_logits + i);
    }
    for (int64_t i = 0; i < call->n; i++)
        if (call->sampled[i] < 0) return i;
    return -1;
}
}
