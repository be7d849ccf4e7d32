"""Round real positions on the time axis to exactly S distinct timesteps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def strictly_increasing(positions: ArrayLike, num_train_timesteps: int) -> NDArray[np.int64]:
    """Round positions to distinct timesteps, moving each as little as the others allow.

    Rounding alone can repeat timesteps that are less than 1 apart (a quadratic subset of 100 out of 1000 has
    96 distinct values), which would silently drop network calls. Here, a timestep that is not above its
    predecessor moves up to the next free timestep, and timesteps beyond the end move back down:
    `t_i = max(r_i, t_(i-1) + 1)`, then `t_i = min(t_i, T - S + i)`.

    Args:
        positions: S real numbers in [0, T - 1], in non-decreasing order; S <= T.
        num_train_timesteps: T.

    Returns:
        int64 `(S,)`, strictly increasing, in [0, T).

    Raises:
        ValueError: There are no positions or more than T, or the positions decrease or are not finite.

    Example:
        >>> strictly_increasing([0.0, 0.3, 0.9, 8.6, 9.0], 10)
        array([0, 1, 2, 8, 9])
        >>> strictly_increasing([7.0, 8.6, 9.0, 9.0], 10)
        array([6, 7, 8, 9])
    """
    real = np.asarray(positions, dtype=np.float64)
    if not np.isfinite(real).all():
        raise ValueError("positions must be finite numbers")
    rounded = np.rint(real).astype(np.int64)
    size = rounded.size
    if rounded.ndim != 1 or not 1 <= size <= num_train_timesteps:
        raise ValueError(f"cannot choose {size} distinct timesteps out of {num_train_timesteps}")
    if np.any(np.diff(rounded) < 0):
        raise ValueError("positions must not decrease")
    order = np.arange(size)
    # max(r_i, t_(i-1) + 1) for all i at once: after subtracting i, the rule is a running maximum.
    raised = np.maximum.accumulate(np.maximum(rounded, 0) - order) + order
    return np.minimum(raised, num_train_timesteps - size + order)
