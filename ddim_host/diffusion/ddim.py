"""One reverse step of DDIM, using only operators that NumPy and every framework share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

from ddim_host.diffusion.prediction import image_and_noise

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddim_host.diffusion.prediction import PredictionType
    from ddim_host.diffusion.trajectory import DDIMStep

# An array of NumPy, PyTorch, Jittor, ...: anything with + - * and division by a Python float. `Any`, because
# the array classes have no common type with these operators.
Tensor = TypeVar("Tensor", bound=Any)


def ddim_arrival(x_start: Tensor, noise: Tensor, step: DDIMStep, fresh_noise: Tensor | None = None) -> Tensor:
    """Compute x at the end of a step (arXiv 2010.02502, equation 12).

    Args:
        x_start: Predicted clean image, `(B, ...)`.
        noise: The corresponding epsilon, of the same shape.
        step: The step.
        fresh_noise: Standard normal noise of the same shape; needed if `step.sigma` > 0.

    Returns:
        x_(t_prev), of the same shape.

    Raises:
        ValueError: `step.sigma` > 0 and `fresh_noise` is None.
    """
    x_prev: Tensor = x_start * math.sqrt(step.alpha_cumprod_prev) + noise * step.direction
    if step.sigma > 0.0:
        if fresh_noise is None:
            raise ValueError("this step adds noise (sigma > 0), so it needs fresh_noise")
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
    """Step from x_t to x_(t_prev) (arXiv 2010.02502, equation 12): `image_and_noise`, then `ddim_arrival`.

    Args:
        x_t: `(B, ...)`.
        prediction: Output of the network at `step.t`, of the same shape.
        step: The step.
        prediction_type: Type of the prediction.
        fresh_noise: Standard normal noise of the same shape; needed if `step.sigma` > 0.
        limit: Limit on the absolute value of the predicted x_start; None for no limit.
        clip: `clip(tensor, low, high)` of the framework; needed if `limit` is given.

    Returns:
        `(x_prev, x_start)`, both of the shape of `x_t`; x_start is clipped if there is a limit.

    Raises:
        ValueError: `step.sigma` > 0 and `fresh_noise` is None, or a limit is given and `clip` is None.
    """
    x_start, noise = image_and_noise(x_t, prediction, step, prediction_type, limit=limit, clip=clip)
    return ddim_arrival(x_start, noise, step, fresh_noise), x_start
