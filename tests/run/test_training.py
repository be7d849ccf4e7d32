"""Learning rate, EMA decay and the best epochs; tests of the command cover the loop."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.errors import DivergedError, UserError
from ddim_host.experiment.assembly import assemble
from ddim_host.experiment.config import Request
from ddim_host.framework.interface import TrainingState
from ddim_host.plugin.parameters import PartChoice
from ddim_host.plugin.registry import Kind
from ddim_host.run.checkpoints import Progress, load_progress, step_of
from ddim_host.run.directory import RunDirectory
from ddim_host.run.training import Trainer, ema_decay_at, learning_rate_at
from tests.support.fakes import NumpyModel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ddim_host.framework.interface import Batch, Loss, WhichWeights
    from ddim_host.framework.unet import Weights
    from ddim_host.plugin.observation import EpochMetrics
    from ddim_host.plugin.parameters import Value

LR = st.floats(1e-6, 1)


@given(LR, st.integers(1, 10_000))
def test_learning_rate_increases_linearly_and_then_is_constant(lr: float, warmup_steps: int) -> None:
    rates = [learning_rate_at(step, lr=lr, warmup_steps=warmup_steps) for step in range(0, warmup_steps, 97)]
    assert rates[0] == pytest.approx(lr / warmup_steps), "the first step must not be lost"
    for number, rate in enumerate(rates):
        assert rate == pytest.approx(lr * (97 * number + 1) / warmup_steps)
    for step in (warmup_steps - 1, warmup_steps, 10 * warmup_steps):
        assert learning_rate_at(step, lr=lr, warmup_steps=warmup_steps) == lr


@given(LR, st.integers(0, 10_000))
def test_without_warmup_the_learning_rate_is_constant(lr: float, step: int) -> None:
    assert learning_rate_at(step, lr=lr, warmup_steps=0) == lr


@given(st.integers(0, 100_000), st.floats(0, 1))
def test_decay_never_exceeds_its_setting(step: int, ema_decay: float) -> None:
    decay = ema_decay_at(step, ema_decay=ema_decay)
    assert 0 <= decay <= ema_decay
    assert decay <= ema_decay_at(step + 1, ema_decay=ema_decay)


@pytest.mark.parametrize(("step", "decay"), [(0, 0.1), (8, 0.5), (89, 90 / 99), (100_000, 0.9999)])
def test_the_decay_warms_up(step: int, decay: float) -> None:
    assert ema_decay_at(step, ema_decay=0.9999) == pytest.approx(decay)


def test_average_of_a_short_run_forgets_the_initial_weights() -> None:
    """At a constant 0.9999 the first weights would be 99% of the average after 100 steps."""
    left = math.prod(ema_decay_at(step, ema_decay=0.9999) for step in range(100))
    assert left < 1e-6


# --- The best epochs ----------------------------------------------------------------------------------------


class Scripted(NumpyModel):
    """A model with given train and test losses, one pair per row of metrics.

    Its weights are the number of steps taken.
    """

    def __init__(self, losses: Sequence[tuple[float, float]], row_ends: Sequence[int], steps: int) -> None:
        super().__init__(lambda x_t, t: x_t)
        self._losses = losses
        self._row_ends = row_ends
        self.steps = steps

    def train_step(self, batch: Batch, loss: Loss, **_: float) -> NDArray[np.float32]:
        row = sum(self.steps >= end for end in self._row_ends)
        self.steps += 1
        return np.full(len(batch.t), self._losses[row][0], np.float32)

    def evaluate_loss(self, batch: Batch, loss: Loss) -> NDArray[np.float32]:
        _, test = self._losses[self._row_ends.index(self.steps)]
        return np.full(len(batch.t), test, np.float32)

    def weights(self, which: WhichWeights) -> Weights:
        return {"steps": np.array([self.steps], np.float32)}

    def training_state(self) -> TrainingState:
        return TrainingState(self.steps, {}, {})


@pytest.fixture
def trained(
    no_framework: None, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunDirectory]:
    """Train on 18 images in batches of 8: rows end after 3, 5, 7 and 9 steps, and after the last step."""
    monkeypatch.setenv("DDIM_HOST_CACHE", str(tmp_path / "cache"))
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()

    def train(losses: Sequence[tuple[float, float]], *, steps: int, done: int = 0) -> RunDirectory:
        row_ends = sorted({*(end for end in (3, 5, 7, 9) if done < end <= steps), steps})
        assert len(losses) == len(row_ends)
        data = PartChoice("images", None, {"path": str(pictures)})
        request = Request("torch", {Kind.DATA: data}, {"train_steps": steps, "batch_size": 8})
        experiment = assemble(request)
        model = Scripted(losses, row_ends, done)
        images = experiment.images
        Trainer(experiment, model, images, run=run, progress=Progress(done), metrics=[]).train()
        assert [(row.train_loss, row.test_loss) for row in run.read_metrics()] == [
            pytest.approx(pair) for pair in losses
        ]
        return run

    return train


def best(run: RunDirectory) -> dict[str, tuple[int, Any]]:
    """Return the best epochs, after checking their weights."""
    for folder in run.best_checkpoints().values():
        for which in ("raw", "ema"):
            weights = safetensors.numpy.load_file(folder / f"{which}.safetensors")
            assert weights["steps"] == [step_of(folder)]
    epochs = load_progress(run.latest_checkpoint()).best
    return {measure: (epoch.step, epoch.loss) for measure, epoch in epochs.items()}


def test_slow_writing_of_metrics_does_not_slow_down_training(
    trained: Callable[..., RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def slow(run: RunDirectory, rows: list[EpochMetrics], write: Any = RunDirectory.write_metrics) -> None:
        calls.append(len(rows))
        time.sleep(0.5)  # so that nothing is due within 10 s
        write(run, rows)

    monkeypatch.setattr(RunDirectory, "write_metrics", slow)
    trained([(0.5, 0.6), (0.3, 0.9), (0.4, 0.2), (0.32, 0.3), (0.7, 0.7)], steps=10)  # reads all rows
    assert calls == [1, 5]


def test_failure_is_not_hidden_by_metrics_that_cannot_be_written(
    trained: Callable[..., RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr("ddim_host.run.training._METRICS_SHARE", 10**9)  # the first row is written, no other

    def write(run: RunDirectory, rows: list[EpochMetrics], usual: Any = RunDirectory.write_metrics) -> None:
        usual(run, rows)
        monkeypatch.setattr(RunDirectory, "write_metrics", full)

    monkeypatch.setattr(RunDirectory, "write_metrics", write)
    with pytest.raises(DivergedError):
        trained([(0.5, 0.6), (0.3, 0.9), (math.nan, 0.2), (0.32, 0.3)], steps=9)


def test_failed_training_leaves_all_rows(trained: Callable[..., RunDirectory], tmp_path: Path) -> None:
    with pytest.raises(DivergedError):
        trained([(0.5, 0.6), (0.3, 0.9), (math.nan, 0.2), (0.32, 0.3)], steps=9)
    assert [row.step for row in RunDirectory(tmp_path / "run").read_metrics()] == [3, 5]


def test_the_best_epochs_by_three_measures(trained: Callable[..., RunDirectory]) -> None:
    run = trained([(0.5, 0.6), (0.3, 0.9), (0.4, 0.2), (0.32, 0.3), (0.7, 0.7)], steps=10)
    assert best(run) == {
        "train": (5, pytest.approx(0.3)),
        "test": (7, pytest.approx(0.2)),
        "avg": (9, pytest.approx((5 * 0.32 + 0.3) / 6)),
    }
    assert {step_of(path) for path in run.checkpoints_path.iterdir()} == {5, 7, 9, 10}


def test_the_first_of_equal_epochs_is_the_best(trained: Callable[..., RunDirectory]) -> None:
    run = trained([(0.5, 0.5), (0.25, 0.25), (0.25, 0.25)], steps=7)
    assert {step for step, _ in best(run).values()} == {5}


def test_the_last_epoch_can_be_the_best(trained: Callable[..., RunDirectory]) -> None:
    run = trained([(0.5, 0.5), (0.25, 0.25)], steps=5)
    assert {step for step, _ in best(run).values()} == {5}
    assert [step_of(path) for path in run.checkpoints_path.iterdir()] == [5]


def test_incomplete_epoch_is_never_the_best(trained: Callable[..., RunDirectory]) -> None:
    """Such an epoch's train loss is that of a few images, which may be easy ones."""
    run = trained([(0.5, 0.5), (0.1, 0.1)], steps=4)
    assert {step for step, _ in best(run).values()} == {3}
    assert {step_of(path) for path in run.checkpoints_path.iterdir()} == {3, 4}


