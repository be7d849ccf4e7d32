"""Dry runs: they list the provider of every part and write nothing."""

from __future__ import annotations

import importlib.metadata
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.commands import Command, Outcome


def test_dry_run_lists_providers_and_writes_nothing(
    in_process: Callable[..., Outcome], tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = in_process(*tiny, "--dry-run", "--timestep-subset", "quad", "--out", tmp_path / "run")
    assert (outcome.code, outcome.err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    lines = [line for line in outcome.out.splitlines() if line.endswith(")")]
    provided = {line[:17].strip(): line.rpartition("(")[2].removesuffix(")").split() for line in lines}
    host = ["ddim-host", importlib.metadata.version("ddim-host")]
    torch = ["ddim-torch", importlib.metadata.version("ddim-torch")]
    samplers = ["ddim-timestep-samplers", importlib.metadata.version("ddim-timestep-samplers")]
    assert provided == {
        "plugin": torch,
        "data set": host,
        "model": torch,
        "noise schedule": host,
        "timestep sampler": samplers,
        "loss": ["ddim-losses", importlib.metadata.version("ddim-losses")],
        "loss weighting": host,
        "timestep subset": host,
        "solver": host,
    }
    assert "\n                  span=0.8\n" in outcome.out
    assert "3 steps of 8 images, lr 0.001" in outcome.out
    assert "4 images in 3 steps, eta 0, clipped to [-1, 1], seed 0" in outcome.out
    assert "t = 0, 200, 800\n" in outcome.out


def test_framework_is_the_only_required_option(in_process: Callable[..., Outcome]) -> None:
    outcome = in_process("run", "--plugin", "torch", "--dry-run")
    assert outcome.code == 0
    assert "64 images in 20 steps, eta 0," in outcome.out
    assert "t = 0, 53," in outcome.out


def test_only_installed_framework_is_the_default(
    in_process: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DDIM_HOST_DISABLE_PLUGINS", "ddim-jittor")
    outcome = in_process("run", "--dry-run")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("plugin            torch (ddim-torch ")
    config = tmp_path / "run.toml"
    config.write_text("steps = 7\n", encoding="utf-8")
    assert "64 images in 7 steps" in in_process("run", "--dry-run", "--config", config).out
    swept = in_process("sweep", "--dry-run", "--steps", "7", "--steps", "8", "--out", tmp_path / "sweep")
    assert swept.code == 0
    assert re.findall(r"^  (torch\S+)", swept.out, re.MULTILINE) == ["torch,steps=7", "torch,steps=8"]


@pytest.mark.parametrize(
    "arguments", ["--num-train-timesteps 1 --noise-schedule cosine --steps 1", "--steps 1000"]
)
def test_extreme_valid_values_are_accepted(in_process: Callable[..., Outcome], arguments: str) -> None:
    assert in_process("run", "--plugin", "torch", "--dry-run", *arguments.split()).code == 0


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_missing_device_is_refused(command: str, ddim_host: Command, tmp_path: Path) -> None:
    options = ["--plugin", "torch", "--device", "cuda", "--dry-run", "--out", str(tmp_path / "x")]
    refused = ddim_host(command, *options, env={"CUDA_VISIBLE_DEVICES": ""})
    assert refused.code == 2, refused.err
    assert "use --device cpu" in refused.err
    assert "sampling  " not in refused.out, "the plan comes after the check"
    assert list(tmp_path.iterdir()) == []


def test_device_that_always_exists_is_not_checked(in_process: Callable[..., Outcome]) -> None:
    for options in ("--device auto", "--device cpu --precision fp32", "--precision auto"):
        assert in_process("run", "--plugin", "torch", "--dry-run", *options.split()).code == 0
