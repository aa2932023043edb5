// The next id of a text from its logits, by the rule of sampling_torch.py: the inverse of the distribution's sums.

#pragma once

#include <omp.h>

#include "matmul.h"

namespace {

struct Choosing {
    float temperature, top_p, min_p, penalty;
    int64_t top_k;
    const uint8_t* seen;  // [V]: the ids that are penalised, or null
};

constexpr int64_t BUCKETS = 1024;
constexpr int DIGITS = 3, BITS = 10;
constexpr int64_t FEW = 32768;  // logits that one thread chooses from sooner than two

// Of weights from 1 to 0: the less a weight, the larger its rank, of three digits of ten bits.
inline uint32_t rank_of(float weight) {
    uint32_t bits;
    std::memcpy(&bits, &weight, 4);
    return 0x3F800000u - bits;
}

// The least of the largest weights that are as many, or hold as large a share of all, as is wanted. Found digit by
// digit of its rank, so that nothing is sorted. `held`: room for all weights; `sums`: for the buckets.
template <bool COUNTED>
float least_of(const float* weights, int64_t count, double wanted, float* held, double* sums) {
    double above = 0;
    for (int digit = DIGITS - 1; digit >= 0; digit--) {
        std::memset(sums, 0, BUCKETS * sizeof(double));
        for (int64_t k = 0; k < count; k++)
            sums[rank_of(weights[k]) >> digit * BITS & (BUCKETS - 1)] += COUNTED ? 1.0 : weights[k];
        if (!COUNTED && digit == DIGITS - 1) {
            double all = 0;
            for (int64_t b = 0; b < BUCKETS; b++) all += sums[b];
            wanted *= all;
        }
        uint32_t bucket = 0;  // where the sum reaches what is wanted; rounding may keep it just below: then the last one
        double sum = above;
        for (uint32_t b = 0; b < BUCKETS; b++) {
            if (sums[b] == 0) continue;
            bucket = b;
            above = sum;
            sum += sums[b];
            if (sum >= wanted) break;
        }
        int64_t kept = 0;
        for (int64_t k = 0; k < count; k++)
            if ((rank_of(weights[k]) >> digit * BITS & (BUCKETS - 1)) == bucket) held[kept++] = weights[k];
        weights = held;
        count = kept;
    }
    return weights[0];
}

// Whether a row can be chosen from; `top` is its largest logit, NaN where one is.
inline bool can_be_chosen_from(const float* logits, int64_t vocabulary, float* top) {
    float largest = logits[0];
    int32_t broken = 0;
#pragma omp simd reduction(max : largest) reduction(+ : broken)
    for (int64_t k = 0; k < vocabulary; k++) {
        largest = logits[k] > largest ? logits[k] : largest;
        broken += logits[k] != logits[k];
    }
    *top = broken ? NAN : largest;
    return std::isfinite(*top);
}

// The id that `uniform` chooses, -1 where nothing can be chosen. `weights`, `held`: room for as many as there are ids.
inline int64_t choose_one(const Choosing& by, const float* logits, int64_t vocabulary, float uniform, float* weights,
                          float* held, double* sums, float* top) {
    if (by.seen) {
        for (int64_t k = 0; k < vocabulary; k++) {
            const float x = logits[k], penalised = x > 0 ? x / by.penalty : x * by.penalty;
            weights[k] = by.seen[k] ? penalised : x;
        }
        logits = weights;
    }
    if (!can_be_chosen_from(logits, vocabulary, top)) return -1;
    const float largest = *top;
    if (by.temperature == 0)
        for (int64_t k = 0;; k++)
            if (logits[k] == largest) return k;
#pragma omp simd
    for (int64_t k = 0; k < vocabulary; k++) {
        const float x = (logits[k] - largest) / by.temperature;
        weights[k] = x < -87.0f ? 0.0f : exponential(x);
    }
    float least = by.min_p;
    if (by.top_k > 0 && by.top_k < vocabulary) {
        const float last = least_of<true>(weights, vocabulary, static_cast<double>(by.top_k), held, sums);
        least = last > least ? last : least;
        for (int64_t k = 0; k < vocabulary; k++) weights[k] = weights[k] >= last ? weights[k] : 0.0f;
    }
    if (by.top_p < 1) {
        const float last = least_of<false>(weights, vocabulary, static_cast<double>(by.top_p), held, sums);
        least = last > least ? last : least;
    }
    double all = 0, sum = 0;
    for (int64_t k = 0; k < vocabulary; k++)
        if (weights[k] >= least) all += weights[k];
    int64_t chosen = -1;
    for (int64_t k = 0; k < vocabulary && (chosen < 0 || sum <= uniform * all); k++)
        if (weights[k] >= least && weights[k] > 0) {
            sum += weights[k];
            chosen = k;
        }
    return chosen;
}

}  // namespace

extern "C" {

struct Choices {
    const Choosing* settings;  // [n]
    const float *uniform, *logits;
    int64_t n, vocabulary, stride;  // ids that may be chosen, and numbers from one row of logits to the next
    char* scratch;
    int64_t scratch_bytes;  // of each thread
    int64_t* chosen;        // [n]
    float* tops;            // [n]: the largest logit of each row
    int64_t threads;
};

// An id for every row. The first row that cannot be chosen from, -1 where all can.
int64_t fabella_choose(const Choices* all) {
    const bool together = all->n > 1 && all->n * all->vocabulary >= FEW;
#pragma omp parallel for num_threads(all->threads) schedule(dynamic, 1) if (together)
    for (int64_t i = 0; i < all->n; i++) {
        double* sums = reinterpret_cast<double*>(all->scratch + omp_get_thread_num() * all->scratch_bytes);
        float* weights = reinterpret_cast<float*>(sums + BUCKETS);
        all->chosen[i] = choose_one(all->settings[i], all->logits + i * all->stride, all->vocabulary, all->uniform[i],
                                    weights, weights + all->vocabulary, sums, all->tops + i);
    }
    for (int64_t i = 0; i < all->n; i++)
        if (all->chosen[i] < 0) return i;
    return -1;
}
}
