"""Commands of the host in processes of their own, with their progress and their output."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Protocol

from ddim_host.system.parent_death import following
from ddim_host.system.progress import REPORT_MARK, asking_for_reports, read_report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ddim_host.system.progress import ProgressReport

__all__ = ["CommandRunner"]

_PATIENCE_SECONDS = 60.0
"""How long a process may take to end in an orderly way: with a checkpoint."""


class Output(Protocol):
    """What takes the lines that a process prints."""

    def write(self, text: str, /) -> object:
        """Take a line."""

    def flush(self) -> None:
        """Make it readable to others."""


class CommandRunner:
    """Starts processes, from several threads too, and ends those that run.

    Each leads a process group of its own: Ctrl-C on a terminal does not reach it, and whatever it starts
    itself ends with it.
    """

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(
        self, command: Sequence[str], output: Output, on_progress: Callable[[ProgressReport], None]
    ) -> int | None:
        """Run a command of the host to its end.

        Args:
            command: Its arguments: `run`, `--plugin=torch`, ...
            output: Gets what it prints, line by line; its progress is not among that.
            on_progress: Gets its progress.

        Returns:
            Its exit code; below 0, minus the signal that killed it; None where all were stopped.

        Raises:
            OSError: It cannot be started, or the output cannot be written; the process has been ended then.
        """
        with self._lock:
            if self._stopped:
                return None
            process = subprocess.Popen(
                # With -P nothing in the folder where the user happens to be is imported in place of a module.
                [sys.executable, "-P", "-m", "ddim_host", *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=following(asking_for_reports(os.environ)),
                text=True,
                encoding="utf-8",
                errors="backslashreplace",
                process_group=0,
            )
            self._running.add(process.pid)
        # What the process leaves behind could hold the other end of the pipe for ever.
        watch = threading.Thread(target=_end_group_after, args=(process.pid,))
        watch.start()
        try:
            for line in process.stdout or ():
                _pass_on(line, output, on_progress)
        except BaseException:
            _signal_group(process.pid, signal.SIGKILL)
            raise
        finally:
            # Until `wait`, a process that has ended keeps its number, so that no signal meets another one.
            watch.join()
            with self._lock:
                self._running.discard(process.pid)
            with process:
                code = process.wait()
        return None if self._stopped else code

    def stop(self) -> None:
        """Ask all processes to end, and make those end that do not; no other will be started."""
        with self._lock:
            self._stopped = True
        self._signal(signal.SIGTERM)
        escalation = threading.Timer(_PATIENCE_SECONDS, self._signal, [signal.SIGKILL])
        escalation.daemon = True
        escalation.start()

    def _signal(self, number: signal.Signals) -> None:
        with self._lock:
            for leader in self._running:
                _signal_group(leader, number)


def _pass_on(line: str, output: Output, on_progress: Callable[[ProgressReport], None]) -> None:
    text, mark, rest = line.partition(REPORT_MARK)  # a report may come after a line that was not ended
    report = read_report(mark + rest)
    if report is None:
        output.write(line)
    else:
        if text:
            output.write(text + "\n")
        on_progress(report)
    output.flush()


def _end_group_after(leader: int) -> None:
    """Wait for a process without taking its exit code, then end what it has started."""
    os.waitid(os.P_PID, leader, os.WEXITED | os.WNOWAIT)
    _signal_group(leader, signal.SIGKILL)


def _signal_group(leader: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)
