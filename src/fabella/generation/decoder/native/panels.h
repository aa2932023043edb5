// Products of weights in half precision or int8, packed in panels.
//
// A panel has 16 rows of a weight, side by side: [depth / group][16 rows][group], where the `group` neighbors of a row
// have 32 bits (float16: 16 bits). So a vector holds one number, pair or quad of each row, no sum is spread over the
// lanes, and 16 groups of a panel are one AMX tile. bindings_torch.py packs the weights; rows and inputs are padded
// with zeros, the inputs to 64 bytes (DEPTH_BYTES).
//
// The sum of a row is in the order of its inputs, whatever the number of rows of x. int8 sums are exact.

#pragma once

#include "matmul.h"

#if defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__AVX512BF16__) && defined(__linux__)
#define FABELLA_TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int64_t PANEL = 16, DEPTH_BYTES = 64;
constexpr int PANEL_ROWS = 2 * PANEL;  // of a weight, computed at once
constexpr int64_t MIN_TILE_ROWS = 4;   // of x, from which a tile is faster than VNNI
constexpr int PARTS = PANEL / WIDTH;  // vectors side by side

typedef int32_t Integers __attribute__((vector_size(WIDTH * 4)));
typedef uint32_t Bits __attribute__((vector_size(WIDTH * 4)));
typedef int32_t UnalignedIntegers __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));
typedef int32_t UnalignedInt32 __attribute__((aligned(1), may_alias));
typedef Vector Floats;

template <int N>
struct Constant {
    static constexpr int value = N;
};

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
inline Integers load_lanes(const void* p) { return *static_cast<const UnalignedIntegers*>(p); }
inline int32_t load_group(const void* p) { return *static_cast<const UnalignedInt32*>(p); }
inline Integers fill(int32_t x) { return x - Integers{}; }
inline Vector fill(float x) { return x - Vector{}; }
inline void store_sums(float* p, Vector sums) { store(p, sums); }
inline void store_sums(float* p, Integers sums) { store(p, __builtin_convertvector(sums, Vector)); }

// ---------------------------------------------------------------- one path per weight dtype and instruction set

#if defined(__F16C__)
inline Vector widen(const uint16_t* p) {
#if defined(__AVX512F__)
    return (Vector)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#else
    return (Vector)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#endif
}

struct Float16 {  // products in float32
    typedef uint16_t Weight;
    typedef float X;
    typedef Floats Sums;
    static constexpr int GROUP = 1;
    struct Lanes {
        Vector values;
    };
    static inline Sums start(const int32_t*) { return Sums{}; }
    static inline Lanes load(const Weight* p) { return {widen(p)}; }
    static inline Sums add(Sums sums, const Lanes& w, const X* x) { return multiply_add(w.values, fill(*x), sums); }
};
#endif

struct BFloat16Widened {  // products in float32
    typedef uint16_t Weight;
    typedef float X;
    typedef Floats Sums;
    static constexpr int GROUP = 2;
    struct Lanes {
        Vector even, odd;
    };
    static inline Sums start(const int32_t*) { return Sums{}; }
    static inline Lanes load(const Weight* p) {
        const Bits lanes = (Bits)load_lanes(p);
        return {(Vector)(lanes << 16), (Vector)(lanes & 0xFFFF0000u)};
    }
    static inline Sums add(Sums sums, const Lanes& w, const X* x) {
        return multiply_add(w.odd, fill(x[1]), multiply_add(w.even, fill(x[0]), sums));
    }
};

struct Int8Lanes {
    Integers quads;
};

#if defined(__AVX512BF16__)
struct BFloat16Pairs {  // x is rounded to bfloat16, products are exact, sums float32
    typedef uint16_t Weight;
    typedef uint16_t X;
    typedef Floats Sums;
    static constexpr int GROUP = 2;
    typedef Int8Lanes Lanes;
    static inline Sums start(const int32_t*) { return Sums{}; }
    static inline Lanes load(const Weight* p) { return {load_lanes(p)}; }
    static inline Sums add(Sums sums, const Lanes& w, const X* x) {
        return (Sums)_mm512_dpbf16_ps((__m512)sums, (__m512bh)w.quads, (__m512bh)fill(load_group(x)));
    }
};
typedef BFloat16Pairs BFloat16;
#else
typedef BFloat16Widened BFloat16;
#endif

