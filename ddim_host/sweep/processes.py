"""Commands of the host in processes of their own."""

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

# With -P nothing in the folder where the user happens to be is imported in place of a module.
PROGRAM = (sys.executable, "-P", "-m", "ddim_host")
"""The words that a command of the host begins with."""

_PATIENCE_SECONDS = 60.0
"""How long a process may take to end in an orderly way: with a checkpoint."""


class CommandRunner:
    """Starts processes, from several threads too, and ends those that run.

    Each leads a process group of its own: Ctrl-C on a terminal does not reach it, and whatever it starts
    itself ends with it.
    """

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, command: Sequence[str], output: IO[str], failure: Path) -> int | None:
        """Run a command of the host to its end.

        Args:
            command: Its arguments: `run`, `--config=...`, ...
            output: The file that gets all it prints.
            failure: The file that it writes its failure to; see `ddim_host.system.failure`.

        Returns:
            Its exit code; below 0, minus the signal that killed it; None if all were stopped.

        Raises:
            OSError: It cannot be started.
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
        # Until `wait`, a process that has ended keeps its number, so that no signal meets another one.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        _signal_group(process.pid, signal.SIGKILL)  # what it has started, and left behind
        with self._lock:
            self._running.discard(process.pid)
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


def _signal_group(leader: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)
