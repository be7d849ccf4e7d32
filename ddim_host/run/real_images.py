"""Real images to compare with samples: some test images, and the training images nearest to the samples.

samples/real/NAME.png    rows, each with a sample of the grid NAME and its nearest training images
samples/real/NAME.json   their distances; see `Neighbours`
samples/real/test.png    evenly spaced test images
samples/real/test.json   the number of test images

A distance is the root mean squared difference of two images over all pixels and channels, from 0 to 255.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from ddim_host.run.images import MAX_CANVAS, grid_png
from ddim_host.system.files import file_errors, write_bytes, write_text

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ddim_host.plugin.data import Images, TrainTest

FOLDER = "real"
TEST_IMAGES = "test"

_MOST_SAMPLES = 8
_NEAREST = 3
_MOST_TEST_IMAGES = 64
_MOST_TEST_PIXELS = 64 * 256 * 256
"""Maximum number of pixels of all test images; there are fewer large ones."""
_BLOCK_BYTES = 64 << 20
"""Size of the training images processed at a time, as float32."""


@dataclass(frozen=True)
class Neighbours:
    """The training images nearest to samples.

    Attributes:
        columns: Images per row of the grid: the sample and its neighbours.
        distances: The distances from each sample to its neighbours, in increasing order.
        test_distance: The median distance of test images from their nearest training images.
        num_train: The number of training images that were compared.
    """

    columns: int
    distances: tuple[tuple[float, ...], ...]
    test_distance: float
    num_train: int


@dataclass(frozen=True)
class RealGrid:
    """Record of a grid of real images: the number of images."""

    num_images: int


def nearest(images: Images, train: Images, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the training images nearest to each image.

    Args:
        images: uint8 `(N, H, W, C)`.
        train: uint8 `(M, H, W, C)`, M >= count.
        count: Number of neighbours per image.

    Returns:
        Their indices, int64 `(N, count)`, nearest first, and the distances in the same order, float64.
    """
    flat = images.reshape(len(images), -1).astype(np.float32)
    squares = (flat**2).sum(1, keepdims=True)
    best = np.empty((len(images), 0), np.int64)
    best_squares = np.empty((len(images), 0), np.float32)
    length = max(1, _BLOCK_BYTES // (4 * flat.shape[1]))
    for first in range(0, len(train), length):
        block = train[first : first + length].reshape(-1, flat.shape[1]).astype(np.float32)
        found = squares + np.einsum("ij,ij->i", block, block) - 2.0 * flat @ block.T
        indices = np.broadcast_to(np.arange(first, first + len(block)), found.shape)
        best, best_squares = np.hstack([best, indices]), np.hstack([best_squares, found])
        # Keep a few more than needed, because the products are rounded; the exact order is determined below.
        kept = np.argsort(best_squares, axis=1, kind="stable")[:, : count + 4]
        best = np.take_along_axis(best, kept, 1)
        best_squares = np.take_along_axis(best_squares, kept, 1)
    exact = np.array([_distances(image, train[found]) for image, found in zip(images, best, strict=True)])
    order = np.argsort(exact, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(best, order, 1), np.take_along_axis(exact, order, 1)


def _distances(image: NDArray[np.uint8], others: Images) -> NDArray[np.float64]:
    """Return the distance of an image from each of the others, float64."""
    squares = (others.astype(np.int32) - image) ** 2
    return np.sqrt(squares.reshape(len(others), -1).mean(axis=1))


class ComparedSamples:
    """The first samples of a grid, which are compared with the training images."""

    def __init__(self) -> None:
        self._batches: list[Images] = []

    @property
    def images(self) -> Images:
        """The samples so far, uint8 `(N, H, W, C)`."""
        return np.concatenate(self._batches)

    def add(self, images: Images) -> None:
        """Add the next samples, if more are needed."""
        self._batches.append(images[: _MOST_SAMPLES - sum(map(len, self._batches))].copy())


def neighbours_path(picture: Path) -> Path:
    """Return the path of the record of the real images for a grid of samples."""
    return picture.parent / FOLDER / f"{picture.stem}.json"


def write_real_images(picture: Path, samples: Images, images: TrainTest) -> None:
    """Write the real images for a grid of samples, replacing earlier ones.

    Args:
        picture: The path of the grid, in the `samples/` folder of a run.
        samples: Its first images, uint8 `(N, H, W, C)`.
        images: The data set of the run.

    Raises:
        UserError: A file cannot be written.
    """
    height, width = images.test.shape[1:3]
    pixels = height * width
    # A row takes less than five images, with the gaps.
    samples = samples[: max(1, MAX_CANVAS // (5 * pixels))]
    most = max(1, min(_MOST_TEST_IMAGES, _MOST_TEST_PIXELS // pixels))
    # Evenly spaced, because some data sets are sorted by class.
    spread = np.linspace(0, len(images.test) - 1, min(most, len(images.test)))
    test = images.test[np.unique(np.rint(spread).astype(np.int64))]
    count = min(_NEAREST, len(images.train))
    indices, distances = nearest(np.concatenate([samples, test]), images.train, count)
    rows = [
        np.concatenate([sample[np.newaxis], images.train[found]])
        for sample, found in zip(samples, indices[: len(samples)], strict=True)
    ]
    neighbours = Neighbours(
        columns=1 + count,
        distances=tuple(tuple(map(float, row)) for row in distances[: len(samples)]),
        test_distance=float(np.median(distances[len(samples) :, 0])),
        num_train=len(images.train),
    )
    folder = picture.parent / FOLDER
    with file_errors(f"cannot write to {folder}"):
        folder.mkdir(exist_ok=True)
        # The record of the neighbours is written last, because it shows that a run is complete.
        for name, content, record in (
            (TEST_IMAGES, grid_png(test), RealGrid(len(test))),
            (picture.stem, grid_png(np.concatenate(rows), columns=1 + count), neighbours),
        ):
            write_bytes(folder / f"{name}.png", content)
            write_text(folder / f"{name}.json", json.dumps(asdict(record), indent=2) + "\n")
