// Dropout whose mask is a function of a seed and an element's position, so that it need not be stored.
#pragma once

#include "simd.h"

namespace ddim {

typedef uint32_t Words __attribute__((vector_size(LANES * sizeof(uint32_t))));

// Returns random bits for a counter (the finaliser "lowbias32" of C. Wellons' hash prospector), with one half of
// the seed added before the first round and the other half after it.
template <class W>
inline W random_bits(W index, uint32_t low, uint32_t high) {
    index = index * 0x9e3779b1u + low;
    index ^= index >> 16;
    index = index * 0x7feb352du + high;
    index ^= index >> 15;
    index *= 0x846ca68bu;
    return index ^ (index >> 16);
}

// y = x / (1 - probability) for elements that are kept, and 0 for dropped ones; x and y may be the same.
// `first` is the position of the first element of x in the complete array, of which x may be a part.
template <class T>
inline void dropout(const T* x, T* y, int64_t size, int64_t first, uint64_t seed, float probability) {
    // splitmix64: decorrelates consecutive seeds.
    seed = (seed ^ (seed >> 30)) * 0xbf58476d1ce4e5b9u;
    seed = (seed ^ (seed >> 27)) * 0x94d049bb133111ebu;
    seed ^= seed >> 31;
    const uint32_t low = (uint32_t)seed, high = (uint32_t)(seed >> 32);
    const uint32_t limit = (uint32_t)(probability * 4294967296.0);
    const float scale = 1.0f / (1.0f - probability);
    Words lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < size / LANES; block++) {
        const int64_t at = block * LANES;
        const Words bits = random_bits(lane + (uint32_t)(first + at), low, high);
        store(y + at, bits >= limit ? load<Vector>(x + at) * scale : Vector{});
    }
    for (int64_t at = size / LANES * LANES; at < size; at++)
        store(y + at, random_bits((uint32_t)(first + at), low, high) >= limit ? load<float>(x + at) * scale : 0.0f);
}

}  // namespace ddim
