// Small matrix products with accumulators in registers.
#pragma once

#include "simd.h"

namespace ddim {

// A panel is PANEL columns of a matrix, stored row by row. TILE x PANEL accumulators, one row of the panel
// and one broadcast value fill the registers.
constexpr int PANEL = 2 * LANES;
#if defined(__AVX512F__)
constexpr int TILE = 12;
#else
constexpr int TILE = 6;
#endif

// C (ROWS x PANEL) = or += A B, where A[r][k] is a[r * row + k * column], and B is a panel of `depth` rows.
template <int ROWS>
inline void multiply_rows(const float* a, int64_t row, int64_t column, const float* b, int64_t depth, float* c,
                          int64_t c_row, bool add) {
    Vector sums[ROWS][2] = {};
    for (int64_t k = 0; k < depth; k++) {
        const Vector left = load<Vector>(b), right = load<Vector>(b + LANES);
        b += PANEL;
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
            const float value = a[r * row];
            sums[r][0] += value * left;
            sums[r][1] += value * right;
        }
        a += column;
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
        float* to = c + r * c_row;
        if (add) {
            sums[r][0] += load<Vector>(to);
            sums[r][1] += load<Vector>(to + LANES);
        }
        store(to, sums[r][0]);
        store(to + LANES, sums[r][1]);
    }
}

template <int ROWS>
inline void multiply_rest(int64_t rows, const float* a, int64_t row, int64_t column, const float* b,
                          int64_t depth, float* c, int64_t c_row, bool add) {
    if constexpr (ROWS > 0) {
        if (rows == ROWS)
            multiply_rows<ROWS>(a, row, column, b, depth, c, c_row, add);
        else
            multiply_rest<ROWS - 1>(rows, a, row, column, b, depth, c, c_row, add);
    }
}

// Like multiply_rows, for any number of rows.
inline void multiply(int64_t rows, const float* a, int64_t row, int64_t column, const float* b, int64_t depth,
                     float* c, int64_t c_row, bool add) {
    int64_t r = 0;
    for (; r + TILE <= rows; r += TILE)
        multiply_rows<TILE>(a + r * row, row, column, b, depth, c + r * c_row, c_row, add);
    multiply_rest<TILE - 1>(rows - r, a + r * row, row, column, b, depth, c + r * c_row, c_row, add);
}

}  // namespace ddim
