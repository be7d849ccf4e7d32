"""Solvers: how a sampler follows its steps from noise to image, for arrays of any framework.

A solver is a generator. It asks `predict` for the image and the noise in x where a step begins, moves x to
where the step arrives, and yields; what it remembers of earlier steps lives in its local variables.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

from ddim_host.diffusion.ddim import ddim_arrival
from ddim_host.diffusion.prediction import predict_x_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ddim_host.diffusion.trajectory import DDIMStep

    Predict: TypeAlias = Callable[[Any, DDIMStep], tuple[Any, Any]]
    FreshNoise: TypeAlias = Callable[[DDIMStep], Any]


def ddim(
    x_t: Any, steps: Sequence[DDIMStep], predict: Predict, fresh_noise: FreshNoise
) -> Iterator[tuple[Any, Any]]:
    """DDIM (arXiv 2010.02502, equation 12): first order, and as random as eta says.

    Args:
        x_t: `(B, ...)` where the first step begins.
        steps: The steps, in the order of sampling.
        predict: `(x_t, step) -> (x_start, noise)`, a network call.
        fresh_noise: `(step) -> ` standard normal of the shape of `x_t`.

    Yields:
        After each step x where it arrives, and the predicted x_start.
    """
    for step in steps:
        x_start, noise = predict(x_t, step)
        x_t = ddim_arrival(x_start, noise, step, fresh_noise(step) if step.sigma > 0.0 else None)
        yield x_t, x_start


def dpmpp_2m(
    x_t: Any, steps: Sequence[DDIMStep], predict: Predict, _fresh_noise: FreshNoise
) -> Iterator[tuple[Any, Any]]:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2): second order, one network call a step; eta 0 only.

    x_start is extrapolated from the last two predictions, along half the log SNR. The first step is of first
    order because there is no prediction before it, and so is the one to the clean image, where the log SNR is
    infinite.

    Args:
        x_t: `(B, ...)` where the first step begins.
        steps: The steps, in the order of sampling.
        predict: `(x_t, step) -> (x_start, noise)`, a network call.

    Yields:
        After each step x where it arrives, and the predicted x_start.
    """
    before: tuple[Any, float] | None = None
    for step in steps:
        x_start, _ = predict(x_t, step)
        h = step.half_log_snr_prev - step.half_log_snr
        target = x_start
        if before is not None and math.isfinite(h):
            x_start_before, half_log_snr_before = before
            share = 0.5 * h / (step.half_log_snr - half_log_snr_before)
            target = x_start * (1.0 + share) - x_start_before * share
        noise_left = math.sqrt((1.0 - step.alpha_cumprod_prev) / (1.0 - step.alpha_cumprod))
        x_t = x_t * noise_left - target * (math.sqrt(step.alpha_cumprod_prev) * math.expm1(-h))
        before = x_start, step.half_log_snr
        yield x_t, x_start


def ipndm(
    x_t: Any, steps: Sequence[DDIMStep], predict: Predict, _fresh_noise: FreshNoise
) -> Iterator[tuple[Any, Any]]:
    """Improved PNDM with two predictions (arXiv 2204.13902, appendix A): second order; eta 0 only.

    DDIM steps with the noise of the two-step rule of Adams and Bashforth, `1.5 noise - 0.5 noise before`, as
    if steps were even, whatever the timesteps; the first step is that of DDIM.

    Args:
        x_t: `(B, ...)` where the first step begins.
        steps: The steps, in the order of sampling.
        predict: `(x_t, step) -> (x_start, noise)`, a network call.

    Yields:
        After each step x where it arrives, and the predicted x_start.
    """
    half_before: Any = None
    for step in steps:
        x_start, noise = predict(x_t, step)
        target = noise if half_before is None else noise * 1.5 - half_before
        image = x_start if half_before is None else predict_x_start(x_t, target, step.alpha_cumprod)
        half_before = noise * 0.5  # an array of its own: the noise is valid until the next call only
        x_t = image * math.sqrt(step.alpha_cumprod_prev) + target * step.direction
        yield x_t, x_start
