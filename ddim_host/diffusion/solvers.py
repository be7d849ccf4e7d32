"""Solvers: how a sampler follows its steps from noise to image, for arrays of any framework.

A solver is a generator. It asks `predict` for the image and the noise in x where a step begins, moves x to
where the step arrives, and yields; what it remembers of earlier steps lives in its local variables.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, TypeAlias

from ddim_host.diffusion.ddim import ddim_arrival
from ddim_host.diffusion.prediction import predict_x_start
from ddim_host.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ddim_host.diffusion.trajectory import DDIMStep

    Predict: TypeAlias = Callable[[Any, DDIMStep], tuple[Any, Any]]
    FreshNoise: TypeAlias = Callable[[DDIMStep], Any]

_Prediction: TypeAlias = "tuple[Any, float]"
"""A predicted x_start, and half the log SNR where it was predicted."""


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
    known: list[_Prediction] = []
    for step in steps:
        x_start, _ = predict(x_t, step)
        known = [*known[-1:], (x_start, step.half_log_snr)]
        x_t = _toward(x_t, _extrapolated(known, step, 1.0), step)
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
        if half_before is None:
            x_t = _arrival(x_start, noise, step)
        else:
            x_t = _with_noise(x_t, noise * 1.5 - half_before, step)
        half_before = noise * 0.5  # an array of its own: the noise is valid until the next call only
        yield x_t, x_start


def unipc(
    x_t: Any,
    steps: Sequence[DDIMStep],
    predict: Predict,
    _fresh_noise: FreshNoise,
    *,
    b: str = "bh2",
) -> Iterator[tuple[Any, Any]]:
    """UniPC-2 (arXiv 2302.04867), predicting x_start: third order, one network call a step; eta 0 only.

    A step arrives where the last two predictions lead. The prediction there, which the next step needs
    anyway, then corrects it, without another call: x goes on from the corrected arrival, and what is yielded
    is the one before. The first step and the one to the clean image are of first order, as those of
    `dpmpp_2m`, and the last one is not corrected.

    Args:
        x_t: `(B, ...)` where the first step begins.
        steps: The steps, in the order of sampling.
        predict: `(x_t, step) -> (x_start, noise)`, a network call.
        b: The function B(h) of the paper: `bh1` is h, `bh2` is exp(h) - 1.

    Yields:
        After each step x where it arrives, and the predicted x_start.

    Raises:
        UserError: There is no such function.
    """
    if b not in ("bh1", "bh2"):
        raise UserError("the b of unipc must be bh1 or bh2", why=f"given is {b}")
    known: list[_Prediction] = []
    begun: tuple[Any, DDIMStep] | None = None
    for step in steps:
        x_start, _ = predict(x_t, step)
        if begun is not None:
            x_before, before = begun
            x_t = _toward(x_before, _corrected(known, x_start, before, _share(b, before)), before)
        known = [*known[-1:], (x_start, step.half_log_snr)]
        begun = x_t, step
        x_t = _toward(x_t, _extrapolated(known, step, _share(b, step)), step)
        yield x_t, x_start


def heun(
    x_t: Any, steps: Sequence[DDIMStep], predict: Predict, _fresh_noise: FreshNoise
) -> Iterator[tuple[Any, Any]]:
    """Heun's method as in EDM (arXiv 2206.00364, algorithm 1): second order, two calls a step; eta 0 only.

    A DDIM step with the mean of the noise where it begins and the noise where DDIM would arrive. The step to
    the clean image is that of DDIM, because no network is called there: 2 S - 1 calls for S timesteps.

    Args:
        x_t: `(B, ...)` where the first step begins.
        steps: The steps, in the order of sampling.
        predict: `(x_t, step) -> (x_start, noise)`, a network call.

    Yields:
        After each step x where it arrives, and the x_start predicted where it begins.
    """
    for step, following in itertools.zip_longest(steps, steps[1:]):
        x_start, noise = predict(x_t, step)
        # From pure noise to anywhere the noise is known, and only x_start is to be found.
        if following is None or step.alpha_cumprod == 0.0:
            x_t = _arrival(x_start, noise, step)
        else:
            half = noise * 0.5  # an array of its own: the noise is valid until the next call only
            _, noise_there = predict(_arrival(x_start, noise, step), following)
            x_t = _with_noise(x_t, half + noise_there * 0.5, step)
        yield x_t, x_start


def _toward(x_t: Any, target: Any, step: DDIMStep) -> Any:
    """Follow a step exactly as if the predicted x_start were `target` all the way (arXiv 2211.01095)."""
    h = step.half_log_snr_prev - step.half_log_snr
    noise_left = math.sqrt((1.0 - step.alpha_cumprod_prev) / (1.0 - step.alpha_cumprod))
    return x_t * noise_left - target * (math.sqrt(step.alpha_cumprod_prev) * math.expm1(-h))


def _share(b: str, step: DDIMStep) -> float:
    """Return B(-h) / (exp(-h) - 1) for UniPC: what its first-order terms count."""
    h = step.half_log_snr_prev - step.half_log_snr
    return 1.0 if b == "bh2" or math.isinf(h) else -h / math.expm1(-h)


def _extrapolated(known: Sequence[_Prediction], step: DDIMStep, share: float) -> Any:
    """Return x_start half a step ahead, on the line through the last two predictions if there are two.

    The one to the clean image has no middle, because there the log SNR is infinite.
    """
    h = step.half_log_snr_prev - step.half_log_snr
    x_start, here = known[-1]
    if len(known) == 1 or math.isinf(h):
        return x_start
    x_start_before, there = known[0]
    weight = share * 0.5 * h / (here - there)
    return x_start * (1.0 + weight) - x_start_before * weight


def _corrected(known: Sequence[_Prediction], arrived: Any, step: DDIMStep, share: float) -> Any:
    """Return the x_start that leads a step to where it should have arrived: UniC (arXiv 2302.04867).

    Args:
        known: The last predictions that the step went by.
        arrived: The prediction where it arrived.
        step: The step.
        share: See `_share`.
    """
    x_start, here = known[-1]
    if len(known) == 1:
        weight = 0.5 * share
        return x_start * (1.0 - weight) + arrived * weight
    x_start_before, there = known[0]
    h = step.half_log_snr_prev - step.half_log_snr
    whole = math.expm1(-h)
    # The weights of both differences, so that quadratic courses of x_start are followed exactly.
    first = (whole / -h - 1.0) / whole
    second = 2.0 * ((whole / -h - 1.0) / -h - 0.5) / whole
    ratio = (there - here) / h
    to_before = (first - second) / (1.0 - ratio)
    to_arrived = first - to_before
    return (
        x_start * (1.0 - to_before / ratio - to_arrived)
        + x_start_before * (to_before / ratio)
        + arrived * to_arrived
    )


def _with_noise(x_t: Any, noise: Any, step: DDIMStep) -> Any:
    """Follow a DDIM step with any noise."""
    return _arrival(predict_x_start(x_t, noise, step.alpha_cumprod), noise, step)


def _arrival(x_start: Any, noise: Any, step: DDIMStep) -> Any:
    """Return x where a step arrives that adds no noise, whatever its sigma."""
    return x_start * math.sqrt(step.alpha_cumprod_prev) + noise * math.sqrt(1.0 - step.alpha_cumprod_prev)
