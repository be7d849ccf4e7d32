"""Two distributions with a framework of the same name, which users tell apart as `DISTRIBUTION/NAME`."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from ddim_host.experiment.assembly import assemble
from ddim_host.experiment.config import Request
from ddim_host.experiment.config_file import write_run_config
from ddim_host.plugin.data import DataFingerprint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.commands import Outcome
    from tests.support.distributions import Site

NETWORK = "@hookimpl\ndef ddim_model_factories():\n    return {'unet': lambda spec, device, precision: None}"
FORK = "ddim-torch-fork/torch"


@pytest.fixture(autouse=True)
def fork(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDIM_HOST_DISABLE_PLUGINS", "ddim-jittor")  # not installed in every environment
    site.plugin("ddim-torch-fork", NETWORK, entry="torch", group="frameworks")


@pytest.fixture
def run(in_process: Callable[..., Outcome], tmp_path: Path) -> Path:
    """Return the folder of a run that was begun with the fork."""
    path = tmp_path / "run"
    path.mkdir()
    images = DataFingerprint(1500, 297, "0" * 64, "1" * 64)
    config = write_run_config(assemble(Request(FORK)).config, (8, 8, 1), images, {})
    (path / "config.toml").write_text(config, encoding="utf-8")
    return path


@pytest.mark.parametrize("options", [(), ("--plugin", FORK), ("--plugin", "torch"), ("--loss", "mse")])
def test_run_is_resumed_with_the_distribution_it_began_with(
    in_process: Callable[..., Outcome], run: Path, options: tuple[str, ...]
) -> None:
    outcome = in_process("run", "--resume", "--out", run, "--dry-run", *options)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("plugin            torch (ddim-torch-fork 1.0)")


def test_run_cannot_be_resumed_with_the_other_distribution(
    in_process: Callable[..., Outcome], run: Path
) -> None:
    outcome = in_process("run", "--resume", "--out", run, "--dry-run", "--plugin", "ddim-torch/torch")
    assert outcome.code == 2
    assert "--resume cannot change settings, but these differ: plugin" in outcome.err


def test_settings_of_a_run_can_be_used_with_the_other_distribution(
    in_process: Callable[..., Outcome], run: Path
) -> None:
    command = ("run", "--config", run / "config.toml", "--dry-run", "--out", run.with_name("other"))
    assert in_process(*command).out.startswith("plugin            torch (ddim-torch-fork 1.0)")
    other = in_process(*command, "--plugin", "ddim-torch/torch")
    assert other.out.startswith("plugin            torch (ddim-torch ")


def test_missing_distribution_of_a_run_is_explained(
    in_process: Callable[..., Outcome], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run / "config.toml"
    path.write_text(path.read_text("utf-8").replace("ddim-torch-fork", "ddim-lost"), encoding="utf-8")
    outcome = in_process("run", "--resume", "--out", run)
    assert outcome.code == 2
    assert "there is no framework plugin named 'ddim-lost/torch'" in outcome.err
    assert "fix: install ddim-lost, or choose one of these" in outcome.err
    path.write_text(path.read_text("utf-8").replace('"torch"', '"jittor"'), encoding="utf-8")
    monkeypatch.setattr("ddim_host.plugin.loading.discover", list)
    assert "plugins/ddim_jittor" in in_process("run", "--resume", "--out", run).err


def test_experiments_of_a_sweep_use_the_chosen_distribution(
    in_process: Callable[..., Outcome], run: Path, tmp_path: Path
) -> None:
    for number, choice in enumerate((("--plugin", FORK), ("--config", run / "config.toml"))):
        folder = tmp_path / f"sweep{number}"
        assert in_process("sweep", *choice, "--prepare", "--out", folder).code == 0
        trial = folder / "torch" / "trial.toml"
        outcome = in_process("run", "--config", trial, "--dry-run", "--out", tmp_path / "trial")
        assert outcome.out.startswith("plugin            torch (ddim-torch-fork 1.0)"), outcome.err


def test_sweep_over_both_distributions_has_an_experiment_for_each(
    in_process: Callable[..., Outcome], tmp_path: Path
) -> None:
    both = ("--plugin", FORK, "--plugin", "ddim-torch/torch")
    outcome = in_process("sweep", *both, "--dry-run", "--out", tmp_path / "sweep")
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.out.splitlines()[1:]] == [
        "ddim-torch-fork-torch",
        "ddim-torch-torch",
    ]


def test_run_without_a_framework_offers_each_distribution(in_process: Callable[..., Outcome]) -> None:
    outcome = in_process("run", "--dry-run")
    assert outcome.code == 2
    assert "--plugin ddim-torch-fork/torch or --plugin ddim-torch/torch" in outcome.err


def test_plugins_tells_how_to_choose_each_distribution(in_process: Callable[..., Outcome]) -> None:
    out = in_process("plugins", "torch").out
    assert "  run with --plugin ddim-torch/torch\n" in out
    assert "  run with --plugin ddim-torch-fork/torch\n" in out
    table = in_process("plugins").out.partition("\n\n")[0]
    assert [line.split()[0] for line in table.splitlines()] == [
        "framework",
        "ddim-torch-fork/torch",
        "ddim-torch/torch",
    ]


def test_doctor_checks_each_distribution(
    in_process: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = []

    def crash(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        checked.append(command[command.index("--plugin") + 1])
        return subprocess.CompletedProcess(command, -9, b"")

    monkeypatch.setattr("ddim_host.cli.doctor.subprocess.run", crash)
    monkeypatch.setenv("DDIM_HOST_KERNELS", "framework")
    outcome = in_process("doctor")
    assert checked == ["ddim-torch-fork/torch", "ddim-torch/torch"]
    assert "fix: ddim-host doctor --plugin ddim-torch-fork/torch shows why" in outcome.out
