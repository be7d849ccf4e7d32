"""The host's representation of data sets: uint8 images and their split."""

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
"""Images as uint8 `(N, H, W, C)`, C = 1 (grey) or 3 (RGB); large ones are memory-mapped."""

_HASHED_BYTES = 16 << 20
"""Approximate number of bytes hashed at a time."""


@dataclass(frozen=True)
class DataFingerprint:
    """Fingerprint of a data set's images: equal if and only if all training and test pixels are equal.

    Attributes:
        num_train: The number of training images.
        num_test: The number of test images.
        train_sha256: Hash of the training images; see `image_hash`.
        test_sha256: Hash of the test images.
    """

    num_train: int
    num_test: int
    train_sha256: str
    test_sha256: str

    @property
    def number(self) -> int:
        """The first 48 bits of a hash of the fingerprint, as an integer."""
        both = hashlib.sha256(f"{self.train_sha256} {self.test_sha256}".encode())
        return int(both.hexdigest()[:12], 16)

    def __str__(self) -> str:
        return (
            f"{self.num_train:,} train (SHA-256 {self.train_sha256[:12]}...), "
            f"{self.num_test:,} test ({self.test_sha256[:12]}...)"
        )


@dataclass(frozen=True, eq=False)
class TrainTest:
    """The training and test images of a data set.

    Attributes:
        train: uint8 `(N, H, W, C)`, N >= 1.
        test: uint8 `(M, H, W, C)`, M >= 1, disjoint from `train`.
        split: A short description of the split, if it depends on the images: "its folders train/ and test/".
        left_out: Printable names of broken image files that were skipped at the user's request.
    """

    train: Images
    test: Images
    split: str = ""
    left_out: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> DataFingerprint:
        """Return the fingerprint of the images; the first call reads all of them."""
        return DataFingerprint(len(self.train), len(self.test), image_hash(self.train), image_hash(self.test))


@dataclass(frozen=True)
class DataSource:
    """The description of a data set that has not been read yet.

    The image shape, which determines the network, is known before any download or decoding, so a dry run is
    cheap. (The exception is the data set `images`, which decodes grey images to verify that all are grey.)

    Attributes:
        image_shape: `(H, W, C)` of every image, H = W.
        random_flip: Mirror images left to right at random in training; must be false for digits.
        description: One line for users that describes the images and their split into train and test.
        load: Reads the images, after downloading or decoding them if needed. Raises `UserError` if they are
            not available.
        resolved: Values of parameters that the images determine, such as `channels` if it is `auto`. A run
            stores these instead of the requested values.
        known: The images, if they have been read already; a dry run then prints how many there are.
    """

    image_shape: tuple[int, int, int]
    random_flip: bool
    description: str
    load: Callable[[], TrainTest]
    resolved: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    known: TrainTest | None = None


def image_hash(images: Images) -> str:
    """Return the SHA-256 hash of the shape and all pixels of images, in hexadecimal."""
    digest = hashlib.sha256(repr(images.shape).encode())
    rows = max(1, _HASHED_BYTES // max(1, images[:1].nbytes))
    for first in range(0, len(images), rows):
        digest.update(images[first : first + rows].tobytes())
    return digest.hexdigest()