#if (defined(__AVX512F__) && defined(__AVX512VNNI__)) || (defined(__AVXVNNI__) && !defined(__AVX512F__))
struct Int8 {  // dpbusd multiplies unsigned by signed bytes: x + 128, and 128 · (sum of the row) is subtracted
    typedef int8_t Weight;
    typedef uint8_t X;
    typedef Integers Sums;
    typedef Int8Lanes Lanes;
    static constexpr int GROUP = 4, X_OFFSET = 128;
    static inline Sums start(const int32_t* row_sums) { return load_lanes(row_sums) * -X_OFFSET; }
    static inline Lanes load(const Weight* p) { return {load_lanes(p)}; }
    static inline Sums add(Sums sums, const Lanes& w, const X* x) {
#if defined(__AVX512F__)
        return (Sums)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)fill(load_group(x)), (__m512i)w.quads);
#else
        return (Sums)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)fill(load_group(x)), (__m256i)w.quads);
#endif
    }
};
#else
struct Int8 {
    typedef int8_t Weight;
    typedef int8_t X;
    typedef Integers Sums;
    typedef Int8Lanes Lanes;
    static constexpr int GROUP = 4, X_OFFSET = 0;
    static inline Sums start(const int32_t*) { return Sums{}; }
    static inline Lanes load(const Weight* p) { return {load_lanes(p)}; }
    static inline Sums add(Sums sums, const Lanes& w, const X* x) {
        const Integers quads = fill(load_group(x));
#if defined(__AVX512BW__)  // neighbors are added in 16 bits first, which hold 127 · 127 · 2
        const __m512i weight = (__m512i)w.quads, factors = (__m512i)quads;
        const __m512i with_sign = _mm512_mask_sub_epi8(weight, _mm512_movepi8_mask(factors), __m512i{}, weight);
        const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(factors), with_sign);
        return sums + (Sums)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#elif defined(__AVX2__) && !defined(__AVX512F__)
        const __m256i with_sign = _mm256_sign_epi8((__m256i)w.quads, (__m256i)quads);
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)quads), with_sign);
        return sums + (Sums)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
        sums += (w.quads << 24 >> 24) * (quads << 24 >> 24) + (w.quads << 16 >> 24) * (quads << 16 >> 24);
        return sums + (w.quads << 8 >> 24) * (quads << 8 >> 24) + (w.quads >> 24) * (quads >> 24);
#endif
    }
};
#endif

// ---------------------------------------------------------------- products of panels

// Multiply P panels by C rows of x: products[c * stride + row], 16 rows a panel.
template <class Path, int P, int C>
inline void multiply_panels(const typename Path::Weight* panels, const int32_t* row_sums, int64_t depth,
                            const typename Path::X* x, float* products, int64_t stride) {
    typename Path::Sums sums[P * PARTS][C];
    for (int p = 0; p < P * PARTS; p++)
        for (int c = 0; c < C; c++) sums[p][c] = Path::start(row_sums + p * WIDTH);
    for (int64_t k = 0; k < depth; k += Path::GROUP)
        for (int p = 0; p < P * PARTS; p++) {
            const int64_t panel = p / PARTS * depth * PANEL, part = p % PARTS * WIDTH * Path::GROUP;
            const typename Path::Lanes lanes = Path::load(panels + panel + k * PANEL + part);
            for (int c = 0; c < C; c++) sums[p][c] = Path::add(sums[p][c], lanes, x + c * depth + k);
        }
    for (int p = 0; p < P * PARTS; p++)
        for (int c = 0; c < C; c++) store_sums(products + c * stride + p * WIDTH, sums[p][c]);
}

// Multiply P panels by all n rows of x [n depth]; C of them at a time, then the half of it, and so on.
template <class Path, int P, int C>
inline void multiply_columns(const typename Path::Weight* panels, const int32_t* row_sums, int64_t depth,
                             const typename Path::X* x, int64_t n, float* products, int64_t stride) {
    int64_t i = 0;
    for (; i + C <= n; i += C)
        multiply_panels<Path, P, C>(panels, row_sums, depth, x + i * depth, products + i * stride, stride);
    if constexpr (C > 1)
        multiply_columns<Path, P, C / 2>(panels, row_sums, depth, x + i * depth, n - i, products + i * stride, stride);
}

