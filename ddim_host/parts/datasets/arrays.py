"""Images in arrays: NumPy's `.npy` and `.npz` files, and MNIST's idx files."""

from __future__ import annotations

import contextlib
import gzip
import math
import struct
import warnings
import zipfile
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, NamedTuple, TypeAlias, cast

import numpy as np

from ddim_host.errors import UserError, printable
from ddim_host.parts.datasets.archives import readable
from ddim_host.parts.datasets.decoding import MAX_PIXELS
from ddim_host.parts.datasets.image_files import Joined
from ddim_host.parts.datasets.one_file import OneFile

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from numpy.typing import NDArray

    Stream: TypeAlias = "contextlib.AbstractContextManager[tuple[IO[bytes], int]]"

NPY_MAGIC = b"\x93NUMPY"
HALVES = (("x_train", "x_test"), ("train_images", "test_images"))
"""Names of the training and test arrays in files from Keras and MedMNIST."""

_MAX_DEFLATION = 1100
"""Upper bound on the expansion ratio of Deflate, which is at most 1,032."""

_IDX_UINT8 = 0x08
_IDX_TYPES = {
    _IDX_UINT8: "uint8",
    0x09: "int8",
    0x0B: ">i2",
    0x0C: ">i4",
    0x0D: ">f4",
    0x0E: ">f8",
}
_RANGE_BYTES = 1 << 20
_WANTED = "images must be uint8 arrays of shape (N, H, W), (N, H, W, 1) or (N, H, W, 3)"


