"""A pytest plugin for the tiers: marks tests that start processes, and fails unmarked ones.

Collection sets the marker `process` on every test that uses a fixture whose commands run in separate
processes. A test that starts a process itself must set the marker; otherwise the guard fails it. So
`-m "not process"`, which `make quick` uses, never selects a test that starts a process.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from multiprocessing import util
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_FIXTURES = frozenset({"ddim_host", "python"})
"""A test that uses one of these, directly or through other fixtures, starts processes."""

_OF_THE_KIT = frozenset({"test_importing_it_imports_no_framework"})
"""Tests inherited from `ddim_host.testing`, which does not know the marks of this repository."""

_EVENTS = frozenset(
    {"subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system"}
)
_ONCE = frozenset(
    {
        "cuda.pathfinder._dynamic_libs.load_dl_linux",  # imported by builds of torch for GPUs
        "ddim_host.framework.kernels.library",
        "matplotlib.font_manager",
        "numpy.testing._private.utils",
    }
)
"""Modules that start a process once and cache its result; the first test that needs it is not at fault."""

_started: list[str] | None = None


def _note(what: str) -> None:
    """Record the start of a process, unless all tests share its result."""
    if _started is None:
        return
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") in _ONCE:
            return
        frame = frame.f_back
    _started.append(what)


def _audited(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _EVENTS:
        _note(f"{event}{arguments[:2]}")


_spawn = util.spawnv_passfds


def _spawned(path: bytes, args: Any, passfds: Any) -> int:
    _note(f"multiprocessing: {args}")
    return _spawn(path, args, passfds)


sys.addaudithook(_audited)
# `multiprocessing` starts processes without an audit event.
util.spawnv_passfds = _spawned


@contextmanager
def started_processes() -> Iterator[list[str]]:
    """Yield a list that receives a description of every process started in the block."""
    global _started  # noqa: PLW0603 - an audit hook cannot be removed
    outer, _started = _started, []
    try:
        yield _started
    finally:
        _started = outer


@pytest.hookimpl(tryfirst=True)  # before `-m` deselects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests whose fixtures start processes, and sort the slowest modules first.

    Each of two workers takes one module at a time: a long one at the end would leave the other worker idle.
    """
    ranks: dict[str, int] = {}
    for item in items:
        names: tuple[str, ...] = tuple(getattr(item, "fixturenames", ()))
        if _FIXTURES.intersection(names) or getattr(item, "originalname", None) in _OF_THE_KIT:
            item.add_marker(pytest.mark.process)
        rank = 0 if _is_marked(item, "slow") else 1 if _is_marked(item, "process") else 2
        module = _module(item)
        ranks[module] = min(rank, ranks.get(module, rank))
    items.sort(key=lambda item: ranks[_module(item)])


def _module(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def _is_marked(item: pytest.Item, *names: str) -> bool:
    return any(item.get_closest_marker(name) for name in names)


@contextmanager
def _guarded(item: pytest.Item) -> Iterator[None]:
    with started_processes() as started:
        yield
    if started and not _is_marked(item, "process", "slow"):
        pytest.fail(f"it starts a process, so mark it with `process`: {started[0]:.200}", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Watch the fixtures of the test."""
    with _guarded(item):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Watch the test itself."""
    with _guarded(item):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Watch the fixtures as they are torn down."""
    with _guarded(item):
        yield
