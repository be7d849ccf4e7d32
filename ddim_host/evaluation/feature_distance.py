"""The distance between two sets of images in a feature space, for refining timesteps."""

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
    """Check that there are more images than features; otherwise the covariance would be singular.

    Raises:
        UserError: There are no more images than features.
    """
    dimension = evaluator.space.dimension
    if count <= dimension:
        raise UserError(
            f"{count:,} images are too few to refine timesteps with the features of {evaluator.space.name}",
            why=f"there must be more images than features ({dimension:,}), and the distance uses only half "
            "of the teacher's images",
            fix=f"use --images {2 * dimension + 2} or more, or --refine teacher",
        )


def feature_distance(
    evaluator: Evaluator, target: NDArray[np.float32]
) -> Callable[[NDArray[np.float32]], float]:
    """Return a function that computes the Fréchet distance between images and a target.

    Args:
        evaluator: Receives the target as its reference.
        target: float32 `(N, C, H, W)`, like the images.
    """
    reference = to_uint8(target)
    evaluator.begin(len(reference))
    evaluator.add(reference)
    evaluator.use_as_reference(image_hash(reference))

    def distance(images: NDArray[np.float32]) -> float:
        evaluator.begin(len(images))
        evaluator.add(to_uint8(images))
        return evaluator.measure().frechet_distance

    return distance
