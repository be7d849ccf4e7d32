"""Open images in any supported format, detecting it from the files."""

from __future__ import annotations

import gzip
import re
import stat
import zlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ddim_host.errors import UserError, printable, reason
from ddim_host.parts.datasets.archives import is_zip, readable
from ddim_host.parts.datasets.arrays import NPY_MAGIC, is_idx, open_idx, open_npy, open_npz
from ddim_host.parts.datasets.image_files import (
    Archive,
    Folder,
    Joined,
    files_below,
    is_hidden,
    is_scan_name,
    tar_of_images,
    zip_of_images,
)
from ddim_host.parts.datasets.parquet import PARQUET_MAGIC, ParquetImages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ddim_host.parts.datasets.image_files import ImageFiles

_SHARDS: dict[str, tuple[str, ...]] = {
    "Parquet": (".parquet",),
    "tar": (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"),
    "npy": (".npy",),
}
_IDX_NAME = re.compile(r"(?P<set>.*?)(?P<half>train|t10k|test)-images[-.]idx3-ubyte(\.gz)?")
_HALF = re.compile(r"(train|test)(?![a-z])", re.IGNORECASE)


def open_images(path: Path) -> ImageFiles:
    """Open the images at a path, detecting their format.

    In a folder, image files take precedence. A folder without any may contain MNIST's idx files or shards:
    Parquet, tar or npy files. Shards whose names begin with `train` and with `test` are the two halves.

    Args:
        path: A folder, an archive or a file of arrays.

    Returns:
        The images; none has been read yet.

    Raises:
        UserError: The path does not exist, is not readable or has an unsupported format.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot open {printable(path)}",
            why=reason(error),
            fix="set path= to an existing, readable folder or file",
        ) from error
    if stat.S_ISDIR(status.st_mode):
        return _open_folder(path)
    if not stat.S_ISREG(status.st_mode):
        raise UserError(
            f"{printable(path)} is neither a folder nor a file",
            fix="pass a folder, an archive or a file of arrays",
        )
    return _open_file(path)


def scan_in(files: ImageFiles) -> str:
    """Return the name of a DICOM or NIfTI file in a folder or archive; empty if there is none."""
    names: Iterator[str] = iter(())
    if isinstance(files, Folder):
        names = (name for name, _, _ in files_below(files.path, is_scan_name))
    elif isinstance(files, Archive):
        names = files.list_names(files.path, is_scan_name)
    return next(names, "")


def unsupported_scan(name: str) -> UserError:
    """Return the error for a DICOM or NIfTI file."""
    return UserError(
        f"{printable(name)} is a DICOM or NIfTI file, which cannot be read",
        why="its values have no fixed black and white points",
        fix="convert all files to PNG with the same window; 'Medical images' in the reference shows how",
    )


def idx_halves(files: dict[str, Path]) -> Joined | None:
    """Open the idx files in a folder laid out like MNIST's.

    Args:
        files: Paths by relative name.

    Returns:
        The two halves, or one if there is only one; None if there are no idx files.

    Raises:
        UserError: The files belong to several data sets.
    """
    sets: dict[str, dict[str, Path]] = {}
    for name, path in sorted(files.items()):  # a plain file comes before a compressed one
        match = _IDX_NAME.fullmatch(name)
        if match:
            half = "train" if match["half"] == "train" else "test"
            sets.setdefault(match["set"], {}).setdefault(half, path)
    if not sets:
        return None
    if len(sets) > 1:
        example = next(iter(sets.values()))
        raise UserError(
            f"{printable(next(iter(example.values())).parent)} contains idx files of several data sets",
            why=f"their names begin with {printable(', '.join(repr(name) for name in sorted(sets)))}",
            fix="set path= to a folder with only one of them",
        )
    [found] = sets.values()
    members = tuple((half, open_idx(path)) for half, path in sorted(found.items(), reverse=True))
    return Joined(members, " and ".join(f"{printable(found[half].name)}" for half, _ in members))


def _open_file(path: Path) -> ImageFiles:
    if is_scan_name(path.name):
        raise unsupported_scan(str(path))
    if is_zip(path):
        return open_npz(path) if path.suffix.lower() == ".npz" else zip_of_images(path)
    with readable(path), path.open("rb") as file:
        start = file.read(len(NPY_MAGIC))
        unpacked = start[:4]
        if start.startswith(b"\x1f\x8b"):
            file.seek(0)
            unpacked = _start_of_gzip(gzip.GzipFile(fileobj=file))
    if is_idx(unpacked):
        return open_idx(path)
    if start == NPY_MAGIC:
        return open_npy(path)
    return ParquetImages(path) if start.startswith(PARQUET_MAGIC) else tar_of_images(path)


def _start_of_gzip(file: gzip.GzipFile) -> bytes:
    try:
        return file.read(4)
    except (OSError, EOFError, ValueError, zlib.error):  # reading the file as a tar archive reports the error
        return b""


def _open_folder(path: Path) -> ImageFiles:
    folder = Folder(path)
    if next(folder.names(), None) is not None:
        return folder
    files = {name: found for name, found, _ in files_below(path, lambda name: not is_hidden(name))}
    arrays = idx_halves(files)
    if arrays is not None:
        return arrays
    kinds = {
        kind: {name: found for name, found in files.items() if name.lower().endswith(suffixes)}
        for kind, suffixes in _SHARDS.items()
    }
    present = [kind for kind, shards in kinds.items() if shards]
    if not present:
        return folder
    if len(present) > 1:
        raise UserError(
            f"cannot tell which files in {printable(path)} contain the images",
            why=f"there are {' and '.join(present)} files",
            fix="set path= to a folder with only one of these kinds",
        )
    [kind] = present
    opened: dict[str, Callable[[Path], ImageFiles]] = {
        "Parquet": ParquetImages,
        "tar": tar_of_images,
        "npy": open_npy,
    }
    members = tuple((_shard_folder(name), opened[kind](found)) for name, found in kinds[kind].items())
    return Joined(members, f"its {kind} files whose names begin with train and with test")


def _shard_folder(name: str) -> str:
    """Return a folder for a shard's images, below `train` or `test` if its name begins with that word."""
    match = _HALF.match(PurePosixPath(name).name)
    return f"{match[1].lower()}/{name}" if match else name
