// Vectors of floats, as wide as the processor's. Values are float or bf16 in memory, and always float in
// arithmetic.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace ddim {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;  // the compiler splits vectors if the processor's are narrower
#endif

typedef float Vector __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t Integers __attribute__((vector_size(LANES * sizeof(int32_t))));

typedef uint16_t Halves __attribute__((vector_size(LANES * sizeof(uint16_t))));

// The upper half of a float, with 8 bits of precision and the range of a float.
struct Bf16 {
    uint16_t bits;
};

// `V` is a vector, or a single float for the remainder of a row.
template <class V>
inline V load(const float* from) {
    V value;
    std::memcpy(&value, from, sizeof(V));
    return value;
}

template <class V>
inline V load(const Bf16* from) {
    V value;
    if constexpr (sizeof(V) == sizeof(float)) {
        const uint32_t bits = (uint32_t)from->bits << 16;
        std::memcpy(&value, &bits, sizeof bits);
    } else {
        Halves halves;
        std::memcpy(&halves, from, sizeof halves);
        const Integers bits = __builtin_convertvector(halves, Integers) << 16;
        std::memcpy(&value, &bits, sizeof bits);
    }
    return value;
}

template <class V>
inline void store(float* to, V value) {
    std::memcpy(to, &value, sizeof(V));
}

// Rounds to nearest, ties to even. NaN stays NaN.
inline void store(Bf16* to, float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint32_t rounded = value == value ? bits + 0x7fff + (bits >> 16 & 1) : bits | 0x400000;
    to->bits = (uint16_t)(rounded >> 16);
}

inline void store(Bf16* to, Vector value) {
#if defined(__AVX512BF16__)
    // The same, except that numbers below 2^-126 become zero.
    const __m256bh halves = _mm512_cvtneps_pbh((__m512)value);
#else
    Integers bits;
    std::memcpy(&bits, &value, sizeof bits);
    const Integers rounded = value == value ? bits + 0x7fff + (bits >> 16 & 1) : bits | 0x400000;
    const Halves halves = __builtin_convertvector(rounded >> 16, Halves);
#endif
    std::memcpy(to, &halves, sizeof halves);
}

// Calls `body(V{}, i)` for i from 0 to `size`: for complete vectors, then for the remaining elements one by one.
template <class Body>
inline void for_each_vector(int64_t size, Body body) {
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) body(Vector{}, i);
    for (; i < size; i++) body(float{}, i);
}

// exp(x) to 2 units in the last place, without a table: x = n ln 2 + r, exp(x) = 2^n exp(r), and the series
// of exp(r) for |r| <= ln 2 / 2. Clamped to the range of a float; NaN stays NaN.
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
