"""Dry runs: who provides what, and nothing written."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.commands import Command, Outcome


def test_a_dry_run_says_who_provides_what_and_writes_nothing(
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
    }
    assert "\n                  span=0.8\n" in outcome.out
    assert "3 steps of 8 images, lr 0.001" in outcome.out
    assert "4 images in 3 steps, eta 0, clip true, seed 0" in outcome.out
    assert "t = 0, 200, 800\n" in outcome.out


def test_defaults_need_nothing_but_the_framework(in_process: Callable[..., Outcome]) -> None:
    outcome = in_process("run", "--plugin", "torch", "--dry-run")
    assert outcome.code == 0
    assert "64 images in 20 steps, eta 0," in outcome.out
    assert "t = 0, 53," in outcome.out


@pytest.mark.parametrize(
    "arguments", ["--num-train-timesteps 1 --noise-schedule cosine --steps 1", "--steps 1000"]
)
def test_the_ends_of_what_is_allowed(in_process: Callable[..., Outcome], arguments: str) -> None:
    assert in_process("run", "--plugin", "torch", "--dry-run", *arguments.split()).code == 0


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_device_that_is_not_there_is_refused(command: str, ddim_host: Command, tmp_path: Path) -> None:
    options = ["--plugin", "torch", "--device", "cuda", "--dry-run", "--out", str(tmp_path / "x")]
    refused = ddim_host(command, *options, env={"CUDA_VISIBLE_DEVICES": ""})
    assert refused.code == 2, refused.err
    assert "use --device cpu" in refused.err
    assert list(tmp_path.iterdir()) == []


def test_what_is_always_there_is_not_looked_for(in_process: Callable[..., Outcome]) -> None:
    for options in ("--device auto", "--device cpu --precision fp32", "--precision auto"):
        assert in_process("run", "--plugin", "torch", "--dry-run", *options.split()).code == 0
