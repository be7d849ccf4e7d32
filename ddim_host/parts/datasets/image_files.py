"""Image files in folders and archives, and their split into train and test."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ddim_host.errors import UserError, printable
from ddim_host.parts.datasets.archives import (
    MAX_FILE_BYTES,
    readable,
    tar_files,
    tar_names,
    too_many_bytes,
    zip_files,
    zip_names,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from ddim_host.parts.datasets.decoding import Content

_CLOCK_NANOSECONDS = 2_000_000_000
"""Coarsest resolution of file times; two changes within this interval may have the same time."""

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")

_SCANS = (".dcm", ".dicom", ".nii", ".nii.gz")

FOLDERS = "its folders train/ and test/"


@dataclass(frozen=True)
class Listing:
    """Hashes that identify files without reading them.

    Attributes:
        names: A hash of the path, and of all names and sizes.
        status: A hash of modification times, change times and inode numbers. Copy tools can set modification
            times. On Linux file systems, no tool can set the other two, so files with the same status have
            not been replaced.
        is_old: True if the last change is old enough that any later one gets a different time.
    """

    names: str
    status: str
    is_old: bool


class ImageFiles(Protocol):
    """A set of images, each with a relative name that uses `/` as its separator."""

    @property
    def halves(self) -> str:
        """Description of the training and test images if names begin with `train/` and `test/`."""

    def statuses(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the name and status of each file on disk, without reading any."""

    def names(self) -> Iterator[str]:
        """Yield the names in a fixed order, the same for every call."""

    def contents(self) -> Generator[tuple[str, Content], None, None]:
        """Yield names and images in the order of `names`."""


@dataclass(frozen=True)
class Joined:
    """Several sets of images, each presented as a folder.

    Attributes:
        members: The name of each folder, and its images.
        halves: See `ImageFiles.halves`.
    """

    members: tuple[tuple[str, ImageFiles], ...]
    halves: str

    def statuses(self) -> Iterator[tuple[str, os.stat_result]]:
        """See `ImageFiles.statuses`."""
        for folder, files in self.members:
            for name, status in files.statuses():
                yield f"{folder}/{name}", status

    def names(self) -> Iterator[str]:
        """See `ImageFiles.names`."""
        for folder, files in self.members:
            for name in files.names():
                yield f"{folder}/{name}"

    def contents(self) -> Generator[tuple[str, Content], None, None]:
        """See `ImageFiles.contents`."""
        for folder, files in self.members:
            with contextlib.closing(files.contents()) as contents:
                for name, data in contents:
                    yield f"{folder}/{name}", data


def is_image_name(name: str) -> bool:
    """Return whether a relative name is that of an image file, neither hidden nor below `__MACOSX`."""
    return name.lower().endswith(EXTENSIONS) and not is_hidden(name)


def is_scan_name(name: str) -> bool:
    """Return whether a relative name is that of a DICOM or NIfTI file, which are not supported."""
    return name.lower().endswith(_SCANS) and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Return whether a relative name is that of a hidden file, or of a file added by macOS."""
    return any(map(_is_hidden, name.split("/")))


def split_names(names: Sequence[str], every: int) -> tuple[list[int], list[int]]:
    """Split images into train and test by their names alone.

    A single enclosing folder is ignored. If there are then folders `train` and `test`, they are the two
    halves, and images in neither are ignored. Otherwise, the images are sorted by name, and the first and
    every `every`-th after it are for testing.

    Args:
        names: Relative names, separated by `/`.
        every: At least 2.

    Returns:
        The positions in `names` of the training images and of the test images, each sorted by name (stable
        for equal names). Neither is empty if there are at least two names.
    """
    order = sorted(range(len(names)), key=lambda i: names[i])
    if has_halves(names):
        folders = _outer_folders(names)
        return [i for i in order if folders[i] == "train"], [i for i in order if folders[i] == "test"]
    return [i for rank, i in enumerate(order) if rank % every], order[::every]


def has_halves(names: Sequence[str]) -> bool:
    """Return whether there are folders `train` and `test`; see `split_names`."""
    return {"train", "test"} <= {*_outer_folders(names)}


def _outer_folders(names: Sequence[str]) -> list[str]:
    """Return each name's outer folder in lower case, below a single enclosing folder; empty if none."""
    parts = [name.split("/") for name in names]
    if len({p[0] for p in parts}) == 1 and all(len(p) > 1 for p in parts):
        parts = [p[1:] for p in parts]
    return [p[0].lower() if len(p) > 1 else "" for p in parts]


