"""Progress bars: live on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING

from tqdm import tqdm

from ddim_host.system.launch import launched

if TYPE_CHECKING:
    from typing import Any, TextIO

_LOG_INTERVAL = 15.0

_UP = "\x1b[A"


def progress_bar(
    description: str,
    total: int | None,
    *,
    unit: str,
    done: int = 0,
    scaled: bool = False,
    leave: bool = True,
) -> tqdm[Any]:
    """A bar on stderr whose rate and ETA count only what was done since it was made; of the first process.

    Make it after whatever compiles or warms up, so that the ETA is not spoilt by that.

    Args:
        description: What is being done.
        total: How many units in all; None where nobody knows.
        unit: The unit: `step`, `image`.
        done: How many units were done before.
        scaled: Whether to count in thousands and millions, as for bytes.
        leave: Whether the bar stays on the terminal when it is closed.
    """
    if "ipykernel" in sys.modules:
        # In a notebook: tqdm's widget, or its text where the notebook has no widgets.
        with warnings.catch_warnings(action="ignore"):
            from tqdm.auto import tqdm as notebook_tqdm  # noqa: PLC0415 - imports IPython

            return notebook_tqdm(
                desc=description,
                total=total,
                initial=done,
                unit=unit,
                unit_scale=scaled,
                smoothing=0.02,
                leave=leave,
            )
    terminal = sys.stderr.isatty()
    interval = 0.2 if terminal else _LOG_INTERVAL
    return tqdm(
        desc=description,
        total=total,
        initial=done,
        unit=unit,
        unit_scale=scaled,
        # The mean over nearly the whole run: tests and checkpoints between the steps belong to the ETA.
        smoothing=0.02,
        file=sys.stderr if terminal else _Lines(sys.stderr),
        mininterval=interval,
        maxinterval=max(interval, 1.0),
        ncols=None if terminal else 110,
        dynamic_ncols=terminal,
        leave=leave,
        disable=not launched().is_first,
    )


def restart(bar: tqdm[Any], done: int) -> None:
    """Begin to count and to measure the time now, from `done` units on."""
    if bar.disable:
        return
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
        # With several bars at a time tqdm moves the cursor between their lines.
        line = text.replace(_UP, "").strip()
        if line:
            self._stream.write(line + "\n")
        return len(text)

    def flush(self) -> None:
        self._stream.flush()
