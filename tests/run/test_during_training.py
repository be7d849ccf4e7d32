"""Grids during training: their schedule, their contents, and no effect on the training."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ddim_host.errors import InterruptedTrainingError, UserError
from ddim_host.experiment.assembly import assemble
from ddim_host.experiment.config import Request
from ddim_host.experiment.settings import read_setting
from ddim_host.framework.interface import TrainingState
from ddim_host.plugin.parameters import PartChoice
from ddim_host.plugin.registry import Kind
from ddim_host.run.checkpoints import Progress
from ddim_host.run.directory import RunDirectory
from ddim_host.run.during_training import TrainingGrids, grids_in_words, steps_with_grids, training_grid
from ddim_host.run.images import Enlargement, grid_images
from ddim_host.run.training import Trainer
from ddim_host.sweep.grid import requested
from tests.support.fakes import NumpyModel

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ddim_host.experiment.assembly import Experiment
    from ddim_host.framework.interface import Batch, Loss, WhichWeights
    from ddim_host.framework.unet import Weights


class Counting(NumpyModel):
    """A model that counts its training steps, and uses the count as its weights and losses."""

    def __init__(self, *, broken: bool = False) -> None:
        factor = np.float32(np.nan if broken else 0.5)
        super().__init__(lambda x_t, _: x_t * factor)
        self.steps = 0

    def train_step(self, batch: Batch, loss: Loss, **_: float) -> NDArray[np.float32]:
        self.steps += 1
        return np.full(len(batch.t), self.steps, np.float32)

    def evaluate_loss(self, batch: Batch, loss: Loss) -> NDArray[np.float32]:
        return np.ones(len(batch.t), np.float32)

    def weights(self, which: WhichWeights) -> Weights:
        return {"steps": np.array([self.steps], np.float32)}

    def training_state(self) -> TrainingState:
        return TrainingState(self.steps, {}, {})


@pytest.fixture
def data(no_framework: None, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PartChoice:
    monkeypatch.setenv("DDIM_HOST_CACHE", str(tmp_path / "cache"))
    return PartChoice("images", None, {"path": str(pictures)})


def experiment_of(data: PartChoice, sample_every: int | str, steps: int = 10) -> Experiment:
    settings = {"train_steps": steps, "batch_size": 8, "sample_every": sample_every}
    return assemble(Request("torch", {Kind.DATA: data}, settings))


def train(experiment: Experiment, folder: Path, model: Counting) -> RunDirectory:
    folder.mkdir(exist_ok=True)
    run = RunDirectory(folder)
    Trainer(experiment, model, experiment.images, run=run, progress=Progress(), metrics=[]).train()
    return run


def grids(run: RunDirectory) -> list[str]:
    return sorted(path.name for path in run.training_grid_path(0).parent.glob("*.png"))


def test_grids_are_drawn_at_the_chosen_steps_and_at_the_end(data: PartChoice, tmp_path: Path) -> None:
    experiment = experiment_of(data, 4)
    run = train(experiment, tmp_path / "run", Counting())
    assert grids(run) == ["step-00000004.png", "step-00000008.png", "step-00000010.png"]
    path = run.training_grid_path(8)
    record: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["checkpoint_steps"] == [8]
    assert (record["weights"], record["eta"], record["solver"]) == ("ema", 0.0, "ddim")
    assert len(record["timesteps"]) == 10
    one, other = (
        grid_images(run.training_grid_path(step).read_bytes(), 16, experiment.image_shape) for step in (4, 8)
    )
    np.testing.assert_array_equal(one, other, "the same network and noise must give the same images")
    assert sum(row.grid_seconds for row in run.read_metrics()) > 0


def test_grids_do_not_affect_training(data: PartChoice, tmp_path: Path) -> None:
    rows = []
    for every in (0, 1):
        run = train(experiment_of(data, every), tmp_path / str(every), Counting())
        rows.append([(row.step, row.train_loss, row.test_loss) for row in run.read_metrics()])
        assert len(grids(run)) == 10 * every
    assert rows[0] == rows[1]


def test_existing_grids_are_kept_and_missing_ones_drawn(data: PartChoice, tmp_path: Path) -> None:
    experiment = experiment_of(data, 5)
    run = RunDirectory(tmp_path / "run")
    drawer = TrainingGrids(experiment, Counting(), run, 10)
    assert drawer.draw_if_due(5) > 0
    first = run.training_grid_path(5).read_bytes()
    assert drawer.draw_if_due(5) == 0.0
    assert [drawer.draw_if_due(step) for step in (0, 4, 6)] == [0.0] * 3
    run.training_grid_path(5).unlink()
    assert TrainingGrids(experiment, Counting(), run, 10).draw_if_due(5) > 0
    assert run.training_grid_path(5).read_bytes() == first


def test_images_that_are_not_finite_do_not_stop_training(
    data: PartChoice, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(experiment_of(data, 5), tmp_path / "run", Counting(broken=True))
    assert grids(run) == []
    assert (
        "warning: cannot draw the grid for step 5: the sampled images are not finite"
        in capsys.readouterr().err
    )
    assert run.read_metrics()[-1].step == 10


def test_a_signal_during_a_grid_stops_after_it(
    data: PartChoice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = experiment_of(data, 5)
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    progress = Progress()
    trainer = Trainer(experiment, Counting(), experiment.images, run=run, progress=progress, metrics=[])

    def draw_and_be_interrupted(self: TrainingGrids, step: int) -> float:
        seconds = usual(self, step)
        if seconds:
            trainer._interruption.requested = True
        return seconds

    usual = TrainingGrids.draw_if_due
    monkeypatch.setattr(TrainingGrids, "draw_if_due", draw_and_be_interrupted)
    with pytest.raises(InterruptedTrainingError, match="interrupted after 5 steps"):
        trainer.train()
    assert run.latest_checkpoint().name == "step-00000005"
    assert grids(run) == ["step-00000005.png"]


@pytest.mark.parametrize("total", [10, 11, 12, 15, 21, 101, 450, 800_000])
def test_auto_draws_ten_grids_at_regular_intervals(total: int) -> None:
    steps = [0, *steps_with_grids("auto", total), total]
    assert len(steps) == 11
    assert set(np.diff(steps)) <= {total // 10, -(-total // 10)}


def test_short_runs_have_a_grid_after_each_step() -> None:
    assert list(steps_with_grids("auto", 3)) == [1, 2]
    assert list(steps_with_grids("auto", 1)) == []


def test_interval_of_a_long_run_takes_no_memory() -> None:
    assert len(steps_with_grids(7, 10**12)) == 142857142857


def test_grids_are_sampled_in_batches(data: PartChoice, tmp_path: Path) -> None:
    """A batch of the training may be all that fits into memory."""
    experiment, model = experiment_of(data, 5), Counting()
    assert TrainingGrids(experiment, model, RunDirectory(tmp_path / "run"), 10).draw_if_due(5) > 0
    assert {len(x_t) for x_t in model.inputs} == {experiment.config.batch_size} == {8}


def test_too_large_a_grid_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a grid of 16 images with --grid-scale 90 would have") as caught:
        training_grid(tmp_path / "x.png", (32, 32, 3), Enlargement(90))
    assert "--sample-every 0" in caught.value.fix
    training_grid(tmp_path / "x.png", (32, 32, 3), Enlargement(64))


def test_description_of_the_grids() -> None:
    assert grids_in_words("auto", 450) == "a grid of 16 images 10 times during training"
    assert grids_in_words("auto", 3) == "a grid of 16 images 3 times during training"
    assert grids_in_words("auto", None) == "a grid of 16 images 10 times during training"
    assert grids_in_words(500, None) == "a grid of 16 images every 500 steps during training"
    assert grids_in_words(0, 450) == "no grids during training"


@pytest.mark.parametrize(
    ("given", "value"), [("auto", "auto"), ("none", 0), ("0", 0), ("12", 12), (12, 12), (0, 0)]
)
def test_values_of_the_setting(given: object, value: object) -> None:
    assert read_setting("sample_every", given, origin="--sample-every") == value


@pytest.mark.parametrize("given", ["-1", "1.5", "often", "", 1.5, True, -1])
def test_bad_values_of_the_setting_are_refused(given: object) -> None:
    with pytest.raises(UserError, match="--sample-every"):
        read_setting("sample_every", given, origin="--sample-every")


def test_sweep_draws_no_grids_by_default() -> None:
    assert requested({}).settings["sample_every"] == 0
    assert requested({"sample_every": 9}).settings["sample_every"] == 9
