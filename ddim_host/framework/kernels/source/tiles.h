// Products of 32 x 32 blocks of bf16 matrices, with fp32 sums, on the matrix units of a processor (AMX).
//
// A tile is 1 KiB of contiguous memory. A left tile is 16 rows of 32 values; a right tile is 32 rows of 16 columns,
// stored as 16 pairs of rows whose values alternate. The product of two blocks uses two left tiles, two right tiles and
// four tiles of sums.
//
// For tests, -DDDIM_EMULATE_TILES emulates the matrix units in plain C++ on any processor, and -DDDIM_WITHOUT_TILES
// disables them on every processor.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512F__) && defined(__linux__) && \
    !defined(DDIM_EMULATE_TILES) && !defined(DDIM_WITHOUT_TILES)
#define DDIM_HAS_TILES
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "simd.h"

namespace ddim {

constexpr int TILE_ROWS = 16, TILE_COLUMNS = 32, TILE_SIZE = TILE_ROWS * TILE_COLUMNS, BLOCK = 32;

typedef uint16_t Halves16 __attribute__((vector_size(32)));
typedef uint32_t Words16 __attribute__((vector_size(64)));
typedef float Floats16 __attribute__((vector_size(64)));

// Interleaves the values of two rows.
inline Words16 interleave(Halves16 even, Halves16 odd) {
    return __builtin_convertvector(even, Words16) | __builtin_convertvector(odd, Words16) << 16;
}

// Sums the products of left and right tiles over all steps. The tiles of step s are at `a0 + a_at(s)`, `a1 + a_at(s)`,
// `b0 + b_at(s)` and `b1 + b_at(s)`. `sums` is (32, 32); if `add`, the products are added to its previous values.
template <class At, class Bt>
inline void multiply_blocks(int64_t steps, const Bf16* a0, const Bf16* a1, At a_at, const Bf16* b0, const Bf16* b1,
                            Bt b_at, float* sums, bool add);

#if defined(DDIM_HAS_TILES)

// On Linux, a process must request permission before it uses tiles.
inline bool has_tiles() {
    constexpr int request_permission = 0x1023, tile_data = 18;
    static const bool granted = syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
    return granted;
}

// Configures the tiles of this thread. The destructor restores the previous configuration, because oneDNN relies on its
// own between calls.
class Tiles {
    struct alignas(64) Configuration {
        uint8_t palette = 0, start_row = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {};
        uint8_t rows[16] = {};
    };
    Configuration previous;

    // Not _tile_loadconfig, because some compilers assume that it reads only eight bytes.
    static void load(const Configuration& configuration) { asm volatile("ldtilecfg %0" ::"m"(configuration)); }

public:
    Tiles() {
        asm volatile("sttilecfg %0" : "=m"(previous));
        Configuration own;
        own.palette = 1;
        for (int tile = 0; tile < 8; tile++) own.row_bytes[tile] = 64, own.rows[tile] = TILE_ROWS;
        load(own);
    }
    ~Tiles() { load(previous); }
    Tiles(const Tiles&) = delete;
};

template <class At, class Bt>
inline void multiply_blocks(int64_t steps, const Bf16* a0, const Bf16* a1, At a_at, const Bf16* b0, const Bf16* b1,
                            Bt b_at, float* sums, bool add) {
    constexpr int row = BLOCK * sizeof(float), below = TILE_ROWS * BLOCK, beside = TILE_ROWS;
    asm volatile("" ::: "memory");  // the loads below do not tell the compiler that they read memory
    if (add) {
        _tile_loadd(0, sums, row);
        _tile_loadd(1, sums + beside, row);
        _tile_loadd(2, sums + below, row);
        _tile_loadd(3, sums + below + beside, row);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t s = 0; s < steps; s++) {
        const int64_t a = a_at(s), b = b_at(s);
        _tile_loadd(4, a0 + a, 64);
        _tile_loadd(6, b0 + b, 64);
        _tile_loadd(7, b1 + b, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, a1 + a, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, row);
    _tile_stored(1, sums + beside, row);
    _tile_stored(2, sums + below, row);
    _tile_stored(3, sums + below + beside, row);
}

inline void transpose(Words16 (&rows)[16]) {
    for (int half = 8; half > 0; half /= 2) {
        Words16 low, high;  // indices into two rows: values that stay on or above the diagonal, or move below
        for (int j = 0; j < 16; j++) {
            low[j] = j & half ? 16 + j - half : j;
            high[j] = j & half ? 16 + j : j + half;
        }
        for (int i = 0; i < 16; i++) {
            if (i & half) continue;
            const __m512i above = (__m512i)rows[i], below = (__m512i)rows[i + half];
            rows[i] = (Words16)_mm512_permutex2var_epi32(above, (__m512i)low, below);
            rows[i + half] = (Words16)_mm512_permutex2var_epi32(above, (__m512i)high, below);
        }
    }
}

#else

inline bool has_tiles() {
#if defined(DDIM_EMULATE_TILES)
    return true;
#else
    return false;
#endif
}

class Tiles {};

template <class At, class Bt>
inline void multiply_blocks(int64_t steps, const Bf16* a0, const Bf16* a1, At a_at, const Bf16* b0, const Bf16* b1,
                            Bt b_at, float* sums, bool add) {
    if (!add) std::memset(sums, 0, BLOCK * BLOCK * sizeof(float));
    for (int64_t s = 0; s < steps; s++)
        for (int i = 0; i < BLOCK; i++)
            for (int j = 0; j < BLOCK; j += TILE_ROWS) {
                const Bf16* row = (i < TILE_ROWS ? a0 : a1) + a_at(s) + i % TILE_ROWS * TILE_COLUMNS;
                const Bf16* columns = (j < TILE_ROWS ? b0 : b1) + b_at(s);
                Floats16 even{}, odd{}, sum;  // the matrix units also sum even and odd terms separately
                for (int k = 0; k < TILE_COLUMNS; k += 2) {
                    Words16 pair;
                    std::memcpy(&pair, columns + k / 2 * TILE_COLUMNS, sizeof pair);
                    even += load<float>(row + k) * (Floats16)(pair << 16);
                    odd += load<float>(row + k + 1) * (Floats16)(pair & 0xffff0000);
                }
                std::memcpy(&sum, sums + i * BLOCK + j, sizeof sum);
                sum += even + odd;
                std::memcpy(sums + i * BLOCK + j, &sum, sizeof sum);
            }
}

inline void transpose(Words16 (&rows)[16]) {
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < i; j++) {
            const uint32_t kept = rows[i][j];
            rows[i][j] = rows[j][i];
            rows[j][i] = kept;
        }
}

#endif

}  // namespace ddim
