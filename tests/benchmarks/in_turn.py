"""Objects that wait in processes of their own, so that several frameworks can be asked in turn in one run.

The speed of a machine that others share changes from minute to minute. While one process computes the others
sleep; what slows a round slows all of them, and the ratio of their times is that of their speeds.
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
    """An object in a process of its own."""

    connection: Connection

    def call(self, method: str, *arguments: Any) -> tuple[float, Any]:
        """Call a method of it: how many seconds that took there, and what it returned."""
        try:
            self.connection.send((method, arguments))
            seconds, result = self.connection.recv()
        except (EOFError, OSError):
            raise SystemExit("A process that is measured has ended; its error is above.") from None
        return seconds, result


@contextmanager
def waiting(make: Callable[..., Any], *arguments: Any) -> Iterator[Waiting]:
    """Make an object in a process, which ends with the block.

    Args:
        make: A function of a module, which the process imports.
        arguments: What it is called with.
    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Waiting(ours)
    finally:
        ours.close()
        process.join()


def _serve(connection: Connection, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    measured = make(*arguments)
    while True:
        try:
            method, given = connection.recv()
        except EOFError:
            return
        started = time.perf_counter()
        result = getattr(measured, method)(*given)
        connection.send((time.perf_counter() - started, result))
