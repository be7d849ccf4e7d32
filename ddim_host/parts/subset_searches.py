"""Searches for the best few timesteps among those of a teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_host.diffusion.search import jump_errors, shortest_paths

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ddim_host.diffusion import NoiseSchedule, Teacher


def dynamic_programming(
    schedule: NoiseSchedule, teacher: Teacher, sizes: Sequence[int]
) -> dict[int, NDArray[np.int64]]:
    """Find the path with the smallest sum of errors, each weighted by the share that reaches the image.

    The result is optimal for this measure, and computed for all sizes at once; see
    `ddim_host.diffusion.search`.

    Args:
        schedule: The noise schedule of the network.
        teacher: The network's predictions with many steps.
        sizes: Numbers S of timesteps.

    Returns:
        int64 `(S,)` for each S.
    """
    paths = shortest_paths(jump_errors(schedule, teacher), sizes)
    return {size: teacher.timesteps[list(path)] for size, path in paths.items()}
