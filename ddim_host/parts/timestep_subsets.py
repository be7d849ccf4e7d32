"""Timestep subsets: which S of the T timesteps sampling visits.

Each returns exactly S strictly increasing timesteps, for every 1 <= S <= T.
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
    """Evenly spaced from 0 to T - 1, both ends included; a single step is T - 1.

    Args:
        schedule: The noise schedule of the run.
        num_inference_steps: S.

    Returns:
        int64 `(S,)`.
    """
    return _from_fractions(schedule, _unit_interval(num_inference_steps))


def quad(schedule: NoiseSchedule, num_inference_steps: int, *, span: float = 0.8) -> NDArray[np.int64]:
    """Quadratically spaced, dense at low noise (DDIM, arXiv 2010.02502, section D.2).

    Positions are `linspace(0, sqrt(span T), S)^2`: the paper's CIFAR-10 runs use span 0.8, so sampling starts
    at t = 0.8 T. (A position past T - 1 becomes T - 1.)

    Args:
        schedule: The noise schedule of the run.
        num_inference_steps: S.
        span: How far up the time axis the subset reaches, in (0, 1].

    Returns:
        int64 `(S,)`.

    Raises:
        UserError: `span` is outside (0, 1].
    """
    if not 0.0 < span <= 1.0:
        raise UserError("the span of the quad timestep subset must lie in (0, 1]", why=f"given is {span}")
    timesteps = schedule.num_train_timesteps
    positions = _unit_interval(num_inference_steps) ** 2 * (span * timesteps)
    return strictly_increasing(np.minimum(positions, timesteps - 1), timesteps)


def cosine(schedule: NoiseSchedule, num_inference_steps: int) -> NDArray[np.int64]:
    """Dense at both ends: (1 - cos(pi u)) / 2 of the way up, for u evenly spaced in [0, 1].

    Args:
        schedule: The noise schedule of the run.
        num_inference_steps: S.

    Returns:
        int64 `(S,)`.
    """
    return _from_fractions(schedule, 0.5 - 0.5 * np.cos(np.pi * _unit_interval(num_inference_steps)))


def leading(schedule: NoiseSchedule, num_inference_steps: int) -> NDArray[np.int64]:
    """Multiples of T // S, from 0: the "leading" spacing of improved-diffusion and diffusers.

    It never reaches T - 1, so the sampler starts from pure noise at a timestep that expects a little image
    (arXiv 2305.08891, section 3.3); it is here to compare with those tools.

    Args:
        schedule: The noise schedule of the run.
        num_inference_steps: S.

    Returns:
        int64 `(S,)`.
    """
    stride = schedule.num_train_timesteps // num_inference_steps
    return np.arange(num_inference_steps, dtype=np.int64) * stride


def trailing(schedule: NoiseSchedule, num_inference_steps: int) -> NDArray[np.int64]:
    """Every T / S timesteps, counted back from T - 1 (arXiv 2305.08891, table 2).

    `round(T j / S) - 1` for j from 1 to S. As published (`arange` with a step of -T / S, as in diffusers)
    rounding errors of the step can add one timestep too many, for instance at T = 1000 and S = 61.

    Args:
        schedule: The noise schedule of the run.
        num_inference_steps: S.

    Returns:
        int64 `(S,)`.
    """
    numerators = schedule.num_train_timesteps * np.arange(1, num_inference_steps + 1)
    return np.rint(numerators / num_inference_steps).astype(np.int64) - 1


def explicit(schedule: NoiseSchedule, num_inference_steps: int, *, t: tuple[int, ...]) -> NDArray[np.int64]:
    """A list of one's own: `explicit:t=0,10,20` together with `--steps 3`.

    Args:
        schedule: The noise schedule of the run.
        num_inference_steps: S, the length of the list.
        t: The timesteps, strictly increasing, in [0, T).

    Returns:
        int64 `(S,)`.

    Raises:
        UserError: The list is not S long, does not increase, or leaves [0, T).
    """
    timesteps = schedule.num_train_timesteps
    previous = -1
    for timestep in t:
        if not previous < timestep < timesteps:
            raise UserError(
                f"the timesteps of the explicit subset must strictly increase within [0, {timesteps})",
                why=f"{timestep} comes after {previous}"
                if 0 <= timestep < timesteps
                else f"{timestep} lies outside",
            )
        previous = timestep
    if len(t) != num_inference_steps:
        raise UserError(
            f"the explicit timestep subset lists {len(t)} timesteps, and {num_inference_steps} are asked for",
            fix=f"add --steps {len(t)}" if t else "list the timesteps: explicit:t=0,10,20 --steps 3",
        )
    return np.array(t, dtype=np.int64)


def optimized(
    schedule: NoiseSchedule, num_inference_steps: int, *, from_: Path | None = None
) -> NDArray[np.int64]:
    """What `ddim-host optimize` found for a trained run; with `optimized:from=RUN` for another one.

    `sample`, `evaluate` and `reconstruct` take what was found for the very weights that they use (see
    `ddim_host.run.trained`). With `from=` the weights are others: whatever was found there last for this
    noise schedule is used.

    Args:
        schedule: The noise schedule of the run.
        num_inference_steps: S.
        from_: The folder of a run that was searched.

    Returns:
        int64 `(S,)`.

    Raises:
        UserError: There is no run, or no subset of this size was found for it and this schedule.
    """
    if from_ is None:
        raise UserError(
            "the timestep subset 'optimized' is found for a trained network, and there is none yet",
            fix="train with another one, then `ddim-host optimize RUN` and `ddim-host sample RUN "
            "--timestep-subset optimized`; or write optimized:from=RUN to take that of a searched run",
        )
    return found_subset(from_, schedule, num_inference_steps)


def _unit_interval(size: int) -> NDArray[np.float64]:
    """`size` evenly spaced numbers that end in 1: a single step has to start from the noisiest timestep."""
    return np.linspace(0.0, 1.0, size) if size > 1 else np.ones(1)


def _from_fractions(schedule: NoiseSchedule, fractions: NDArray[np.float64]) -> NDArray[np.int64]:
    timesteps = schedule.num_train_timesteps
    return strictly_increasing(fractions * (timesteps - 1), timesteps)
