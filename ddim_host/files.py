"""Writing files whole or not at all, and showing their names."""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["locked", "printable", "replacing", "write_atomically", "write_bytes", "write_text"]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that takes the place of `path` only if the block ends well.

    The bytes go to a temporary file with a name of its own in the same folder, so that several processes may
    write the same path at once: readers see the old file or one of the new ones, always whole. Where the
    block raises, the temporary file is removed and `path` stays as it was.

    Args:
        path: The file to write; its folder must exist.

    Yields:
        The temporary file, opened to read and write bytes.

    Raises:
        OSError: The folder cannot be written, or has no room left.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        # Not `tempfile`: it makes files that only their owner may read, whatever the umask says.
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Writes a file whole or not at all.

    Args:
        path: The file to write or replace; its folder must exist.
        write: Writes the content into the file that it is given.

    Raises:
        OSError: The folder cannot be written, or has no room left.
    """
    with replacing(path) as file:
        write(file)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes bytes whole or not at all; see `write_atomically`."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Writes text as UTF-8, whole or not at all; see `write_atomically`."""
    write_bytes(path, text.encode("utf-8"))


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Lets one process at a time into the blocks that lock this folder; the others wait.

    The lock ends with the process, however that ends.

    Args:
        folder: Any existing folder that can be read.
        wait: Whether to wait for another process.

    Raises:
        BlockingIOError: Another process has it, and this one does not wait.
        OSError: It cannot be opened, or its file system knows no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def printable(text: object) -> str:
    r"""Makes a file name, or a message that holds one, safe to print on one line.

    File names may hold line ends, terminal escapes, and bytes that are not UTF-8, which no output stream
    would encode.

    Args:
        text: A name, a path or an error; `str(text)` is shown.

    Returns:
        The same text with everything unprintable escaped (`\n`, `\x1b`, `\udcff`).
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))
