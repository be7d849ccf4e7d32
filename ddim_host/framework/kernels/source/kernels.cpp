#include "kernels.h"

#include <cstdlib>  // says whether this is glibc
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "dropout.h"
#include "group_norm.h"
#include "winograd.h"

using namespace ddim;

extern "C" {

int64_t ddim_conv3x3_weights_size(int64_t in_channels, int64_t out_channels) {
    return Shape{1, 1, 1, in_channels, out_channels}.weights_size();
}

void ddim_conv3x3_transform(const float* w, float* u, int64_t in_channels, int64_t out_channels, bool turned) {
    transform_weights({1, 1, 1, in_channels, out_channels}, w, u, turned);
}

void ddim_conv3x3(const float* x, const float* u, const float* bias, const float* shift, const float* residual,
                  float* y, int64_t batch, int64_t height, int64_t width, int64_t in_channels,
                  int64_t out_channels) {
    convolve({batch, height, width, in_channels, out_channels}, x, u, bias, shift, residual, y);
}

void ddim_conv3x3_grad_weights(const float* x, const float* grad_y, float* grad_w, int64_t batch, int64_t height,
                               int64_t width, int64_t in_channels, int64_t out_channels) {
    convolve_grad_weights({batch, height, width, in_channels, out_channels}, x, grad_y, grad_w);
}

void ddim_sum_pixels(const float* x, float* sums, int64_t batch, int64_t pixels, int64_t channels) {
    sum_pixels(x, sums, batch, pixels, channels);
}

void ddim_group_norm(const float* x, const float* weight, const float* bias, float* y, float* statistics,
                     int64_t batch, int64_t pixels, int64_t channels, int64_t groups, float eps, bool silu) {
    group_norm(x, weight, bias, y, statistics, batch, pixels, channels, groups, eps, silu);
}

void ddim_group_norm_grad(const float* x, const float* weight, const float* bias, const float* statistics,
                          const float* grad_y, float* grad_x, float* grad_weight, float* grad_bias, int64_t batch,
                          int64_t pixels, int64_t channels, int64_t groups, bool silu) {
    group_norm_grad(x, weight, bias, statistics, grad_y, grad_x, grad_weight, grad_bias, batch, pixels, channels,
                    groups, silu);
}

void ddim_dropout(const float* x, float* y, int64_t size, int64_t first, uint64_t seed, float probability) {
    dropout(x, y, size, first, seed, probability);
}

void ddim_keep_freed_memory() {
#ifdef __GLIBC__
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, -1);
#endif
}
}
