// Group normalisation (arXiv 1803.08494, equation 1) followed by an optional x sigmoid(x), fused in the
// forward pass and in the backward pass.
//
// An image is (pixels, channels); a group is a range of channels of all its pixels. `statistics` (batch,
// groups, 2) stores the mean and the inverse standard deviation of each group for the backward pass. Images
// have type T in memory; everything else is float.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "scratch.h"
#include "simd.h"

namespace ddim {

// A set of `count` arrays with one value per channel.
struct PerChannel {
    std::vector<float> memory;
    int64_t channels;

    PerChannel(int64_t channels, int count) : memory(channels * count), channels(channels) {}
    float* operator[](int purpose) { return memory.data() + purpose * channels; }
};

// Copies the value of each group to all its channels.
inline void spread(const float* of_group, int64_t stride, int64_t groups, int64_t width, float* of_channel) {
    for (int64_t group = 0; group < groups; group++)
        std::fill_n(of_channel + group * width, width, of_group[group * stride]);
}

inline float sum_of(const float* values, int64_t count) {
    float sum = 0.0f;
    for (int64_t i = 0; i < count; i++) sum += values[i];
    return sum;
}

template <class T>
inline void sum_pixels(const T* x, float* sums, int64_t batch, int64_t pixels, int64_t channels) {
#pragma omp parallel for schedule(dynamic)
    for (int64_t image = 0; image < batch; image++) {
        float* to = sums + image * channels;
        std::fill_n(to, channels, 0.0f);
        for (int64_t pixel = 0; pixel < pixels; pixel++)
            for_each_vector(channels, [&](auto kind, int64_t c) {
                using V = decltype(kind);
                store(to + c, load<V>(to + c) + load<V>(x + (image * pixels + pixel) * channels + c));
            });
    }
}

template <class T>
inline void group_norm(const T* x, const float* weight, const float* bias, T* y, float* statistics, int64_t batch,
                       int64_t pixels, int64_t channels, int64_t groups, float eps, bool silu) {
    const int64_t width = channels / groups, size = width * pixels;
#pragma omp parallel
    {
        PerChannel values(channels, 4);
        float *sums = values[0], *mean = values[1], *scale = values[2], *offset = values[3];
#pragma omp for schedule(dynamic)
        for (int64_t image = 0; image < batch; image++) {
            const T* from = x + image * pixels * channels;
            T* to = y + image * pixels * channels;
            float* kept = statistics + image * groups * 2;
            const auto sum_up = [&](auto term) {
                std::fill_n(sums, channels, 0.0f);
                for (int64_t pixel = 0; pixel < pixels; pixel++)
                    for_each_vector(channels, [&](auto kind, int64_t c) {
                        using V = decltype(kind);
                        store(sums + c, load<V>(sums + c) + term(load<V>(from + pixel * channels + c), c));
                    });
            };
            sum_up([](auto value, int64_t) { return value; });
            for (int64_t group = 0; group < groups; group++)
                kept[2 * group] = sum_of(sums + group * width, width) / size;
            spread(kept, 2, groups, width, mean);
            sum_up([&](auto value, int64_t c) {
                const auto centred = value - load<decltype(value)>(mean + c);
                return centred * centred;
            });
            for (int64_t group = 0; group < groups; group++)
                kept[2 * group + 1] = 1.0f / std::sqrt(sum_of(sums + group * width, width) / size + eps);
            spread(kept + 1, 2, groups, width, scale);
            for (int64_t c = 0; c < channels; c++) {
                scale[c] *= weight[c];
                offset[c] = bias[c] - mean[c] * scale[c];
            }
            for (int64_t pixel = 0; pixel < pixels; pixel++)
                for_each_vector(channels, [&](auto kind, int64_t c) {
                    using V = decltype(kind);
                    V z = load<V>(from + pixel * channels + c) * load<V>(scale + c) + load<V>(offset + c);
                    if (silu) z *= sigmoid(z);
                    store(to + pixel * channels + c, z);
                });
        }
    }
}

// With n = (x - mean) scale and z = weight n + bias, the gradient of n also flows through mean and variance:
// grad_x = scale (grad_n - mean(grad_n) - n mean(grad_n n)).
template <class T>
inline void group_norm_grad(const T* x, const float* weight, const float* bias, const float* statistics,
                            const T* grad_y, T* grad_x, float* grad_weight, float* grad_bias,
                            int64_t batch, int64_t pixels, int64_t channels, int64_t groups, bool silu) {
    const int64_t width = channels / groups, size = width * pixels;
    // One sum per image, added in order at the end, so that the result does not depend on the number of
    // threads.
    std::vector<float> of_images(2 * batch * channels);
#pragma omp parallel
    {
        static thread_local std::vector<float> memory;
        PerChannel values(channels, 4);
        float *mean = values[0], *scale = values[1], *mean_grad = values[2], *mean_product = values[3];
#pragma omp for schedule(dynamic)
        for (int64_t image = 0; image < batch; image++) {
            const T* from = x + image * pixels * channels;
            const T* above = grad_y + image * pixels * channels;
            T* to = grad_x + image * pixels * channels;
            float* grads_z;  // gradients for the whole image, stored between the two passes over it
            if constexpr (std::is_same_v<T, float>)
                grads_z = to;
            else
                grads_z = scratch(memory, pixels * channels);
            const float* kept = statistics + image * groups * 2;
            float* of_bias = of_images.data() + 2 * image * channels;
            float* of_weight = of_bias + channels;
            spread(kept, 2, groups, width, mean);
            spread(kept + 1, 2, groups, width, scale);
            for (int64_t pixel = 0; pixel < pixels; pixel++)
                for_each_vector(channels, [&](auto kind, int64_t c) {
                    using V = decltype(kind);
                    const int64_t at = pixel * channels + c;
                    const V n = (load<V>(from + at) - load<V>(mean + c)) * load<V>(scale + c);
                    V grad_z = load<V>(above + at);
                    if (silu) {
                        const V z = n * load<V>(weight + c) + load<V>(bias + c), s = sigmoid(z);
                        grad_z *= s * (1.0f + z * (1.0f - s));
                    }
                    store(grads_z + at, grad_z);
                    store(of_bias + c, load<V>(of_bias + c) + grad_z);
                    store(of_weight + c, load<V>(of_weight + c) + grad_z * n);
                });
            for (int64_t group = 0; group < groups; group++) {
                float sum = 0.0f, product = 0.0f;
                for (int64_t c = group * width; c < (group + 1) * width; c++) {
                    sum += weight[c] * of_bias[c];
                    product += weight[c] * of_weight[c];
                }
                std::fill_n(mean_grad + group * width, width, sum / size);
                std::fill_n(mean_product + group * width, width, product / size);
            }
            for (int64_t pixel = 0; pixel < pixels; pixel++)
                for_each_vector(channels, [&](auto kind, int64_t c) {
                    using V = decltype(kind);
                    const int64_t at = pixel * channels + c;
                    const V n = (load<V>(from + at) - load<V>(mean + c)) * load<V>(scale + c);
                    const V grad_n = load<V>(grads_z + at) * load<V>(weight + c);
                    store(to + at, load<V>(scale + c) *
                                       (grad_n - load<V>(mean_grad + c) - n * load<V>(mean_product + c)));
                });
        }
    }
    std::fill_n(grad_bias, channels, 0.0f);
    std::fill_n(grad_weight, channels, 0.0f);
    for (int64_t image = 0; image < batch; image++)
        for (int64_t c = 0; c < channels; c++) {
            grad_bias[c] += of_images[2 * image * channels + c];
            grad_weight[c] += of_images[(2 * image + 1) * channels + c];
        }
}

}  // namespace ddim
