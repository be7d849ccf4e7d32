// Vectors of floats, as wide as the processor has them.
#pragma once

#include <cstdint>
#include <cstring>

namespace ddim {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;  // the compiler splits them where the processor is narrower
#endif

typedef float Vector __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t Integers __attribute__((vector_size(LANES * sizeof(int32_t))));

// `V` is a vector or, for what is left at the end of a row, a single float.
template <class V>
inline V load(const float* from) {
    V value;
    std::memcpy(&value, from, sizeof(V));
    return value;
}

template <class V>
inline void store(float* to, V value) {
    std::memcpy(to, &value, sizeof(V));
}

template <class V>
constexpr int lanes() {
    return sizeof(V) / sizeof(float);
}

// Calls `body(V{}, i)` for i from 0 to `size`: in vectors, and what is left one by one.
template <class Body>
inline void for_each_vector(int64_t size, Body body) {
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) body(Vector{}, i);
    for (; i < size; i++) body(float{}, i);
}

// exp(x) to 2 units in the last place, without a table: x = n ln 2 + r, exp(x) = 2^n exp(r), and exp(r) by its
// series on |r| <= ln 2 / 2. Limited to what a float holds; what is not a number stays so.
inline Vector exponential(Vector x) {
    const Vector low = Vector{} - 87.0f, high = Vector{} + 88.0f;
    x = x < low ? low : x;
    x = x > high ? high : x;
    const Vector magic = Vector{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const Vector n = (x * 1.44269504f + magic) - magic;
    const Vector r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    Vector series = r * (1.0f / 5040) + (1.0f / 720);
    series = series * r + (1.0f / 120);
    series = series * r + (1.0f / 24);
    series = series * r + (1.0f / 6);
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    const Integers power = (__builtin_convertvector(n, Integers) + 127) << 23;
    Vector scale;
    std::memcpy(&scale, &power, sizeof scale);
    return series * scale;
}

inline float exponential(float x) { return exponential(Vector{} + x)[0]; }

template <class V>
inline V sigmoid(V x) {
    return 1.0f / (1.0f + exponential(-x));
}

}  // namespace ddim
