"""Trained runs whose data set, timestep sampler, loss or loss weighting is not installed."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest
import tomli_w

from ddim_host.errors import UserError
from ddim_host.experiment.assembly import assemble
from ddim_host.experiment.config import Request
from ddim_host.experiment.config_file import write_run_config
from ddim_host.plugin.data import DataFingerprint
from ddim_host.run.directory import RunDirectory
from ddim_host.run.trained import assemble_trained

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.commands import Outcome

OF_TRAINING = {"data": "images", "timestep_sampler": "sampler", "loss": "loss", "loss_weighting": "weighting"}
LOST = {"name": "odd", "distribution": "ddim-lost", "version": "1.0", "parameters": {"sizes": [1, 2]}}


@pytest.fixture
def run(no_framework: None, tmp_path: Path) -> Callable[[str], RunDirectory]:
    """Return a function that writes the configuration of a run that used an uninstalled part."""

    def with_lost(option: str) -> RunDirectory:
        images = DataFingerprint(1500, 297, "0" * 64, "1" * 64)
        document = tomllib.loads(write_run_config(assemble(Request("torch")).config, (8, 8, 1), images, {}))
        (tmp_path / "config.toml").write_text(tomli_w.dumps({**document, option: LOST}), encoding="utf-8")
        return RunDirectory(tmp_path)

    return with_lost


@pytest.mark.parametrize("option", OF_TRAINING)
def test_part_of_training_may_be_missing_until_it_is_used(
    run: Callable[[str], RunDirectory], option: str
) -> None:
    experiment = assemble_trained(run(option), Request())
    assert len(experiment.sampling_plan().steps) == 20
    recorded = getattr(experiment.config, option)
    assert (recorded.name, recorded.distribution) == ("odd", "ddim-lost")
    assert recorded.parameters == {"sizes": (1, 2)}
    with pytest.raises(UserError, match="named 'odd' in ddim-lost") as caught:
        getattr(experiment, OF_TRAINING[option])
    assert caught.value.fix == "install ddim-lost"


def test_part_of_sampling_must_be_installed(run: Callable[[str], RunDirectory]) -> None:
    directory = run("noise_schedule")
    with pytest.raises(UserError, match="there is no noise schedule named 'odd'"):
        assemble_trained(directory, Request())


def test_measuring_needs_the_data_set(
    run: Callable[[str], RunDirectory], in_process: Callable[..., Outcome]
) -> None:
    outcome = in_process("evaluate", run("data").path)
    assert outcome.code == 2
    assert "there is no data set named 'odd' in ddim-lost" in outcome.err
    assert "fix: install ddim-lost\n" in outcome.err


@pytest.mark.parametrize("option", OF_TRAINING)
def test_training_needs_every_part(
    run: Callable[[str], RunDirectory], in_process: Callable[..., Outcome], option: str
) -> None:
    outcome = in_process("run", "--resume", "--out", run(option).path)
    assert outcome.code == 2
    assert "named 'odd' in ddim-lost" in outcome.err
