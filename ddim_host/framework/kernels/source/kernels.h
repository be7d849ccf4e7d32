// Interface of the library. All tensors are contiguous: images (batch, height, width, channels), convolution
// weights (out, in, 3, 3). Images, passed as `void*`, and their gradients are bf16 if `bf16` is true,
// otherwise float32. All other arrays and all arithmetic are float32, except that matrix units (tiles.h)
// multiply bf16 by bf16; transformed weights are opaque. The functions use all processors available to OpenMP.
#pragma once

#include <cstdint>

extern "C" {

// Returns whether convolutions of bf16 images use matrix units.
bool ddim_has_matrix_units();

// Returns the number of floats in the transformed weights of a convolution of images of this type.
int64_t ddim_conv3x3_weights_size(int64_t in_channels, int64_t out_channels, bool bf16);

// If `turned`, w is (in, out, 3, 3), and the transformed weights compute the gradient with respect to the input.
void ddim_conv3x3_transform(const float* w, float* u, int64_t in_channels, int64_t out_channels, bool turned,
                            bool bf16);

// bias (out), shift (batch, out) and residual (batch, height, width, out) may be null.
void ddim_conv3x3(const void* x, const float* u, const float* bias, const float* shift, const void* residual, void* y,
                  int64_t batch, int64_t height, int64_t width, int64_t in_channels, int64_t out_channels, bool bf16);

void ddim_conv3x3_grad_weights(const void* x, const void* grad_y, float* grad_w, int64_t batch, int64_t height,
                               int64_t width, int64_t in_channels, int64_t out_channels, bool bf16);

// y (batch, pixels, channels) += bias (channels) + shift (batch, channels) + residual; these may be null.
void ddim_add(void* y, const float* bias, const float* shift, const void* residual, int64_t batch, int64_t pixels,
              int64_t channels, bool bf16);

// Sums x (batch, pixels, channels) over its pixels, into sums (batch, channels).
void ddim_sum_pixels(const void* x, float* sums, int64_t batch, int64_t pixels, int64_t channels, bool bf16);

// statistics (batch, groups, 2).
void ddim_group_norm(const void* x, const float* weight, const float* bias, void* y, float* statistics, int64_t batch,
                     int64_t pixels, int64_t channels, int64_t groups, float eps, bool silu, bool bf16);

void ddim_group_norm_grad(const void* x, const float* weight, const float* bias, const float* statistics,
                          const void* grad_y, void* grad_x, float* grad_weight, float* grad_bias, int64_t batch,
                          int64_t pixels, int64_t channels, int64_t groups, bool silu, bool bf16);

// x and y may be the same; the same call computes the gradient. `first` is the position of the first element of x in
// the complete array, of which x may be a part.
void ddim_dropout(const void* x, void* y, int64_t size, int64_t first, uint64_t seed, float probability, bool bf16);

// Replaces each row of scores (rows, columns) with its softmax, in the calling thread.
void ddim_softmax(float* scores, int64_t rows, int64_t columns);

// Makes this process reuse freed memory. A training step frees and allocates gigabytes; glibc would return large
// blocks to the system, which would have to clear every page again. That would take a sixth of the step's time.
void ddim_keep_freed_memory();
}
