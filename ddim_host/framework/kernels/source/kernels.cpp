#include "kernels.h"

#include <cstdlib>  // defines __GLIBC__
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "add.h"
#include "direct.h"
#include "dropout.h"
#include "group_norm.h"
#include "softmax.h"
#include "winograd.h"

using namespace ddim;

// Calls `body` with a value of the element type of images.
template <class Body>
static void for_type(bool bf16, Body body) {
    bf16 ? body(Bf16{}) : body(float{});
}

// Casts an address to a pointer to the type of the second argument.
template <class T>
static T* as(void* address, T) {
    return static_cast<T*>(address);
}

template <class T>
static const T* as(const void* address, T) {
    return static_cast<const T*>(address);
}

extern "C" {

bool ddim_has_matrix_units() { return has_tiles(); }

int64_t ddim_conv3x3_weights_size(int64_t in_channels, int64_t out_channels, bool bf16) {
    if (bf16 && has_tiles()) return direct::Shape{1, 1, 1, in_channels, out_channels}.weights_size();
    return Shape{1, 1, 1, in_channels, out_channels}.weights_size();
}

void ddim_conv3x3_transform(const float* w, float* u, int64_t in_channels, int64_t out_channels, bool turned,
                            bool bf16) {
    if (bf16 && has_tiles())
        direct::pack_weights({1, 1, 1, in_channels, out_channels}, w, reinterpret_cast<Bf16*>(u), turned);
    else
        transform_weights({1, 1, 1, in_channels, out_channels}, w, u, turned);
}

void ddim_conv3x3(const void* x, const float* u, const float* bias, const float* shift, const void* residual, void* y,
                  int64_t batch, int64_t height, int64_t width, int64_t in_channels, int64_t out_channels, bool bf16) {
    if (bf16 && has_tiles())
        return direct::convolve({batch, height, width, in_channels, out_channels}, as(x, Bf16{}),
                                reinterpret_cast<const Bf16*>(u), bias, shift, as(residual, Bf16{}), as(y, Bf16{}));
    const Shape shape{batch, height, width, in_channels, out_channels};
    for_type(bf16, [&](auto t) { convolve(shape, as(x, t), u, bias, shift, as(residual, t), as(y, t)); });
}

void ddim_conv3x3_grad_weights(const void* x, const void* grad_y, float* grad_w, int64_t batch, int64_t height,
                               int64_t width, int64_t in_channels, int64_t out_channels, bool bf16) {
    if (bf16 && has_tiles())
        return direct::convolve_grad_weights({batch, height, width, in_channels, out_channels}, as(x, Bf16{}),
                                             as(grad_y, Bf16{}), grad_w);
    const Shape shape{batch, height, width, in_channels, out_channels};
    for_type(bf16, [&](auto t) { convolve_grad_weights(shape, as(x, t), as(grad_y, t), grad_w); });
}

void ddim_add(void* y, const float* bias, const float* shift, const void* residual, int64_t batch, int64_t pixels,
              int64_t channels, bool bf16) {
    for_type(bf16, [&](auto t) { add(as(y, t), bias, shift, as(residual, t), batch, pixels, channels); });
}

void ddim_sum_pixels(const void* x, float* sums, int64_t batch, int64_t pixels, int64_t channels, bool bf16) {
    for_type(bf16, [&](auto t) { sum_pixels(as(x, t), sums, batch, pixels, channels); });
}

void ddim_group_norm(const void* x, const float* weight, const float* bias, void* y, float* statistics, int64_t batch,
                     int64_t pixels, int64_t channels, int64_t groups, float eps, bool silu, bool bf16) {
    for_type(bf16, [&](auto t) {
        group_norm(as(x, t), weight, bias, as(y, t), statistics, batch, pixels, channels, groups, eps, silu);
    });
}

void ddim_group_norm_grad(const void* x, const float* weight, const float* bias, const float* statistics,
                          const void* grad_y, void* grad_x, float* grad_weight, float* grad_bias, int64_t batch,
                          int64_t pixels, int64_t channels, int64_t groups, bool silu, bool bf16) {
    for_type(bf16, [&](auto t) {
        group_norm_grad(as(x, t), weight, bias, statistics, as(grad_y, t), as(grad_x, t), grad_weight, grad_bias,
                        batch, pixels, channels, groups, silu);
    });
}

void ddim_dropout(const void* x, void* y, int64_t size, int64_t first, uint64_t seed, float probability, bool bf16) {
    for_type(bf16, [&](auto t) { dropout(as(x, t), as(y, t), size, first, seed, probability); });
}

void ddim_softmax(float* scores, int64_t rows, int64_t columns) { softmax(scores, rows, columns); }

void ddim_keep_freed_memory() {
#ifdef __GLIBC__
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, -1);
#endif
}
}