#if defined(__AVX512F__)
constexpr int PANELS_OF_ONE = 4, PANELS_OF_MANY = 2, COLUMNS_OF_PANELS = 8;
#else
constexpr int PANELS_OF_ONE = 2, PANELS_OF_MANY = 1, COLUMNS_OF_PANELS = 4;
#endif

template <class Path>
inline void multiply_vectors(const typename Path::Weight* panels, const int32_t* row_sums, int64_t depth, int64_t count,
                             const typename Path::X* x, int64_t n, float* products, int64_t stride) {
    int64_t row = 0;
    const auto rest = [&](auto panels_at_once, auto columns) {
        constexpr int P = decltype(panels_at_once)::value, C = decltype(columns)::value;
        for (; row + (P - 1) * PANEL < count; row += P * PANEL)
            multiply_columns<Path, P, C>(panels + row * depth, row_sums + row, depth, x, n, products + row, stride);
    };
    if (n == 1)
        rest(Constant<PANELS_OF_ONE>{}, Constant<1>{});
    else
        rest(Constant<PANELS_OF_MANY>{}, Constant<COLUMNS_OF_PANELS>{});
    rest(Constant<1>{}, Constant<COLUMNS_OF_PANELS>{});
}

// ---------------------------------------------------------------- AMX

#if defined(FABELLA_TILES)

// Whether the system lets this process use tiles, requested when the library is loaded.
const bool has_tiles = syscall(SYS_arch_prctl, 0x1023, 18) == 0;  // ARCH_REQ_XCOMP_PERM, XTILEDATA

// Tiles of 16 rows of 64 bytes for the lifetime of the object, in this thread.
struct Tiles {
    Tiles() {
        if (!has_tiles) return;
        alignas(64) uint8_t config[64] = {};
        config[0] = 1;
        for (int tile = 0; tile < 8; tile++) config[16 + 2 * tile] = 64, config[48 + tile] = 16;
        __asm__ volatile("" ::: "memory");  // the compiler does not see what is read
        _tile_loadconfig(config);
    }
    ~Tiles() {
        if (has_tiles) _tile_release();
    }
};

struct BFloat16Tiles {  // x is rounded to bfloat16
    typedef uint16_t Weight, X;
    typedef Floats Sums;
    static inline Sums sums(const int32_t* result) { return load(reinterpret_cast<const float*>(result)); }
    template <int TILE>
    static inline void multiply_add() {  // the intrinsics take literal numbers only
        if constexpr (TILE == 0) _tile_dpbf16ps(0, 4, 6);
        if constexpr (TILE == 1) _tile_dpbf16ps(1, 4, 7);
        if constexpr (TILE == 2) _tile_dpbf16ps(2, 5, 6);
        if constexpr (TILE == 3) _tile_dpbf16ps(3, 5, 7);
    }
};

struct Int8Tiles {
    typedef int8_t Weight, X;
    typedef Integers Sums;
    static inline Sums sums(const int32_t* result) { return load_lanes(result); }
    template <int TILE>
    static inline void multiply_add() {  // the intrinsics take literal numbers only
        if constexpr (TILE == 0) _tile_dpbssd(0, 4, 6);
        if constexpr (TILE == 1) _tile_dpbssd(1, 4, 7);
        if constexpr (TILE == 2) _tile_dpbssd(2, 5, 6);
        if constexpr (TILE == 3) _tile_dpbssd(3, 5, 7);
    }
};

// Multiply P panels by T times 16 rows of x: results [T][P][16 rows of x][16 rows of the weight].
template <class Path, int P, int T>
inline void multiply_tiles(const char* panels, const char* x, int64_t depth_bytes, int32_t* results) {
    _tile_zero(0);
    if constexpr (P > 1) _tile_zero(1);
    if constexpr (T > 1) _tile_zero(2);
    if constexpr (T > 1 && P > 1) _tile_zero(3);
    for (int64_t k = 0; k < depth_bytes; k += DEPTH_BYTES) {
        _tile_loadd(4, x + k, depth_bytes);
        _tile_loadd(6, panels + k * PANEL, DEPTH_BYTES);
        if constexpr (P > 1) _tile_loadd(7, panels + (depth_bytes + k) * PANEL, DEPTH_BYTES);
        if constexpr (T > 1) _tile_loadd(5, x + PANEL * depth_bytes + k, depth_bytes);
        Path::template multiply_add<0>();
        if constexpr (P > 1) Path::template multiply_add<1>();
        if constexpr (T > 1) Path::template multiply_add<2>();
        if constexpr (T > 1 && P > 1) Path::template multiply_add<3>();
    }
    constexpr int64_t TILE = PANEL * PANEL;
    _tile_stored(0, results, DEPTH_BYTES);
    if constexpr (P > 1) _tile_stored(1, results + TILE, DEPTH_BYTES);
    if constexpr (T > 1) _tile_stored(2, results + P * TILE, DEPTH_BYTES);
    if constexpr (T > 1 && P > 1) _tile_stored(3, results + (P + 1) * TILE, DEPTH_BYTES);
    __asm__ volatile("" ::: "memory");  // the compiler does not see what is written
}

