"""The contract kit finds what is wrong with a part, each mistake by the test that is meant for it."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import pytest

from ddim_host import Observer
from ddim_host.errors import UserError
from ddim_host.plugin.data import DataSource, TrainTest
from ddim_host.testing import (
    DatasetContract,
    FeatureExtractorContract,
    LossContract,
    LossWeightingContract,
    ModelFactoryContract,
    NoiseScheduleContract,
    ObserverContract,
    PartContract,
    TimestepSamplerContract,
    TimestepSubsetContract,
)
from ddim_losses import mse
from ddim_timestep_samplers import Importance, Uniform
from ddim_torch.model import TorchModel
from ddim_torch.plugin import unet
from tests.support.distributions import losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.distributions import Site


def fails(
    contract: type[PartContract], part: Any, test: str, message: str | None = None, **options: Any
) -> None:
    """This test of the contract finds the mistake."""
    members = {"part": staticmethod(part), "parameters": options}
    tested = type("Tested", (contract,), members)()
    with pytest.raises((AssertionError, UserError), match=message):
        getattr(tested, test)()


def test_what_is_said_of_every_part() -> None:
    def undocumented(prediction: Any, target: Any) -> Any: ...

    def untyped(prediction: Any, target: Any, *, power=2): ...  # type: ignore[no-untyped-def]

    fails(LossContract, undocumented, "test_it_is_documented", "write a docstring")
    fails(LossContract, untyped, "test_its_parameters_can_be_set_by_users", "does not work")
    fails(LossContract, mse, "test_its_parameters_can_be_set_by_users", "no parameter 'x'", x=1)


@pytest.mark.process
def test_a_part_whose_module_imports_a_framework(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "heavy_part.py").write_text("import torch\ndef part(a, b): return a\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    part = SimpleNamespace(__module__="heavy_part", __name__="part")
    fails(LossContract, part, "test_importing_it_imports_no_framework", "cannot be imported here")


LOSSES: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "reduced": (lambda p, t: ((p - t) ** 2).mean(), "test_each_image_has_its_own_loss"),
    "of the batch": (
        lambda p, t: mse(p, t) / mse(p, t).sum(),
        "test_each_image_has_its_own_loss",
    ),
    "negative": (lambda p, t: mse(p, t) - 1.0, "test_it_is_finite_not_negative_and_deterministic"),
    "not finite": (lambda p, t: 1.0 / mse(p, t), "test_it_is_finite_not_negative_and_deterministic"),
    "upside down": (lambda p, t: 1.0 / (1.0 + mse(p, t)), "test_a_perfect_prediction_is_the_best"),
    "random": (
        lambda p, t: mse(p, t) + np.random.default_rng().random(),
        "test_it_is_finite_not_negative_and_deterministic",
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_losses(name: str) -> None:
    loss, test = LOSSES[name]
    fails(LossContract, loss, test)


def test_a_loss_that_overwrites_its_arguments() -> None:
    def greedy(prediction: Any, target: Any) -> Any:
        prediction -= target
        return (prediction**2).reshape((len(target), -1)).mean(1)

    fails(LossContract, greedy, "test_its_arguments_stay_as_they_are", "overwritten")


@pytest.mark.process
def test_a_loss_in_frameworks_that_do_not_work(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.plugin("broken-framework", "raise OSError('no driver')", entry="broken", group="frameworks")
    site.plugin("no-framework", losses("own"), entry="none", group="frameworks")
    test = "test_it_is_the_same_in_every_framework"
    tested = type("Tested", (LossContract,), {"part": staticmethod(mse)})()
    for framework, reason in (("broken", "no driver"), ("none", "a framework gives networks")):
        with pytest.raises(pytest.skip.Exception, match=reason):
            getattr(tested, test)(framework)


def in_numpy(prediction: Any, target: Any) -> Any:
    """Works on NumPy arrays alone."""
    losses = ((np.asarray(prediction) - np.asarray(target)) ** 2).reshape((len(target), -1)).mean(1)
    return losses if isinstance(prediction, np.ndarray) else np.zeros(len(target), dtype=np.float32)


@pytest.mark.process
def test_a_loss_that_returns_another_kind_of_array() -> None:
    tested = type("Tested", (LossContract,), {"part": staticmethod(in_numpy)})()
    with pytest.raises(
        AssertionError, match=r"it must return an array of the framework .*, torch\.Tensor, not"
    ):
        tested.test_it_is_the_same_in_every_framework("torch")


class Biased(Uniform):
    """Draws small timesteps more often, and does not say so."""

    def sample(self, batch_size: int, rng: np.random.Generator) -> Any:
        t, weights = super().sample(batch_size, rng)
        return t // 2, weights


class OwnRandomness(Uniform):
    """Draws from a generator of its own."""

    def sample(self, batch_size: int, rng: np.random.Generator) -> Any:
        return super().sample(batch_size, np.random.default_rng())


class Counting(Uniform):
    """Remembers how often it was asked."""

    asked = 0

    def sample(self, batch_size: int, rng: np.random.Generator) -> Any:
        self.asked += 1
        t, weights = super().sample(batch_size, rng)
        return np.roll(t, self.asked), weights


class Forgetful(Importance):
    """Gives no state."""

    def state_dict(self) -> Any:
        return {}

    def load_state_dict(self, state: Any) -> None:
        """Nothing to take back."""


class Shared(Importance):
    """Gives its own arrays away."""

    def state_dict(self) -> Any:
        return {"losses": self._losses, "counts": self._counts.astype(np.float64)}


@pytest.mark.parametrize(
    ("sampler", "test", "message"),
    [
        (Biased, "test_weights_undo_the_bias", "the weights are biased"),
        (OwnRandomness, "test_all_randomness_comes_from_the_generator", "may use no other randomness"),
        (Counting, "test_all_randomness_comes_from_the_generator", "must not change the sampler"),
        (Forgetful, "test_its_state_comes_back", "a restored sampler draws otherwise"),
        (Shared, "test_its_state_is_a_copy", "losses is not a copy"),
    ],
)
def test_samplers(sampler: Any, test: str, message: str | None) -> None:
    fails(TimestepSamplerContract, sampler, test, message)


def test_schedules_weightings_and_subsets() -> None:
    rng = np.random.default_rng()
    betas = {"zero": lambda n: np.linspace(0, 0.02, n), "random": lambda n: rng.uniform(1e-4, 0.02, n)}
    fails(NoiseScheduleContract, betas["zero"], "test_betas_are_valid", "between 0 and 1")
    fails(NoiseScheduleContract, betas["random"], "test_it_is_deterministic")
    weighting = "test_weights_are_valid_and_deterministic"
    fails(LossWeightingContract, lambda schedule, prediction_type: np.ones(3), weighting, "of shape")
    fails(LossWeightingContract, lambda s, _: rng.uniform(0.5, 1, s.num_train_timesteps), weighting)
    subset = "test_timesteps_are_valid_and_deterministic"
    fails(TimestepSubsetContract, lambda schedule, n: np.zeros(n, dtype=np.int64), subset, "increase")
    fails(TimestepSubsetContract, lambda s, n: np.sort(rng.permutation(s.num_train_timesteps)[:n]), subset)


def test_data_sets() -> None:
    def source(train: Any, test: Any, description: str = "noise") -> Callable[[], DataSource]:
        return lambda: DataSource((4, 4, 1), False, description, lambda: TrainTest(train(), test()))

    zeros = np.zeros((3, 4, 4, 1), dtype=np.uint8)
    test = "test_images_are_as_announced"
    fails(DatasetContract, source(zeros.copy, lambda: zeros[0]), test, "test images are uint8 of shape")
    fails(DatasetContract, source(lambda: zeros, lambda: zeros), test, "share images")
    fails(DatasetContract, source(zeros.copy, zeros.copy, ""), test, "describe the images")
    rng = np.random.default_rng()
    noise = source(lambda: rng.integers(0, 256, zeros.shape, np.uint8), zeros.copy)
    fails(DatasetContract, noise, test, "others every time")


class Features:
    """What a test changes something of."""

    fingerprint = "00" * 8

    def __call__(self, images: Any) -> Any:
        return images.reshape(len(images), -1).astype(np.float32)


def test_feature_extractors() -> None:
    class Centred(Features):
        def __call__(self, images: Any) -> Any:
            features = super().__call__(images)
            return features - features.mean(0)

    class Random(Features):
        def __init__(self) -> None:
            self.fingerprint = np.random.default_rng().bytes(8).hex()

    class Logarithm(Features):
        def __call__(self, images: Any) -> Any:
            with np.errstate(divide="ignore"):
                return np.log(super().__call__(images))

    fails(FeatureExtractorContract, Centred, "test_features_are_valid_and_each_images_own")
    fails(FeatureExtractorContract, Random, "test_its_fingerprint_is_that_of_its_weights")
    fails(FeatureExtractorContract, Logarithm, "test_black_and_white_images_have_features", "not all finite")
    strange = type("Strange", (Features,), {"framework": "pytorch"})
    fails(FeatureExtractorContract, strange, "test_its_framework_is_one", "should be one of")


class NoAverage(TorchModel):
    """Forgets the average."""

    def train_step(self, batch: Any, loss: Any, *, lr: float, ema_decay: float, max_grad_norm: float) -> Any:
        return super().train_step(batch, loss, lr=lr, ema_decay=1.0, max_grad_norm=max_grad_norm)


class NoClipping(TorchModel):
    """Does not clip gradients."""

    def train_step(self, batch: Any, loss: Any, *, lr: float, ema_decay: float, max_grad_norm: float) -> Any:
        return super().train_step(batch, loss, lr=lr, ema_decay=ema_decay, max_grad_norm=1e9)


class NoWeights(TorchModel):
    """Every image counts the same."""

    def train_step(self, batch: Any, loss: Any, **how: Any) -> Any:
        return super().train_step(replace(batch, weights=np.ones_like(batch.weights)), loss, **how)


class NoTotal(TorchModel):
    """Takes the mean over its own share of the batch."""

    def train_step(self, batch: Any, loss: Any, **how: Any) -> Any:
        return super().train_step(replace(batch, total=len(batch.t)), loss, **how)


class ShortMemory(TorchModel):
    """Another Adam: its second moment forgets too soon."""

    def train_step(self, batch: Any, loss: Any, **how: Any) -> Any:
        with patch("ddim_torch.adam.ADAM_BETA2", 0.9):
            return super().train_step(batch, loss, **how)


class LargeEpsilon(TorchModel):
    """Another Adam: it moves less where gradients are small."""

    def train_step(self, batch: Any, loss: Any, **how: Any) -> Any:
        with patch("ddim_torch.adam.ADAM_EPSILON", 1e-3):
            return super().train_step(batch, loss, **how)


class OneDropout(TorchModel):
    """Drops the same at every step."""

    def train_step(self, batch: Any, loss: Any, **how: Any) -> Any:
        return super().train_step(replace(batch, dropout_seed=0), loss, **how)


class NoMemory(TorchModel):
    """Does not take the optimizer's memory back."""

    def load_training_state(self, state: Any) -> None:
        """Nothing."""


