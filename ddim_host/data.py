"""What a data set is to the host: uint8 images and how they are split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DataSource", "Images", "TrainTest"]

Images: TypeAlias = NDArray[np.uint8]
"""Images as uint8 `(N, H, W, C)`, C = 1 (grey) or 3 (RGB); memory-mapped where large."""


@dataclass(frozen=True, eq=False)
class TrainTest:
    """The two halves of a data set.

    Attributes:
        train: uint8 `(N, H, W, C)`, N >= 1.
        test: uint8 `(M, H, W, C)`, M >= 1, disjoint from `train`.
    """

    train: Images
    test: Images


@dataclass(frozen=True)
class DataSource:
    """A data set that is known but not read yet.

    What decides the network (the image shape) is known before anything is downloaded or decoded, so a
    dry run costs nothing.

    Attributes:
        image_shape: `(H, W, C)` of every image, H = W.
        random_flip: Whether training mirrors images left to right at random; never true for digits.
        description: One line for people: what the images are and how train and test are split.
        load: Reads the images, downloading or decoding them where that has not happened yet. Raises
            `UserError` where they cannot be had.
    """

    image_shape: tuple[int, int, int]
    random_flip: bool
    description: str
    load: Callable[[], TrainTest]
