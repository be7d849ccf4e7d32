"""Finding image files in a folder, a zip or a tar archive, and splitting them into train and test."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ddim_host.errors import UserError, printable, reason
from ddim_host.parts.datasets.archives import (
    MAX_FILE_BYTES,
    is_zip,
    tar_files,
    tar_names,
    too_many_bytes,
    zip_files,
    zip_names,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

_CLOCK_NANOSECONDS = 2_000_000_000
"""Times of files may be as coarse as this; a change within it can leave them as they are."""

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


@dataclass(frozen=True)
class Listing:
    """A look at files without reading them.

    Attributes:
        names: A hash of the place, of all names and of all sizes.
        status: A hash of modification times, change times and inode numbers. Tools that copy files set the
            first. On the file systems of Linux no tool sets the others, so files with an equal status have
            not been replaced.
        is_old: True if the last change is long enough ago for clocks to tell the next one from it.
    """

    names: str
    status: str
    is_old: bool


class ImageFiles(Protocol):
    """The image files somewhere, each with its name relative to there, parted by `/`."""

    def listing(self) -> Listing:
        """Look at all files, and read none."""

    def names(self) -> Iterator[str]:
        """Yields the names in an order of its own, which is the same at every call."""

    def contents(self) -> Generator[tuple[str, bytes], None, None]:
        """Yields names and contents in the order of `names`."""


def open_image_files(path: Path) -> ImageFiles:
    """Finds out what kind of thing holds the images.

    Args:
        path: A folder or an archive.

    Returns:
        Its image files, none of them read yet.

    Raises:
        UserError: There is nothing, or something else, or it may not be read.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot open {printable(path)}",
            why=reason(error),
            fix="give path= of a folder, zip or tar that exists and may be read",
        ) from error
    if stat.S_ISDIR(status.st_mode):
        return _Folder(path)
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{printable(path)} is neither a folder nor a file", fix="give a folder, zip or tar")
    if is_zip(path):
        return _Archive(path, zip_names, zip_files)
    return _Archive(path, tar_names, tar_files)


def is_image_name(name: str) -> bool:
    """Tells whether a relative name is one of an image file; hidden files and `__MACOSX` are not."""
    parts = name.split("/")
    return name.lower().endswith(EXTENSIONS) and not any(map(_is_hidden, parts))


def split_names(names: Sequence[str], every: int) -> tuple[list[int], list[int]]:
    """Splits images into train and test by their names alone.

    A single folder around everything is passed over. Where there are folders `train` and `test` then, they
    are the two halves, and what is in neither is left out. Otherwise the images are taken in the order of
    their names, and the first and every `every`-th after it is for testing.

    Args:
        names: Relative names, parted by `/`.
        every: At least 2.

    Returns:
        The positions in `names` of the training images and of the test images, each in the order of the
        names (equal names in the order they come in). Both have at least one where there are two names.
    """
    order = sorted(range(len(names)), key=lambda i: names[i])
    if has_halves(names):
        folders = _outer_folders(names)
        return [i for i in order if folders[i] == "train"], [i for i in order if folders[i] == "test"]
    return [i for rank, i in enumerate(order) if rank % every], order[::every]


def has_halves(names: Sequence[str]) -> bool:
    """Whether there are folders `train` and `test`, which then are the two halves; see `split_names`."""
    return {"train", "test"} <= {*_outer_folders(names)}


def _outer_folders(names: Sequence[str]) -> list[str]:
    """Of each name the outer folder in lower case, below a single folder around everything; or nothing."""
    parts = [name.split("/") for name in names]
    if len({p[0] for p in parts}) == 1 and all(len(p) > 1 for p in parts):
        parts = [p[1:] for p in parts]
    return [p[0].lower() if len(p) > 1 else "" for p in parts]


@dataclass(frozen=True)
class _Archive:
    """The image files in a zip or tar archive."""

    path: Path
    list_names: Callable[[Path, Callable[[str], bool]], Iterator[str]]
    read_files: Callable[[Path, Callable[[str], bool]], Generator[tuple[str, bytes], None, None]]

    def listing(self) -> Listing:
        with _readable(self.path):
            return _listing(self.path, [("", self.path.stat())])

    def names(self) -> Iterator[str]:
        return self.list_names(self.path, is_image_name)

    def contents(self) -> Generator[tuple[str, bytes], None, None]:
        return self.read_files(self.path, is_image_name)


@dataclass(frozen=True)
class _Folder:
    """The image files in a folder and the folders in it.

    Links to files are followed, links to folders are not: they may go in circles.
    """

    path: Path

    def listing(self) -> Listing:
        return _listing(self.path, ((name, status) for name, _, status in self._files()))

    def names(self) -> Iterator[str]:
        for name, _, _ in self._files():
            yield name

    def contents(self) -> Generator[tuple[str, bytes], None, None]:
        for name, path, status in self._files():
            if status.st_size > MAX_FILE_BYTES:
                raise too_many_bytes(self.path, name, MAX_FILE_BYTES)
            with _readable(self.path), path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES)
            yield name, data

    def _files(self) -> Iterator[tuple[str, Path, os.stat_result]]:
        with _readable(self.path):
            for folder, folders, files in os.walk(self.path, onerror=_raise, followlinks=False):
                folders[:] = sorted(name for name in folders if not _is_hidden(name))
                inside = Path(folder).relative_to(self.path).as_posix()
                prefix = "" if inside == "." else f"{inside}/"
                for file in sorted(files):
                    name = prefix + file
                    if not is_image_name(name):
                        continue
                    path = Path(folder, file)
                    status = path.stat()
                    if stat.S_ISREG(status.st_mode):  # a pipe would be waited for without end
                        yield name, path, status


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot read the images in {printable(path)}",
            why=printable(error),
            fix="mend or remove the file or folder that is named",
        ) from error


class ContentHash:
    """The SHA-256 of image files: of their names and of every byte, in the order in which they come."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, name: str, data: bytes) -> None:
        """Take the next file."""
        # Names that are not UTF-8 hold lone surrogates.
        encoded = name.encode("utf-8", "surrogateescape")
        self._digest.update(f"{len(encoded)} {len(data)} ".encode())
        self._digest.update(encoded)
        self._digest.update(data)

    def hexdigest(self) -> str:
        """Return the hash of all files so far."""
        return self._digest.hexdigest()


def _listing(path: Path, files: Iterable[tuple[str, os.stat_result]]) -> Listing:
    names = hashlib.sha256(os.fsencode(path.absolute()))
    statuses, newest = hashlib.sha256(), 0
    for name, status in files:
        names.update(f"/{status.st_size} ".encode() + name.encode("utf-8", "surrogateescape"))
        statuses.update(repr((status.st_mtime_ns, status.st_ctime_ns, status.st_ino)).encode())
        newest = max(newest, status.st_ctime_ns)
    return Listing(names.hexdigest(), statuses.hexdigest(), newest < time.time_ns() - _CLOCK_NANOSECONDS)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _raise(error: OSError) -> None:
    raise error