class _Header(NamedTuple):
    """Header of an array."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    fortran_order: bool = False


@dataclass(frozen=True)
class ImageArray(OneFile):
    """The images in one array, read from front to back.

    Attributes:
        path: The file.
        name: Name of the array in error messages.
        stream: Opens a stream of the array's bytes, and returns it with an upper bound on their number.
        read_header: Reads the header before the images.
    """

    name: str
    stream: Callable[[], Stream]
    read_header: Callable[[IO[bytes]], _Header]

    def count(self) -> int:
        """Return the number of images; 0 if the array contains something else or cannot be read."""
        try:
            with readable(self.path), self.stream() as (file, _):
                header = self.read_header(file)
        except UserError:
            return 0
        return header.shape[0] if header.dtype == np.uint8 and _is_image_shape(header.shape) else 0

    def names(self) -> Iterator[str]:
        """See `ImageFiles.names`."""
        with readable(self.path), self.stream() as (file, size):
            count = self._shape(file, size)[0]
        for index in range(count):
            yield _row_name(index)

    def contents(self) -> Generator[tuple[str, NDArray[np.uint8]], None, None]:
        """See `ImageFiles.contents`."""
        with readable(self.path), self.stream() as (file, size):
            count, *shape = self._shape(file, size)
            image_bytes = math.prod(shape)
            for index in range(count):
                data = file.read(image_bytes)
                if len(data) != image_bytes:
                    raise ValueError(f"it ends within image {index:,} of {count:,}")
                yield _row_name(index), np.frombuffer(data, np.uint8).reshape(shape)
            if file.read(1):  # reading to the end of compressed data also verifies its checksum
                raise ValueError(f"it contains data after its {count:,} images")

    def _shape(self, file: IO[bytes], size: int) -> tuple[int, int, int, int]:
        """Read the header, and return the shape `(N, H, W, C)` of the images.

        Raises:
            UserError: The array does not contain images.
            ValueError: The header is damaged.
        """
        header = self.read_header(file)
        shape = header.shape
        if header.dtype != np.uint8 or not _is_image_shape(shape) or header.fortran_order or 0 in shape:
            raise self._refused(header, file)
        if math.prod(shape[1:3]) > MAX_PIXELS:
            raise ValueError(f"its images have more than {MAX_PIXELS // 1_000_000} million pixels")
        if math.prod(shape) > size:
            raise ValueError(f"it is too short for an array of shape {shape}")
        count, height, width = shape[:3]
        return count, height, width, shape[3] if len(shape) == 4 else 1

    def _refused(self, header: _Header, file: IO[bytes]) -> UserError:
        found = f"{header.dtype.name} of shape {header.shape}"
        fix = _shape_advice(header.shape)
        if header.dtype.hasobject:
            found += " (pickled objects, which are never loaded)"
        elif header.dtype.kind in "biuf" and header.dtype != np.uint8:
            count = min(math.prod(header.shape), _RANGE_BYTES // header.dtype.itemsize)
            data = file.read(count * header.dtype.itemsize)
            first = np.frombuffer(
                data[: len(data) // header.dtype.itemsize * header.dtype.itemsize], header.dtype
            )
            if first.size:
                low, high = float(first.min()), float(first.max())
                found += f", with values from {low:g} to {high:g} in the part that was read"
                fix = _value_advice(low, high) if not fix else f"{fix}, converted to uint8"
        elif header.fortran_order:
            found += " in Fortran order"
            fix = fix or "save np.ascontiguousarray(array)"
        return UserError(
            f"{self.name} in {printable(self.path)} is not an array of images: it is {found}",
            why=_WANTED,
            fix=fix or "save the images as such an array",
        )


def open_npy(path: Path) -> ImageArray:
    """Open a `.npy` file; nothing is read yet."""
    return ImageArray(path, "the array", partial(_plain, path), _read_npy_header)


def open_npz(path: Path) -> ImageArray | Joined:
    """Open the image arrays in a `.npz` file: train and test, the one named `images`, or the only one.

    Raises:
        UserError: The file cannot be read, or it is unclear which of its arrays are images.
    """
    with readable(path), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    arrays = {
        name: ImageArray(path, name, partial(_member, path, f"{name}.npy"), _read_npy_header)
        for name in names
    }
    for train, test in HALVES:
        if {train, test} <= arrays.keys():
            halves = f"its arrays {train} and {test}" + _unused(arrays, {train, test})
            return Joined((("train", arrays[train]), ("test", arrays[test])), halves)
    if "images" in arrays:
        return arrays["images"]
    if len(arrays) != 1:
        shown = printable(", ".join(names[:10])) or "none"
        raise UserError(
            f"cannot tell which arrays in {printable(path)} are images",
            why=f"its arrays: {shown}",
            fix="name one of them `images`, or two of them `x_train` and `x_test`",
        )
    return next(iter(arrays.values()))


def _unused(arrays: Mapping[str, ImageArray], used: AbstractSet[str]) -> str:
    """Describe the image arrays that are in neither half, such as `val_images` in MedMNIST."""
    counts = {name: array.count() for name, array in arrays.items() if name not in used}
    some = ", ".join(f"{printable(name)} ({count:,})" for name, count in counts.items() if count)
    return f"; not used: {some}" if some else ""


def open_idx(path: Path) -> ImageArray:
    """Open an idx file, plain or compressed with gzip; nothing is read yet."""
    return ImageArray(path, "the array", partial(_perhaps_gzip, path), _read_idx_header)


def is_idx(start: bytes) -> bool:
    """Return whether the first four bytes of a file are those of an idx file."""
    return len(start) == 4 and start[:2] == b"\0\0" and start[2] in _IDX_TYPES and start[3] > 0


def _is_image_shape(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))


def _row_name(index: int) -> str:
    return f"{index:09}"


@contextlib.contextmanager
def _plain(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    with path.open("rb") as file:
        yield file, path.stat().st_size


@contextlib.contextmanager
def _perhaps_gzip(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    with path.open("rb") as file:
        size = path.stat().st_size
        if file.peek(2)[:2] != b"\x1f\x8b":
            yield file, size
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield cast("IO[bytes]", unpacked), size * _MAX_DEFLATION


@contextlib.contextmanager
def _member(path: Path, name: str) -> Iterator[tuple[IO[bytes], int]]:
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(name)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # `zipfile` decompresses other methods into memory without limit, whatever size is requested.
            raise zipfile.BadZipFile(f"{name} is neither stored nor deflated")
        with archive.open(member) as file:
            yield file, min(member.file_size, path.stat().st_size * _MAX_DEFLATION)


def _read_npy_header(file: IO[bytes]) -> _Header:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read:
        raise ValueError(f"its format version {version} is not supported")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # headers written by Python 2
        shape, fortran_order, dtype = read[version](file)
    if any(size < 0 for size in shape):
        raise ValueError(f"its shape {shape} has a negative size")
    return _Header(dtype, shape, fortran_order and sum(size > 1 for size in shape) > 1)


def _read_idx_header(file: IO[bytes]) -> _Header:
    start = file.read(4)
    if not is_idx(start):
        raise ValueError("it does not begin with the header of an idx file")
    dimensions = start[3]
    sizes = file.read(4 * dimensions)
    return _Header(np.dtype(_IDX_TYPES[start[2]]), struct.unpack(f">{dimensions}I", sizes))


def _shape_advice(shape: tuple[int, ...]) -> str:
    """Return advice for converting an array of a different shape, or an empty string if there is none."""
    if len(shape) == 4 and shape[3] == 4:
        return "save array[:, :, :, :3], without transparency"
    if len(shape) == 4 and shape[1] in (1, 3):
        return "save array.transpose(0, 2, 3, 1), with the channels last"
    if len(shape) == 2:
        side = math.isqrt(shape[1])
        if side > 1 and side**2 == shape[1] != shape[0]:
            return f"save array.reshape(-1, {side}, {side})"
        return "save array[None] if it is a single image; a folder may contain several such files"
    return ""


def _value_advice(low: float, high: float) -> str:
    if low >= 0 and high <= 1:
        return "if these values are from 0 to 1, save (255 * array).round().astype('uint8')"
    if low >= -1 and high <= 1:
        return "if these values are from -1 to 1, save (127.5 * array + 127.5).round().astype('uint8')"
    if low >= 0 and high <= 255:
        return "save array.round().astype('uint8')"
    return "scale all images to 0 to 255 with the same window, and save array.round().astype('uint8')"