class NoTime(TorchModel):
    """Predicts the same for all timesteps."""

    def predict(self, x_t: Any, t: int, *, which: Any) -> Any:
        return super().predict(x_t, 0, which=which)


@pytest.mark.parametrize(
    ("model", "test"),
    [
        (NoAverage, "test_every_step_is_adams"),
        (ShortMemory, "test_every_step_is_adams"),
        (LargeEpsilon, "test_every_step_is_adams"),
        (NoWeights, "test_the_gradient_is_that_of_the_weighted_losses"),
        (NoTotal, "test_the_gradient_is_that_of_the_weighted_losses"),
        (OneDropout, "test_dropout_follows_its_seed"),
        (NoClipping, "test_gradients_are_clipped_before_the_step"),
        (NoMemory, "test_training_goes_on_where_it_stopped"),
        (NoTime, "test_predictions_are_each_images_own"),
    ],
)
def test_models(model: Any, test: str) -> None:
    def factory(spec: Any, device: Any, precision: Any) -> Any:
        whole = unet(spec, device, precision)
        whole.__class__ = model
        return whole

    fails(ModelFactoryContract, factory, test)


def test_observers_that_do_not_take_everything_or_change_something() -> None:
    class Rows(Observer):
        """Divides by what may be 0, and by what may be missing."""

        def on_row(self, row: Any, /) -> None:
            _ = 1.0 / row.seconds

    class Early(Observer):
        """Begins in its constructor."""

        def __init__(self) -> None:
            Path("opened.log").touch()

    class Shuffler(Observer):
        """Draws from the global generator, without looking who else does."""

        def on_grid(self, grid: Any, /) -> None:
            np.random.shuffle([1, 2, 3])  # noqa: NPY002

    class Mover(Observer):
        """Takes the picture for itself."""

        def on_grid(self, grid: Any, /) -> None:
            grid.path.unlink()

    class Half:
        """Has one method."""

        def on_row(self, row: Any, /) -> None:
            pass

    with pytest.raises(ZeroDivisionError):
        fails(ObserverContract, Rows, "test_it_takes_all_that_a_run_tells")
    fails(ObserverContract, Early, "test_it_opens_nothing_before_it_begins", "it wrote something")
    leaves = "test_it_leaves_the_process_and_the_files_of_a_run_alone"
    fails(ObserverContract, Shuffler, leaves, "it changed the global generator")
    fails(ObserverContract, Mover, leaves, "it took the picture away")
    fails(ObserverContract, Half, "test_it_takes_all_that_a_run_tells", "does not work")


_NOTICED = """
import ddim_host.testing.part
from ddim_host.testing import LossContract
from ddim_losses import mse

ddim_host.testing.part._NOTICE_SECONDS = 0.2

class TestMse(LossContract):
    part = mse
"""


@pytest.mark.process
def test_a_framework_that_takes_long_is_named_while_one_waits(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """On the terminal, though pytest captures what tests print."""
    (tmp_path / "test_noticed.py").write_text(_NOTICED, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "every_framework and torch",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(
        r"^torch has been working for \d+ s; the first time it may compile", done.stdout, re.MULTILINE
    )
