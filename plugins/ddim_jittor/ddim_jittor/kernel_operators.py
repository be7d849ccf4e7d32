"""The host's kernels as Jittor operations with gradients.

Images are `(B, H, W, C)`, in fp32 or bf16; everything else is fp32. A gradient has the dtype of its variable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jittor as jt

from ddim_host.framework import DECLARATIONS, Kernels, transform_channels

if TYPE_CHECKING:
    from collections.abc import Sequence

# Sizes are runtime values: if they were constants, a kernel would be compiled for each size.
_SIZES = "in0_shape0, in0_shape1, in0_shape2"
_PIXELS = "in0_shape0, in0_shape1 * in0_shape2, in0_shape3"


def call(
    inputs: Sequence[jt.Var],
    source: str,
    *,
    images: Sequence[Sequence[int]] = (),
    floats: Sequence[Sequence[int]] = (),
    header: str = DECLARATIONS,
) -> list[jt.Var]:
    """Call a kernel; the library's symbols are global, so code compiled by Jittor can link to them.

    Args:
        inputs: Inputs; the first one has the dtype of the images.
        source: C++ that computes the results from the inputs.
        images: Shapes of the results that are images; these come first.
        floats: Shapes of the results that are always fp32.
        header: C++ declarations for the source.
    """
    results: list[jt.Var] = jt.code(
        [tuple(shape) for shape in (*images, *floats)],
        [inputs[0].dtype] * len(images) + ["float32"] * len(floats),
        list(inputs),
        cpu_header=header,
        cpu_src=source,
    )
    return results


def _bf16(*images: jt.Var) -> str:
    """Return the kernels' last argument, `true` if the images are bf16; they must all have one dtype."""
    (dtype,) = {str(image.dtype) for image in images}
    return "true" if dtype == "bfloat16" else "false"


def transform(kernels: Kernels, weight: jt.Var, *, turned: bool, like: jt.Var) -> jt.Var:
    """Transform the weights of a convolution to the form used by `conv3x3`.

    Args:
        kernels: The host's kernels.
        weight: float32 `(out, in, 3, 3)`.
        turned: Whether to transform for the gradient with respect to the input.
        like: An image with the dtype of those to convolve.
    """
    in_channels, out_channels = transform_channels(weight.shape, turned=turned)
    bf16 = _bf16(like)
    size = kernels.conv3x3_weights_size(in_channels, out_channels, bf16 == "true")
    channels = f"{in_channels}, {out_channels}, {'true' if turned else 'false'}"
    source = f"ddim_conv3x3_transform(in0_p, out0_p, {channels}, {bf16});"
    return call([weight], source, floats=[(size,)])[0]


def _convolve(x: jt.Var, transformed: jt.Var, channels: int, added: Sequence[jt.Var | None]) -> jt.Var:
    given = [variable for variable in added if variable is not None]
    numbers = iter(range(2, 2 + len(given)))
    pointers = ", ".join("nullptr" if part is None else f"in{next(numbers)}_p" for part in added)
    bf16 = _bf16(x)
    source = f"ddim_conv3x3(in0_p, in1_p, {pointers}, out0_p, {_SIZES}, in0_shape3, {channels}, {bf16});"
    return call([x, transformed, *given], source, images=[(*x.shape[:3], channels)])[0]


class _Conv3x3(jt.Function):
    """Convolution, bias, shift and residual in one operation."""

    def __init__(self, kernels: Kernels, transformed: jt.Var) -> None:
        super().__init__()
        self._kernels = kernels
        self._transformed = transformed

    def execute(
        self, x: jt.Var, weight: jt.Var, bias: jt.Var, shift: jt.Var | None, residual: jt.Var | None
    ) -> jt.Var:
        self._saved = x, weight
        self._added = shift is not None, residual is not None
        return _convolve(x, self._transformed, weight.shape[0], (bias, shift, residual))

    def grad(self, grad_y: jt.Var) -> tuple[jt.Var | None, ...]:
        x, weight = self._saved
        bf16 = _bf16(x, grad_y)
        turned = transform(self._kernels, weight, turned=True, like=grad_y)
        grad_x = _convolve(grad_y, turned, x.shape[3], (None, None, None))
        source = f"ddim_conv3x3_grad_weights(in0_p, in1_p, out0_p, {_SIZES}, in0_shape3, in1_shape3, {bf16});"
        (grad_weight,) = call([x, grad_y], source, floats=[weight.shape])
        return grad_x, grad_weight, *gradients_of_added(grad_y, *self._added)


def sum_pixels(x: jt.Var) -> jt.Var:
    """Sum an image `(B, H, W, C)` to fp32 `(B, C)`."""
    source = f"ddim_sum_pixels(in0_p, out0_p, {_PIXELS}, {_bf16(x)});"
    return call([x], source, floats=[(x.shape[0], x.shape[3])])[0]


