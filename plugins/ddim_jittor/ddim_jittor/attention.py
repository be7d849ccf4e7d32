"""Scaled dot-product attention on the CPU, with the channels last.

On the CPU Jittor's batched matrix product is a plain loop, several times slower than oneDNN, which its
convolutions and two-dimensional products use. The forward and backward passes here are therefore one
operation each, built on oneDNN's `sgemm` and the host's softmax.
"""

from __future__ import annotations

import jittor as jt

from ddim_host.framework import DECLARATIONS

_HEADER = f"""
{DECLARATIONS}
#include <cmath>
#include <vector>

extern "C" int dnnl_sgemm(char transa, char transb, int64_t M, int64_t N, int64_t K, float alpha,
                          const float* A, int64_t lda, const float* B, int64_t ldb, float beta, float* C,
                          int64_t ldc);
"""

# All matrices are row-major: queries, keys and values of a head (pixels, width) are columns of (pixels,
# channels); the probabilities are (query, key). The threads divide the heads among themselves; with a single
# head, sgemm itself uses all threads.
_SIZES = """
    const int64_t batch = q_shape0, pixels = q_shape1, channels = q_shape2, heads = probabilities_shape1;
    const int64_t width = channels / heads;
    const float scale = 1.0f / std::sqrt((float)width);
"""

_FORWARD = f"""
    @alias(q, in0) @alias(k, in1) @alias(v, in2) @alias(attended, out0) @alias(probabilities, out1)
    {_SIZES}
    #pragma omp parallel for if (batch * heads > 1)
    for (int64_t head = 0; head < batch * heads; head++) {{
        const int64_t at = head / heads * pixels * channels + head % heads * width;
        float* p = probabilities_p + head * pixels * pixels;
        // p = scale q k^T
        dnnl_sgemm('N', 'T', pixels, pixels, width, scale, q_p + at, channels, k_p + at, channels, 0.0f, p,
                   pixels);
        ddim_softmax(p, pixels, pixels);
        // attended = p v
        dnnl_sgemm('N', 'N', pixels, width, pixels, 1.0f, p, pixels, v_p + at, channels, 0.0f,
                   attended_p + at, channels);
    }}
"""

_BACKWARD = f"""
    @alias(q, in0) @alias(k, in1) @alias(v, in2) @alias(probabilities, in3) @alias(grad, in4)
    @alias(grad_q, out0) @alias(grad_k, out1) @alias(grad_v, out2)
    {_SIZES}
    #pragma omp parallel for if (batch * heads > 1)
    for (int64_t head = 0; head < batch * heads; head++) {{
        const int64_t at = head / heads * pixels * channels + head % heads * width;
        const float* p = probabilities_p + head * pixels * pixels;
        std::vector<float> scores(pixels * pixels);
        float* s = scores.data();
        // grad_v = p^T grad
        dnnl_sgemm('T', 'N', pixels, width, pixels, 1.0f, p, pixels, grad_p + at, channels, 0.0f,
                   grad_v_p + at, channels);
        // s = grad v^T, the gradient of the probabilities, then of the scores
        dnnl_sgemm('N', 'T', pixels, pixels, width, 1.0f, grad_p + at, channels, v_p + at, channels, 0.0f, s,
                   pixels);
        for (int64_t i = 0; i < pixels; i++) {{
            float* row = s + i * pixels;
            const float* weight = p + i * pixels;
            float mean = 0.0f;
            for (int64_t j = 0; j < pixels; j++) mean += row[j] * weight[j];
            for (int64_t j = 0; j < pixels; j++) row[j] = weight[j] * (row[j] - mean);
        }}
        // grad_q = scale s k, grad_k = scale s^T q
        dnnl_sgemm('N', 'N', pixels, width, pixels, scale, s, pixels, k_p + at, channels, 0.0f,
                   grad_q_p + at, channels);
        dnnl_sgemm('T', 'N', pixels, width, pixels, scale, s, pixels, q_p + at, channels, 0.0f,
                   grad_k_p + at, channels);
    }}
"""


def attention(q: jt.Var, k: jt.Var, v: jt.Var, *, heads: int) -> jt.Var:
    """Compute softmax(q k^T / sqrt(width)) v for every head (arXiv 1706.03762, equation 1).

    Args:
        q: float32 `(B, N, C)`: queries of N pixels, with the heads side by side, each C / heads wide.
        k: float32 `(B, N, C)`.
        v: float32 `(B, N, C)`.
        heads: Number of heads; must divide C.

    Returns:
        float32 `(B, N, C)`.
    """
    return _Attention(heads)(q, k, v)


class _Attention(jt.Function):
    """Forward and backward pass with oneDNN's `sgemm`; the probabilities are saved for the backward pass."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self._heads = heads

    def execute(self, q: jt.Var, k: jt.Var, v: jt.Var) -> jt.Var:
        batch, pixels, _ = q.shape
        attended, probabilities = jt.code(
            [q.shape, (batch, self._heads, pixels, pixels)],
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
