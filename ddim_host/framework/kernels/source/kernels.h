// What the library offers. All tensors are float32 and contiguous, images (batch, height, width, channels), the weights
// of a convolution (out, in, 3, 3). All processors that OpenMP may use take part.
#pragma once

#include <cstdint>

extern "C" {

// How many floats the transformed weights of a convolution have.
int64_t ddim_conv3x3_weights_size(int64_t in_channels, int64_t out_channels);

// `turned`: from weights (in, out, 3, 3) to those that lead a gradient back from `in` to `out` channels.
void ddim_conv3x3_transform(const float* w, float* u, int64_t in_channels, int64_t out_channels, bool turned);

// bias (out), shift (batch, out) and residual (batch, height, width, out) may be null.
void ddim_conv3x3(const float* x, const float* u, const float* bias, const float* shift, const float* residual,
                  float* y, int64_t batch, int64_t height, int64_t width, int64_t in_channels,
                  int64_t out_channels);

void ddim_conv3x3_grad_weights(const float* x, const float* grad_y, float* grad_w, int64_t batch, int64_t height,
                               int64_t width, int64_t in_channels, int64_t out_channels);

// sums (batch, channels) of x (batch, pixels, channels).
void ddim_sum_pixels(const float* x, float* sums, int64_t batch, int64_t pixels, int64_t channels);

// statistics (batch, groups, 2).
void ddim_group_norm(const float* x, const float* weight, const float* bias, float* y, float* statistics,
                     int64_t batch, int64_t pixels, int64_t channels, int64_t groups, float eps, bool silu);

void ddim_group_norm_grad(const float* x, const float* weight, const float* bias, const float* statistics,
                          const float* grad_y, float* grad_x, float* grad_weight, float* grad_bias, int64_t batch,
                          int64_t pixels, int64_t channels, int64_t groups, bool silu);

// x and y may be the same; the gradient of y is led back by the same call. `first`: where the first element lies in the
// whole of which x is a part.
void ddim_dropout(const float* x, float* y, int64_t size, int64_t first, uint64_t seed, float probability);

// A training step frees gigabytes and asks for them again, and glibc hands large blocks back to the system, which then
// clears every page anew: a sixth of the step. From now on this process keeps what it has.
void ddim_keep_freed_memory();
}