def gradients_of_added(
    grad_y: jt.Var, has_shift: bool, has_residual: bool
) -> tuple[jt.Var, jt.Var | None, jt.Var | None]:
    """Return the gradients of bias, shift and residual from that of their convolution."""
    of_images = sum_pixels(grad_y)
    return of_images.sum(0), of_images if has_shift else None, grad_y if has_residual else None


def conv3x3(
    kernels: Kernels,
    x: jt.Var,
    weights: tuple[jt.Var, jt.Var, jt.Var],
    *,
    shift: jt.Var | None,
    residual: jt.Var | None,
) -> jt.Var:
    """Convolve with stride 1 and one pixel of zero padding; add bias, shift and residual.

    Args:
        kernels: The host's kernels.
        x: fp32 or bf16 `(B, H, W, in)`.
        weights: Weight `(out, in, 3, 3)`, bias `(out,)`, and the transformed weight.
        shift: `(B, out)`, or None.
        residual: `(B, H, W, out)` with the dtype of x, or None.

    Returns:
        `(B, H, W, out)`, with the dtype of x.
    """
    weight, bias, transformed = weights
    return _Conv3x3(kernels, transformed)(x, weight, bias, shift, residual)


class _GroupNorm(jt.Function):
    """Group norm, then optionally x sigmoid(x); input and statistics are saved for the backward pass."""

    def __init__(self, groups: int, eps: float, *, silu: bool) -> None:
        super().__init__()
        self._groups = groups
        self._eps = f"{eps!r}f"
        self._silu = "true" if silu else "false"

    def execute(self, x: jt.Var, weight: jt.Var, bias: jt.Var) -> jt.Var:
        source = (
            f"ddim_group_norm(in0_p, in1_p, in2_p, out0_p, out1_p, {_PIXELS}, {self._groups}, "
            f"{self._eps}, {self._silu}, {_bf16(x)});"
        )
        statistics_shape = x.shape[0], self._groups, 2
        y, statistics = call([x, weight, bias], source, images=[x.shape], floats=[statistics_shape])
        self._saved = x, weight, bias, statistics
        return y

    def grad(self, grad_y: jt.Var) -> list[jt.Var]:
        x, weight, bias, _ = self._saved
        pointers = ", ".join([*(f"in{i}_p" for i in range(5)), *(f"out{i}_p" for i in range(3))])
        bf16 = _bf16(x, grad_y)
        source = f"ddim_group_norm_grad({pointers}, {_PIXELS}, {self._groups}, {self._silu}, {bf16});"
        return call([*self._saved, grad_y], source, images=[x.shape], floats=[weight.shape, bias.shape])


def group_norm(x: jt.Var, weight: jt.Var, bias: jt.Var, *, groups: int, eps: float, silu: bool) -> jt.Var:
    """Normalise each group of channels of an image, scale and shift (arXiv 1803.08494, equation 1).

    Args:
        x: fp32 or bf16 `(B, H, W, C)`.
        weight: float32 `(C,)`.
        bias: float32 `(C,)`.
        groups: Number of groups; must divide C.
        eps: Added to the variance.
        silu: Whether to apply z sigmoid(z) afterwards.

    Returns:
        `(B, H, W, C)`, with the dtype of x.
    """
    return _GroupNorm(groups, eps, silu=silu)(x, weight, bias)


class _Dropout(jt.Function):
    """Dropout that regenerates its mask in the backward pass."""

    def __init__(self, seed: jt.Var, probability: float) -> None:
        super().__init__()
        self._seed = seed
        self._probability = probability

    def execute(self, x: jt.Var) -> jt.Var:
        # The seed is passed as data: in the source it would require compiling a kernel for every step.
        source = (
            "const uint64_t seed = (uint64_t)(uint32_t)in1_p[0] | (uint64_t)(uint32_t)in1_p[1] << 32;"
            "const int64_t first = in1_p[2] * (in0->num / in0_shape0);"
            f"ddim_dropout(in0_p, out0_p, in0->num, first, seed, {self._probability!r}f, {_bf16(x)});"
        )
        return call([x, self._seed], source, images=[x.shape])[0]

    def grad(self, grad_y: jt.Var) -> jt.Var:
        return self.execute(grad_y)


def dropout(x: jt.Var, seed: jt.Var, probability: float) -> jt.Var:
    """Set random elements to zero, and divide the others by 1 - probability.

    Args:
        x: fp32 or bf16, of any shape.
        seed: int32 `(4,)`: the lower and upper halves of the seed, then those of the first image's index in
            the whole batch.
        probability: Probability that an element is dropped, in (0, 1).
    """
    return _Dropout(seed, probability)(x)
