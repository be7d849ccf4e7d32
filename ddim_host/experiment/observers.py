"""Telling observers what a command does, so that none of them can harm it."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm import tqdm

from ddim_host.errors import DivergedError, InterruptedTrainingError, UserError, described, printable
from ddim_host.plugin.observation import Ending
from ddim_host.system.launch import launched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ddim_host.plugin.contracts import Observer
    from ddim_host.plugin.observation import DrawnGrid, EpochMetrics, ObservedRun, ObservedScore


@dataclass(frozen=True, eq=False)
class Watcher:
    """An observer, and what to call it.

    Attributes:
        observer: The observer.
        label: For messages: `observer 'tensorboard' of ddim-tensorboard 0.1.0`.
        package: The top-level module of its code.
    """

    observer: Observer
    label: str
    package: str


class Observers:
    """The observers of one command, told of everything in the first process and of nothing in others.

    One that raises is named on stderr, once, and told of nothing more.

    Args:
        watchers: The observers.
        absent: What to say of those that a run on another machine had and that are not available here.
    """

    def __init__(self, watchers: Iterable[Watcher] = (), absent: Iterable[str] = ()) -> None:
        self._watchers = list(watchers)
        self._absent = tuple(absent)

    def with_more(self, watchers: Iterable[Watcher]) -> Observers:
        """Return these and some more."""
        return Observers([*self._watchers, *watchers], self._absent)

    @contextlib.contextmanager
    def watching(self, run: ObservedRun) -> Iterator[None]:
        """Tell that a command begins its work on a run, and at the end of the block how it ended."""
        if launched().is_first:
            for absent in self._absent:
                print(f"note: {absent}", file=sys.stderr)
        self._tell(lambda observer: observer.on_begin(run))
        try:
            yield
        except BaseException as error:
            ending = _ending(error)
            self._tell(lambda observer: observer.on_end(ending))
            raise
        self._tell(lambda observer: observer.on_end(Ending("finished")))

    def row(self, row: EpochMetrics) -> None:
        """Tell of a row of metrics."""
        self._tell(lambda observer: observer.on_row(row))

    def grid(self, grid: DrawnGrid) -> None:
        """Tell of a grid that was written."""
        self._tell(lambda observer: observer.on_grid(grid))

    def score(self, score: ObservedScore) -> None:
        """Tell of a score."""
        self._tell(lambda observer: observer.on_score(score))

    def _tell(self, event: Callable[[Observer], object]) -> None:
        if not launched().is_first:
            return
        for watcher in self._watchers.copy():
            try:
                event(watcher.observer)
            except (Exception, SystemExit) as error:
                self._watchers.remove(watcher)
                warning = UserError(
                    f"the {watcher.label} does not work, and is switched off",
                    why=error.summary
                    if isinstance(error, UserError)
                    else f"it raised {described(error, watcher.package)}",
                    fix="nothing else is lost: the command goes on",
                )
                tqdm.write(f"ddim-host: warning: {warning}", file=sys.stderr)


def _ending(error: BaseException) -> Ending:
    if isinstance(error, InterruptedTrainingError):
        return Ending("interrupted", str(error))
    if isinstance(error, KeyboardInterrupt):
        return Ending("interrupted", "interrupted")
    if isinstance(error, DivergedError):
        return Ending("failed", "a loss or a weight is no longer a finite number")
    if isinstance(error, UserError):
        return Ending("failed", error.summary)
    return Ending("failed", printable(described(error)))
