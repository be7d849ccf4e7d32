"""Timestep subsets: the S of the T timesteps that sampling visits.

Each function returns exactly S strictly increasing timesteps, for every 1 <= S <= T.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ddim_host.diffusion import strictly_increasing
from ddim_host.errors import UserError
from ddim_host.parts.found_subsets import found_subset

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ddim_host.diffusion import NoiseSchedule


def linear(schedule: NoiseSchedule, num_inference_steps: int) -> NDArray[np.int64]:
    """Evenly spaced timesteps from 0 to T - 1, both ends included; a single step is T - 1.

    Args:
        schedule: The noise schedule of the run.
        num_inference_steps: S.

    Returns:
        int64 `(S,)`.
    """
    return _from_fractions(schedule, _unit_interval(num_inference_steps))


def quad(schedule: NoiseSchedule, num_inference_steps: int, *, span: float = 0.8) -> NDArray[np.int64]:
    """Quadratically spaced timesteps, dense at low noise (DDIM, arXiv 2010.02502, section D.2).

    Positions are `linspace(0, sqrt(span T), S)^2`; the paper's CIFAR-10 runs use span 0.8, so sampling starts
    at t = 0.8 T. Positions above T - 1 become T - 1.

    Args:
        schedule: The noise schedule of the run.
        num_inference_steps: S.
        span: The fraction of the time axis that the subset covers, in (0, 1].

    Returns:
        int64 `(S,)`.

    Raises:
        UserError: `span` is outside (0, 1].
    """
    if not 0.0 < span <= 1.0:
        raise UserError(f"parameter 'span' of timestep subset 'quad' must be a number in (0, 1], not {span}")
    timesteps = schedule.num_train_timesteps
    positions = _unit_interval(num_inference_steps) ** 2 * (span * timesteps)
    return strictly_increasing(np.minimum(positions, timesteps - 1), timesteps)


def cosine(schedule: NoiseSchedule, num_inference_steps: int) -> NDArray[np.int64]:
    """Timesteps dense at both ends: T - 1 times (1 - cos(pi u)) / 2, for u evenly spaced in [0, 1].

    Args:
        schedule: The noise schedule of the run.
        num_inference_steps: S.

    Returns:
        int64 `(S,)`.
    """
    return _from_fractions(schedule, 0.5 - 0.5 * np.cos(np.pi * _unit_interval(num_inference_steps)))


def leading(schedule: NoiseSchedule, num_inference_steps: int) -> NDArray[np.int64]:
    """Multiples of T // S, from 0: the "leading" spacing of improved-diffusion and diffusers.

    The subset does not reach T - 1 unless S = T, so sampling starts from pure noise at a timestep where the
    network expects a trace of the image (arXiv 2305.08891, section 3.3). It is provided for comparison with
    those tools.

    Args:
        schedule: The noise schedule of the run.
        num_inference_steps: S.

    Returns:
        int64 `(S,)`.
    """
    stride = schedule.num_train_timesteps // num_inference_steps
    return np.arange(num_inference_steps, dtype=np.int64) * stride


def trailing(schedule: NoiseSchedule, num_inference_steps: int) -> NDArray[np.int64]:
    """Timesteps at intervals of T / S, counted back from T - 1 (arXiv 2305.08891, table 2).

    `round(T j / S) - 1` for j from 1 to S. In the published form (`arange` with a step of -T / S, as in
    diffusers), rounding errors can produce one timestep too many, for example at T = 1000 and S = 61.

    Args:
        schedule: The noise schedule of the run.
        num_inference_steps: S.

    Returns:
        int64 `(S,)`.
    """
    numerators = schedule.num_train_timesteps * np.arange(1, num_inference_steps + 1)
    return np.rint(numerators / num_inference_steps).astype(np.int64) - 1


def explicit(schedule: NoiseSchedule, num_inference_steps: int, *, t: tuple[int, ...]) -> NDArray[np.int64]:
    """Use the given timesteps: `explicit:t=0,10,20` together with `--steps 3`.

    Args:
        schedule: The noise schedule of the run.
        num_inference_steps: S, the length of the list.
        t: The timesteps, strictly increasing, in [0, T).

    Returns:
        int64 `(S,)`.

    Raises:
        UserError: The list is not S long, not strictly increasing, or not within [0, T).
    """
    timesteps = schedule.num_train_timesteps
    previous = -1
    for timestep in t:
        if not previous < timestep < timesteps:
            raise UserError(
                f"parameter 't' of timestep subset 'explicit' must be strictly increasing integers in [0, "
                f"{timesteps})",
                why=f"{timestep} follows {previous}"
                if 0 <= timestep < timesteps
                else f"{timestep} is outside that range",
            )
        previous = timestep
    if len(t) != num_inference_steps:
        raise UserError(
            f"timestep subset 'explicit' needs {num_inference_steps} timesteps, not {len(t)}",
            fix=f"add --steps {len(t)}" if t else "list the timesteps: explicit:t=0,10,20 --steps 3",
        )
    return np.array(t, dtype=np.int64)


def optimized(
    schedule: NoiseSchedule, num_inference_steps: int, *, from_: Path | None = None
) -> NDArray[np.int64]:
    """Use the subset that `ddim-host optimize` found for this run, or with `optimized:from=RUN` for another.

    `sample`, `evaluate` and `reconstruct` use the subset found for exactly the weights they sample with (see
    `ddim_host.run.trained`). With `from=`, the weights differ, so the most recent subset of that run for this
    noise schedule is used.

    Args:
        schedule: The noise schedule of the run.
        num_inference_steps: S.
        from_: The folder of a run with optimized subsets.

    Returns:
        int64 `(S,)`.

    Raises:
        UserError: The run does not exist, or no subset of this size was found for it and this schedule.
    """
    if from_ is None:
        raise UserError(
            "timestep subset 'optimized' needs a trained network",
            fix="train with another subset, then use `ddim-host optimize RUN` and `ddim-host sample RUN "
            "--timestep-subset optimized`; or write optimized:from=RUN to use the subsets of another run",
        )
    return found_subset(from_, schedule, num_inference_steps)


def _unit_interval(size: int) -> NDArray[np.float64]:
    """Return `size` evenly spaced numbers up to 1: a single step must start at the noisiest timestep."""
    return np.linspace(0.0, 1.0, size) if size > 1 else np.ones(1)


def _from_fractions(schedule: NoiseSchedule, fractions: NDArray[np.float64]) -> NDArray[np.int64]:
    timesteps = schedule.num_train_timesteps
    return strictly_increasing(fractions * (timesteps - 1), timesteps)