def test_incomplete_epoch_is_the_best_if_it_is_the_only_one(trained: Callable[..., RunDirectory]) -> None:
    run = trained([(0.5, 0.5)], steps=2)
    assert {step for step, _ in best(run).values()} == {2}


def test_remainder_of_an_epoch_is_never_the_best(trained: Callable[..., RunDirectory]) -> None:
    """A run that starts from another run within an epoch has a short first row."""
    run = trained([(0.1, 0.1), (0.5, 0.5), (0.6, 0.6)], done=4, steps=9)
    assert {step for step, _ in best(run).values()} == {7}


def test_train_loss_is_an_estimate_for_uniform_timesteps(
    no_framework: None, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the loss would jump when the importance sampler warms up, and an early epoch would win."""
    monkeypatch.setenv("DDIM_HOST_CACHE", str(tmp_path / "cache"))

    class Steep(Scripted):
        """A model whose loss is the timestep: 1.5 on average over 0 to 3."""

        def train_step(self, batch: Batch, loss: Loss, **_: float) -> NDArray[np.float32]:
            self.steps += 1
            return batch.t.astype(np.float32)

        def evaluate_loss(self, batch: Batch, loss: Loss) -> NDArray[np.float32]:
            return np.ones(len(batch.t), np.float32)

    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    parts = {
        Kind.DATA: PartChoice("images", None, {"path": str(pictures)}),
        Kind.TIMESTEP_SAMPLER: PartChoice("importance", None, {"history": "1"}),
        Kind.NOISE_SCHEDULE: PartChoice("cosine", None, {}),
    }
    settings: dict[str, Value] = {
        "train_steps": 500,
        "batch_size": 64,
        "num_train_timesteps": 4,
        "steps": 2,
        "test_images": 1,
    }
    experiment = assemble(Request("torch", parts, settings))
    images = experiment.images
    Trainer(experiment, Steep([], [], 0), images, run=run, progress=Progress(), metrics=[]).train()
    rows = run.read_metrics()
    # The sampler draws a timestep of loss 3 about three times as often as one of loss 1.
    assert np.mean([row.train_loss for row in rows]) == pytest.approx(1.5, rel=0.02)
