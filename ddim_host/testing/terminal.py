"""Print lines on the terminal during a test, although pytest captures output."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


def terminal_notice(config: pytest.Config) -> Callable[[str], None]:
    """Return a function that writes a line to the terminal at once, even while output is captured.

    In a pytest-xdist worker, which has no terminal, it writes nothing.

    Args:
        config: The session's configuration, from the fixture `pytestconfig`.
    """
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")

    def say(text: str) -> None:
        if reporter is None:
            return
        if capture is None:
            reporter.write_line(text)
        else:
            with capture.global_and_fixture_disabled():
                reporter.ensure_newline()
                reporter.write_line(text)
        reporter.flush()

    return say
