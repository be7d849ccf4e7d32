"""The GPU check runs on the CPU in its smallest sizes, so that it works when a GPU is available."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.gpu.page import page
from tests.gpu.stages import STAGES
from tests.support.repository import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("triton", reason="Triton is not installed")


@pytest.mark.slow
@pytest.mark.parametrize(
    "stages", [["machine", "parity", "capture"], ["jittor", "profile"], ["train"]], ids="+".join
)
def test_every_stage_runs_on_the_cpu(stages: list[str], environment: dict[str, str], tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
    options = ["--device", "cpu", "--tiny", "--images", str(images), "--minutes", "0.2", "--limit", "900"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu", str(out), *options, "--stages", *stages],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((out / "check.json").read_text(encoding="utf-8"))
    assert list(found) == stages
    assert (out / "check.md").read_text(encoding="utf-8") == page(found)


@pytest.mark.slow
def test_killed_check_keeps_its_measurements(environment: dict[str, str], tmp_path: Path) -> None:
    """The check is killed after the first figure of the first contender, before any round."""
    options = ["--device", "cpu", "--tiny", "--stages", "speed"]
    check = subprocess.Popen(
        [sys.executable, "-m", "tests.gpu", str(tmp_path), *options],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        start_new_session=True,
    )
    written = tmp_path / "check.md"
    until = time.monotonic() + 240
    try:
        while not (written.exists() and "images/s in training" in written.read_text(encoding="utf-8")):
            assert check.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        os.killpg(check.pid, signal.SIGKILL)
        check.wait()
    found = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))["speed"]
    assert found["problem"] == "has not ended"
    assert "images/s in training" in found["figures"]["torch-bf16"]
    text = (tmp_path / "check.md").read_text(encoding="utf-8")
    assert "It has not ended" in text
    assert found["figures"]["torch-bf16"] in text


def test_failed_stage_is_shown_with_the_end_of_its_log() -> None:
    text = page({"parity": {"seconds": 3, "problem": "exited with code 1", "log": ["Boom"]}})
    assert "It exited with code 1" in text
    assert "Boom" in text


def test_stages_fit_into_eight_minutes_without_jittor_and_training() -> None:
    needed = {
        name: stage.seconds
        for name, stage in STAGES.items()
        if name in ("machine", "parity", "capture", "speed")
    }
    assert sum(needed.values()) <= 480
