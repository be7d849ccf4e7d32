"""Interpolation between two noise samples along the sphere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def slerp(start: NDArray[np.float32], end: NDArray[np.float32], fraction: float) -> NDArray[np.float32]:
    """Interpolate spherically between two noise samples (arXiv 2010.02502, section D.5).

    `sin((1 - f) theta) / sin(theta) start + sin(f theta) / sin(theta) end`, where theta is the angle between
    the two as vectors. Halfway along a straight line, the noise would be too weak by a factor of sqrt(2), and
    the network would draw washed-out images; on the sphere, the noise keeps its strength.

    Args:
        start: float32, any shape, not zero.
        end: float32, of the same shape, not zero.
        fraction: In [0, 1]; 0 returns exactly `start`, 1 exactly `end`.

    Returns:
        float32, of the same shape; computed in float64.
    """
    if fraction in (0.0, 1.0):
        return (end if fraction else start).copy()
    one, other = start.astype(np.float64), end.astype(np.float64)
    cosine = np.vdot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other))
    theta = float(np.arccos(np.clip(cosine, -1.0, 1.0)))
    if np.sin(theta) < 1e-9:  # parallel: the arc is the straight line
        mixed = (1.0 - fraction) * one + fraction * other
    else:
        mixed = (np.sin((1.0 - fraction) * theta) * one + np.sin(fraction * theta) * other) / np.sin(theta)
    return mixed.astype(np.float32)
