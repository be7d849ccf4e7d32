"""Notify observers without letting their failures affect a command."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm import tqdm

from ddim_host.errors import (
    DivergedError,
    InterruptedTrainingError,
    UserError,
    described,
    print_traceback,
    printable,
)
from ddim_host.plugin.observation import Ending
from ddim_host.system.launch import launched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ddim_host.plugin.contracts import Observer
    from ddim_host.plugin.observation import DrawnGrid, EpochMetrics, ObservedRun, ObservedScore


@dataclass(frozen=True, eq=False)
class Watcher:
    """An observer and its name in messages.

    Attributes:
        observer: The observer.
        label: Its name in messages, such as `observer 'tensorboard' of ddim-tensorboard 0.1.0`.
        package: The top-level module of its code.
    """

    observer: Observer
    label: str
    package: str


class Observers:
    """The observers of a command. Only the first process notifies them.

    An observer that raises an exception is reported on standard error and disabled.

    Args:
        watchers: The observers.
        absent: Notes about recorded observers that are not available on this machine.
    """

    def __init__(self, watchers: Iterable[Watcher] = (), absent: Iterable[str] = ()) -> None:
        self._watchers = list(watchers)
        self._absent = tuple(absent)

    def with_more(self, watchers: Iterable[Watcher]) -> Observers:
        """Return these observers with others added."""
        return Observers([*self._watchers, *watchers], self._absent)

    @contextlib.contextmanager
    def watching(self, run: ObservedRun) -> Iterator[None]:
        """Report the start of a command on a run and, when the block ends, its outcome."""
        if launched().is_first:
            for absent in self._absent:
                print(f"note: {absent}", file=sys.stderr)
        self._notify(lambda observer: observer.on_begin(run))
        try:
            yield
        except BaseException as error:
            ending = _ending(error)
            self._notify(lambda observer: observer.on_end(ending))
            raise
        self._notify(lambda observer: observer.on_end(Ending("finished")))

    def row(self, row: EpochMetrics) -> None:
        """Report a row of metrics."""
        self._notify(lambda observer: observer.on_row(row))

    def grid(self, grid: DrawnGrid) -> None:
        """Report a grid that was written."""
        self._notify(lambda observer: observer.on_grid(grid))

    def score(self, score: ObservedScore) -> None:
        """Report a score."""
        self._notify(lambda observer: observer.on_score(score))

    def _notify(self, event: Callable[[Observer], object]) -> None:
        if not launched().is_first:
            return
        for watcher in self._watchers.copy():
            try:
                event(watcher.observer)
            except (Exception, SystemExit) as error:
                self._watchers.remove(watcher)
                print_traceback(error)
                warning = UserError(
                    f"{watcher.label} failed and is now disabled",
                    why=error.summary
                    if isinstance(error, UserError)
                    else f"it raised {described(error, watcher.package)}",
                    fix="no action is needed: the command continues without this observer",
                )
                tqdm.write(f"ddim-host: warning: {warning}", file=sys.stderr)


def _ending(error: BaseException) -> Ending:
    if isinstance(error, InterruptedTrainingError):
        return Ending("interrupted", str(error))
    if isinstance(error, KeyboardInterrupt):
        return Ending("interrupted", "interrupted")
    if isinstance(error, DivergedError):
        return Ending("failed", "a loss or a weight is no longer finite")
    if isinstance(error, UserError):
        return Ending("failed", error.summary)
    return Ending("failed", printable(described(error)))
