"""The weights of a trained run: the choice of the checkpoint, and the checkpoints' weights in an ensemble."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.numpy

from ddim_host.experiment.assembly import Experiment
from ddim_host.experiment.config import Request
from ddim_host.run.checkpoints import weights_folder
from ddim_host.run.directory import RunDirectory
from ddim_host.run.trained import UsedWeights, assemble_trained, load_denoiser
from tests.support.fakes import ConstantModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddim_host.experiment.settings import CheckpointChoice
    from ddim_host.framework.interface import WhichWeights
    from tests.support.commands import Run


@pytest.fixture
def run(
    tiny_run: Run, tmp_path: Path, no_framework: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunDirectory]:
    """Return a function that creates a run with raw weights n and averaged weights n + 10 after step n."""
    monkeypatch.setattr(Experiment, "build_model", lambda _: ConstantModel())

    def with_best(**steps: int) -> RunDirectory:
        copy = RunDirectory(Path(shutil.copytree(tiny_run.path, tmp_path / "run")))
        latest = copy.latest_checkpoint()
        weights = safetensors.numpy.load_file(latest / "raw.safetensors")
        for step in {3, *steps.values()}:
            folder = weights_folder(copy.checkpoints_path, step)
            folder.mkdir(exist_ok=True)
            for which, number in (("raw", step), ("ema", step + 10)):
                full = {name: np.full_like(array, number) for name, array in weights.items()}
                safetensors.numpy.save_file(full, folder / f"{which}.safetensors")
        progress: dict[str, Any] = json.loads((latest / "progress.json").read_text())
        progress["best"] = {measure: {"step": step, "loss": 0.5} for measure, step in steps.items()}
        (latest / "progress.json").write_text(json.dumps(progress))
        return copy

    return with_best


@pytest.mark.parametrize("which", ["raw", "ema"])
@pytest.mark.parametrize(
    ("checkpoint", "step"), [("latest", 3), ("best-train", 1), ("best-test", 2), ("best-avg", 3)]
)
def test_each_checkpoint_choice_loads_its_weights(
    run: Callable[..., RunDirectory], checkpoint: CheckpointChoice, step: int, which: WhichWeights
) -> None:
    directory = run(train=1, test=2, avg=3)
    experiment = assemble_trained(directory, Request())
    denoiser, used = load_denoiser(experiment, directory, checkpoint, which)
    assert used == UsedWeights(which, checkpoint, (step,))
    assert denoiser.predict(np.zeros((1, 1, 8, 8), np.float32), 0).max() == step + 10 * (which == "ema")


@pytest.mark.parametrize(
    ("best", "steps", "mean"),
    [
        ({"train": 1, "test": 2, "avg": 3}, (1, 2, 3), (1 + 2 + 3) / 3),
        ({"train": 1, "test": 2, "avg": 1}, (1, 2), (1 + 2 + 1) / 3),
        ({"train": 2, "test": 2, "avg": 2}, (2,), 2),
    ],
)
def test_an_ensemble_is_the_mean_of_three_predictions(
    run: Callable[..., RunDirectory], best: dict[str, int], steps: tuple[int, ...], mean: float
) -> None:
    """An epoch that is the best by two measures counts twice and is loaded once."""
    directory = run(**best)
    denoiser, used = load_denoiser(assemble_trained(directory, Request()), directory, "ensemble", "raw")
    assert used == UsedWeights("raw", "ensemble", steps)
    assert len(denoiser.members) == len(steps)
    prediction = denoiser.predict(np.zeros((1, 1, 8, 8), np.float32), 0)
    np.testing.assert_allclose(prediction, mean, rtol=1e-6)


def test_requested_settings_override_those_of_the_run(run: Callable[..., RunDirectory]) -> None:
    directory = run()
    config = assemble_trained(directory, Request(settings={"steps": 7, "eta": 0.5})).config
    assert (config.steps, config.eta) == (7, 0.5)
    own = assemble_trained(directory, Request()).config
    assert (own.steps, own.eta, own.model.parameters["base_channels"]) == (3, 0.0, 8)
