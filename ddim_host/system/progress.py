"""Progress bars: live on a terminal, a line now and then in a log, a record for a program that asks."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

from ddim_host.system.launch import launched
from ddim_host.system.records import read_record

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["REPORT_MARK", "ProgressReport", "asking_for_reports", "progress_bar", "read_report", "restart"]

_LOG_INTERVAL = 15.0
_REPORT_INTERVAL = 0.5

_WANTED = "DDIM_HOST_PROGRESS"
"""Where this variable of the environment says `json`, bars are written as reports."""

_UP = "\x1b[A"

REPORT_MARK = "\x1e"
"""Begins the line of a report, as in RFC 7464, so that no other output is mistaken for one."""


@dataclass(frozen=True)
class ProgressReport:
    """The state of a bar, for another program.

    Attributes:
        description: What is being done.
        done: How many units are done.
        total: How many units in all; None where nobody knows.
        unit: The unit.
        postfix: What the bar shows besides.
    """

    description: str
    done: int
    total: int | None
    unit: str
    postfix: str


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
    reports = os.environ.get(_WANTED) == "json"
    terminal = sys.stderr.isatty() and not reports
    interval = _REPORT_INTERVAL if reports else 0.2 if terminal else _LOG_INTERVAL
    make: type[tqdm[Any]] = _ReportingBar if reports else tqdm
    return make(
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


def asking_for_reports(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that is to write the state of its bars as reports, for `read_report`."""
    return {**environment, _WANTED: "json"}


def read_report(line: str) -> ProgressReport | None:
    """The report in a line of such a process; None where the line is anything else."""
    if not line.startswith(REPORT_MARK):
        return None
    try:
        return read_record(ProgressReport, json.loads(line[1:]))
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


class _ReportingBar(tqdm):  # type: ignore[type-arg] # tqdm is generic for type checkers alone
    """Writes its state as a report, in place of drawing itself."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:  # noqa: ARG002
        state = self.format_dict
        report = ProgressReport(
            state["prefix"], state["n"], state["total"], state["unit"], state["postfix"] or ""
        )
        sys.stderr.write(f"{REPORT_MARK}{json.dumps(asdict(report))}\n")
        sys.stderr.flush()


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
