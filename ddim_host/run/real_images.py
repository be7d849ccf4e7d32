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

from ddim_host.run.images import grid_images, grid_png
from ddim_host.system.files import file_errors, read_bytes, write_bytes, write_text

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ddim_host.plugin.data import Images, TrainTest

FOLDER = "real"
TEST_IMAGES = "test"

_MOST_SAMPLES = 8
_NEAREST = 3
_MOST_TEST_IMAGES = 64
_BLOCK = 2048
"""Number of training images processed at a time; as float32, 2,048 images of CIFAR-10 take 25 MB."""
_MOST_GRID_BYTES = 64 << 20


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
    for first in range(0, len(train), _BLOCK):
        block = train[first : first + _BLOCK].reshape(-1, flat.shape[1]).astype(np.float32)
        found = squares + (block**2).sum(1) - 2.0 * flat @ block.T
        indices = np.broadcast_to(np.arange(first, first + len(block)), found.shape)
        best, best_squares = np.hstack([best, indices]), np.hstack([best_squares, found])
        # Keep a few more than needed, because the products are rounded; the exact order is determined below.
        kept = np.argsort(best_squares, axis=1, kind="stable")[:, : count + 4]
        best = np.take_along_axis(best, kept, 1)
        best_squares = np.take_along_axis(best_squares, kept, 1)
    apart = images[:, np.newaxis].astype(np.int32) - train[best].astype(np.int32)
    exact = np.sqrt((apart.astype(np.float64) ** 2).mean(axis=(2, 3, 4)))
    order = np.argsort(exact, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(best, order, 1), np.take_along_axis(exact, order, 1)


def write_real_images(picture: Path, num_images: int, images: TrainTest) -> None:
    """Write the real images for a grid of samples, replacing earlier ones.

    Args:
        picture: The grid, in the `samples/` folder of a run.
        num_images: The number of samples in the grid.
        images: The data set of the run.

    Raises:
        UserError: The grid cannot be read, or a file cannot be written.
    """
    with file_errors(f"cannot read {picture}"):
        png = read_bytes(picture, _MOST_GRID_BYTES)
    samples = grid_images(png, num_images, images.train.shape[1:])[:_MOST_SAMPLES]
    # Evenly spaced, because some data sets are sorted by class.
    spread = np.linspace(0, len(images.test) - 1, min(_MOST_TEST_IMAGES, len(images.test)))
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
        for name, content, record in (
            (picture.stem, grid_png(np.concatenate(rows), columns=1 + count), neighbours),
            (TEST_IMAGES, grid_png(test), RealGrid(len(test))),
        ):
            write_bytes(folder / f"{name}.png", content)
            write_text(folder / f"{name}.json", json.dumps(asdict(record), indent=2) + "\n")
