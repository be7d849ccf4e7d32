"""Ctrl-C and SIGTERM: as a wish to end where nothing is lost, or at once."""

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
_ALONE = b" (at once, if interrupted again)"
_NOTED = b"\nddim-host: ends after this step, with a checkpoint" + _ALONE + b"\n"
_STDERR = 2


def end_as_by_ctrl_c(*numbers: signal.Signals) -> None:
    """Have signals raise `KeyboardInterrupt`, so that what was begun is cleared away and a message said."""
    for number in numbers:
        signal.signal(number, _interrupt)


class Interruption:
    """While this lasts, a signal to end only is remembered; a second one ends the process at once.

    Of several processes none ends at once: launchers pass signals on that may have reached them already.

    Attributes:
        requested: Whether there was a signal.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Begin to listen; where this is not the main thread, which alone gets signals, nothing changes."""
        if threading.current_thread() is threading.main_thread():
            # A signal that was ignored (of a job in the background, say) stays ignored.
            heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in heeded}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hear no longer."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.requested = True
        several = launched().count > 1
        for each in self._before:
            # Python would call a handler only between two of its own operations; one call of a framework may
            # take a minute. Files are written whole or not at all, so that the kernel may end it anywhere.
            signal.signal(each, signal.SIG_IGN if several else signal.SIG_DFL)
        # Not `print`: the signal may have come in the midst of one.
        with contextlib.suppress(OSError):
            os.write(_STDERR, _NOTED.replace(_ALONE, b"") if several else _NOTED)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    raise KeyboardInterrupt
