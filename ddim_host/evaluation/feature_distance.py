"""Distance between sets of images in features, for refining timesteps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_host.errors import UserError
from ddim_host.plugin.data import image_hash
from ddim_host.run.images import to_uint8

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from ddim_host.evaluation.evaluator import Evaluator


def require_enough(evaluator: Evaluator, count: int) -> None:
    """Make sure that there are more images than features, whose covariance is singular otherwise.

    Raises:
        UserError: There are not.
    """
    dimension = evaluator.space.dimension
    if count <= dimension:
        raise UserError(
            f"{count:,} images are too few to refine timesteps in the features of {evaluator.space.name}",
            why=f"an image has {dimension:,} features, and half of the teacher's images are compared",
            fix=f"use at least --images {2 * dimension + 2}, or --refine teacher",
        )


def feature_distance(
    evaluator: Evaluator, target: NDArray[np.float32]
) -> Callable[[NDArray[np.float32]], float]:
    """Return the Fréchet distance of images from some others, float32 `(N, C, H, W)`.

    Args:
        evaluator: Gets the others as its reference.
        target: The others.
    """
    others = to_uint8(target)
    evaluator.begin(len(others))
    evaluator.add(others)
    evaluator.use_as_reference(image_hash(others))

    def distance(images: NDArray[np.float32]) -> float:
        evaluator.begin(len(images))
        evaluator.add(to_uint8(images))
        return evaluator.measure().frechet_distance

    return distance
