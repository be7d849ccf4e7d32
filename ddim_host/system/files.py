"""Writing files whole or not at all, and reading those of anybody."""

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
"""No text that a run leaves comes near this."""

_MOST_NESTED = 20


@contextlib.contextmanager
def file_errors(what: str, *, fix: str = "", passing: type[OSError] | tuple[()] = ()) -> Iterator[None]:
    """Turn an `OSError` in the block into a `UserError` with its reason.

    Args:
        what: What cannot be done, with the name of the file: `cannot read x`.
        fix: What to do about it.
        passing: The kind of `OSError` that the caller handles.
    """
    try:
        yield
    except passing:
        raise
    except OSError as error:
        raise UserError(what, why=reason(error), fix=fix) from None


def absolute_path(text: str) -> Path:
    """Return the absolute path that a user wrote, with `~` expanded.

    Raises:
        UserError: There is no such home folder.
    """
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise UserError(
            f"there is no home folder {text.partition('/')[0]}",
            why=f"the path is {text}",
            fix="write the whole path, from / on",
        ) from None


@contextlib.contextmanager
def replacing(path: Path, *, name: Callable[[], str] | None = None) -> Iterator[BinaryIO]:
    """Opens a file that takes the place of `path` only if the block ends well.

    The bytes go to a temporary file with a name of its own in the same folder, so that several processes may
    write the same path at once: readers see the old file or one of the new ones, always whole. Where the
    block raises, the temporary file is removed and `path` stays as it was.

    Args:
        path: The file to write; its folder must exist.
        name: Tells the name of the file at the end of the block, if it is known only then.

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
        temporary.replace(path if name is None else path.with_name(name()))
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes bytes whole or not at all; see `replacing`."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Writes text as UTF-8, whole or not at all; see `replacing`."""
    write_bytes(path, text.encode("utf-8"))


def is_leftover(path: Path) -> bool:
    """Whether a file is the temporary one of a process that was killed while it wrote."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_leftovers(*folders: Path) -> None:
    """Removes what killed processes left half written; nobody else may be writing into the folders.

    Raises:
        OSError: A folder cannot be written.
    """
    for folder in folders:
        for path in folder.iterdir():
            if is_leftover(path):
                path.unlink(missing_ok=True)


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Reads a file that may be anybody's: never more than so many bytes, and never from a pipe or a device.

    Args:
        path: The file.
        max_bytes: The size of the largest file that is read.

    Raises:
        OSError: It cannot be read, is too large, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for its other end
    with open(descriptor, "rb") as file:  # noqa: PTH123 - of a descriptor
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        # Python makes room for what is asked for, however little there is. The file may still grow.
        data = file.read(min(max_bytes, status.st_size) + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than {max_bytes:,} bytes")
    return data


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Reads a file of text that may be anybody's; see `read_bytes`.

    Raises:
        OSError: It cannot be read, is too large, or is no regular file.
        UnicodeDecodeError: It is not UTF-8.
    """
    return read_bytes(path, max_bytes).decode("utf-8")


def read_json(path: Path) -> Any:
    """Reads a file of JSON that may be anybody's; see `read_bytes`.

    Raises:
        OSError: It cannot be read, is too large, or is no regular file.
        ValueError: It is not JSON, or see `require_plain`.
    """
    text = read_text(path)
    try:
        document = json.loads(text)
    except RecursionError:
        raise _nested_too_deeply() from None
    require_plain(document)
    return document


def require_plain(value: object, *, nested: int = 0) -> None:
    """Makes sure that whatever shows or writes a value can do so.

    Parsers take nesting that `repr`, say, cannot follow, and JSON has escapes for halves of characters.

    Args:
        value: What a parser of JSON or TOML returned.
        nested: In how many others it is.

    Raises:
        ValueError: It is nested deeper than any file of this project, or holds text that is not Unicode, or
            an integer of more than 64 bits, which may have more digits than Python writes.
    """
    if nested > _MOST_NESTED:
        raise _nested_too_deeply()
    if isinstance(value, str):
        value.encode("utf-8")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("it holds an integer of more than 64 bits")
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
    """Make the first folder that does not exist, so that no other process takes it, too.

    If it is still empty in the end, it is removed, and the folder around it if that was made for it.

    Args:
        paths: Where it may be, without end.

    Yields:
        The folder.

    Raises:
        OSError: It cannot be made.
    """
    for path in paths:
        outer_is_new = not path.parent.exists()
        try:
            try:
                path.mkdir(parents=True)
            except FileNotFoundError:  # another process has just removed the folder around it
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
    """Take the first name that is free, so that no other process takes it, too, before something has it.

    Until the end of the block a hidden file beside it holds a lock, which ends with the process.

    Args:
        paths: The names, without end; their folder exists.
        is_taken: Whether something has a name already.

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
                continue  # another process has the name, or has just given it back
            if not is_ours:
                continue
            try:
                if is_taken(path):
                    continue  # by a process that is done with it since we looked
                yield path
            finally:
                claim.unlink(missing_ok=True)
            return
        finally:
            os.close(descriptor)


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
