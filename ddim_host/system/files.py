"""Atomic writing of files, and safe reading of untrusted files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ddim_host.errors import UserError, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")
MAX_TEXT_BYTES = 64 << 20
"""Size limit of text files, far above the size of any file of a run."""

_MOST_NESTED = 20


@contextlib.contextmanager
def file_errors(
    what: str, *, fix: str = "", passing: type[OSError] | tuple[type[OSError], ...] = ()
) -> Iterator[None]:
    """Turn an `OSError` in the block into a `UserError` with its reason.

    Args:
        what: The failed action and the name of the file: `cannot read x`.
        fix: The remedy.
        passing: Types of `OSError` to raise unchanged, because the caller handles them.
    """
    try:
        yield
    except passing:
        raise
    except OSError as error:
        raise UserError(what, why=reason(error), fix=fix) from None


def absolute_path(text: str) -> Path:
    """Convert a path from a user to an absolute path, with `~` expanded.

    Raises:
        UserError: The home folder does not exist.
    """
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise UserError(
            f"there is no home folder {text.partition('/')[0]}",
            why=f"the path is {text}",
            fix="write the absolute path, beginning with /",
        ) from None


@contextlib.contextmanager
def replacing(path: Path, *, name: Callable[[], str] | None = None) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` only if the block succeeds.

    The bytes are written to a uniquely named temporary file in the same folder, so several processes may
    write the same path at once: readers see either the old file or one of the new ones, always complete. If
    the block raises, the temporary file is removed and `path` is unchanged.

    Args:
        path: The file to write; its folder must exist.
        name: Called at the end of the block to get the file name, if it is not known earlier.

    Yields:
        The temporary file, open for reading and writing bytes.

    Raises:
        OSError: The folder cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        # Not `tempfile`: its files are readable by their owner only, regardless of the umask.
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path if name is None else path.with_name(name()))
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes to a file atomically; see `replacing`."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write text to a file atomically, as UTF-8; see `replacing`."""
    write_bytes(path, text.encode("utf-8"))


def is_leftover(path: Path) -> bool:
    """Return whether a file is a temporary file left by a process that was killed while writing."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_leftovers(*folders: Path) -> None:
    """Remove temporary files left by killed processes; no process may be writing to the folders.

    Raises:
        OSError: A folder cannot be written.
    """
    for folder in folders:
        for path in folder.iterdir():
            if is_leftover(path):
                path.unlink(missing_ok=True)


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Read an untrusted file: at most `max_bytes`, and never from a pipe or a device.

    Args:
        path: The file.
        max_bytes: The largest allowed size.

    Raises:
        OSError: The file cannot be read, is too large, or is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would block otherwise
    with open(descriptor, "rb") as file:  # noqa: PTH123 - of a descriptor
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        # Python allocates the requested size, even for a small file. The extra byte detects a growing file.
        data = file.read(min(max_bytes, status.st_size) + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {max_bytes:,} bytes")
    return data


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Read an untrusted text file; see `read_bytes`.

    Raises:
        OSError: The file cannot be read, is too large, or is not a regular file.
        UnicodeDecodeError: The file is not UTF-8.
    """
    return read_bytes(path, max_bytes).decode("utf-8")


def read_json(path: Path) -> Any:
    """Read an untrusted JSON file; see `read_bytes`.

    Raises:
        OSError: The file cannot be read, is too large, or is not a regular file.
        ValueError: The file is not JSON; also see `require_plain`.
    """
    text = read_text(path)
    try:
        document = json.loads(text)
    except RecursionError:
        raise _nested_too_deeply() from None
    require_plain(document)
    return document


def require_plain(value: object, *, nested: int = 0) -> None:
    """Check that a value from a file can be printed and written.

    Parsers accept deeper nesting than functions such as `repr`, and JSON can contain escaped lone surrogates.

    Args:
        value: A value from a parser of JSON or TOML.
        nested: Its nesting depth.

    Raises:
        ValueError: The value is nested deeper than any file of this project, or contains text that is not
            Unicode, or an integer of more than 64 bits, which may have more digits than Python writes.
    """
    if nested > _MOST_NESTED:
        raise _nested_too_deeply()
    if isinstance(value, str):
        value.encode("utf-8")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("it contains an integer of more than 64 bits")
    elif isinstance(value, dict):
        for item in (*value, *value.values()):
            require_plain(item, nested=nested + 1)
    elif isinstance(value, list):
        for item in value:
            require_plain(item, nested=nested + 1)


def _nested_too_deeply() -> ValueError:
    return ValueError(f"it is nested deeper than {_MOST_NESTED} levels")


@contextlib.contextmanager
def new_folder(paths: Iterable[Path]) -> Iterator[Path]:
    """Create the first of the candidates that does not exist, so that no other process can take it.

    If the folder is empty at the end of the block, it is removed, along with its parent if that is new.

    Args:
        paths: An infinite sequence of candidates.

    Yields:
        The folder.

    Raises:
        OSError: The folder cannot be created.
    """
    for path in paths:
        outer_is_new = not path.parent.exists()
        try:
            try:
                path.mkdir(parents=True)
            except FileNotFoundError:  # another process has just removed the parent
                path.mkdir(parents=True)
        except FileExistsError:
            continue
        try:
            yield path
        finally:
            with contextlib.suppress(OSError):  # it is not empty
                path.rmdir()
                if outer_is_new:
                    path.parent.rmdir()
        return


@contextlib.contextmanager
def new_name(paths: Iterable[Path], is_taken: Callable[[Path], bool]) -> Iterator[Path]:
    """Claim the first free name, so that no other process can take it before the file is written.

    During the block, a hidden file in the same folder is locked. If the process is killed, the lock is
    released.

    Args:
        paths: An infinite sequence of candidates in an existing folder.
        is_taken: Returns whether a name is taken.

    Yields:
        The name.

    Raises:
        OSError: The folder cannot be written.
    """
    for path in paths:
        if is_taken(path):
            continue
        claim = path.with_name(f".{path.name}.claim")
        descriptor = os.open(claim, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_ours = os.path.samestat(os.fstat(descriptor), claim.stat())
            except (BlockingIOError, FileNotFoundError):
                continue  # another process has claimed the name, or has just released it
            if not is_ours:
                continue
            try:
                if is_taken(path):
                    continue  # another process has taken the name and finished in the meantime
                yield path
            finally:
                claim.unlink(missing_ok=True)
            return
        finally:
            os.close(descriptor)


def natural_key(name: str) -> list[str | int]:
    """Return a sort key that orders numbers in names by value, so that `samples-10` follows `samples-9`."""
    return [int(word) if word.isdecimal() else word for word in re.split(r"(\d+)", name)]


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on a folder during the block.

    The lock is released when the process exits, even if it is killed.

    Args:
        folder: An existing, readable folder.
        wait: Wait while another process holds the lock.

    Raises:
        BlockingIOError: Another process holds the lock, and `wait` is false.
        OSError: The folder cannot be opened, or its file system does not support locks.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)
