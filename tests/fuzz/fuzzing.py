"""Inputs without end for a reader, and what it may do with them."""

from __future__ import annotations

import contextlib
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
from typing import TYPE_CHECKING

from ddim_host.errors import UserError
from tests.fuzz.readers import Reader, readers

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Result", "fuzz", "sandbox"]

_MOST_SECONDS = 5.0
_MOST_MEMORY = 512 << 20
_ESCAPED = Path("/tmp/ddim-host-escaped.png")
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
    outside = _outside(reader)
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
        if _outside(reader) != outside:
            outside = _outside(reader)
            problem = "wrote elsewhere"
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
    started = time.monotonic()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
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
    seconds = time.monotonic() - started
    return f"took {seconds:.0f} s" if seconds > _MOST_SECONDS else ""


def _outside(reader: Reader) -> tuple[int, bool]:
    """What changes when a name in an archive leads out of the folder that it should stay in."""
    above = reader.path.parents[1]
    return len([*above.iterdir()]) + len([*above.parent.iterdir()]), _ESCAPED.exists()


def _forget_most_memory() -> None:
    """Begin to measure the most memory anew; see proc(5)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _most_memory() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
