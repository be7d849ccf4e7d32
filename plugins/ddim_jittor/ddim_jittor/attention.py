"""Scaled dot-product attention on channels-first tensors.

On the CPU Jittor's batched matrix product is a plain loop, several times slower than oneDNN, which its
convolutions and two-dimensional products use. So there forward and backward are one operation each, around
oneDNN's `sgemm`. On CUDA the batched product is cuBLAS, and Jittor's own operations do.
"""

from __future__ import annotations

import jittor as jt

__all__ = ["attention"]

_HEADER = """
#include <algorithm>
#include <cmath>
#include <vector>

extern "C" int dnnl_sgemm(char transa, char transb, int64_t M, int64_t N, int64_t K, float alpha,
                          const float* A, int64_t lda, const float* B, int64_t ldb, float beta, float* C,
                          int64_t ldc);
"""

# All matrices are row-major: queries, keys, values (channels, pixels), and the probabilities (query, key).
# Images are shared out among the threads; a single image leaves the threads to sgemm.
_FORWARD = """
    @alias(q, in0) @alias(k, in1) @alias(v, in2) @alias(attended, out0) @alias(probabilities, out1)
    const int64_t batch = q_shape0, channels = q_shape1, pixels = q_shape2;
    const float scale = 1.0f / std::sqrt((float)channels);
    #pragma omp parallel for if (batch > 1)
    for (int64_t b = 0; b < batch; b++) {
        const int64_t image = b * channels * pixels;
        float* p = probabilities_p + b * pixels * pixels;
        // p = scale q^T k
        dnnl_sgemm('T', 'N', pixels, pixels, channels, scale, q_p + image, pixels, k_p + image, pixels,
                   0.0f, p, pixels);
        for (int64_t i = 0; i < pixels; i++) {
            float* row = p + i * pixels;
            const float largest = *std::max_element(row, row + pixels);
            float sum = 0.0f;
            for (int64_t j = 0; j < pixels; j++) {
                row[j] = std::exp(row[j] - largest);
                sum += row[j];
            }
            const float factor = 1.0f / sum;
            for (int64_t j = 0; j < pixels; j++) row[j] *= factor;
        }
        // attended = v p^T
        dnnl_sgemm('N', 'T', channels, pixels, pixels, 1.0f, v_p + image, pixels, p, pixels, 0.0f,
                   attended_p + image, pixels);
    }
"""

_BACKWARD = """
    @alias(q, in0) @alias(k, in1) @alias(v, in2) @alias(probabilities, in3) @alias(grad, in4)
    @alias(grad_q, out0) @alias(grad_k, out1) @alias(grad_v, out2)
    const int64_t batch = q_shape0, channels = q_shape1, pixels = q_shape2;
    const float scale = 1.0f / std::sqrt((float)channels);
    #pragma omp parallel for if (batch > 1)
    for (int64_t b = 0; b < batch; b++) {
        const int64_t image = b * channels * pixels;
        const float* p = probabilities_p + b * pixels * pixels;
        std::vector<float> scores(pixels * pixels);
        float* s = scores.data();
        // grad_v = grad p
        dnnl_sgemm('N', 'N', channels, pixels, pixels, 1.0f, grad_p + image, pixels, p, pixels, 0.0f,
                   grad_v_p + image, pixels);
        // s = grad^T v, the gradient of the probabilities, then of the scores
        dnnl_sgemm('T', 'N', pixels, pixels, channels, 1.0f, grad_p + image, pixels, v_p + image, pixels,
                   0.0f, s, pixels);
        for (int64_t i = 0; i < pixels; i++) {
            float* row = s + i * pixels;
            const float* weight = p + i * pixels;
            float mean = 0.0f;
            for (int64_t j = 0; j < pixels; j++) mean += row[j] * weight[j];
            for (int64_t j = 0; j < pixels; j++) row[j] = weight[j] * (row[j] - mean);
        }
        // grad_q = scale k s^T, grad_k = scale q s
        dnnl_sgemm('N', 'T', channels, pixels, pixels, scale, k_p + image, pixels, s, pixels, 0.0f,
                   grad_q_p + image, pixels);
        dnnl_sgemm('N', 'N', channels, pixels, pixels, scale, q_p + image, pixels, s, pixels, 0.0f,
                   grad_k_p + image, pixels);
    }
"""


def attention(q: jt.Var, k: jt.Var, v: jt.Var) -> jt.Var:
    """softmax(q^T k / sqrt(C)) applied to v (arXiv 1706.03762, equation 1).

    Args:
        q: float32 `(B, C, N)`: queries of N pixels.
        k: float32 `(B, C, N)`.
        v: float32 `(B, C, N)`.

    Returns:
        float32 `(B, C, N)`.
    """
    if jt.flags.use_cuda:
        scores = jt.nn.bmm(q.transpose(0, 2, 1), k) * q.shape[1] ** -0.5
        return jt.nn.bmm(v, jt.nn.softmax(scores, dim=2).transpose(0, 2, 1))
    return _CPUAttention.apply(q, k, v)


class _CPUAttention(jt.Function):
    """Both directions around oneDNN's `sgemm`; the probabilities are kept for the way back."""

    def execute(self, q: jt.Var, k: jt.Var, v: jt.Var) -> jt.Var:
        batch, _, pixels = q.shape
        attended, probabilities = jt.code(
            [q.shape, (batch, pixels, pixels)],
            [q.dtype, q.dtype],
            [q, k, v],
            cpu_header=_HEADER,
            cpu_src=_FORWARD,
        )
        self._saved = q, k, v, probabilities
        return attended

    def grad(self, grad: jt.Var) -> tuple[jt.Var, ...]:
        q, k, v, probabilities = self._saved
        return tuple(
            jt.code(
                [q.shape] * 3,
                [q.dtype] * 3,
                [q, k, v, probabilities, grad],
                cpu_header=_HEADER,
                cpu_src=_BACKWARD,
            )
        )
