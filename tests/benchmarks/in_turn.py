"""Objects in separate processes, called in turn, so that one run can compare several frameworks.

The speed of a shared machine changes from minute to minute. While one process computes, the others sleep; a
slow round is slow for all of them, so the ratio of their times is the ratio of their speeds.
"""

from __future__ import annotations

import multiprocessing
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

__all__ = ["Waiting", "waiting"]


@dataclass(frozen=True)
class Waiting:
    """An object in a separate process."""

    connection: Connection

    def call(self, method: str, *arguments: Any) -> tuple[float, Any]:
        """Call a method of the object; return the seconds spent there and the result."""
        try:
            self.connection.send((method, arguments))
            seconds, result = self.connection.recv()
        except (EOFError, OSError):
            raise SystemExit("A measured process has died; its error is above.") from None
        return seconds, result


@contextmanager
def waiting(
    make: Callable[..., Any], *arguments: Any, clock: Callable[[], float] = time.perf_counter
) -> Iterator[Waiting]:
    """Create an object in a process that stops at the end of the block.

    Args:
        make: A module-level function; the process imports it.
        arguments: Its arguments.
        clock: The clock that measures each call, in seconds.
    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(theirs, clock, make, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Waiting(ours)
    finally:
        ours.close()
        process.join()


def _serve(
    connection: Connection, clock: Callable[[], float], make: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    measured = make(*arguments)
    while True:
        try:
            method, given = connection.recv()
        except EOFError:
            return
        started = clock()
        result = getattr(measured, method)(*given)
        connection.send((clock() - started, result))
