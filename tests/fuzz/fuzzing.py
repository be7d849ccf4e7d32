"""Inputs without end for a reader, and what it may do with them."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import random
import shlex
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim_host.errors import UserError
from tests.fuzz.readers import Reader, readers

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Result", "fuzz", "sandbox"]

_MOST_SECONDS = 2.0
_MOST_MEMORY = 512 << 20
_FORBIDDEN = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "socket.connect")
_CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod")
_RUN = shlex.split(
    "run --plugin torch --model unet:base_channels=4,num_res_blocks=1,num_groups=2 --train-steps 4 "
    "--batch-size 500 --num-images 4 --steps 2 --test-images 4 --num-train-timesteps 50 "
    "--timestep-sampler importance:history=1"
)
_EVALUATE = shlex.split("--samples 20 --steps 2 --eta 0")


@dataclass
class Result:
    """What became of the inputs of a reader.

    Attributes:
        name: The reader.
        read: How many were read as if nothing was wrong with them.
        refused: How many were refused with an error for users.
        failures: What was wrong with the others, the first one of each kind.
        seconds: How long it took.
    """

    name: str
    read: int = 0
    refused: int = 0
    failures: dict[str, Path] = field(default_factory=dict)
    seconds: float = 0.0

    def __str__(self) -> str:
        inputs, seconds = self.read + self.refused, f"{self.seconds:.0f} s"
        text = f"{self.name}: {inputs:,} inputs in {seconds}, {self.read:,} read, {self.refused:,} refused"
        return "\n".join([text, *(f"  FAILURE {what} ({path})" for what, path in self.failures.items())])


def sandbox(folder: Path) -> Iterator[Reader]:
    """All readers, of files in a folder where nothing else is.

    Args:
        folder: An empty folder; the cache will be in it, too.
    """
    os.environ["DDIM_HOST_CACHE"] = str(folder / "inner" / "cache")
    run = folder / "inner" / "run"
    for arguments in ([*_RUN, "--out", str(run)], ["evaluate", str(run), *_EVALUATE]):
        subprocess.run(
            [sys.executable, "-m", "ddim_host", *arguments], check=True, capture_output=True, timeout=300
        )
    files = folder / "inner" / "files"
    files.mkdir()
    yield from readers(run, files)


def fuzz(reader: Reader, inputs: int, *, seed: int, keep: Path) -> Result:
    """Give a reader so many inputs; the file is afterwards what it was before.

    Args:
        reader: The reader.
        inputs: How many.
        seed: Of the inputs.
        keep: Where inputs go that fail.
    """
    result = Result(reader.name)
    before = reader.path.read_bytes() if reader.path.exists() else None
    if before is not None:
        reader.read()  # what it is before it is changed; imports everything, too
    _forget_most_memory()
    memory = _most_memory()
    started = time.monotonic()
    for number in range(inputs):
        data = reader.make(random.Random(f"{reader.name} {seed} {number}"))
        reader.path.write_bytes(data)
        problem = _problem(reader, result)
        if _most_memory() - memory > _MOST_MEMORY:
            memory = _most_memory()
            problem = "took much memory"
        if problem and problem not in result.failures:
            keep.mkdir(parents=True, exist_ok=True)
            kept = keep / f"{reader.name.replace(' ', '-').replace(':', '')}-{seed}-{number}"
            kept.write_bytes(data)
            result.failures[problem] = kept
    result.seconds = time.monotonic() - started
    reader.path.unlink()
    if before is not None:
        reader.path.write_bytes(before)
    return result


def _problem(reader: Reader, result: Result) -> str:
    """What is wrong with how a file was read; nothing where nothing is."""
    started = time.process_time()  # another process that keeps the machine busy is no failure
    try:
        with contextlib.redirect_stderr(io.StringIO()), _watched(reader.path.parents[1]) as deeds:
            reader.read()
    except UserError as error:
        result.refused += 1
        message = str(error)
        if not error.what or not all(c.isprintable() or c == "\n" for c in message):
            return f"message {message!r:.200}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        result.refused += 1
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {where.filename}:{where.lineno}: {error!s:.100}"
    else:
        result.read += 1
    if deeds:
        return deeds[0]
    seconds = time.process_time() - started
    return f"took {seconds:.0f} s" if seconds > _MOST_SECONDS else ""


class _Watch:
    """What the process does that reading does not need; Python tells of it, and can never be told to stop."""

    def __init__(self) -> None:
        self.inside: Path | None = None
        self.deeds: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, given: tuple[Any, ...]) -> None:
        inside, self.inside = self.inside, None  # looking at paths must not be heard
        if inside is None:
            return
        if event in _FORBIDDEN:
            self.deeds.append(f"{event} {given!r:.100}")
        changes = event in _CHANGES or (event == "open" and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if changes and not (
            isinstance(given[0], str | bytes | os.PathLike)
            and Path(os.path.realpath(os.fsdecode(given[0]))).is_relative_to(inside)
        ):
            self.deeds.append(f"{event} of {given[0]!r:.100}")
        self.inside = inside


@functools.cache
def _the_watch() -> _Watch:
    return _Watch()


@contextlib.contextmanager
def _watched(inside: Path) -> Iterator[list[str]]:
    """Gathers what is done that reading does not need, or elsewhere than in a folder."""
    watch = _the_watch()
    watch.deeds, watch.inside = [], inside.resolve()
    try:
        yield watch.deeds
    finally:
        watch.inside = None


def _forget_most_memory() -> None:
    """Begin to measure the most memory anew; see proc(5)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _most_memory() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
