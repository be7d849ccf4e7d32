// Jittor's kernels include this file instead of Jittor's own of the same name, which is later on the search path.
// On a CPU Jittor's conversion to bf16 truncates. This one rounds, so that Jittor's own bf16 arithmetic is correct: sums
// of images, and sums of gradients that arrive by two paths.
#pragma once
#include "common.h"

#if defined(JIT_cuda)
#include_next "type/fp16_compute.h"
#else

#define bfloat16 truncated_bfloat16
#include_next "type/fp16_compute.h"
#undef bfloat16

#include <cstring>

namespace jittor {

struct bfloat16 {
    uint16 x;

    // Round to nearest, ties to even; NaN stays NaN. Jittor's compiler flags assume there are no NaNs, so test the bits.
    bfloat16(float32 value) {
        uint32 bits;
        std::memcpy(&bits, &value, sizeof bits);
        const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
        const uint32 rounded = is_nan ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1);
        x = (uint16)(rounded >> 16);
    }

    operator float32() const {
        const uint32 bits = (uint32)x << 16;
        float32 value;
        std::memcpy(&value, &bits, sizeof value);
        return value;
    }
};

inline bool operator<(bfloat16 x, bfloat16 y) { return float32(x) < float32(y); }
inline bool operator>(bfloat16 x, bfloat16 y) { return float32(x) > float32(y); }
inline bool operator==(bfloat16 x, bfloat16 y) { return float32(x) == float32(y); }

}  // namespace jittor

#endif
