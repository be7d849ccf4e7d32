"""Read files in tar and zip archives from front to back, without extracting anything to disk."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from ddim_host.errors import UserError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

MAX_FILE_BYTES = 256 << 20
"""Maximum number of bytes read from one file, whatever size its header claims."""

_MAX_TRAILING_BYTES = 1 << 20
_MAX_HEADER_BYTES = 1 << 20
"""Maximum size of a file's header in a tar archive; `tarfile` reads the complete header into memory."""

_MAX_EXPANSION = 200
"""Maximum expansion ratio. Images are already compressed, so a higher one indicates a decompression bomb."""


def is_zip(path: Path) -> bool:
    """Return whether a file begins with the signature of a zip archive.

    Raises:
        UserError: The file cannot be read.
    """
    with readable(path), path.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def tar_names(path: Path, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Yield the names of the regular files in a tar archive, in archive order.

    Names are only labels: leading slashes, `.` and `..` are removed, and no file is ever written under them.
    Symbolic and hard links, devices and sparse files are skipped.

    Args:
        path: A tar archive, plain or compressed with gzip, bzip2 or xz (detected from its first bytes).
        wanted: Selects the names to yield.

    Raises:
        UserError: The file is not a tar archive, or is damaged or truncated.
    """
    with readable(path), _open_tar(path) as tar:
        for name, _ in _tar_members(tar, wanted):
            yield name


def tar_files(
    path: Path, wanted: Callable[[str], bool], max_bytes: int = MAX_FILE_BYTES
) -> Generator[tuple[str, bytes], None, None]:
    """Yield the names and contents of the regular files in a tar archive; see `tar_names`.

    The archive is read once from front to back: seeking backwards in a compressed archive would mean
    decompressing it from the start again.

    Args:
        path: A tar archive.
        wanted: Selects the names to yield.
        max_bytes: Largest allowed size of a file.

    Raises:
        UserError: The file is not a tar archive, or is damaged or truncated; or a selected file is too large.
    """
    with readable(path), _open_tar(path) as tar:
        for name, member in _tar_members(tar, wanted):
            if member.size > max_bytes:
                raise too_many_bytes(path, name, max_bytes)
            file = tar.extractfile(member)
            if file is None:
                raise tarfile.ReadError(f"{name} has no contents")
            with file:
                yield name, file.read(max_bytes)


def zip_names(path: Path, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Yield the names of the files in a zip archive, in archive order; see `tar_names`.

    Args:
        path: A zip archive.
        wanted: Selects the names to yield.

    Raises:
        UserError: The file is not a zip archive, or is damaged.
    """
    with readable(path), zipfile.ZipFile(path) as archive:
        for name, _ in _zip_members(archive, wanted):
            yield name


def zip_files(
    path: Path, wanted: Callable[[str], bool], max_bytes: int = MAX_FILE_BYTES
) -> Generator[tuple[str, bytes], None, None]:
    """Yield the names and contents of the files in a zip archive; see `tar_files`.

    Args:
        path: A zip archive.
        wanted: Selects the names to yield.
        max_bytes: Largest allowed size of a file.

    Raises:
        UserError: The file is not a zip archive, or is damaged or encrypted; or a selected file is too large.
    """
    with readable(path), zipfile.ZipFile(path) as archive:
        for name, member in _zip_members(archive, wanted):
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # `zipfile` decompresses other methods into memory without limit, whatever size is requested.
                raise zipfile.BadZipFile(f"{name} is neither stored nor deflated")
            with archive.open(member) as file:
                # The size stated in the archive may be wrong, so the data itself is measured.
                data = file.read(max_bytes + 1)
            if len(data) > max_bytes:
                raise too_many_bytes(path, name, max_bytes)
            yield name, data


def too_many_bytes(path: Path, name: str, max_bytes: int) -> UserError:
    """Return the error for a file above the size limit."""
    return UserError(
        f"{printable(name)} in {printable(path)} is too large",
        why=f"a single file may be at most {max_bytes >> 20} MiB",
        fix="remove the file or make it smaller",
    )


class _ForwardFile:
    """A forward-only file with the interface that `tarfile` needs.

    Headers that claim gigabytes or a negative size are rejected here: `tarfile` itself would read the former
    into memory and loop forever on the latter.

    Attributes:
        last_read: Result of the last `read`; a block of zeros at the end of an intact archive.

    Args:
        stream: The decompressed tar archive.
        end: Largest allowed position; longer archives are rejected.
    """

    def __init__(self, stream: IO[bytes], end: int) -> None:
        self._stream = stream
        self._end = end
        self._allowed = _MAX_HEADER_BYTES
        self._position = 0
        self._put_back = b""
        self.last_read = b""

    def tell(self) -> int:
        return self._position

    def allow(self, size: int) -> None:
        """Limit the total size of all reads until the next call."""
        self._allowed = size

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self._allowed:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        self._allowed -= size
        self.last_read = self._put_back[:size] + self._stream.read(max(0, size - len(self._put_back)))
        self._put_back = self._put_back[size:]
        self._position += len(self.last_read)
        return self.last_read

    def seek(self, position: int) -> None:
        if position > self._end:
            raise tarfile.ReadError(f"it expands to more than {_MAX_EXPANSION} times its size")
        if position == self._position - 1 and self.last_read:
            # tarfile rereads the byte before each header, to check that the archive extends that far.
            self._put_back = self.last_read[-1:] + self._put_back
        elif position > self._position:
            self._put_back = b""
            self._stream.seek(position)
        elif position < self._position:
            raise tarfile.ReadError("a header points backwards")
        self._position = position


def _decompressed(file: BinaryIO, start: bytes) -> IO[bytes]:
    if start.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    if start.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(file)
    if start.startswith(b"BZh"):
        return bz2.BZ2File(file)
    return file


@contextlib.contextmanager
def _open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        start = file.peek(8)
        end = MAX_FILE_BYTES + _MAX_EXPANSION * os.fstat(file.fileno()).st_size
        forward = _ForwardFile(stack.enter_context(_decompressed(file, start)), end)
        try:
            tar = tarfile.TarFile(fileobj=cast("IO[bytes]", forward))
        except tarfile.ReadError as error:
            raise UserError(
                f"{printable(path)} is neither a folder nor a supported archive",
                why="it is not a zip, tar (plain, gzip, bzip2 or xz), npy, npz, idx or Parquet file"
                if start
                else "it is empty",
                fix="pass a folder or a zip, tar, .tar.gz, .tar.bz2, .tar.xz, npy, npz, idx or Parquet file",
            ) from error
        yield stack.enter_context(tar)
        # tarfile treats a damaged header as the end of the archive; the real end is marked by zeros.
        if forward.last_read.strip(b"\0") or len(forward.last_read) != tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it is truncated or damaged")
        # The checksum of compressed data follows its last byte.
        forward.allow(_MAX_TRAILING_BYTES)
        forward.read(_MAX_TRAILING_BYTES)


def _tar_members(
    tar: tarfile.TarFile, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, tarfile.TarInfo]]:
    forward = cast("_ForwardFile", tar.fileobj)
    while (member := tar.next()) is not None:
        # tarfile stores every member it has seen, which takes a gigabyte for a million files.
        cast("Any", tar).members.clear()
        cast("Any", tar).pax_headers.clear()
        name = _label(member.name)
        if member.isreg() and not member.issparse() and wanted(name):
            forward.allow(MAX_FILE_BYTES)
            yield name, member
        forward.allow(_MAX_HEADER_BYTES)


def _zip_members(
    archive: zipfile.ZipFile, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    for member in archive.infolist():
        # Some Windows archivers write backslashes, contrary to the standard.
        name = _label(member.filename.replace("\\", "/"))
        is_link = stat.S_ISLNK(member.external_attr >> 16)
        if not member.is_dir() and not is_link and wanted(name):
            yield name, member


def _label(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Convert any exception raised by reading a damaged archive to a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the readers of four formats fail on malformed bytes in too many ways to list
        raise UserError(
            f"cannot read {printable(path)}",
            why=printable(error) or type(error).__name__,
            fix="copy or download the file again; it may be incomplete",
        ) from error