// Multiply panels by x [n depth], whose memory has a multiple of 16 rows: products[i * stride + row].
template <class Path>
inline void multiply_by_tiles(const typename Path::Weight* panels, int64_t depth, int64_t count,
                              const typename Path::X* x, int64_t n, float* products, int64_t stride) {
    const int64_t bytes = depth * static_cast<int64_t>(sizeof(*panels));
    __asm__ volatile("" ::: "memory");
    const auto multiply = [&](int64_t row, int64_t i, auto panels_at_once, auto tiles_of_x) {
        constexpr int P = decltype(panels_at_once)::value, T = decltype(tiles_of_x)::value;
        alignas(64) int32_t results[P * T * PANEL * PANEL];
        multiply_tiles<Path, P, T>(reinterpret_cast<const char*>(panels + row * depth),
                                   reinterpret_cast<const char*>(x + i * depth), bytes, results);
        for (int64_t k = 0; k < T * PANEL && i + k < n; k++)
            for (int p = 0; p < P; p++) {
                const int32_t* result = results + ((k / PANEL * P + p) * PANEL + k % PANEL) * PANEL;
                store_sums(products + (i + k) * stride + row + p * PANEL, Path::sums(result));
            }
    };
    for (int64_t row = 0; row < count; row += 2 * PANEL) {
        const bool two_panels = row + PANEL < count;
        for (int64_t i = 0; i < n; i += 2 * PANEL) {
            const bool two_tiles = i + PANEL < n;
            if (two_panels && two_tiles)
                multiply(row, i, Constant<2>{}, Constant<2>{});
            else if (two_panels)
                multiply(row, i, Constant<2>{}, Constant<1>{});
            else if (two_tiles)
                multiply(row, i, Constant<1>{}, Constant<2>{});
            else
                multiply(row, i, Constant<1>{}, Constant<1>{});
        }
    }
}

#else

struct Tiles {
    ~Tiles() {}
};

#endif

// ---------------------------------------------------------------- inputs of the paths

// Write x [n width] as float32, bfloat16 or int8 [n depth], filled up with zeros; int8 with a scale per row.
inline const float* convert(const float* x, int64_t n, int64_t width, int64_t depth, float* result, float*) {
    if (width == depth) return x;
    for (int64_t i = 0; i < n; i++, x += width, result += depth) {
        std::memcpy(result, x, width * sizeof(float));
        std::memset(result + width, 0, (depth - width) * sizeof(float));
    }
    return result - n * depth;
}

#if defined(__AVX512BF16__)
inline const uint16_t* convert(const float* x, int64_t n, int64_t width, int64_t depth, uint16_t* result, float*) {
    for (int64_t i = 0; i < n; i++, x += width, result += depth)
        for (int64_t k = 0; k < depth; k += WIDTH) {
            const int64_t left = width - k;
            const __mmask16 inside = left >= WIDTH ? 0xFFFF : left > 0 ? (1 << left) - 1 : 0;
            _mm256_storeu_si256((__m256i*)(result + k), (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(inside, x + k)));
        }
    return result - n * depth;
}
#endif

inline const int8_t* convert(const float* x, int64_t n, int64_t width, int64_t depth, int8_t* result, float* scales) {
    quantize<0>(x, n, width, depth, result, scales);
    return result;
}

inline const uint8_t* convert(const float* x, int64_t n, int64_t width, int64_t depth, uint8_t* result, float* scales) {
    quantize<128>(x, n, width, depth, result, scales);
    return result;
}

}  // namespace
