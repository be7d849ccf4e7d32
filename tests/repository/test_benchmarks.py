"""The benchmarks run: each call once, nothing is timed. `make bench` times them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.repository import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "jittor", "diffusers", "denoising-diffusion-pytorch"])
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


@pytest.mark.slow
def test_frameworks_are_asked_in_turn(environment: dict[str, str], tmp_path: Path) -> None:
    rounds = ["--training-steps", "1", "--network-calls", "1", "--samples", "1"]
    options = ["--sizes", "digits", "--frameworks", "torch", "diffusers", *rounds]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.side_by_side", str(tmp_path / "out.json"), *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"\| diffusers \|( \d+\.\d+ s \(1\.00 x\) \|){3}", done.stdout)
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [len(seconds) for seconds in found["digits"]["torch"].values()] == [1, 1, 1]


@pytest.mark.slow
def test_time_to_quality_is_a_curve(environment: dict[str, str], tmp_path: Path) -> None:
    out, picture = tmp_path / "curves.json", tmp_path / "curves.png"
    options = ["--frameworks", "torch", "diffusers", "--every", "1", "--steps", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.time_to_quality", str(out), *options, "--picture", picture],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for points in json.loads(out.read_text(encoding="utf-8")).values():
        assert [point["step"] for point in points] == [1, 2]
        assert points[0]["seconds"] > 0.0
    assert picture.stat().st_size > 0
