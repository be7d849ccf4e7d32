"""Decoded images on disk: `.npy` files that are opened as memory maps."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ddim_host.errors import UserError, printable
from ddim_host.plugin.data import Images, TrainTest
from ddim_host.system.cache import CACHE_VARIABLE, cache_errors, cache_folder
from ddim_host.system.files import replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["new_train_test", "open_train_test", "rename_train_test"]

# NumPy gives this function no types.
_write_npy_header: Callable[[BinaryIO, dict[str, object]], None] = np.lib.format.write_array_header_1_0


class ArrayWriter:
    """A `.npy` file of images that is filled in any order, a few images at a time.

    It is written through the file and not through a memory map: a full disk is then an `OSError`, and not
    a signal that kills the process.

    Args:
        file: An empty file.
        shape: `(N, H, W, C)` of the uint8 array.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, int, int, int]) -> None:
        self._file = file
        self._image_bytes = shape[1] * shape[2] * shape[3]
        header: dict[str, object] = {"descr": "|u1", "fortran_order": False, "shape": shape}
        _write_npy_header(file, header)
        self._start = file.tell()

    def write(self, row: int, images: NDArray[np.uint8]) -> None:
        """Writes one image `(H, W, C)`, or several `(M, H, W, C)` that follow each other, from row `row`."""
        self._file.seek(self._start + row * self._image_bytes)
        self._file.write(np.ascontiguousarray(images).data)


def rename_train_test(key: str, new_key: str) -> None:
    """Give a data set in the cache another name; one that has that name already is replaced.

    Raises:
        UserError: The cache cannot be written.
    """
    with cache_errors():
        for old, new in zip(_paths(key), _paths(new_key), strict=True):
            old.replace(new)


@contextlib.contextmanager
def new_train_test(
    key: str, num_train: int, num_test: int, image_shape: tuple[int, int, int]
) -> Iterator[tuple[ArrayWriter, ArrayWriter]]:
    """Writes the two halves of a data set into the cache; both appear there only if the block ends well.

    Args:
        key: The name of the data set in the cache: what it holds is decided by the key.
        num_train: The number of training images; each must be written.
        num_test: The number of test images; each must be written.
        image_shape: `(H, W, C)`.

    Yields:
        The writers of the training images and of the test images.

    Raises:
        UserError: The cache cannot be written or has too little room.
    """
    with cache_errors():
        train_path, test_path = _paths(key)
        train_path.parent.mkdir(parents=True, exist_ok=True)
        _check_room(train_path.parent, (num_train + num_test) * int(np.prod(image_shape)))
        with replacing(train_path) as train_file, replacing(test_path) as test_file:
            yield (
                ArrayWriter(train_file, (num_train, *image_shape)),
                ArrayWriter(test_file, (num_test, *image_shape)),
            )


def open_train_test(key: str, image_shape: tuple[int, int, int]) -> TrainTest | None:
    """Opens a data set that is in the cache.

    Args:
        key: The name that `new_train_test` wrote it under.
        image_shape: `(H, W, C)` that its images must have.

    Returns:
        Two read-only memory maps, or None where either file is missing, cut short or not what it should be.
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
    except Exception:  # a damaged header fails in many ways, and whatever it was, the file is made anew
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
            why=f"they take {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free",
            fix=f"set {CACHE_VARIABLE} to a folder with more room, or ask for smaller images",
        )
