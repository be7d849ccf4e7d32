"""Lines on the terminal while a test runs, which pytest would otherwise keep to itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


def terminal_notice(config: pytest.Config) -> Callable[[str], None]:
    """Return what writes a line to the terminal at once, also while output is captured.

    In a worker of pytest-xdist, which has no terminal, it writes nothing.

    Args:
        config: That of the session, from the fixture `pytestconfig`.
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
