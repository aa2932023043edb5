// Training kernels for CPUs, called from fused_*_torch.py. dtype: 0 float32, 1 bfloat16. All sums are float32.

#include <type_traits>

#include "attention.h"
#include "heads.h"
#include "layers.h"
#include "loss.h"
#include "recurrence.h"
#include "residual.h"

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

// sizes: batch, heads, time, head_dim, pairs. strides: of batch, head and time. The result is [batch time heads head_dim].
// With ``inverse`` [batch time heads], which receives a factor of each head, heads are normed before the rotation.
void fabella_norm_rotate(int dtype, const void* x, const int64_t* strides, const int64_t* sizes, int interleaved,
                         const float* cos, const float* sin, float sign, float eps, float* inverse, void* result) {
    const Rotation r{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], interleaved != 0, cos, sin};
    with_type(dtype, [&](auto* type) {
        norm_rotate(r, in(type, x), strides, sign, eps, inverse, out(type, result));
    });
}

// strides: of x, then of the gradient of the result.
void fabella_norm_rotate_backward(int dtype, const void* x, const void* gradient, const int64_t* strides,
                                  const int64_t* sizes, int interleaved, const float* cos, const float* sin,
                                  const float* inverse, void* x_gradient) {
    const Rotation r{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], interleaved != 0, cos, sin};
    with_type(dtype, [&](auto* type) {
        norm_rotate_backward(r, in(type, x), strides, inverse, in(type, gradient), strides + 3, out(type, x_gradient));
    });
}

void fabella_gate_heads(int dtype, const void* x, const void* gate, int64_t rows, int64_t dim, void* result) {
    with_type(dtype, [&](auto* type) { gate_heads(in(type, x), in(type, gate), rows, dim, out(type, result)); });
}

void fabella_gate_heads_backward(int dtype, const void* x, const void* gate, const void* gradient, int64_t rows,
                                 int64_t dim, void* x_gradient, void* gate_gradient) {
    with_type(dtype, [&](auto* type) {
        gate_heads_backward(in(type, x), in(type, gate), in(type, gradient), rows, dim, out(type, x_gradient),
                            out(type, gate_gradient));
    });
}

// Rows of the parts of a parameter's gradient for so many rows of a sum.
int64_t fabella_sum_parts(int64_t rows) { return sum_blocks(rows); }

void fabella_scaled_sum(int dtype, const void* x, const void* z, const float* factors, int64_t rows, int64_t dim,
                        void* result) {
    with_type(dtype, [&](auto* type) { scaled_sum(in(type, x), in(type, z), factors, rows, dim, out(type, result)); });
}

void fabella_scaled_sum_backward(int dtype, const void* x, const void* z, const float* factors, const void* gradient,
                                 int64_t rows, int64_t dim, void* x_gradient, void* z_gradient, float* partial) {
    with_type(dtype, [&](auto* type) {
        scaled_sum_backward(in(type, x), in(type, z), factors, in(type, gradient), rows, dim, out(type, x_gradient),
                            out(type, z_gradient), partial);
    });
}

// dtypes: of z and its gradient, and of normed and its gradient; all else is float32. factors: null, or [2].
void fabella_sum_norm(int z_dtype, int dtype, const float* x, const void* z, const float* factors, const float* weight,
                      int64_t rows, int64_t dim, float eps, float* y, void* normed, float* inverse) {
    with_type(z_dtype, [&](auto* z_type) {
        with_type(dtype, [&](auto* type) {
            sum_norm(x, in(z_type, z), factors, weight, rows, dim, eps, y, out(type, normed), inverse);
        });
    });
}

void fabella_sum_norm_backward(int z_dtype, int dtype, const float* x, const void* z, const float* factors,
                               const float* weight, const float* y, const float* inverse, const float* y_gradient,
                               const void* normed_gradient, int64_t rows, int64_t dim, float* x_gradient,
                               void* z_gradient, float* partial_weight, float* partial_factors) {
    with_type(z_dtype, [&](auto* z_type) {
        with_type(dtype, [&](auto* type) {
            sum_norm_backward(x, in(z_type, z), factors, weight, y, inverse, y_gradient, in(type, normed_gradient),
                              rows, dim, x_gradient, out(z_type, z_gradient), partial_weight, partial_factors);
        });
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
