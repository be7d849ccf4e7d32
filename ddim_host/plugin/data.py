"""What a data set is to the host: uint8 images and how they are split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

Images: TypeAlias = "NDArray[np.uint8]"
"""Images as uint8 `(N, H, W, C)`, C = 1 (grey) or 3 (RGB); memory-mapped where large."""

_HASHED_BYTES = 16 << 20
"""About how many bytes of a memory map are looked at at a time."""


@dataclass(frozen=True)
class DataFingerprint:
    """Which images a data set held: two are equal where all pixels of both halves are.

    Attributes:
        num_train: The number of training images.
        num_test: The number of test images.
        train_sha256: Of the training images; see `image_hash`.
        test_sha256: Of the test images.
    """

    num_train: int
    num_test: int
    train_sha256: str
    test_sha256: str

    @property
    def number(self) -> int:
        """48 bits of a hash of it."""
        both = hashlib.sha256(f"{self.train_sha256} {self.test_sha256}".encode())
        return int(both.hexdigest()[:12], 16)

    def __str__(self) -> str:
        return (
            f"{self.num_train:,} train (SHA-256 {self.train_sha256[:12]}...), "
            f"{self.num_test:,} test ({self.test_sha256[:12]}...)"
        )


@dataclass(frozen=True, eq=False)
class TrainTest:
    """The two halves of a data set.

    Attributes:
        train: uint8 `(N, H, W, C)`, N >= 1.
        test: uint8 `(M, H, W, C)`, M >= 1, disjoint from `train`.
        split: How it was decided which image belongs to which half, in a few words, where that is only known
            from the images: "1 in 10 for testing".
        left_out: Files that should have been images and were left out, because the user asked for that.
    """

    train: Images
    test: Images
    split: str = ""
    left_out: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> DataFingerprint:
        """Which images these are; the first time, all of them are read."""
        return DataFingerprint(len(self.train), len(self.test), image_hash(self.train), image_hash(self.test))


@dataclass(frozen=True)
class DataSource:
    """A data set that is known but not read yet.

    What decides the network (the image shape) is known before anything is downloaded or decoded, so a
    dry run costs nothing. (`images` decodes grey images to know that all of them are.)

    Attributes:
        image_shape: `(H, W, C)` of every image, H = W.
        random_flip: Whether training mirrors images left to right at random; never true for digits.
        description: One line for people: what the images are and how train and test are split.
        load: Reads the images, downloading or decoding them where that has not happened yet. Raises
            `UserError` where they cannot be had.
        resolved: Values of parameters that were left to the images, such as `channels=auto`. A run stores
            these in place of what was asked for.
    """

    image_shape: tuple[int, int, int]
    random_flip: bool
    description: str
    load: Callable[[], TrainTest]
    resolved: Mapping[str, bool | int | float | str] = field(default_factory=dict)


def image_hash(images: Images) -> str:
    """The SHA-256 of images, of their shape and all pixels, in hexadecimal."""
    digest = hashlib.sha256(repr(images.shape).encode())
    rows = max(1, _HASHED_BYTES // max(1, images[:1].nbytes))
    for first in range(0, len(images), rows):
        digest.update(images[first : first + rows].tobytes())
    return digest.hexdigest()
