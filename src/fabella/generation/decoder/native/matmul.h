// Vectors of the processor's width, activation functions, and dot products.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace {

// ---------------------------------------------------------------- vectors

#if defined(__AVX512F__)
constexpr int WIDTH = 16;
#elif defined(__AVX__)
constexpr int WIDTH = 8;
#else
constexpr int WIDTH = 4;
#endif
typedef float Vector __attribute__((vector_size(WIDTH * 4)));
typedef float Unaligned __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));

inline Vector load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }

// Return a · b + c, fused. Nothing else is (-ffp-contract=off): a number gets the same bits in a vector and alone.
inline Vector multiply_add(Vector a, Vector b, Vector c) {
#if defined(__AVX512F__)
    return (Vector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (Vector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_NEON)
    return (Vector)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

inline float multiply_add(float a, float b, float c) {
#if defined(__FMA__) || defined(__ARM_NEON)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

// Sum all lanes, neighbors first: in the same order for one vector and for four.
#if defined(__AVX__)
inline __m256 add_halves(Vector v) {
#if defined(__AVX512F__)
    const __m512 all = (__m512)v;
    const __m256 upper = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(all), 1));
    return _mm256_add_ps(_mm512_castps512_ps256(all), upper);
#else
    return (__m256)v;
#endif
}

inline void reduce_four(const Vector a, const Vector b, const Vector c, const Vector d, float* result) {
    const __m256 ab = _mm256_hadd_ps(add_halves(a), add_halves(b));
    const __m256 all = _mm256_hadd_ps(ab, _mm256_hadd_ps(add_halves(c), add_halves(d)));
    _mm_storeu_ps(result, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}

inline float sum(Vector v) {
    float four[4];
    reduce_four(v, v, v, v, four);
    return four[0];
}
#else
inline float sum(Vector v) {
    float lanes[WIDTH];
    std::memcpy(lanes, &v, sizeof v);
    for (int size = WIDTH; size > 1; size /= 2)
        for (int i = 0; i < size / 2; i++) lanes[i] = lanes[2 * i] + lanes[2 * i + 1];
    return lanes[0];
}

inline void reduce_four(const Vector a, const Vector b, const Vector c, const Vector d, float* result) {
    result[0] = sum(a), result[1] = sum(b), result[2] = sum(c), result[3] = sum(d);
}
#endif

template <int R, int C>
inline void reduce(const Vector sums[R][C], float result[R][C]) {
    for (int c = 0; c < C; c++)
        for (int r = 0; r < R; r += 4) {
            const int second = r + 1 < R ? r + 1 : r, third = r + 2 < R ? r + 2 : r, fourth = r + 3 < R ? r + 3 : r;
            float four[4];
            reduce_four(sums[r][c], sums[second][c], sums[third][c], sums[fourth][c], four);
            for (int k = 0; k < 4 && r + k < R; k++) result[r + k][c] = four[k];
        }
}

inline float exponential(float x) {  // expf of Cephes, within 2 ulp; NaN stays NaN
    x = x > 88.0f ? 88.0f : x;
    x = x < -87.0f ? -87.0f : x;
    const float rounded = x * 1.44269504f + 12582912.0f;  // the integer part is in the low bits
    int32_t bits;
    std::memcpy(&bits, &rounded, 4);
    const float n = rounded - 12582912.0f;
    x = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * x + 1.3981999507e-3f;
    p = p * x + 8.3334519073e-3f;
    p = p * x + 4.1665795894e-2f;
    p = p * x + 1.6666665459e-1f;
    p = p * x + 5.0000001201e-1f;
    p = p * x * x + x + 1.0f;
    bits = static_cast<int32_t>((static_cast<uint32_t>(bits) - 0x4B400000u + 127u) << 23);
    float power;
    std::memcpy(&power, &bits, 4);
    return p * power;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

inline float error_function(float x) {  // rational approximation of Eigen, within 4e-7
    x = x > 4.0f ? 4.0f : x;
    x = x < -4.0f ? -4.0f : x;
    const float y = x * x;
    float p = -2.72614225801306e-10f;
    p = p * y + 2.77068142495902e-08f;
    p = p * y - 2.10102402082508e-06f;
    p = p * y - 5.69250639462346e-05f;
    p = p * y - 7.34990630326855e-04f;
    p = p * y - 2.95459980854025e-03f;
    p = p * y - 1.60960333262415e-02f;
    float q = -1.45660718464996e-05f;
    q = q * y - 2.13374055278905e-04f;
    q = q * y - 1.68282697438203e-03f;
    q = q * y - 7.37332916720468e-03f;
    q = q * y - 1.42647390514189e-02f;
    return x * p / q;
}

inline float gelu(float x) { return 0.5f * x * (1.0f + error_function(x * 0.70710678f)); }
inline float gelu_tanh(float x) { return x * sigmoid(1.59576912f * (x + 0.044715f * x * x * x)); }

// Quantize each row to int8, its largest magnitude to 127, add OFFSET, and fill up to `depth` numbers with it. A NaN or
// inf makes the scale of the row NaN.
template <int OFFSET, class Byte>
inline void quantize(const float* x, int64_t n, int64_t width, int64_t depth, Byte* result, float* scales) {
    for (int64_t i = 0; i < n; i++, x += width, result += depth) {
        constexpr int LANES = 64;  // several vectors, so that none waits for the one before
        float largest_lanes[LANES] = {}, not_finite_lanes[LANES] = {};
        int64_t start = 0;
        for (; start + LANES <= width; start += LANES)
#pragma omp simd
            for (int lane = 0; lane < LANES; lane++) {
                const float magnitude = std::fabs(x[start + lane]);
                largest_lanes[lane] = magnitude > largest_lanes[lane] ? magnitude : largest_lanes[lane];
                not_finite_lanes[lane] += x[start + lane] * 0.0f;
            }
        for (int64_t k = start; k < width; k++) {
            const float magnitude = std::fabs(x[k]);
            largest_lanes[0] = magnitude > largest_lanes[0] ? magnitude : largest_lanes[0];
            not_finite_lanes[0] += x[k] * 0.0f;
        }
        float largest = 1e-30f, not_finite = 0;
        for (int lane = 0; lane < LANES; lane++) {
            largest = largest_lanes[lane] > largest ? largest_lanes[lane] : largest;
            not_finite += not_finite_lanes[lane];
        }
        const float factor = 127.0f / largest;
        for (int64_t k = 0; k < width; k++)
            result[k] = static_cast<Byte>(static_cast<int32_t>(x[k] * factor + 12582912.0f - 12582912.0f) + OFFSET);
        for (int64_t k = width; k < depth; k++) result[k] = OFFSET;
        scales[i] = largest / 127.0f + not_finite;
    }
}

// ---------------------------------------------------------------- products

// Compute the dot products of R weight rows and C rows of x: result[r][c]. R and C do not change the order of a sum.
// With several rows of x, `next` [inputs] is fetched from memory meanwhile.
template <int R, int C>
inline void dot_products(const float* weight, int64_t inputs, const float* x, const float* next, float result[R][C]) {
    Vector sums[R][C] = {};
    int64_t i = 0;
    for (; i + WIDTH <= inputs; i += WIDTH) {
        Vector x_vectors[C];
        if (C > 1) __builtin_prefetch(next + i, 0, 2);  // into the L2 cache
        for (int c = 0; c < C; c++) x_vectors[c] = load(x + c * inputs + i);
        for (int r = 0; r < R; r++) {
            const Vector w = load(weight + r * inputs + i);
            for (int c = 0; c < C; c++) sums[r][c] = multiply_add(w, x_vectors[c], sums[r][c]);
        }
    }
    reduce<R, C>(sums, result);
    for (; i < inputs; i++)
        for (int r = 0; r < R; r++)
            for (int c = 0; c < C; c++) result[r][c] += weight[r * inputs + i] * x[c * inputs + i];
}

// Compute the dot products of R keys [R dim] and a query. The sum has the same order on every CPU: 16 partial sums, the
// second half added to the first, then neighbors.
template <int R>
inline void dot_products_of_heads(const float* keys, int64_t dim, const float* query, float* result) {
    constexpr int LANES = 16, PARTS = LANES / WIDTH;
    Vector sums[R][PARTS] = {};
    int64_t i = 0;
    for (; i + LANES <= dim; i += LANES)
        for (int p = 0; p < PARTS; p++) {
            const Vector part = load(query + i + p * WIDTH);
            for (int r = 0; r < R; r++)
                sums[r][p] = multiply_add(load(keys + r * dim + i + p * WIDTH), part, sums[r][p]);
        }
    if constexpr (PARTS == 4) {
        for (int r = 0; r < R; r++) result[r] = sum(sums[r][0] + sums[r][2]) + sum(sums[r][1] + sums[r][3]);
    } else {
        Vector folded[R][1];
        float sums_of_lanes[R][1];
        for (int r = 0; r < R; r++) folded[r][0] = PARTS == 2 ? sums[r][0] + sums[r][PARTS - 1] : sums[r][0];
        reduce<R, 1>(folded, sums_of_lanes);
        for (int r = 0; r < R; r++) result[r] = sums_of_lanes[r][0];
    }
    for (; i < dim; i++)
        for (int r = 0; r < R; r++) result[r] += keys[r * dim + i] * query[i];
}

// Weight rows and rows of x of one register tile: as many sums as the registers hold next to the operands.
#if defined(__AVX512F__)
constexpr int TILE_ROWS = 4, TILE_COLUMNS = 4;
#elif defined(__AVX2__)
constexpr int TILE_ROWS = 6, TILE_COLUMNS = 2;
#else
constexpr int TILE_ROWS = 4, TILE_COLUMNS = 3;
#endif

}  // namespace
