// Vectors of the processor's width: loads and stores of float32 and bfloat16, exponential, sums in a fixed order.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int WIDTH = 16;
#elif defined(__AVX__)
constexpr int WIDTH = 8;
#else
constexpr int WIDTH = 4;
#endif
typedef float Vector __attribute__((vector_size(WIDTH * 4)));
typedef int32_t Integers __attribute__((vector_size(WIDTH * 4)));
typedef uint32_t Bits __attribute__((vector_size(WIDTH * 4)));
typedef uint16_t Halves __attribute__((vector_size(WIDTH * 2)));
typedef float UnalignedVector __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));
typedef uint16_t UnalignedHalves __attribute__((vector_size(WIDTH * 2), aligned(2), may_alias));

struct BFloat16 {
    uint16_t bits;
};

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

inline Vector fill(float x) { return x - Vector{}; }

// ---------------------------------------------------------------- conversions; a NaN stays a NaN

inline Halves to_halves(Vector v) {
#if defined(__AVX512BF16__)
    return (Halves)_mm512_cvtneps_pbh((__m512)v);
#else
    const Bits bits = (Bits)v;
    const Bits rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    return __builtin_convertvector(v == v ? rounded : (bits >> 16) | 0x40u, Halves);
#endif
}

inline Vector from_halves(Halves halves) { return (Vector)(__builtin_convertvector(halves, Bits) << 16); }

inline float to_float(float x) { return x; }

inline float to_float(BFloat16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
}

// ---------------------------------------------------------------- loads and stores

inline Vector load(const float* p) { return *reinterpret_cast<const UnalignedVector*>(p); }
inline Vector load(const BFloat16* p) { return from_halves(*reinterpret_cast<const UnalignedHalves*>(p)); }
inline void store(float* p, Vector v) { *reinterpret_cast<UnalignedVector*>(p) = v; }
inline void store(BFloat16* p, Vector v) { *reinterpret_cast<UnalignedHalves*>(p) = to_halves(v); }

// The first n lanes; the others are 0.
#if defined(__AVX512BW__) && defined(__AVX512VL__)
inline __mmask16 lanes(int64_t n) { return static_cast<__mmask16>(n < WIDTH ? (1u << n) - 1 : 0xFFFFu); }
inline Vector load(const float* p, int64_t n) { return (Vector)_mm512_maskz_loadu_ps(lanes(n), p); }
inline Vector load(const BFloat16* p, int64_t n) { return from_halves((Halves)_mm256_maskz_loadu_epi16(lanes(n), p)); }
inline void store(float* p, Vector v, int64_t n) { _mm512_mask_storeu_ps(p, lanes(n), (__m512)v); }
inline void store(BFloat16* p, Vector v, int64_t n) { _mm256_mask_storeu_epi16(p, lanes(n), (__m256i)to_halves(v)); }
#else
template <class Value>
inline Vector load(const Value* p, int64_t n) {
    if (n >= WIDTH) return load(p);
    Value lanes[WIDTH] = {};
    std::memcpy(lanes, p, n * sizeof(Value));
    return load(lanes);
}

template <class Value>
inline void store(Value* p, Vector v, int64_t n) {
    if (n >= WIDTH) return store(p, v);
    Value lanes[WIDTH];
    store(lanes, v);
    std::memcpy(p, lanes, n * sizeof(Value));
}
#endif

inline void store_one(float* p, float x) { *p = x; }

inline void store_one(BFloat16* p, float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    p->bits = static_cast<uint16_t>(x == x ? (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16 : (bits >> 16) | 0x40u);
}

// ---------------------------------------------------------------- arithmetic

inline Vector largest(Vector a, Vector b) { return a > b ? a : b; }

inline Integers lane_numbers() {
    Integers numbers{};
    for (int i = 0; i < WIDTH; i++) numbers[i] = i;
    return numbers;
}

// v in the lanes below n, 0 in the others.
inline Vector first_lanes(Vector v, int64_t n) {
    return lane_numbers() < static_cast<int32_t>(n < WIDTH ? n : WIDTH) ? v : Vector{};
}

inline float sum(Vector v) {  // halves first
    float lanes[WIDTH];
    store(lanes, v);
    for (int size = WIDTH / 2; size > 0; size /= 2)
        for (int i = 0; i < size; i++) lanes[i] += lanes[i + size];
    return lanes[0];
}

inline float maximum(Vector v) {
    float lanes[WIDTH];
    store(lanes, v);
    for (int size = WIDTH / 2; size > 0; size /= 2)
        for (int i = 0; i < size; i++) lanes[i] = lanes[i] > lanes[i + size] ? lanes[i] : lanes[i + size];
    return lanes[0];
}

inline Vector exponential(Vector x) {  // expf of Cephes, within 2 ulp, between e^-87 and e^88; a NaN stays a NaN
    x = x > 88.0f ? fill(88.0f) : x;
    x = x < -87.0f ? fill(-87.0f) : x;
    const Vector rounded = x * 1.44269504f + 12582912.0f;  // the integer part is in the low bits
    const Vector n = rounded - 12582912.0f;
    x = x - n * 0.693359375f + n * 2.12194440e-4f;
    Vector p = x * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * x + 8.3334519073e-3f;
    p = p * x + 4.1665795894e-2f;
    p = p * x + 1.6666665459e-1f;
    p = p * x + 5.0000001201e-1f;
    p = p * x * x + x + 1.0f;
    return p * (Vector)(((Bits)rounded - 0x4B400000u + 127u) << 23);
}

inline Vector sigmoid(Vector x) { return 1.0f / (1.0f + exponential(-x)); }

inline Vector error_function(Vector x) {  // rational approximation of Eigen, within 4e-7
    x = x > 4.0f ? fill(4.0f) : x;
    x = x < -4.0f ? fill(-4.0f) : x;
    const Vector y = x * x;
    Vector p = y * -2.72614225801306e-10f + 2.77068142495902e-08f;
    p = p * y - 2.10102402082508e-06f;
    p = p * y - 5.69250639462346e-05f;
    p = p * y - 7.34990630326855e-04f;
    p = p * y - 2.95459980854025e-03f;
    p = p * y - 1.60960333262415e-02f;
    Vector q = y * -1.45660718464996e-05f - 2.13374055278905e-04f;
    q = q * y - 1.68282697438203e-03f;
    q = q * y - 7.37332916720468e-03f;
    q = q * y - 1.42647390514189e-02f;
    return x * p / q;
}

}  // namespace
