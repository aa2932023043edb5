// MinGRU's recurrence h_t = h_{t−1} + z_t·(h̃_t − h_{t−1}) with z = σ(gate), h̃ = g(candidate), and its gradients.
//
// One task is a block of WIDTH channels of one sequence, in time order: nothing is stored between the passes but h.

#pragma once

#include "vectors.h"

namespace {

inline Vector candidate_state(Vector c) { return c >= 0.0f ? c + 0.5f : sigmoid(c); }

constexpr int VECTORS = 4;  // of a task, so that it reads whole cache lines
constexpr int64_t CHANNELS = VECTORS * WIDTH;

// Calls ``task(sequence, first channel)`` for each block of CHANNELS channels of each sequence.
template <class Task>
void for_each_block(int64_t batch, int64_t size, Task task) {
    const int64_t blocks = (size + CHANNELS - 1) / CHANNELS;
#pragma omp parallel for schedule(static) collapse(2)
    for (int64_t b = 0; b < batch; b++)
        for (int64_t block = 0; block < blocks; block++) task(b, block * CHANNELS);
}

// Whether the state before position t of a sequence is 0: t is the first position of its document.
inline bool is_start(const int32_t* starts, int64_t b, int64_t time, int64_t t) {
    return starts && starts[b * time + t] == t;
}

// gate, candidate, hidden [batch time size]; initial [batch size]; starts: null, or the first position of the document
// of each position, [batch time].
template <class Value>
void recurrence(const Value* gate, const Value* candidate, const Value* initial, const int32_t* starts,
                const int64_t* sizes, float* hidden) {
    const int64_t batch = sizes[0], time = sizes[1], size = sizes[2];
    for_each_block(batch, size, [=](int64_t b, int64_t first) {
        Vector h[VECTORS];
        for (int v = 0; v < VECTORS; v++) {
            const int64_t channel = first + v * WIDTH;
            h[v] = channel < size ? load(initial + b * size + channel, size - channel) : Vector{};
        }
        for (int64_t t = 0; t < time; t++) {
            if (is_start(starts, b, time, t))
                for (int v = 0; v < VECTORS; v++) h[v] = Vector{};
            for (int v = 0; v < VECTORS && first + v * WIDTH < size; v++) {
                const int64_t channel = first + v * WIDTH, at = (b * time + t) * size + channel, n = size - channel;
                h[v] += sigmoid(load(gate + at, n)) * (candidate_state(load(candidate + at, n)) - h[v]);
                store(hidden + at, h[v], n);
            }
        }
    });
}

template <class Value>
void recurrence_backward(const Value* gate, const Value* candidate, const Value* initial, const int32_t* starts,
                         const float* hidden, const float* gradient, const int64_t* sizes, Value* gate_gradient,
                         Value* candidate_gradient, Value* initial_gradient) {
    const int64_t batch = sizes[0], time = sizes[1], size = sizes[2];
    for_each_block(batch, size, [=](int64_t b, int64_t first) {
        Vector carried[VECTORS] = {};  // the gradient of h_t over all later steps
        for (int64_t t = time - 1; t >= 0; t--) {
            const bool start = is_start(starts, b, time, t);
            for (int v = 0; v < VECTORS && first + v * WIDTH < size; v++) {
                const int64_t channel = first + v * WIDTH, at = (b * time + t) * size + channel, n = size - channel;
                const Vector g = load(gate + at, n), c = load(candidate + at, n);
                const Vector z = sigmoid(g), keep = sigmoid(-g), state = candidate_state(c);  // σ(−gate), not 1 − z
                const Vector total = load(gradient + at, n) + carried[v], through = total * z;
                const Vector before = t ? load(hidden + at - size, n) : load(initial + b * size + channel, n);
                const Vector previous = start ? Vector{} : before;
                const Vector slope = c >= 0.0f ? fill(1.0f) : state * (1.0f - state);
                store(gate_gradient + at, (state - previous) * through * keep, n);
                store(candidate_gradient + at, through * slope, n);
                carried[v] = start ? Vector{} : total * keep;
            }
        }
        for (int v = 0; v < VECTORS && first + v * WIDTH < size; v++) {
            const int64_t channel = first + v * WIDTH;
            store(initial_gradient + b * size + channel, carried[v], size - channel);
        }
    });
}

}  // namespace
