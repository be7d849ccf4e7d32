"""The benchmarks run: each call once, nothing is timed. `make bench` times them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "jittor", "diffusers"])
def test_every_call_can_be_measured(framework: str, environment: dict[str, str]) -> None:
    options = ["--framework", framework, "-k", "digits", "--benchmark-disable", "-q"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/benchmarks/bench_model.py", *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
