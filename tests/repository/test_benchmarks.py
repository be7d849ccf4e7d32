"""The benchmarks run: each call once, without timing. `make bench` measures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.benchmarks.side_by_side import CALLS, table
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


def test_ratios_are_to_the_fastest_peer_of_each_call() -> None:
    times = {"torch-bf16": (1.0, 1.0, 1.0), "diffusers": (3.0, 2.0, 9.0), "diffusers-bf16": (2.0, 4.0, 9.0)}
    found = {name: dict(zip(CALLS, ([t] for t in each), strict=True)) for name, each in times.items()}
    lines = table("cifar10", found, dict.fromkeys(times, 7.0)).splitlines()
    assert lines[2] == "| torch-bf16 | 1.000 s (2.00 x) | 1.000 s (2.00 x) | 1.000 s (9.00 x) | 7 s |"
    assert lines[3] == "| diffusers | 3.000 s (0.67 x) | 2.000 s (1.00 x) | 9.000 s (1.00 x) | 7 s |"


@pytest.mark.slow
def test_side_by_side_benchmark_alternates_frameworks(environment: dict[str, str], tmp_path: Path) -> None:
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
def test_time_to_quality_writes_curves_and_a_picture(environment: dict[str, str], tmp_path: Path) -> None:
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
