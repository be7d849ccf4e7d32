// Softmax of the rows of a matrix, for attention.
#pragma once

#include <cmath>

#include "simd.h"

namespace ddim {

// Replaces each row of scores (rows, columns) with its softmax. Uses one thread: each attention thread calls it.
inline void softmax(float* scores, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; i++) {
        float* const row = scores + i * columns;
        Vector largest_of_lanes = Vector{} - INFINITY, sums = {};
        float largest = -INFINITY, sum = 0.0f;
        for_each_vector(columns, [&](auto kind, int64_t j) {
            using V = decltype(kind);
            const V value = load<V>(row + j);
            if constexpr (sizeof(V) == sizeof(float))
                largest = value > largest ? value : largest;
            else
                largest_of_lanes = value > largest_of_lanes ? value : largest_of_lanes;
        });
        for (int lane = 0; lane < LANES; lane++) largest = std::fmax(largest, largest_of_lanes[lane]);
        for_each_vector(columns, [&](auto kind, int64_t j) {
            using V = decltype(kind);
            const V weight = exponential(load<V>(row + j) - largest);
            store(row + j, weight);
            if constexpr (sizeof(V) == sizeof(float))
                sum += weight;
            else
                sums += weight;
        });
        for (int lane = 0; lane < LANES; lane++) sum += sums[lane];
        const float factor = 1.0f / sum;
        for_each_vector(columns, [&](auto kind, int64_t j) {
            using V = decltype(kind);
            store(row + j, load<V>(row + j) * factor);
        });
    }
}

}  // namespace ddim
