"""Ctrl-C and SIGTERM in the real command, and killed runs."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from ddim_host.run.directory import RunDirectory
from tests.soak.kill_runs import kill_runs

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.commands import Command, PythonCode

# The process signals itself after a given number of steps, during the warm-up and after it.
pytestmark = pytest.mark.slow

SIGNALLED = """
import os, signal, sys
from ddim_host.cli import main
from ddim_host.run.training import Trainer

number, at, again = map(int, sys.argv[1:4])
del sys.argv[1:4]

def step(trainer, take=Trainer._step):
    take(trainer)
    if trainer._progress.step == at:
        for _ in range(1 + again):
            os.kill(os.getpid(), number)

Trainer._step = step
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


@pytest.mark.parametrize(("number", "at"), [(signal.SIGINT, 1), (signal.SIGTERM, 4)])
def test_signal_leaves_a_checkpoint_that_resumes_exactly(
    python: PythonCode,
    ddim_host: Command,
    tiny: list[str],
    tmp_path: Path,
    *,
    number: signal.Signals,
    at: int,
) -> None:
    options = [*tiny, "--train-steps", "6", "--timestep-sampler", "importance:history=1"]
    path = tmp_path / "run"
    stopped = python(SIGNALLED, str(int(number)), str(at), "0", *options, "--out", path)
    assert stopped.code == 1, stopped.err
    assert f"interrupted after {at} steps; continue with: ddim-host run --resume --out {path}" in stopped.err
    assert stopped.err.endswith(f"\nnote: for a page about the training so far: ddim-host report {path}\n")
    assert "Traceback" not in stopped.err
    assert RunDirectory(path).latest_checkpoint().name == f"step-{at:08d}"
    assert ddim_host("run", "--resume", "--out", path).code == 0
    straight = tmp_path / "straight"
    assert ddim_host(*options, "--out", straight).code == 0
    one, other = (RunDirectory(run).latest_checkpoint() for run in (straight, path))
    for name in ("raw.safetensors", "ema.safetensors", "training.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert "already complete" in ddim_host("run", "--resume", "--out", path).out


_SIGNALLED_AT_THE_END = """
import os, signal, sys
from ddim_host.cli import main
from ddim_host.run.training import Trainer

def save(trainer, usual=Trainer.save):
    usual(trainer)
    os.kill(os.getpid(), signal.SIGTERM)

Trainer.save = save
main()
"""


def test_signal_after_the_last_step_stops_the_run(
    python: PythonCode, tiny: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "run"
    stopped = python(_SIGNALLED_AT_THE_END, *tiny, "--out", path)
    assert stopped.code == 1, stopped.err
    assert "interrupted after 3 steps; continue with" in stopped.err
    assert not list(RunDirectory(path).samples_path.glob("*.png")), "an interrupted run does not sample"


def test_second_signal_exits_at_once(python: PythonCode, tiny: list[str], tmp_path: Path) -> None:
    ended = python(SIGNALLED, str(int(signal.SIGTERM)), "2", "1", *tiny, "--out", tmp_path / "run")
    assert ended.code == -signal.SIGTERM
    assert not RunDirectory(tmp_path / "run").has_checkpoint()


def test_second_process_on_a_run_is_refused(
    ddim_host: Command, tiny: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "run"
    endless = [*tiny, "--train-steps", "1000000", "--checkpoint-seconds", "0", "--out", str(path)]
    first = subprocess.Popen(
        [sys.executable, "-m", "ddim_host", *endless], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        while not RunDirectory(path).has_checkpoint():
            assert first.poll() is None
            time.sleep(0.1)
        second = ddim_host("run", "--resume", "--out", path)
    finally:
        first.kill()
        first.wait()
    assert second.code == 2
    assert f"another process is training the run in {path}" in second.err


def test_run_killed_repeatedly_ends_with_the_same_result(tmp_path: Path) -> None:
    counts = kill_runs("torch", 2, train_steps=10, seed=0, folder=tmp_path)
    assert counts.kills == 2
    assert counts.runs >= 1