@dataclass(frozen=True)
class Archive:
    """The image files in a zip or tar archive."""

    path: Path
    list_names: Callable[[Path, Callable[[str], bool]], Iterator[str]]
    read_files: Callable[[Path, Callable[[str], bool]], Generator[tuple[str, bytes], None, None]]
    halves: str = FOLDERS

    def statuses(self) -> Iterator[tuple[str, os.stat_result]]:
        """See `ImageFiles.statuses`."""
        with readable(self.path):
            yield "", self.path.stat()

    def names(self) -> Iterator[str]:
        """See `ImageFiles.names`."""
        return self.list_names(self.path, is_image_name)

    def contents(self) -> Generator[tuple[str, Content], None, None]:
        """See `ImageFiles.contents`."""
        yield from self.read_files(self.path, is_image_name)


def zip_of_images(path: Path) -> Archive:
    """Return the image files in a zip archive."""
    return Archive(path, zip_names, zip_files)


def tar_of_images(path: Path) -> Archive:
    """Return the image files in a tar archive."""
    return Archive(path, tar_names, tar_files)


@dataclass(frozen=True)
class Folder:
    """The image files in a folder and its subfolders.

    Links to files are followed; links to folders are not, because they may be circular.
    """

    path: Path
    halves: str = FOLDERS

    def statuses(self) -> Iterator[tuple[str, os.stat_result]]:
        """See `ImageFiles.statuses`."""
        for name, _, status in files_below(self.path, is_image_name):
            yield name, status

    def names(self) -> Iterator[str]:
        """See `ImageFiles.names`."""
        for name, _, _ in files_below(self.path, is_image_name):
            yield name

    def contents(self) -> Generator[tuple[str, Content], None, None]:
        """See `ImageFiles.contents`."""
        for name, path, status in files_below(self.path, is_image_name):
            if status.st_size > MAX_FILE_BYTES:
                raise too_many_bytes(self.path, name, MAX_FILE_BYTES)
            with _readable(self.path), path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES)
            yield name, data


def files_below(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Path, os.stat_result]]:
    """Yield the files in a folder and its subfolders, sorted by folder and name.

    Args:
        path: The folder.
        wanted: Selects the relative names to yield.

    Yields:
        The relative name, the path and the status.

    Raises:
        UserError: A folder cannot be read.
    """
    with _readable(path):
        for folder, folders, files in os.walk(path, onerror=_raise, followlinks=False):
            folders[:] = sorted(name for name in folders if not _is_hidden(name))
            inside = Path(folder).relative_to(path).as_posix()
            prefix = "" if inside == "." else f"{inside}/"
            for file in sorted(files):
                name = prefix + file
                if not wanted(name):
                    continue
                found = Path(folder, file)
                status = found.stat()
                if stat.S_ISREG(status.st_mode):  # reading a pipe could block forever
                    yield name, found, status


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot read the images in {printable(path)}",
            why=printable(error),
            fix="repair or remove that file or folder",
        ) from error


class ContentHash:
    """The SHA-256 of the names and contents of image files, in the order in which they were added."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, name: str, data: Content) -> None:
        """Add the next file."""
        # Names that are not UTF-8 contain lone surrogates.
        encoded = name.encode("utf-8", "surrogateescape")
        size = len(data) if isinstance(data, bytes) else data.shape
        self._digest.update(f"{len(encoded)} {size} ".encode())
        self._digest.update(encoded)
        self._digest.update(data if isinstance(data, bytes) else data.tobytes())

    def hexdigest(self) -> str:
        """Return the hash of all files so far."""
        return self._digest.hexdigest()


def look_at(path: Path, files: ImageFiles) -> Listing:
    """Return the listing of files without reading them.

    Args:
        path: The path of the files.
        files: The files at this path.
    """
    names = hashlib.sha256(os.fsencode(path.absolute()))
    statuses, newest = hashlib.sha256(), 0
    for name, status in files.statuses():
        names.update(f"/{status.st_size} ".encode() + name.encode("utf-8", "surrogateescape"))
        statuses.update(repr((status.st_mtime_ns, status.st_ctime_ns, status.st_ino)).encode())
        newest = max(newest, status.st_ctime_ns)
    return Listing(names.hexdigest(), statuses.hexdigest(), newest < time.time_ns() - _CLOCK_NANOSECONDS)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _raise(error: OSError) -> None:
    raise error
