"""The explicit steps of one DDIM sampling run: pairs of timesteps with all coefficients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ddim_host.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class DDIMStep:
    """One step from x_t down to x_(t_prev), or up when encoding; all coefficients are Python floats.

    Attributes:
        t: The timestep of the network call.
        t_prev: The timestep at the end of the step; -1 is the clean image.
        alpha_cumprod_t: alphas_cumprod at timestep `t`. It equals `alpha_cumprod` except when a clean image
            is encoded, which is treated as timestep 0.
        alpha_cumprod: alphas_cumprod at the start of the step.
        alpha_cumprod_prev: alphas_cumprod at the end of the step; exactly 1 for the clean image.
        sigma: Standard deviation of the noise added in this step.
    """

    t: int
    t_prev: int
    alpha_cumprod_t: float
    alpha_cumprod: float
    alpha_cumprod_prev: float
    sigma: float

    @property
    def direction(self) -> float:
        """The factor of epsilon: sqrt(1 - abar_prev - sigma^2) (arXiv 2010.02502, equation 12)."""
        # The difference is never negative for eta in [0, 1], but may round to just below zero.
        return math.sqrt(max(0.0, 1.0 - self.alpha_cumprod_prev - self.sigma**2))

    @property
    def half_log_snr(self) -> float:
        """Half the log signal-to-noise ratio at the start of the step, the lambda_t of arXiv 2206.00927.

        It is minus infinity in pure noise.
        """
        return _half_log_snr(self.alpha_cumprod)

    @property
    def half_log_snr_prev(self) -> float:
        """Half the log signal-to-noise ratio at the end of the step; infinite at the clean image."""
        return _half_log_snr(self.alpha_cumprod_prev)


def _half_log_snr(alpha_cumprod: float) -> float:
    if alpha_cumprod in (0.0, 1.0):
        return math.copysign(math.inf, alpha_cumprod - 0.5)
    return 0.5 * math.log(alpha_cumprod / (1.0 - alpha_cumprod))


def trajectory(subset: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """List the pairs `(t, t_prev)` from the noisiest timestep down, ending in `(t_0, -1)`.

    Each t_prev is taken from the subset; a fixed stride would be wrong for an unevenly spaced one.

    Args:
        subset: Strictly increasing timesteps `t_0 < t_1 < ...`.

    Example:
        >>> trajectory([0, 10, 30])
        ((30, 10), (10, 0), (0, -1))
    """
    ascending = [int(t) for t in subset]
    return tuple(zip(ascending[::-1], [*ascending[-2::-1], -1], strict=True))


def ddim_steps(schedule: NoiseSchedule, subset: Iterable[int], eta: float) -> tuple[DDIMStep, ...]:
    """Return the steps of the generalised DDIM sampler (arXiv 2010.02502, equations 12 and 16).

    `sigma = eta sqrt((1 - abar_prev) / (1 - abar_t)) sqrt(1 - abar_t / abar_prev)`: eta 0 is deterministic
    DDIM, eta 1 with every timestep is the DDPM posterior.

    Args:
        schedule: The noise schedule that the network was trained with.
        subset: Strictly increasing timesteps in [0, T).
        eta: In [0, 1]; even slightly above 1, the square root in `direction` can become imaginary.

    Returns:
        One step per timestep, in the order of sampling (noisiest first).

    Raises:
        ValueError: `eta` is outside [0, 1].
        IndexError: A timestep is outside [0, T).
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta must be in [0, 1], not {eta}")
    steps = []
    for t, t_prev in trajectory(subset):
        alpha_cumprod = schedule.alpha_cumprod_at(t)
        alpha_cumprod_prev = schedule.alpha_cumprod_at(t_prev)
        sigma = (
            eta
            * math.sqrt((1.0 - alpha_cumprod_prev) / (1.0 - alpha_cumprod))
            * math.sqrt(1.0 - alpha_cumprod / alpha_cumprod_prev)
        )
        steps.append(DDIMStep(t, t_prev, alpha_cumprod, alpha_cumprod, alpha_cumprod_prev, sigma))
    return tuple(steps)


def encoding_steps(schedule: NoiseSchedule, subset: Iterable[int]) -> tuple[DDIMStep, ...]:
    """Return the steps of deterministic DDIM in reverse, from an image to its noise.

    With sigma = 0 a step is an Euler step of an ordinary differential equation (arXiv 2010.02502, equations
    13 and 14), which can be solved in either direction. The network is called with the timestep at the start
    of the step. The clean image, at -1, has no timestep, so 0 is used.

    Args:
        schedule: The noise schedule that the network was trained with.
        subset: Strictly increasing timesteps in [0, T).

    Returns:
        One step per timestep, from the clean image up.

    Raises:
        IndexError: A timestep is outside [0, T).
    """
    return tuple(
        DDIMStep(
            t=max(begin, 0),
            t_prev=end,
            alpha_cumprod_t=schedule.alpha_cumprod_at(max(begin, 0)),
            alpha_cumprod=schedule.alpha_cumprod_at(begin),
            alpha_cumprod_prev=schedule.alpha_cumprod_at(end),
            sigma=0.0,
        )
        for end, begin in reversed(trajectory(subset))
    )
