"""Commands of the host, run in child processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from ddim_host.system.failure import asking_for_failure
from ddim_host.system.parent_death import following

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import IO

# -P keeps files in the current folder from shadowing modules.
PROGRAM = (sys.executable, "-P", "-m", "ddim_host")
"""The beginning of the command line of every host command."""

_PATIENCE_SECONDS = 60.0
"""Time that a process has after SIGTERM to write a checkpoint and exit, before it is killed."""


class CommandRunner:
    """Starts commands from any thread, and can stop all of them.

    Each process leads its own process group, so that Ctrl-C in a terminal does not reach it, and its own
    child processes can be killed with it.
    """

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, command: Sequence[str], output: IO[str], failure: Path) -> int | None:
        """Run a command of the host, and wait for it to finish.

        Args:
            command: The arguments: `run`, `--config=...`, ...
            output: Receives stdout and stderr.
            failure: The file to which the command writes its error; see `ddim_host.system.failure`.

        Returns:
            The exit code, negative if a signal killed the process; None after `stop`.

        Raises:
            OSError: The process cannot be started.
        """
        with self._lock:
            if self._stopped:
                return None
            process = subprocess.Popen(
                [*PROGRAM, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=following(asking_for_failure(os.environ, failure)),
                process_group=0,
            )
            self._running.add(process.pid)
        # A process keeps its PID until `wait`, so that no signal reaches an unrelated process.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        _signal_group(process.pid, signal.SIGKILL)  # any remaining child processes
        with self._lock:
            self._running.discard(process.pid)
        code = process.wait()
        return None if self._stopped else code

    def stop(self) -> None:
        """Terminate all processes, kill any that do not exit in time, and refuse to start others."""
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


def _signal_group(leader: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)
