"""Decoded images on disk: `.npy` files opened as memory maps."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ddim_host.errors import UserError, printable
from ddim_host.plugin.data import Images, TrainTest
from ddim_host.system.cache import CACHE_VARIABLE, cache_errors, cache_folder
from ddim_host.system.files import replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

# This NumPy function has no type annotations.
_write_npy_header: Callable[[BinaryIO, dict[str, object]], None] = np.lib.format.write_array_header_1_0


class ArrayWriter:
    """A writer that fills a `.npy` file of images in any order, a few images at a time.

    It writes to the file rather than to a memory map, so a full disk raises `OSError` instead of killing the
    process with a signal.

    Args:
        file: An empty file.
        shape: `(N, H, W, C)` of the uint8 array.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, int, int, int]) -> None:
        self._file = file
        self._shape = shape
        self._image_bytes = shape[1] * shape[2] * shape[3]
        self._write_header(shape[0])
        self._start = file.tell()

    def write(self, row: int, images: NDArray[np.uint8]) -> None:
        """Write one image `(H, W, C)`, or consecutive images `(M, H, W, C)`, from row `row`."""
        self._file.seek(self._start + row * self._image_bytes)
        self._file.write(np.ascontiguousarray(images).data)

    def leave_out(self, rows: Collection[int]) -> None:
        """Remove rows that were not written, closing the gaps."""
        kept = [row for row in range(self._shape[0]) if row not in rows]
        for new, old in enumerate(kept):
            if new != old:
                self._file.seek(self._start + old * self._image_bytes)
                image = self._file.read(self._image_bytes)
                self._file.seek(self._start + new * self._image_bytes)
                self._file.write(image)
        self._file.truncate(self._start + len(kept) * self._image_bytes)
        self._file.seek(0)
        self._write_header(len(kept))  # NumPy pads headers, so the length does not change
        if self._file.tell() != self._start:
            raise AssertionError("the length of the header changed")

    def _write_header(self, count: int) -> None:
        shape = (count, *self._shape[1:])
        _write_npy_header(self._file, {"descr": "|u1", "fortran_order": False, "shape": shape})


@dataclass
class NewTrainTest:
    """Writers for the training and test images of a data set.

    Attributes:
        train: Writer for the training images.
        test: Writer for the test images.
        key: The name of the data set in the cache; must be set before the end of the `with` block.
    """

    train: ArrayWriter
    test: ArrayWriter
    key: str = ""


@contextlib.contextmanager
def new_train_test(
    num_train: int, num_test: int, image_shape: tuple[int, int, int]
) -> Iterator[NewTrainTest]:
    """Write training and test images to the cache; both files appear there only if the block succeeds.

    Args:
        num_train: The number of training images; each must be written.
        num_test: The number of test images; each must be written.
        image_shape: `(H, W, C)`.

    Yields:
        The writers; the block must set their attribute `key`.

    Raises:
        UserError: The cache is not writable or has too little space.
    """
    with cache_errors():
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        _check_room(folder, (num_train + num_test) * int(np.prod(image_shape)))
        with (
            replacing(folder / "new", name=lambda: _paths(new.key)[0].name) as train_file,
            replacing(folder / "new", name=lambda: _paths(new.key)[1].name) as test_file,
        ):
            new = NewTrainTest(
                ArrayWriter(train_file, (num_train, *image_shape)),
                ArrayWriter(test_file, (num_test, *image_shape)),
            )
            yield new


def open_train_test(key: str, image_shape: tuple[int, int, int]) -> TrainTest | None:
    """Open a cached data set.

    Args:
        key: The name given to `new_train_test`.
        image_shape: Expected `(H, W, C)` of the images.

    Returns:
        Two read-only memory maps; None if either file is missing, truncated or invalid.
    """
    train_path, test_path = _paths(key)
    train, test = _open(train_path, image_shape), _open(test_path, image_shape)
    return None if train is None or test is None else TrainTest(train=train, test=test)


def _paths(key: str) -> tuple[Path, Path]:
    folder = cache_folder()
    return folder / f"{key}-train.npy", folder / f"{key}-test.npy"


def _open(path: Path, image_shape: tuple[int, int, int]) -> Images | None:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        size = path.stat().st_size
    except Exception:  # a damaged header fails in many ways; in each case the file is created again
        return None
    if not isinstance(array, np.memmap) or array.dtype != np.uint8 or array.ndim != 4:
        return None
    if array.shape[1:] != image_shape or len(array) < 1 or size != array.offset + array.nbytes:
        return None
    return array


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the decoded images do not fit into the cache folder {printable(folder)}",
            why=f"they need {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB is free",
            fix=f"set {CACHE_VARIABLE} to a folder on a larger disk, or use smaller images",
        )
