"""Solvers that step from noise to image, for arrays of any framework.

A solver is a generator. In each step, it calls `predict` to get the image and the noise in x, moves x to the
end of the step, and yields. Its local variables store the values that later steps need.
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
"""A predicted x_start, and half the log SNR at its timestep."""


def ddim(
    x_t: Any, steps: Sequence[DDIMStep], predict: Predict, fresh_noise: FreshNoise
) -> Iterator[tuple[Any, Any]]:
    """DDIM (arXiv 2010.02502, equation 12): first order, for any eta.

    Args:
        x_t: `(B, ...)` at the start of the first step.
        steps: The steps, in the order of sampling.
        predict: `(x_t, step) -> (x_start, noise)`, a network call.
        fresh_noise: `(step) -> noise`, standard normal, of the shape of `x_t`.

    Yields:
        x at the end of each step, and the predicted x_start.
    """
    for step in steps:
        x_start, noise = predict(x_t, step)
        x_t = ddim_arrival(x_start, noise, step, fresh_noise(step) if step.sigma > 0.0 else None)
        yield x_t, x_start


def dpmpp_2m(
    x_t: Any, steps: Sequence[DDIMStep], predict: Predict, _fresh_noise: FreshNoise
) -> Iterator[tuple[Any, Any]]:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2): second order, one network call per step; eta 0 only.

    x_start is extrapolated from the last two predictions as a function of half the log SNR. The first step is
    of first order because there is no earlier prediction, and the step to the clean image because the log SNR
    is infinite there.

    Args:
        x_t: `(B, ...)` at the start of the first step.
        steps: The steps, in the order of sampling.
        predict: `(x_t, step) -> (x_start, noise)`, a network call.

    Yields:
        x at the end of each step, and the predicted x_start.
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

    Each step is a DDIM step with the noise of the two-step Adams-Bashforth rule, `1.5 noise - 0.5 previous
    noise`. The rule assumes evenly spaced timesteps, but is applied to any spacing. The first step is a plain
    DDIM step.

    Args:
        x_t: `(B, ...)` at the start of the first step.
        steps: The steps, in the order of sampling.
        predict: `(x_t, step) -> (x_start, noise)`, a network call.

    Yields:
        x at the end of each step, and the predicted x_start.
    """
    half_before: Any = None
    for step in steps:
        x_start, noise = predict(x_t, step)
        if half_before is None:
            x_t = _arrival(x_start, noise, step)
        else:
            x_t = _with_noise(x_t, noise * 1.5 - half_before, step)
        half_before = noise * 0.5  # a copy, because the noise is only valid until the next call
        yield x_t, x_start


def unipc(
    x_t: Any,
    steps: Sequence[DDIMStep],
    predict: Predict,
    _fresh_noise: FreshNoise,
    *,
    b: str = "bh2",
) -> Iterator[tuple[Any, Any]]:
    """UniPC-2 (arXiv 2302.04867), predicting x_start: third order, one network call per step; eta 0 only.

    Each step extrapolates from the last two predictions. The prediction at the end of the step, which the
    next step needs anyway, then corrects it without another call. The next step continues from the corrected
    x, but the uncorrected x is yielded. The first step and the step to the clean image are of first order, as
    in `dpmpp_2m`, and the last step is not corrected.

    Args:
        x_t: `(B, ...)` at the start of the first step.
        steps: The steps, in the order of sampling.
        predict: `(x_t, step) -> (x_start, noise)`, a network call.
        b: The function B(h) of the paper: `bh1` is h, `bh2` is exp(h) - 1.

    Yields:
        x at the end of each step, and the predicted x_start.

    Raises:
        UserError: `b` is neither `bh1` nor `bh2`.
    """
    if b not in ("bh1", "bh2"):
        raise UserError(f"parameter 'b' of solver 'unipc' must be bh1 or bh2, not {b!r:.40}")
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
    """Heun's method as in EDM (arXiv 2206.00364, algorithm 1): second order, two calls per step; eta 0 only.

    Each step is a DDIM step with the mean of the noise at its start and the noise at the end of a plain DDIM
    step. This adds to a plain DDIM step the change of x_start along it, times (sigma / sigma_prev - 1) / 2
    with sigma = sqrt((1 - abar) / abar). Here this factor is at most 1, because it grows without bound in
    long steps: in the first step of a cosine schedule it would be thousands. Nearly all steps of EDM are
    short. The step to the clean image is a plain DDIM step, because the network is not defined there: S
    timesteps need 2 S - 1 calls.

    Args:
        x_t: `(B, ...)` at the start of the first step.
        steps: The steps, in the order of sampling.
        predict: `(x_t, step) -> (x_start, noise)`, a network call.

    Yields:
        x at the end of each step, and the x_start predicted at its start.
    """
    for step, following in itertools.zip_longest(steps, steps[1:]):
        x_start, noise = predict(x_t, step)
        x_t = _arrival(x_start, noise, step)
        if following is not None:
            x_start_there, _ = predict(x_t, following)
            h = step.half_log_snr_prev - step.half_log_snr
            share = 0.5 * math.expm1(h) if h < math.log(3.0) else 1.0
            x_t = x_t + (x_start_there - x_start) * (share * math.sqrt(step.alpha_cumprod_prev))
        yield x_t, x_start


def _toward(x_t: Any, target: Any, step: DDIMStep) -> Any:
    """Solve a step exactly for a constant predicted x_start, `target` (arXiv 2211.01095)."""
    h = step.half_log_snr_prev - step.half_log_snr
    noise_left = math.sqrt((1.0 - step.alpha_cumprod_prev) / (1.0 - step.alpha_cumprod))
    return x_t * noise_left - target * (math.sqrt(step.alpha_cumprod_prev) * math.expm1(-h))


def _share(b: str, step: DDIMStep) -> float:
    """Return B(-h) / (exp(-h) - 1), the factor of UniPC's first-order terms."""
    h = step.half_log_snr_prev - step.half_log_snr
    return 1.0 if b == "bh2" or math.isinf(h) else -h / math.expm1(-h)


def _extrapolated(known: Sequence[_Prediction], step: DDIMStep, share: float) -> Any:
    """Return x_start extrapolated linearly to the middle of the step, if two predictions are known.

    Otherwise, and for the step to the clean image, where the log SNR is infinite, return the last prediction.
    """
    h = step.half_log_snr_prev - step.half_log_snr
    x_start, here = known[-1]
    if len(known) == 1 or math.isinf(h):
        return x_start
    x_start_before, there = known[0]
    weight = share * 0.5 * h / (here - there)
    return x_start * (1.0 + weight) - x_start_before * weight


def _corrected(known: Sequence[_Prediction], arrived: Any, step: DDIMStep, share: float) -> Any:
    """Return the x_start that makes a step end at the corrected x: UniC (arXiv 2302.04867).

    Args:
        known: The last one or two predictions, as used by the step.
        arrived: The prediction at the end of the step.
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
    # Weights of both differences that make the step exact for a quadratic x_start.
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
    """Take a DDIM step with the given noise."""
    return _arrival(predict_x_start(x_t, noise, step.alpha_cumprod), noise, step)


def _arrival(x_start: Any, noise: Any, step: DDIMStep) -> Any:
    """Return x at the end of a step without added noise, regardless of its sigma."""
    return x_start * math.sqrt(step.alpha_cumprod_prev) + noise * math.sqrt(1.0 - step.alpha_cumprod_prev)
