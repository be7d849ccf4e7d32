"""Group normalisation, with the SiLU after it, in one pass over memory in each direction.

From Jittor's own operations it becomes a dozen kernels, each of which reads and writes whole feature maps. On
the CPU forward and backward are one operation each; on CUDA Jittor's own operations do.
"""

from __future__ import annotations

import jittor as jt

from ddim_host.unet import GROUP_NORM_EPS

__all__ = ["group_norm"]

_HEADER = """
#include <cmath>
"""

# A group of an image is contiguous: its channels one after the other. `statistics` keeps its mean and the
# inverse of its standard deviation.
_FORWARD = """
    @alias(x, in0) @alias(weight, in1) @alias(bias, in2) @alias(y, out0) @alias(statistics, out1)
    const int64_t groups = statistics_shape1, channels = x_shape1 / groups, pixels = x_shape2 * x_shape3;
    const int64_t size = channels * pixels;
    #pragma omp parallel for
    for (int64_t block = 0; block < x_shape0 * groups; block++) {
        const float* from = x_p + block * size;
        float* to = y_p + block * size;
        float sum = 0.0f, squares = 0.0f;
        #pragma omp simd reduction(+:sum)
        for (int64_t i = 0; i < size; i++) sum += from[i];
        const float mean = sum / size;
        #pragma omp simd reduction(+:squares)
        for (int64_t i = 0; i < size; i++) squares += (from[i] - mean) * (from[i] - mean);
        const float scale = 1.0f / std::sqrt(squares / size + %(eps)rf);
        statistics_p[2 * block] = mean;
        statistics_p[2 * block + 1] = scale;
        for (int64_t c = 0; c < channels; c++) {
            const int64_t channel = block %% groups * channels + c;
            const float w = weight_p[channel] * scale, b = bias_p[channel] - mean * w;
            #pragma omp simd
            for (int64_t i = c * pixels; i < (c + 1) * pixels; i++) {
                const float z = from[i] * w + b;
                to[i] = %(silu)d ? z / (1.0f + std::exp(-z)) : z;
            }
        }
    }
"""

# With n = (x - mean) scale and z = weight n + bias, the gradients of z and of n go through the mean and the
# variance of the group: grad_x = scale (grad_n - mean(grad_n) - n mean(grad_n n)).
_BACKWARD = """
    @alias(x, in0) @alias(weight, in1) @alias(bias, in2) @alias(statistics, in3) @alias(grad, in4)
    @alias(grad_x, out0) @alias(grad_weight, out1) @alias(grad_bias, out2)
    const int64_t groups = statistics_shape1, channels = x_shape1 / groups, pixels = x_shape2 * x_shape3;
    const int64_t size = channels * pixels;
    #pragma omp parallel for
    for (int64_t block = 0; block < x_shape0 * groups; block++) {
        const float* from = x_p + block * size;
        const float* above = grad_p + block * size;
        float* to = grad_x_p + block * size;
        const float mean = statistics_p[2 * block], scale = statistics_p[2 * block + 1];
        float sum = 0.0f, product = 0.0f;
        for (int64_t c = 0; c < channels; c++) {
            const int64_t channel = block %% groups * channels + c;
            const float w = weight_p[channel], b = bias_p[channel];
            float of_bias = 0.0f, of_weight = 0.0f;
            #pragma omp simd reduction(+:of_bias, of_weight)
            for (int64_t i = c * pixels; i < (c + 1) * pixels; i++) {
                const float n = (from[i] - mean) * scale;
                const float z = n * w + b;
                const float s = 1.0f / (1.0f + std::exp(-z));
                const float grad_z = %(silu)d ? above[i] * s * (1.0f + z * (1.0f - s)) : above[i];
                to[i] = grad_z * w;
                of_bias += grad_z;
                of_weight += grad_z * n;
            }
            // One row for each image; they are added up outside.
            grad_bias_p[block / groups * x_shape1 + channel] = of_bias;
            grad_weight_p[block / groups * x_shape1 + channel] = of_weight;
            sum += of_bias * w;
            product += of_weight * w;
        }
        const float mean_grad = sum / size, mean_product = product / size;
        #pragma omp simd
        for (int64_t i = 0; i < size; i++)
            to[i] = scale * (to[i] - mean_grad - (from[i] - mean) * scale * mean_product);
    }
"""


def group_norm(x: jt.Var, weight: jt.Var, bias: jt.Var, *, groups: int, silu: bool) -> jt.Var:
    """Normalise each group of channels of an image, scale and shift (arXiv 1803.08494, equation 1).

    Args:
        x: float32 `(B, C, H, W)`.
        weight: float32 `(C,)`.
        bias: float32 `(C,)`.
        groups: How many groups; they divide C.
        silu: Whether z sigmoid(z) follows.

    Returns:
        float32 `(B, C, H, W)`.
    """
    if not jt.flags.use_cuda:
        return _CPUGroupNorm(groups, silu=silu)(x, weight, bias)
    batch, channels, height, width = x.shape
    grouped = x.reshape((batch, groups, -1))
    centred = grouped - grouped.mean(2, keepdims=True)
    variance = (centred * centred).mean(2, keepdims=True)
    normalised = (centred * jt.rsqrt(variance + GROUP_NORM_EPS)).reshape((batch, channels, height, width))
    z = normalised * weight.reshape((1, channels, 1, 1)) + bias.reshape((1, channels, 1, 1))
    return z * z.sigmoid() if silu else z


class _CPUGroupNorm(jt.Function):
    """Both directions; the input and the statistics are kept for the way back."""

    def __init__(self, groups: int, *, silu: bool) -> None:
        super().__init__()
        self._groups = groups
        self._constants = {"eps": GROUP_NORM_EPS, "silu": silu}

    def execute(self, x: jt.Var, weight: jt.Var, bias: jt.Var) -> jt.Var:
        y, statistics = jt.code(
            [x.shape, (x.shape[0], self._groups, 2)],
            [x.dtype, x.dtype],
            [x, weight, bias],
            cpu_header=_HEADER,
            cpu_src=_FORWARD % self._constants,
        )
        self._saved = x, weight, bias, statistics
        return y

    def grad(self, grad: jt.Var) -> tuple[jt.Var, ...]:
        x, weight, bias, statistics = self._saved
        per_image = x.shape[:2]
        grad_x, grad_weight, grad_bias = jt.code(
            [x.shape, per_image, per_image],
            [x.dtype] * 3,
            [x, weight, bias, statistics, grad],
            cpu_header=_HEADER,
            cpu_src=_BACKWARD % self._constants,
        )
        return grad_x, grad_weight.sum(0), grad_bias.sum(0)
