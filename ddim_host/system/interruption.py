"""Signal handling: the first signal stops after the current step, the second exits at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from ddim_host.system.launch import launched

if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ALONE = b" (interrupt again to stop at once)"
_NOTED = b"\nddim-host: stopping after this step and writing a checkpoint" + _ALONE + b"\n"
_STDERR = 2


def end_as_by_ctrl_c(*numbers: signal.Signals) -> None:
    """Make signals raise `KeyboardInterrupt`, so that cleanup runs and a message is printed."""
    for number in numbers:
        signal.signal(number, _interrupt)


class Interruption:
    """Context in which the first signal only sets a flag, and a second one kills the process at once.

    With several processes, a second signal is ignored, because launchers may forward signals that a process
    has already received.

    Attributes:
        requested: True after a signal.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Install the handlers if this is the main thread, the only one that receives signals."""
        if threading.current_thread() is threading.main_thread():
            # A signal that was ignored (for example in a background job) stays ignored.
            handled = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in handled}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.requested = True
        several = launched().count > 1
        for each in self._before:
            # Python runs handlers only between its own operations, and one framework call may take a minute,
            # so leave the second signal to the kernel. It may kill the process at any point, because files
            # are written atomically.
            signal.signal(each, signal.SIG_IGN if several else signal.SIG_DFL)
        # Not `print`, because the signal may have interrupted one.
        with contextlib.suppress(OSError):
            os.write(_STDERR, _NOTED.replace(_ALONE, b"") if several else _NOTED)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    raise KeyboardInterrupt
