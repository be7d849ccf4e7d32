"""Prediction types (noise, clean image or v), and the image and noise that follow from each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, get_args

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ddim_host.diffusion.schedule import NoiseSchedule
    from ddim_host.diffusion.trajectory import DDIMStep

Tensor = TypeVar("Tensor", bound=Any)

PredictionType: TypeAlias = Literal["epsilon", "sample", "v_prediction"]
"""The noise, x_start, or `v = sqrt(abar) noise - sqrt(1 - abar) x_start` (arXiv 2202.00512, appendix D)."""

PREDICTION_TYPES: tuple[PredictionType, ...] = get_args(PredictionType)


def prediction_target(
    prediction_type: PredictionType,
    schedule: NoiseSchedule,
    x_start: NDArray[np.float32],
    noise: NDArray[np.float32],
    t: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Return the network's target.

    Args:
        prediction_type: The type of target.
        schedule: The noise schedule.
        x_start: float32 `(B, ...)`.
        noise: float32, of the same shape.
        t: int64 `(B,)` in [0, T).

    Returns:
        float32, of the same shape.
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return x_start
    image_share, noise_share = schedule.shares(t, x_start.ndim)
    return image_share * noise - noise_share * x_start


def epsilon_error_ratio(prediction_type: PredictionType, schedule: NoiseSchedule) -> NDArray[np.float64]:
    """Return the ratio of the squared error of epsilon to the squared error of the prediction.

    For a given x_t, the three predictions are linear functions of each other, so their squared errors differ
    by a factor: 1 for epsilon, the signal-to-noise ratio for x_start, and alphas_cumprod for v. A loss weight
    defined for epsilon, multiplied by this ratio, gives the same objective for another prediction type.

    Args:
        prediction_type: The type of prediction.
        schedule: The noise schedule.

    Returns:
        float64 `(T,)`.
    """
    if prediction_type == "epsilon":
        return np.ones(schedule.num_train_timesteps)
    return schedule.snr if prediction_type == "sample" else schedule.alphas_cumprod


def predict_x_start(x_t: Tensor, noise: Tensor, alpha_cumprod: float) -> Tensor:
    """Compute the clean image implied by x_t and its noise (arXiv 2010.02502, equation 9).

    Args:
        x_t: `(B, ...)`.
        noise: Predicted epsilon, of the same shape.
        alpha_cumprod: alphas_cumprod at t, in (0, 1].

    Returns:
        Predicted x_start, of the same shape.
    """
    x_start: Tensor = (x_t - math.sqrt(1.0 - alpha_cumprod) * noise) / math.sqrt(alpha_cumprod)
    return x_start


def image_and_noise(
    x_t: Tensor,
    prediction: Tensor,
    step: DDIMStep,
    prediction_type: PredictionType = "epsilon",
    *,
    limit: float | None = None,
    clip: Callable[[Tensor, float, float], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Split x_t, at the start of a step, into the predicted clean image and noise.

    With a limit, the predicted x_start is clipped and epsilon is recomputed, so that the two still add up to
    x_t. This requires noise in x_t, so a step from the clean image must have no limit.

    Args:
        x_t: `(B, ...)`.
        prediction: Output of the network, of the same shape.
        step: The step.
        prediction_type: Type of the prediction.
        limit: Limit on the absolute value of x_start; None for no limit.
        clip: `clip(tensor, low, high)` of the framework; needed if `limit` is given.

    Returns:
        `(x_start, noise)`, both of the shape of `x_t`. For epsilon without a limit the noise is the network's
        own array, which its next call may overwrite; x_start never is.

    Raises:
        ValueError: A limit is given and `clip` is None.
    """
    x_start, noise = _split(x_t, prediction, step, prediction_type)
    if limit is None:
        return x_start, noise
    if clip is None:
        raise ValueError("limiting x_start requires a clip function")
    x_start = clip(x_start, -limit, limit)
    return x_start, (x_t - math.sqrt(step.alpha_cumprod) * x_start) / math.sqrt(1.0 - step.alpha_cumprod)


def _split(
    x_t: Tensor, prediction: Tensor, step: DDIMStep, prediction_type: PredictionType
) -> tuple[Tensor, Tensor]:
    if prediction_type == "epsilon":
        return predict_x_start(x_t, prediction, step.alpha_cumprod), prediction
    # The network treats x_t as if it had the noise of timestep t, even a clean image that is being encoded.
    image_share = math.sqrt(step.alpha_cumprod_t)
    noise_share = math.sqrt(1.0 - step.alpha_cumprod_t)
    x_start: Any
    noise: Any
    if prediction_type == "sample":
        x_start, noise = prediction * 1.0, (x_t - image_share * prediction) / noise_share
    else:
        x_start = image_share * x_t - noise_share * prediction
        noise = image_share * prediction + noise_share * x_t
    if step.alpha_cumprod != step.alpha_cumprod_t:
        x_start = predict_x_start(x_t, noise, step.alpha_cumprod)
    return x_start, noise
