"""The tiers of the tests: `make quick` runs no test that starts a process."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.process_guard import started_processes

if TYPE_CHECKING:
    from collections.abc import Callable

pytest_plugins = ["pytester"]


@pytest.fixture
def guarded(pytester: pytest.Pytester) -> pytest.Pytester:
    """Return a project that uses the guard and runs its tests in this process."""
    pytester.makeconftest("pytest_plugins = ['tests.support.process_guard']")
    pytester.makeini("[pytest]\nmarkers =\n    process\n    slow")
    return pytester


def outcomes(project: pytest.Pytester, *options: str) -> dict[str, int]:
    return project.runpytest_inprocess("-p", "no:benchmark", *options).parseoutcomes()


@pytest.mark.process
def test_unmarked_test_that_starts_a_process_fails(guarded: pytest.Pytester) -> None:
    guarded.makepyfile("""
        import subprocess, sys
        import pytest

        def start():
            subprocess.run([sys.executable, "-c", ""], check=True)

        @pytest.fixture
        def started():
            start()

        def test_itself():
            start()

        def test_swallowed():
            try:
                start()
            except BaseException:
                pass

        def test_by_a_fixture(started):
            pass

        @pytest.mark.process
        def test_marked(started):
            start()

        @pytest.mark.slow
        def test_slow():
            start()

        def test_of_something_else():
            pass
    """)
    assert outcomes(guarded) == {"passed": 3, "failed": 2, "errors": 1}
    assert outcomes(guarded, "-m", "not slow and not process") == {
        "passed": 1,
        "failed": 2,
        "errors": 1,
        "deselected": 2,
    }


def test_tests_are_marked_by_their_fixtures(guarded: pytest.Pytester) -> None:
    guarded.makepyfile("""
        import pytest

        @pytest.fixture
        def python():
            pass

        @pytest.fixture
        def several_runs(python):
            pass

        def test_of_processes(several_runs):
            pass

        def test_of_something_else():
            pass
    """)
    assert outcomes(guarded, "-m", "not process") == {"passed": 1, "deselected": 1}


def start_by_subprocess() -> None:
    subprocess.run([sys.executable, "-c", ""], check=True)


def start_by_shell() -> None:
    os.system("true")


def start_by_fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def start_by_spawn() -> None:
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)


def start_by_multiprocessing() -> None:
    process = multiprocessing.get_context("spawn").Process(target=print)
    process.start()
    process.join()


@pytest.mark.process
@pytest.mark.parametrize(
    "start",
    [start_by_subprocess, start_by_shell, start_by_fork, start_by_spawn, start_by_multiprocessing],
    ids=lambda start: start.__name__,
)
def test_every_way_to_start_a_process_is_detected(start: Callable[[], None]) -> None:
    with started_processes() as started:
        Path().exists()
    assert not started
    with started_processes() as started:
        start()
    assert started


@pytest.mark.process
def test_compiling_the_shared_kernels_does_not_count() -> None:
    with started_processes() as started:
        exec(
            "import subprocess; subprocess.run(['true'])", {"__name__": "ddim_host.framework.kernels.library"}
        )
    assert not started
