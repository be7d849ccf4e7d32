"""Noise schedules: the betas, which are the variances of the noise added at each timestep."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ddim_host.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Beyond this the last alphas_cumprod would be zero, and x_start could not be recovered from x_t.
_MAX_BETA = 0.999


def linear(
    num_train_timesteps: int, *, beta_start: float = 1e-4, beta_end: float = 0.02
) -> NDArray[np.float64]:
    """Betas on a straight line (DDPM, arXiv 2006.11239, section 4), scaled by 1000 / T.

    The published ends are for T = 1000; the scale gives any other T the same final amount of noise.

    Args:
        num_train_timesteps: T.
        beta_start: First beta at T = 1000, in (0, 1).
        beta_end: Last beta at T = 1000, in (0, 1), not below `beta_start`.

    Returns:
        float64 `(T,)`.

    Raises:
        UserError: A beta would be outside (0, 1), as with T <= 20 and the default ends.
    """
    start, end = _scaled_ends("linear", num_train_timesteps, beta_start, beta_end)
    return np.linspace(start, end, num_train_timesteps, dtype=np.float64)


def quad(
    num_train_timesteps: int, *, beta_start: float = 1e-4, beta_end: float = 0.02
) -> NDArray[np.float64]:
    """Betas whose square roots are on a straight line, scaled by 1000 / T (`quad` of ermongroup/ddim).

    With the same ends, it adds less noise than `linear`. Diffusers calls it `scaled_linear`.

    Args:
        num_train_timesteps: T.
        beta_start: First beta at T = 1000, in (0, 1).
        beta_end: Last beta at T = 1000, in (0, 1), not below `beta_start`.

    Returns:
        float64 `(T,)`.

    Raises:
        UserError: A beta would be outside (0, 1), as with T <= 20 and the default ends.
    """
    start, end = _scaled_ends("quad", num_train_timesteps, beta_start, beta_end)
    roots = np.linspace(math.sqrt(start), math.sqrt(end), num_train_timesteps, dtype=np.float64)
    return roots**2


def sigmoid(
    num_train_timesteps: int, *, beta_start: float = 1e-4, beta_end: float = 0.02
) -> NDArray[np.float64]:
    """Betas on a logistic curve from -6 to 6, scaled by 1000 / T (`sigmoid` of ermongroup/ddim).

    `beta = beta_start + (beta_end - beta_start) / (1 + exp(-x))`, for x evenly spaced: flat at both ends.

    Args:
        num_train_timesteps: T.
        beta_start: Lower asymptote of the betas at T = 1000, in (0, 1).
        beta_end: Upper asymptote of the betas at T = 1000, in (0, 1), not below `beta_start`.

    Returns:
        float64 `(T,)`.

    Raises:
        UserError: A beta could be outside (0, 1), as with T <= 20 and the default ends.
    """
    start, end = _scaled_ends("sigmoid", num_train_timesteps, beta_start, beta_end)
    x = np.linspace(-6.0, 6.0, num_train_timesteps, dtype=np.float64)
    return start + (end - start) / (1.0 + np.exp(-x))


def cosine(num_train_timesteps: int, *, s: float = 0.008) -> NDArray[np.float64]:
    """Betas for which alphas_cumprod is a squared cosine (improved DDPM, arXiv 2102.09672, equation 17).

    `abar(u) = cos^2(pi/2 (u + s) / (1 + s))` at `u = t / T`, and beta_t = 1 - abar(t + 1) / abar(t), limited
    to 0.999 as in the paper.

    Args:
        num_train_timesteps: T.
        s: Offset that keeps the first betas from vanishing, in [0, 1].

    Returns:
        float64 `(T,)`.

    Raises:
        UserError: `s` is outside [0, 1].
    """
    # At s = 1, the squared cosine begins at half its height; for much larger s, almost no curve is left.
    if not 0.0 <= s <= 1.0:
        raise UserError(f"parameter 's' of noise schedule 'cosine' must be a number in [0, 1], not {s}")
    u = np.arange(num_train_timesteps + 1, dtype=np.float64) / num_train_timesteps
    alphas_cumprod = np.cos(0.5 * np.pi * (u + s) / (1.0 + s)) ** 2
    betas: NDArray[np.float64] = np.minimum(1.0 - alphas_cumprod[1:] / alphas_cumprod[:-1], _MAX_BETA)
    return betas


def explicit(num_train_timesteps: int, *, betas: tuple[float, ...]) -> NDArray[np.float64]:
    """Use the given betas: `explicit:betas=0.1,0.2,0.3` together with `--num-train-timesteps 3`.

    Args:
        num_train_timesteps: T, the length of the list.
        betas: The betas, each in (0, 1); the last one may be 1.

    Returns:
        float64 `(T,)`.

    Raises:
        UserError: The list is not T long, or a beta is out of range.
    """
    if len(betas) != num_train_timesteps:
        raise UserError(
            f"noise schedule 'explicit' needs {num_train_timesteps} betas, not {len(betas)}",
            fix=f"add --num-train-timesteps {len(betas)}" if betas else "list them: explicit:betas=0.1,0.2",
        )
    for t, beta in enumerate(betas):
        if not (0.0 < beta < 1.0 or (beta == 1.0 and t == len(betas) - 1)):
            raise UserError(
                "parameter 'betas' of noise schedule 'explicit' must contain only numbers in (0, 1), "
                f"not {beta:g}",
                why=f"that is the beta of timestep {t}; only the last one may be 1",
            )
    return np.array(betas, dtype=np.float64)


def _scaled_ends(
    name: str, num_train_timesteps: int, beta_start: float, beta_end: float
) -> tuple[float, float]:
    """Return the first and last beta, times 1000 / T, after checking that they are in (0, 1)."""
    if not 0.0 < beta_start <= beta_end < 1.0:
        raise UserError(
            f"noise schedule {name!r} needs 0 < beta_start <= beta_end < 1",
            why=f"beta_start is {beta_start} and beta_end is {beta_end}",
        )
    scale = 1000.0 / num_train_timesteps
    if scale * beta_end >= 1.0:
        raise UserError(
            f"noise schedule {name!r} is too steep for {num_train_timesteps} timesteps",
            why=f"its last beta, {beta_end:g} x 1000 / {num_train_timesteps} = {scale * beta_end:g}, "
            "must stay below 1",
            fix=f"use more than {math.floor(1000.0 * beta_end)} timesteps, or a smaller beta_end",
        )
    return scale * beta_start, scale * beta_end
