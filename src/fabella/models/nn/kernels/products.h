// Matrix products of small packed matrices: C = A·B or C += A·B, with float32 sums in a fixed order.
//
// A matrix is stored in lanes of 32 bits along the summed dimension: a float32, or a pair of bfloat16 where the
// processor multiplies pairs (AVX-512 BF16, AMX). A [M depth] has rows of lanes; B [depth N] has one lane a column.

#pragma once

#include "vectors.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#define FABELLA_TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int ROWS = WIDTH == 8 ? 4 : 8;  // of a block of C in registers; AVX2 has 16 of them, the others 32

struct Float32 {
    typedef float Lane, Element;
    static constexpr int PER_LANE = 1;
    static inline Vector multiply_add(Vector c, Lane a, const Lane* b) { return c + a * load(b); }
    // Store two rows as rows of B; ``lanes`` is at the first one.
    static inline void store_two(Lane* lanes, int64_t row, Vector first, Vector second) {
        store(lanes, first), store(lanes + row, second);
    }
};

#if defined(__AVX512BF16__)
struct Pairs {
    typedef uint32_t Lane;
    typedef BFloat16 Element;
    static constexpr int PER_LANE = 2;
    static inline Vector multiply_add(Vector c, Lane a, const Lane* b) {
        const __m512bh left = (__m512bh)_mm512_set1_epi32(static_cast<int>(a)), right = (__m512bh)_mm512_loadu_si512(b);
        return (Vector)_mm512_dpbf16_ps((__m512)c, left, right);
    }
    static inline void store_two(Lane* lanes, int64_t, Vector first, Vector second) {
        const Bits low = __builtin_convertvector(to_halves(first), Bits);
        const Bits high = __builtin_convertvector(to_halves(second), Bits);
        const Bits both = low | high << 16;
        std::memcpy(lanes, &both, sizeof both);
    }
};
typedef Pairs PathOfBFloat16;
#else
typedef Float32 PathOfBFloat16;
#endif

template <class Path, int N>
inline void product_block(const typename Path::Lane* a, int64_t a_row, const typename Path::Lane* b, int64_t b_row,
                          int64_t depth, float* c, int64_t c_row, bool add) {
    Vector sums[ROWS][N];
    for (int m = 0; m < ROWS; m++)
        for (int n = 0; n < N; n++) sums[m][n] = add ? load(c + m * c_row + n * WIDTH) : Vector{};
    for (int64_t k = 0; k < depth; k++)
        for (int m = 0; m < ROWS; m++)
            for (int n = 0; n < N; n++)
                sums[m][n] = Path::multiply_add(sums[m][n], a[m * a_row + k], b + k * b_row + n * WIDTH);
    for (int m = 0; m < ROWS; m++)
        for (int n = 0; n < N; n++) store(c + m * c_row + n * WIDTH, sums[m][n]);
}

// M is a multiple of 8, N of WIDTH.
template <class Path>
void product(const typename Path::Lane* a, int64_t a_row, const typename Path::Lane* b, int64_t b_row, int64_t depth,
             float* c, int64_t c_row, int64_t M, int64_t N, bool add) {
    for (int64_t m = 0; m < M; m += ROWS) {
        const typename Path::Lane* rows = a + m * a_row;
        float* result = c + m * c_row;
        int64_t n = 0;
        for (; n + 3 * WIDTH <= N && N - n != 4 * WIDTH; n += 3 * WIDTH)
            product_block<Path, 3>(rows, a_row, b + n, b_row, depth, result + n, c_row, add);
        for (; n + 2 * WIDTH <= N; n += 2 * WIDTH)
            product_block<Path, 2>(rows, a_row, b + n, b_row, depth, result + n, c_row, add);
        for (; n < N; n += WIDTH) product_block<Path, 1>(rows, a_row, b + n, b_row, depth, result + n, c_row, add);
    }
}

// ---------------------------------------------------------------- AMX

#if defined(FABELLA_TILES)

// Whether the system lets this process use tiles, requested when the library is loaded.
const bool has_tiles = syscall(SYS_arch_prctl, 0x1023, 18) == 0;  // ARCH_REQ_XCOMP_PERM, XTILEDATA

// Tiles of 16 rows of 64 bytes for the lifetime of the object, in this thread.
struct Tiles {
    const bool usable;
    Tiles() : usable(has_tiles) {
        if (!usable) return;
        alignas(64) uint8_t config[64] = {};
        config[0] = 1;
        for (int tile = 0; tile < 8; tile++) config[16 + 2 * tile] = 64, config[48 + tile] = 16;
        __asm__ volatile("" ::: "memory");  // the compiler does not see what is read
        _tile_loadconfig(config);
    }
    ~Tiles() {
        if (usable) _tile_release();
    }
};

// The compiler does not see what the tile instructions read.
inline void memory_barrier() { __asm__ volatile("" ::: "memory"); }

// 32 × 32 of C in four tiles.
inline void tiles_block(const uint32_t* a, int64_t a_row, const uint32_t* b, int64_t b_row, int64_t depth, float* c,
                        int64_t c_row, bool add) {
    const int64_t c_stride = c_row * 4, a_stride = a_row * 4, b_stride = b_row * 4;
    float* lower = c + 16 * c_row;
    if (add) {
        _tile_loadd(0, c, c_stride);
        _tile_loadd(1, c + 16, c_stride);
        _tile_loadd(2, lower, c_stride);
        _tile_loadd(3, lower + 16, c_stride);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t k = 0; k < depth; k += 16) {
        _tile_loadd(4, a + k, a_stride);
        _tile_loadd(6, b + k * b_row, b_stride);
        _tile_loadd(5, a + 16 * a_row + k, a_stride);
        _tile_loadd(7, b + k * b_row + 16, b_stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, c_stride);
    _tile_stored(1, c + 16, c_stride);
    _tile_stored(2, lower, c_stride);
    _tile_stored(3, lower + 16, c_stride);
}

inline bool tiles_fit(int64_t depth, int64_t M, int64_t N) { return depth % 16 == 0 && M % 32 == 0 && N % 32 == 0; }

#else

struct Tiles {
    static constexpr bool usable = false;
    ~Tiles() {}
};

#endif

template <class Path>
void product(const Tiles& tiles, const typename Path::Lane* a, int64_t a_row, const typename Path::Lane* b,
             int64_t b_row, int64_t depth, float* c, int64_t c_row, int64_t M, int64_t N, bool add) {
#if defined(FABELLA_TILES)
    if constexpr (Path::PER_LANE == 2)
        if (tiles.usable && tiles_fit(depth, M, N)) {
            memory_barrier();
            for (int64_t m = 0; m < M; m += 32)
                for (int64_t n = 0; n < N; n += 32)
                    tiles_block(a + m * a_row, a_row, b + n, b_row, depth, c + m * c_row + n, c_row, add);
            memory_barrier();
            return;
        }
#endif
    product<Path>(a, a_row, b, b_row, depth, c, c_row, M, N, add);
}

}  // namespace
