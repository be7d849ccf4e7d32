"""The host's own kernels as Jittor operations, with their gradients. Images are `(B, H, W, C)` here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jittor as jt

from ddim_host.framework import DECLARATIONS, Kernels, transform_channels

if TYPE_CHECKING:
    from collections.abc import Sequence

_SIZES = "in0_shape0, in0_shape1, in0_shape2"


def _call(shapes: Sequence[Sequence[int]], inputs: Sequence[jt.Var], source: str) -> list[jt.Var]:
    """Call a kernel: the library was loaded with its symbols visible, so what Jittor compiles finds them."""
    results: list[jt.Var] = jt.code(
        [tuple(shape) for shape in shapes],
        ["float32"] * len(shapes),
        list(inputs),
        cpu_header=DECLARATIONS,
        cpu_src=source,
    )
    return results


def transform(kernels: Kernels, weight: jt.Var, *, turned: bool) -> jt.Var:
    """The weights of a convolution, `(out, in, 3, 3)`, as `conv3x3` takes them.

    Args:
        kernels: The host's kernels.
        weight: float32 `(out, in, 3, 3)`.
        turned: For the gradient with respect to the input.
    """
    in_channels, out_channels = transform_channels(weight.shape, turned=turned)
    size = kernels.conv3x3_weights_size(in_channels, out_channels)
    channels = f"{in_channels}, {out_channels}, {'true' if turned else 'false'}"
    return _call([(size,)], [weight], f"ddim_conv3x3_transform(in0_p, out0_p, {channels});")[0]


def _convolve(x: jt.Var, transformed: jt.Var, channels: int, added: Sequence[jt.Var | None]) -> jt.Var:
    given = [variable for variable in added if variable is not None]
    numbers = iter(range(2, 2 + len(given)))
    pointers = ", ".join("nullptr" if part is None else f"in{next(numbers)}_p" for part in added)
    source = f"ddim_conv3x3(in0_p, in1_p, {pointers}, out0_p, {_SIZES}, in0_shape3, {channels});"
    return _call([(*x.shape[:3], channels)], [x, transformed, *given], source)[0]


class _Conv3x3(jt.Function):
    """Convolution, bias, shift and residual in one."""

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
        has_shift, has_residual = self._added
        batch, height, width, channels = grad_y.shape
        turned = transform(self._kernels, weight, turned=True)
        grad_x = _convolve(grad_y, turned, x.shape[3], (None, None, None))
        source = f"ddim_conv3x3_grad_weights(in0_p, in1_p, out0_p, {_SIZES}, in0_shape3, in1_shape3);"
        (grad_weight,) = _call([weight.shape], [x, grad_y], source)
        pixels = f"{batch}, {height * width}, {channels}"
        (of_images,) = _call([(batch, channels)], [grad_y], f"ddim_sum_pixels(in0_p, out0_p, {pixels});")
        shift, residual = of_images if has_shift else None, grad_y if has_residual else None
        return grad_x, grad_weight, of_images.sum(0), shift, residual


def conv3x3(
    kernels: Kernels,
    x: jt.Var,
    weights: tuple[jt.Var, jt.Var, jt.Var],
    *,
    shift: jt.Var | None,
    residual: jt.Var | None,
) -> jt.Var:
    """Convolve with stride 1 and one pixel of zeros around; add bias, shift and residual.

    Args:
        kernels: The host's kernels.
        x: float32 `(B, H, W, in)`.
        weights: Weight `(out, in, 3, 3)`, bias `(out,)`, and the weight transformed.
        shift: `(B, out)`, or None.
        residual: `(B, H, W, out)`, or None.

    Returns:
        float32 `(B, H, W, out)`.
    """
    weight, bias, transformed = weights
    return _Conv3x3(kernels, transformed)(x, weight, bias, shift, residual)


class _GroupNorm(jt.Function):
    """Group norm, and x sigmoid(x) after it; the input and the statistics are kept for the way back."""

    def __init__(self, groups: int, eps: float, *, silu: bool) -> None:
        super().__init__()
        self._groups = groups
        self._eps = f"{eps!r}f"
        self._silu = "true" if silu else "false"

    def execute(self, x: jt.Var, weight: jt.Var, bias: jt.Var) -> jt.Var:
        source = (
            f"ddim_group_norm(in0_p, in1_p, in2_p, out0_p, out1_p, {self._sizes(x)}, "
            f"{self._eps}, {self._silu});"
        )
        y, statistics = _call([x.shape, (x.shape[0], self._groups, 2)], [x, weight, bias], source)
        self._saved = x, weight, bias, statistics
        return y

    def grad(self, grad_y: jt.Var) -> list[jt.Var]:
        x, weight, bias, _ = self._saved
        pointers = ", ".join([*(f"in{i}_p" for i in range(5)), *(f"out{i}_p" for i in range(3))])
        source = f"ddim_group_norm_grad({pointers}, {self._sizes(x)}, {self._silu});"
        return _call([x.shape, weight.shape, bias.shape], [*self._saved, grad_y], source)

    def _sizes(self, x: jt.Var) -> str:
        batch, height, width, channels = x.shape
        return f"{batch}, {height * width}, {channels}, {self._groups}"


def group_norm(x: jt.Var, weight: jt.Var, bias: jt.Var, *, groups: int, eps: float, silu: bool) -> jt.Var:
    """Normalise each group of channels of an image, scale and shift (arXiv 1803.08494, equation 1).

    Args:
        x: float32 `(B, H, W, C)`.
        weight: float32 `(C,)`.
        bias: float32 `(C,)`.
        groups: How many groups; they divide C.
        eps: Is added to the variance.
        silu: Whether z sigmoid(z) follows.

    Returns:
        float32 `(B, H, W, C)`.
    """
    return _GroupNorm(groups, eps, silu=silu)(x, weight, bias)


class _Dropout(jt.Function):
    """Dropout whose mask is drawn again on the way back."""

    def __init__(self, seed: jt.Var, probability: float) -> None:
        super().__init__()
        self._seed = seed
        self._probability = probability

    def execute(self, x: jt.Var) -> jt.Var:
        # The seed is data: in the source, it would make a kernel to be compiled for every step.
        source = (
            "const uint64_t seed = (uint64_t)(uint32_t)in1_p[0] | (uint64_t)(uint32_t)in1_p[1] << 32;"
            "const int64_t first = in1_p[2] * (in0->num / in0_shape0);"
            f"ddim_dropout(in0_p, out0_p, in0->num, first, seed, {self._probability!r}f);"
        )
        return _call([x.shape], [x, self._seed], source)[0]

    def grad(self, grad_y: jt.Var) -> jt.Var:
        return self.execute(grad_y)


def dropout(x: jt.Var, seed: jt.Var, probability: float) -> jt.Var:
    """Set elements to zero, and divide the others by 1 - probability.

    Args:
        x: float32, of any shape.
        seed: int32 `(4,)`: the lower and the upper half of the seed, and those of the number of the first
            image here in the whole batch.
        probability: That an element is dropped; in (0, 1).
    """
    return _Dropout(seed, probability)(x)
