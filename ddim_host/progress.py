"""Progress bars: live on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

from tqdm import tqdm

if TYPE_CHECKING:
    from typing import Any

__all__ = ["progress_bar", "restart"]

_LOG_INTERVAL = 15.0


def progress_bar(
    description: str, total: int | None, *, unit: str, done: int = 0, scaled: bool = False
) -> tqdm[Any]:
    """A bar on stderr whose rate and ETA count only what was done since it was made.

    Make it after whatever compiles or warms up, so that the ETA is not spoilt by that.

    Args:
        description: What is being done.
        total: How many units in all; None where nobody knows.
        unit: The unit: `step`, `image`.
        done: How many units were done before.
        scaled: Whether to count in thousands and millions, as for bytes.
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        desc=description,
        total=total,
        initial=done,
        unit=unit,
        unit_scale=scaled,
        # The mean over nearly the whole run: tests and checkpoints between the steps belong to the ETA.
        smoothing=0.02,
        file=sys.stderr if terminal else _Lines(sys.stderr),
        mininterval=0.2 if terminal else _LOG_INTERVAL,
        maxinterval=1.0 if terminal else _LOG_INTERVAL,
        ncols=None if terminal else 110,
        dynamic_ncols=terminal,
    )


def restart(bar: tqdm[Any], done: int) -> None:
    """Begin to count and to measure the time now, from `done` units on."""
    bar.initial = bar.n = done
    # `unpause` forgets the time since the bar was last shown.
    bar.unpause()
    bar.start_t = bar.last_print_t
    bar.last_print_n = done


class _Lines:
    """A stream for tqdm that writes each state of the bar as a line of its own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        line = text.strip()
        if line:
            self._stream.write(line + "\n")
        return len(text)

    def flush(self) -> None:
        self._stream.flush()
