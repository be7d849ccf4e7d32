"""One reverse step of DDIM, written once over the operators that NumPy and every framework share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

from ddim_host.diffusion.prediction import image_and_noise

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddim_host.diffusion.prediction import PredictionType
    from ddim_host.diffusion.trajectory import DDIMStep

# An array of NumPy, PyTorch, Jittor, ...: anything with + - * and division by a Python float. `Any`, because
# no type checker knows that three unrelated array classes share these operators.
Tensor = TypeVar("Tensor", bound=Any)


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
    prediction: Tensor,
    step: DDIMStep,
    prediction_type: PredictionType = "epsilon",
    *,
    fresh_noise: Tensor | None = None,
    limit: float | None = None,
    clip: Callable[[Tensor, float, float], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """From x_t to x_(t_prev) (arXiv 2010.02502, equation 12): `image_and_noise`, then `ddim_arrival`.

    Args:
        x_t: `(B, ...)`.
        prediction: What the network predicts at `step.t`, of the same shape.
        step: Where the step goes, and its coefficients.
        prediction_type: What that is.
        fresh_noise: Standard normal, of the same shape; needed if `step.sigma` > 0.
        limit: The largest absolute value of the predicted x_start; None leaves it as predicted.
        clip: `clip(tensor, low, high)` of the framework; needed if there is a limit.

    Returns:
        `(x_prev, x_start)`, both of the shape of `x_t`; x_start after clipping.

    Raises:
        ValueError: `step.sigma` > 0 and no `fresh_noise` was given, or a limit and no `clip`.
    """
    x_start, noise = image_and_noise(x_t, prediction, step, prediction_type, limit=limit, clip=clip)
    return ddim_arrival(x_start, noise, step, fresh_noise), x_start
