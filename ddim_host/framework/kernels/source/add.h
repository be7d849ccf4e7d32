// Adds bias, shift and residual after a framework's convolution, in one pass and with one rounding.
#pragma once

#include "simd.h"

namespace ddim {

// y (batch, pixels, channels) += bias (channels) + shift (batch, channels) + residual; any of the three may be null.
template <class T>
inline void add(T* y, const float* bias, const float* shift, const T* residual, int64_t batch, int64_t pixels,
                int64_t channels) {
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t image = 0; image < batch; image++)
        for (int64_t pixel = 0; pixel < pixels; pixel++) {
            const int64_t at = (image * pixels + pixel) * channels;
            for_each_vector(channels, [&](auto kind, int64_t c) {
                using V = decltype(kind);
                V value = load<V>(y + at + c);
                if (bias) value += load<V>(bias + c);
                if (shift) value += load<V>(shift + image * channels + c);
                if (residual) value += load<V>(residual + at + c);
                store(y + at + c, value);
            });
        }
}

}  // namespace ddim
