"""Losses that return one number per image, written once for NumPy, PyTorch and Jittor.

They use only operators shared by all three: arithmetic, `**`, `abs`, `reshape(tuple)`, positional `sum` and
`mean`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ddim_host import UserError, hookimpl

if TYPE_CHECKING:
    from ddim_host import Loss

__all__ = ["balanced", "huber", "l1", "l2", "mse"]

# An array of any framework; type checkers cannot express that unrelated array classes share operators.
Tensor = TypeVar("Tensor", bound=Any)

# Beyond these limits, fp32 cannot represent the sum of delta^2 and a squared error.
_MIN_DELTA, _MAX_DELTA = 1e-6, 1e6

# The derivative of a square root at 0 is infinite, and its product with the inner derivative 0 is NaN. This
# offset is far below the square of any loss reached in fp32 training, and far above the smallest fp32 number.
_UNDER_ROOT = 1e-30


@hookimpl
def ddim_losses() -> dict[str, Loss]:
    """`mse`, `l2`, `l1`, `huber` and `balanced`."""
    return {"mse": mse, "l2": l2, "l1": l1, "huber": huber, "balanced": balanced}


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over channels and pixels: L_simple of DDPM (arXiv 2006.11239, equation 14).

    Args:
        prediction: `(B, C, H, W)`.
        target: `(B, C, H, W)`.

    Returns:
        `(B,)`.
    """
    losses: Tensor = ((prediction - target) ** 2).reshape((prediction.shape[0], -1)).mean(1)
    return losses


def l2(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared Euclidean distance, the *sum* over channels and pixels, as in the DDIM paper's code.

    It is `mse` times C x H x W (3072 for CIFAR-10). A constant factor does not affect Adam, but it affects
    gradient clipping: with `l2` nearly every step is clipped, so the two train differently.

    Args:
        prediction: `(B, C, H, W)`.
        target: `(B, C, H, W)`.

    Returns:
        `(B,)`.
    """
    losses: Tensor = ((prediction - target) ** 2).reshape((prediction.shape[0], -1)).sum(1)
    return losses


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error over channels and pixels, as in WaveGrad (arXiv 2009.00713).

    Large errors count less than with `mse`. The network then predicts the median of the possible noise,
    whereas the sampler's mathematics requires the mean.

    Args:
        prediction: `(B, C, H, W)`.
        target: `(B, C, H, W)`.

    Returns:
        `(B,)`.
    """
    losses: Tensor = abs(prediction - target).reshape((prediction.shape[0], -1)).mean(1)
    return losses


def huber(prediction: Tensor, target: Tensor, *, delta: float = 0.1) -> Tensor:
    """Mean pseudo-Huber loss over channels and pixels: `2 delta (sqrt(d^2 + delta^2) - delta)`.

    It is the squared error for errors d far below `delta`, and `2 delta |d|` far above it, so that outliers
    in the images have less influence (arXiv 2403.16728; the factor 2 delta follows diffusers).

    Args:
        prediction: `(B, C, H, W)`.
        target: `(B, C, H, W)`.
        delta: The error above which the loss grows linearly, in [1e-6, 1e6].

    Returns:
        `(B,)`.

    Raises:
        UserError: `delta` is out of range.
    """
    if not _MIN_DELTA <= delta <= _MAX_DELTA:
        raise UserError(
            f"parameter 'delta' of loss 'huber' must be a number in [{_MIN_DELTA:g}, "
            f"{_MAX_DELTA:g}], not {delta}"
        )
    squares = (prediction - target) ** 2
    # The formula above, rearranged to avoid the difference of two nearly equal numbers.
    errors = squares * (2.0 * delta) / ((squares + delta**2) ** 0.5 + delta)
    losses: Tensor = errors.reshape((prediction.shape[0], -1)).mean(1)
    return losses


def balanced(prediction: Tensor, target: Tensor, *, alpha: float = 0.5) -> Tensor:
    """Balance the error of the whole image against that of its worst channels.

    With `e_c` the mean squared error of channel c of an image, the loss is
    `(1 - alpha) mean_c(e_c) + alpha sqrt(mean_c(e_c^2))`. At alpha 0 it is `mse`, with equal weights for all
    channels. At alpha 1 it is the root mean square over the channels, whose gradient weights each channel in
    proportion to its error, so that badly predicted channels count more. If all channels have equal errors,
    and always for grey images, it equals `mse` for any alpha.

    Args:
        prediction: `(B, C, H, W)`.
        target: `(B, C, H, W)`.
        alpha: The weight of the second term, in [0, 1].

    Returns:
        `(B,)`.

    Raises:
        UserError: `alpha` is outside [0, 1].
    """
    if not 0.0 <= alpha <= 1.0:
        raise UserError(f"parameter 'alpha' of loss 'balanced' must be a number in [0, 1], not {alpha}")
    size, channels = prediction.shape[0], prediction.shape[1]
    errors = ((prediction - target) ** 2).reshape((size, channels, -1)).mean(2)
    root_mean_square = ((errors**2).mean(1) + _UNDER_ROOT) ** 0.5
    losses: Tensor = errors.mean(1) * (1.0 - alpha) + root_mean_square * alpha
    return losses
