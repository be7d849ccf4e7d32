"""Random inputs for a reader, and checks of its behaviour."""

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
    """Outcome of the inputs of a reader.

    Attributes:
        name: The reader.
        read: Number of inputs read without an error.
        refused: Number of inputs refused with an error.
        failures: Problem of each other input and its file, the first of each kind.
        seconds: Duration in seconds.
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
    """Yield all readers, for files in a folder of their own.

    Args:
        folder: An empty folder; also holds the cache.
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
    """Fuzz a reader; its file is restored afterwards.

    Args:
        reader: The reader.
        inputs: Number of inputs.
        seed: Seed of the inputs.
        keep: Folder for inputs that fail.
    """
    result = Result(reader.name)
    before = reader.path.read_bytes() if reader.path.exists() else None
    if before is not None:
        reader.read()  # the valid file must be read; this also does all imports
    _reset_peak_memory()
    memory = _peak_memory()
    started = time.monotonic()
    for number in range(inputs):
        data = reader.make(random.Random(f"{reader.name} {seed} {number}"))
        reader.path.write_bytes(data)
        problem = _problem(reader, result)
        if _peak_memory() - memory > _MOST_MEMORY:
            memory = _peak_memory()
            problem = "took too much memory"
        if problem and problem not in result.failures:
            keep.mkdir(parents=True, exist_ok=True)
            saved = keep / f"{reader.name.replace(' ', '-').replace(':', '')}-{seed}-{number}"
            saved.write_bytes(data)
            result.failures[problem] = saved
    result.seconds = time.monotonic() - started
    reader.path.unlink()
    if before is not None:
        reader.path.write_bytes(before)
    return result


def _problem(reader: Reader, result: Result) -> str:
    """Return the problem of a read, or an empty string if there is none."""
    started = time.process_time()  # CPU time, because other processes may keep the machine busy
    try:
        with contextlib.redirect_stderr(io.StringIO()), _watched(reader.path.parents[1]) as operations:
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
    if operations:
        return operations[0]
    seconds = time.process_time() - started
    return f"took {seconds:.0f} s" if seconds > _MOST_SECONDS else ""


class _Watch:
    """Records operations that reading does not need.

    It is shared, because Python cannot remove an audit hook.
    """

    def __init__(self) -> None:
        self.inside: Path | None = None
        self.operations: list[str] = []
        sys.addaudithook(self._audit)

    def _audit(self, event: str, given: tuple[Any, ...]) -> None:
        inside, self.inside = self.inside, None  # resolving paths must not trigger the hook
        if inside is None:
            return
        if event in _FORBIDDEN:
            self.operations.append(f"{event} {given!r:.100}")
        changes = event in _CHANGES or (event == "open" and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if changes and not (
            isinstance(given[0], str | bytes | os.PathLike)
            and Path(os.path.realpath(os.fsdecode(given[0]))).is_relative_to(inside)
        ):
            self.operations.append(f"{event} of {given[0]!r:.100}")
        self.inside = inside


@functools.cache
def _shared_watch() -> _Watch:
    return _Watch()


@contextlib.contextmanager
def _watched(inside: Path) -> Iterator[list[str]]:
    """Collect operations that reading does not need, and writes outside a folder."""
    watch = _shared_watch()
    watch.operations, watch.inside = [], inside.resolve()
    try:
        yield watch.operations
    finally:
        watch.inside = None


def _reset_peak_memory() -> None:
    """Reset the peak memory; see proc(5)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _peak_memory() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
