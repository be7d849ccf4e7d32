"""One reverse step of DDIM, written once over the operators that NumPy and every framework share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddim_host.diffusion.trajectory import DDIMStep

# An array of NumPy, PyTorch, Jittor, ...: anything with + - * and division by a Python float. `Any`, because
# no type checker knows that three unrelated array classes share these operators.
Tensor = TypeVar("Tensor", bound=Any)


def predict_x_start(x_t: Tensor, noise: Tensor, alpha_cumprod: float) -> Tensor:
    """The clean image that x_t and its noise imply (arXiv 2010.02502, equation 9).

    Args:
        x_t: `(B, ...)`.
        noise: Predicted epsilon, of the same shape.
        alpha_cumprod: abar_t in (0, 1].

    Returns:
        Predicted x_start, of the same shape.
    """
    x_start: Tensor = (x_t - math.sqrt(1.0 - alpha_cumprod) * noise) / math.sqrt(alpha_cumprod)
    return x_start


def image_and_noise(
    x_t: Tensor,
    predicted_noise: Tensor,
    alpha_cumprod: float,
    clip: Callable[[Tensor, float, float], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Split x_t into the clean image and the noise that the network sees in it.

    With `clip` the predicted x_start is limited to [-1, 1] and epsilon recomputed from it, so that the two
    still add up to x_t. That takes some noise in x_t, so a step that begins at the clean image has no `clip`.

    Args:
        x_t: `(B, ...)`.
        predicted_noise: The network's epsilon, of the same shape.
        alpha_cumprod: abar_t in (0, 1].
        clip: `clip(tensor, low, high)` of the framework; None leaves x_start as predicted.

    Returns:
        `(x_start, noise)`, both of the shape of `x_t`. Without `clip` the noise is the network's own array.
    """
    x_start = predict_x_start(x_t, predicted_noise, alpha_cumprod)
    if clip is None:
        return x_start, predicted_noise
    x_start = clip(x_start, -1.0, 1.0)
    return x_start, (x_t - math.sqrt(alpha_cumprod) * x_start) / math.sqrt(1.0 - alpha_cumprod)


def ddim_arrival(x_start: Tensor, noise: Tensor, step: DDIMStep, fresh_noise: Tensor | None = None) -> Tensor:
    """Return x where a step arrives (arXiv 2010.02502, equation 12).

    Args:
        x_start: Predicted clean image, `(B, ...)`.
        noise: Epsilon that goes with it, of the same shape.
        step: Where the step goes, and its coefficients.
        fresh_noise: Standard normal, of the same shape; needed if `step.sigma` > 0.

    Returns:
        x_(t_prev), of the same shape.

    Raises:
        ValueError: `step.sigma` > 0 and no `fresh_noise` was given.
    """
    x_prev: Tensor = x_start * math.sqrt(step.alpha_cumprod_prev) + noise * step.direction
    if step.sigma > 0.0:
        if fresh_noise is None:
            raise ValueError("this step adds noise (sigma > 0), but none was given")
        x_prev = x_prev + fresh_noise * step.sigma
    return x_prev


def ddim_step(
    x_t: Tensor,
    predicted_noise: Tensor,
    step: DDIMStep,
    *,
    fresh_noise: Tensor | None = None,
    clip: Callable[[Tensor, float, float], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """From x_t to x_(t_prev) (arXiv 2010.02502, equation 12): `image_and_noise`, then `ddim_arrival`.

    Args:
        x_t: `(B, ...)`.
        predicted_noise: The network's epsilon at `step.t`, of the same shape.
        step: Where the step goes, and its coefficients.
        fresh_noise: Standard normal, of the same shape; needed where `step.sigma` > 0.
        clip: `clip(tensor, low, high)` of the framework; None leaves x_start as predicted.

    Returns:
        `(x_prev, x_start)`, both of the shape of `x_t`; x_start after clipping.

    Raises:
        ValueError: `step.sigma` > 0 and no `fresh_noise` was given.
    """
    x_start, noise = image_and_noise(x_t, predicted_noise, step.alpha_cumprod, clip)
    return ddim_arrival(x_start, noise, step, fresh_noise), x_start
