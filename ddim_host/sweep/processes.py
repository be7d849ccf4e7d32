"""Commands of the host in processes of their own, with their progress and their output."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from ddim_host.progress import asking_for_reports, read_report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TextIO

    from ddim_host.progress import ProgressReport

__all__ = ["Processes"]


class Processes:
    """Starts processes, from several threads too, and ends those that run."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(
        self, command: Sequence[str], output: TextIO, on_progress: Callable[[ProgressReport], None]
    ) -> int | None:
        """Run a command of the host to its end.

        Args:
            command: Its arguments: `run`, `--plugin=torch`, ...
            output: Gets what it prints, line by line; its progress is not among that.
            on_progress: Gets its progress.

        Returns:
            Its exit code; below 0, minus the signal that killed it; None where all were stopped.
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
                env=asking_for_reports(os.environ),
                text=True,
                encoding="utf-8",
                errors="backslashreplace",
                # Ctrl-C reaches this process alone, which then ends the others in an orderly way.
                process_group=0,
            )
            self._running.add(process)
        try:
            with process:
                for line in process.stdout or ():
                    report = read_report(line)
                    if report is None:
                        output.write(line)
                        output.flush()
                    else:
                        on_progress(report)
        finally:
            process.kill()  # does nothing where it has ended
            with self._lock:
                self._running.discard(process)
        return None if self._stopped else process.returncode

    def stop(self) -> None:
        """Ask all processes to end; no other will be started."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()
