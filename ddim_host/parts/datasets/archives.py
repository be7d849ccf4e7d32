"""Reading the files in tar and zip archives, from front to back, without extracting anything to disk."""

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
"""No file is read beyond this, whatever size it claims."""

_MAX_TRAILING_BYTES = 1 << 20
_MAX_HEADER_BYTES = 1 << 20
"""What comes before a file in a tar; `tarfile` keeps all of that in memory."""

_MAX_EXPANSION = 200
"""Images are compressed already. What expands so much more is made to take time and memory without end."""


def is_zip(path: Path) -> bool:
    """Tells by its first bytes whether a file is a zip archive.

    Raises:
        UserError: The file cannot be read.
    """
    with readable(path), path.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def tar_names(path: Path, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Yields the names of the regular files in a tar archive, in its order.

    Names are only labels here: leading slashes, `.` and `..` are dropped from them and nothing is ever
    written under them. Links (also hard ones), devices and sparse files are passed over.

    Args:
        path: A tar archive; plain, or compressed with gzip, bzip2 or xz, which its first bytes tell.
        wanted: Which names to yield.

    Raises:
        UserError: It is no tar archive, or damaged, or ends too early.
    """
    with readable(path), _open_tar(path) as tar:
        for name, _ in _tar_members(tar, wanted):
            yield name


def tar_files(
    path: Path, wanted: Callable[[str], bool], max_bytes: int = MAX_FILE_BYTES
) -> Generator[tuple[str, bytes], None, None]:
    """Yields the names and contents of the regular files in a tar archive; see `tar_names`.

    The archive is read once from front to back: in a compressed one, every step back would mean to
    decompress it from the start.

    Args:
        path: A tar archive.
        wanted: Which names to yield.
        max_bytes: The size of the largest file that is read.

    Raises:
        UserError: It is no tar archive, or damaged, or ends too early; or a wanted file is too large.
    """
    with readable(path), _open_tar(path) as tar:
        for name, member in _tar_members(tar, wanted):
            if member.size > max_bytes:
                raise too_many_bytes(path, name, max_bytes)
            file = tar.extractfile(member)
            if file is None:
                raise tarfile.ReadError(f"{name} has no content")
            with file:
                yield name, file.read(max_bytes)


def zip_names(path: Path, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Yields the names of the files in a zip archive, in its order; see `tar_names`.

    Args:
        path: A zip archive.
        wanted: Which names to yield.

    Raises:
        UserError: It is no zip archive, or damaged.
    """
    with readable(path), zipfile.ZipFile(path) as archive:
        for name, _ in _zip_members(archive, wanted):
            yield name


def zip_files(
    path: Path, wanted: Callable[[str], bool], max_bytes: int = MAX_FILE_BYTES
) -> Generator[tuple[str, bytes], None, None]:
    """Yields the names and contents of the files in a zip archive; see `tar_files`.

    Args:
        path: A zip archive.
        wanted: Which names to yield.
        max_bytes: The size of the largest file that is read.

    Raises:
        UserError: It is no zip archive, damaged or encrypted; or a wanted file is too large.
    """
    with readable(path), zipfile.ZipFile(path) as archive:
        for name, member in _zip_members(archive, wanted):
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # `zipfile` decompresses these into memory without bound, whatever is asked for.
                raise zipfile.BadZipFile(f"{name} is neither stored nor deflated")
            with archive.open(member) as file:
                # What the archive says about the size may be wrong; what is read is not.
                data = file.read(max_bytes + 1)
            if len(data) > max_bytes:
                raise too_many_bytes(path, name, max_bytes)
            yield name, data


def too_many_bytes(path: Path, name: str, max_bytes: int) -> UserError:
    """The error for a file that is larger than is read."""
    return UserError(
        f"{printable(name)} in {printable(path)} is too large",
        why=f"no single file may have more than {max_bytes >> 20} MiB",
        fix="remove it, or store it in fewer bytes",
    )


class _ForwardFile:
    """What `tarfile` needs of a file, going forwards only.

    A header that claims a size of gigabytes, or a negative one, is refused here: `tarfile` itself would
    read the first into memory and go in circles with the second.

    Attributes:
        last_read: What the last `read` returned; where the archive ends as it should, a block of zeros.

    Args:
        stream: The tar, decompressed.
        end: An archive that goes on beyond this is refused.
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
        """Lets no more than this be read, until it is called again."""
        self._allowed = size

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self._allowed:
            raise tarfile.ReadError(f"a header asks for {size} bytes")
        self._allowed -= size
        self.last_read = self._put_back[:size] + self._stream.read(max(0, size - len(self._put_back)))
        self._put_back = self._put_back[size:]
        self._position += len(self.last_read)
        return self.last_read

    def seek(self, position: int) -> None:
        if position > self._end:
            raise tarfile.ReadError(f"it expands to more than {_MAX_EXPANSION} times its size")
        if position == self._position - 1 and self.last_read:
            # tarfile reads the byte before every header again, to see that the archive reaches so far.
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
                f"{printable(path)} is neither a folder nor an archive that can be read",
                why="its content is none of zip, tar (plain, gzip, bzip2 or xz), npy, npz, idx and Parquet"
                if start
                else "it is empty",
                fix="give a folder, a zip, tar, .tar.gz, .tar.bz2, .tar.xz, npy, npz, idx or Parquet file",
            ) from error
        yield stack.enter_context(tar)
        # tarfile takes a damaged header for the end of the archive; the real end is marked by zeros.
        if forward.last_read.strip(b"\0") or len(forward.last_read) != tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it ends too early, or is damaged")
        # The checksum of compressed data is behind its last byte.
        forward.allow(_MAX_TRAILING_BYTES)
        forward.read(_MAX_TRAILING_BYTES)


def _tar_members(
    tar: tarfile.TarFile, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, tarfile.TarInfo]]:
    forward = cast("_ForwardFile", tar.fileobj)
    while (member := tar.next()) is not None:
        # tarfile remembers all that it has seen, which for a million files is a gigabyte.
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
        # Some archivers of Windows write backslashes, against the standard.
        name = _label(member.filename.replace("\\", "/"))
        is_link = stat.S_ISLNK(member.external_attr >> 16)
        if not member.is_dir() and not is_link and wanted(name):
            yield name, member


def _label(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns whatever reading a damaged archive raises into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the readers of four formats fail on hostile bytes in too many ways to list
        raise UserError(
            f"cannot read {printable(path)}",
            why=printable(error) or type(error).__name__,
            fix="see that the file is complete, for example by copying or downloading it again",
        ) from error
