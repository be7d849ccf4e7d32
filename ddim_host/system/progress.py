"""Progress bars: live on a terminal, occasional lines in a log."""

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
    """Return a progress bar, shown on stderr by the first process only.

    The rate and ETA exclude work before its creation, so create it after compilation and warm-up.

    Args:
        description: The activity.
        total: The total number of units; None if unknown.
        unit: The unit, such as `step` or `image`.
        done: The number of units that are already complete.
        scaled: Abbreviate counts with prefixes such as k and M, as for bytes.
        leave: Keep the bar on the terminal after it is closed.
    """
    if "ipykernel" in sys.modules:
        # In a notebook: tqdm's widget, or its text bar if the notebook does not support widgets.
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
        # Average over almost the entire run, so that the ETA includes tests and checkpoints between steps.
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
    """Restart counting and timing now, at `done` units."""
    if bar.disable:
        return
    bar.initial = bar.n = done
    # `unpause` discards the time since the bar was last shown.
    bar.unpause()
    bar.start_t = bar.last_print_t
    bar.last_print_n = done


class _Lines:
    """A stream that writes each state of a tqdm bar as a separate line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        # With several bars, tqdm moves the cursor between their lines.
        line = text.replace(_UP, "").strip()
        if line:
            self._stream.write(line + "\n")
        return len(text)

    def flush(self) -> None:
        self._stream.flush()
