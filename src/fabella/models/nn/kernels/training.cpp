// Training kernels for CPUs, called from fused_*_torch.py. dtype: 0 float32, 1 bfloat16. All sums are float32.

#include <type_traits>

#include "attention.h"
#include "layers.h"
#include "loss.h"
#include "recurrence.h"

namespace {

// Call ``function`` with a null pointer of the type that ``dtype`` names.
template <class Function>
void with_type(int dtype, Function function) {
    if (dtype)
        function(static_cast<BFloat16*>(nullptr));
    else
        function(static_cast<float*>(nullptr));
}

template <class Value>
struct PathOf {
    typedef Float32 Type;
};

template <>
struct PathOf<BFloat16> {
    typedef PathOfBFloat16 Type;
};

template <class Value>
const Value* in(const Value*, const void* data) {
    return static_cast<const Value*>(data);
}

template <class Value>
Value* out(const Value*, void* data) {
    return static_cast<Value*>(data);
}

}  // namespace

extern "C" {

// Instructions that this library was compiled for: 3 AMX, 2 AVX-512 BF16, 1 other vectors of 512 bits, 0 others.
int fabella_instructions() {
#if defined(FABELLA_TILES)
    if (has_tiles) return 3;
#endif
#if defined(__AVX512BF16__)
    return 2;
#else
    return WIDTH == 16;
#endif
}

// Logits [rows size] become the gradient of each row's loss; targets [rows], negative: no loss.
void fabella_losses(int dtype, void* logits, int64_t stride, int64_t rows, int64_t size, const int64_t* targets,
                    float* result) {
    with_type(dtype, [&](auto* type) { losses(out(type, logits), stride, rows, size, targets, result); });
}

// sizes: batch, heads, kv_heads, time, head_dim. strides: of batch, head and time, of each tensor in turn.
// first [batch time]: the first key that each query sees, rising with time; null: 0. log_sums [batch heads time].
void fabella_attention_forward(int dtype, const int64_t* sizes, float scale, const int32_t* first, const void* query,
                               const void* key, const void* value, void* result, const int64_t* strides,
                               float* log_sums) {
    const AttentionShape s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], scale, first};
    with_type(dtype, [&](auto* type) {
        typedef std::remove_pointer_t<decltype(type)> Value;
        attention_forward<typename PathOf<Value>::Type, Value>(s, {in(type, query), strides}, {in(type, key), strides + 3},
                                                               {in(type, value), strides + 6},
                                                               {out(type, result), strides + 9}, log_sums);
    });
}

// strides: of query, key, value, result, its gradient, and the gradients of query, key and value.
void fabella_attention_backward(int dtype, const int64_t* sizes, float scale, const int32_t* first, const void* query,
                                const void* key, const void* value, const void* result, const void* gradient,
                                void* query_gradient, void* key_gradient, void* value_gradient,
                                const int64_t* strides, const float* log_sums) {
    const AttentionShape s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], scale, first};
    with_type(dtype, [&](auto* type) {
        typedef std::remove_pointer_t<decltype(type)> Value;
        attention_backward<typename PathOf<Value>::Type, Value>(
            s, {in(type, query), strides}, {in(type, key), strides + 3}, {in(type, value), strides + 6},
            {in(type, result), strides + 9}, log_sums, {in(type, gradient), strides + 12},
            {{out(type, query_gradient), strides + 15},
             {out(type, key_gradient), strides + 18},
             {out(type, value_gradient), strides + 21}});
    });
}

// x [batch heads time head_dim] (sizes) with strides of batch, head and time; result [batch time heads head_dim].
void fabella_rotate(int dtype, const void* x, const int64_t* strides, const int64_t* sizes, int64_t pairs,
                    int interleaved, const float* cos, const float* sin, float sign, void* result) {
    with_type(dtype, [&](auto* type) {
        rotate(in(type, x), strides, sizes, pairs, interleaved, cos, sin, sign, out(type, result));
    });
}

void fabella_swiglu(int dtype, const void* gate, const void* up, int64_t count, void* result) {
    with_type(dtype, [&](auto* type) { swiglu(in(type, gate), in(type, up), count, out(type, result)); });
}

void fabella_swiglu_backward(int dtype, const void* gate, const void* up, const void* gradient, int64_t count,
                             void* gate_gradient, void* up_gradient) {
    with_type(dtype, [&](auto* type) {
        swiglu_backward(in(type, gate), in(type, up), in(type, gradient), count, out(type, gate_gradient),
                        out(type, up_gradient));
    });
}

void fabella_gelu(int dtype, const void* x, int64_t count, int tanh, void* result) {
    with_type(dtype, [&](auto* type) { gelu(in(type, x), count, tanh, out(type, result)); });
}

void fabella_gelu_backward(int dtype, const void* x, const void* gradient, int64_t count, int tanh, void* result) {
    with_type(dtype, [&](auto* type) {
        gelu_backward(in(type, x), in(type, gradient), count, tanh, out(type, result));
    });
}

// dtype: of the result and its gradient; x and weight are float32.
void fabella_rms_norm(int dtype, const float* x, const float* weight, int64_t rows, int64_t dim, float eps,
                      void* result, float* inverse) {
    with_type(dtype, [&](auto* type) { rms_norm(x, weight, rows, dim, eps, out(type, result), inverse); });
}

// Rows of ``partial``, the parts of the weight's gradient, for so many rows of x.
int64_t fabella_rms_norm_parts(int64_t rows) { return (rows + NORM_ROWS - 1) / NORM_ROWS; }

void fabella_rms_norm_backward(int dtype, const float* x, const float* weight, const float* inverse,
                               const void* gradient, int64_t rows, int64_t dim, float* x_gradient, float* partial) {
    with_type(dtype, [&](auto* type) {
        rms_norm_backward(x, weight, inverse, in(type, gradient), rows, dim, x_gradient, partial);
    });
}

// sizes: batch, time, channels. dtype: of gate, candidate, initial and their gradients. starts: null, or [batch time].
void fabella_recurrence(int dtype, const void* gate, const void* candidate, const void* initial, const int32_t* starts,
                        const int64_t* sizes, float* hidden) {
    with_type(dtype, [&](auto* type) {
        recurrence(in(type, gate), in(type, candidate), in(type, initial), starts, sizes, hidden);
    });
}

void fabella_recurrence_backward(int dtype, const void* gate, const void* candidate, const void* initial,
                                 const int32_t* starts, const float* hidden, const float* gradient,
                                 const int64_t* sizes, void* gate_gradient, void* candidate_gradient,
                                 void* initial_gradient) {
    with_type(dtype, [&](auto* type) {
        recurrence_backward(in(type, gate), in(type, candidate), in(type, initial), starts, hidden, gradient, sizes,
                            out(type, gate_gradient), out(type, candidate_gradient), out(type, initial_gradient));
    });
}

}  // extern "C"
