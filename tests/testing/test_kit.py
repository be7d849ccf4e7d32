"""The contract kit finds the mistakes of a part, each with the intended test."""

from __future__ import annotations

import re
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
from ddim_host.plugin.registry import Kind, Part
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
from tests.support.commands import pass_tests
from tests.support.distributions import losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.distributions import Site


def fails(
    contract: type[PartContract], part: Any, test: str, message: str | None = None, **options: Any
) -> None:
    """Check that this test of the contract finds the mistake."""
    members = {"part": staticmethod(part), "parameters": options}
    tested = type("Tested", (contract,), members)()
    with pytest.raises((AssertionError, UserError), match=message):
        getattr(tested, test)()


def test_mistakes_common_to_all_parts_are_found() -> None:
    def undocumented(prediction: Any, target: Any) -> Any: ...

    def untyped(prediction: Any, target: Any, *, power=2): ...  # type: ignore[no-untyped-def]

    fails(LossContract, undocumented, "test_it_is_documented", "write a docstring")
    fails(LossContract, untyped, "test_its_parameters_can_be_set_by_users", "does not work")
    fails(LossContract, mse, "test_its_parameters_can_be_set_by_users", "no parameter 'x'", x=1)


@pytest.mark.parametrize(
    ("contract", "part", "call"),
    [
        (LossContract, lambda p, t: p, "test_each_image_has_its_own_loss"),
        (LossContract, lambda p, t: mse(p, t) * np.nan, "test_each_image_has_its_own_loss"),
        (TimestepSamplerContract, lambda schedule: 1 // 0, "taught"),
        (NoiseScheduleContract, lambda n: np.linspace(0.0, 1.0, n), "test_betas_are_valid"),
        (ObserverContract, lambda: None, "test_it_accepts_all_events_of_a_run"),
        (LossContract, lambda p, t, *, alpha: p, "values"),
    ],
)
def test_messages_for_authors_have_no_remedy_for_users(
    contract: type[PartContract], part: Any, call: str
) -> None:
    """Only users can choose another part, or report a broken one."""
    part.__name__ = "mine"
    tested = type("Tested", (contract,), {"part": staticmethod(part)})()
    with pytest.raises(UserError, match=f"^{contract.kind.words} 'mine' (does not|with these)") as caught:
        getattr(tested, call)()
    assert "fix:" not in str(caught.value)


def test_required_parameter_is_set_in_the_test_class() -> None:
    def mine(prediction: Any, target: Any, *, alpha: float) -> Any: ...

    with pytest.raises(UserError, match="needs a value for its parameter 'alpha'") as caught:
        type("Tested", (LossContract,), {"part": staticmethod(mine)})().values()
    assert caught.value.fix == 'write parameters = {"alpha": VALUE}'
    found = Part(Kind.LOSS, "other", mine, "ddim-other", "1.0")
    with pytest.raises(UserError, match="needs a value") as caught:
        found.values({})
    assert caught.value.fix == "write other:alpha=VALUE"


@pytest.mark.process
def test_import_of_a_framework_is_found(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_loss_that_overwrites_its_arguments_is_found() -> None:
    def greedy(prediction: Any, target: Any) -> Any:
        prediction -= target
        return (prediction**2).reshape((len(target), -1)).mean(1)

    fails(LossContract, greedy, "test_its_arguments_are_unchanged", "overwritten")


@pytest.mark.process
def test_frameworks_that_do_not_work_are_skipped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.plugin("broken-framework", "raise OSError('no driver')", entry="broken", group="frameworks")
    site.plugin("no-framework", losses("own"), entry="none", group="frameworks")
    test = "test_it_is_the_same_in_every_framework"
    tested = type("Tested", (LossContract,), {"part": staticmethod(mse)})()
    for framework, reason in (("broken", "no driver"), ("none", "a framework plugin must provide networks")):
        with pytest.raises(pytest.skip.Exception, match=reason):
            getattr(tested, test)(framework)


def in_numpy(prediction: Any, target: Any) -> Any:
    """Return a correct loss for NumPy arrays, and zeros for others."""
    losses = ((np.asarray(prediction) - np.asarray(target)) ** 2).reshape((len(target), -1)).mean(1)
    return losses if isinstance(prediction, np.ndarray) else np.zeros(len(target), dtype=np.float32)


@pytest.mark.process
def test_loss_that_returns_another_type_of_array_is_found() -> None:
    tested = type("Tested", (LossContract,), {"part": staticmethod(in_numpy)})()
    words = r"it must return an array of the same framework as its arguments, torch\.Tensor, not"
    with pytest.raises(AssertionError, match=words) as caught:
        tested.test_it_is_the_same_in_every_framework("torch")
    assert "Warning" not in str(caught.value)


class Biased(Uniform):
    """A sampler that draws small timesteps more often without adapting the weights."""

    def sample(self, batch_size: int, rng: np.random.Generator) -> Any:
        t, weights = super().sample(batch_size, rng)
        return t // 2, weights


class OwnRandomness(Uniform):
    """A sampler that draws from its own generator."""

    def sample(self, batch_size: int, rng: np.random.Generator) -> Any:
        return super().sample(batch_size, np.random.default_rng())


class Counting(Uniform):
    """A sampler that counts its calls and draws accordingly."""

    asked = 0

    def sample(self, batch_size: int, rng: np.random.Generator) -> Any:
        self.asked += 1
        t, weights = super().sample(batch_size, rng)
        return np.roll(t, self.asked), weights


class Forgetful(Importance):
    """A sampler that returns an empty state."""

    def state_dict(self) -> Any:
        return {}

    def load_state_dict(self, state: Any) -> None:
        """Restore nothing."""


class Shared(Importance):
    """A sampler whose state is not a copy of its arrays."""

    def state_dict(self) -> Any:
        return {"losses": self._losses, "counts": self._counts.astype(np.float64)}


class Renamed(Importance):
    """A sampler that cannot load its own state."""

    def load_state_dict(self, state: Any) -> None:
        state["other"]


class Unbounded(Importance):
    """A sampler whose state contains a number that a checkpoint refuses."""

    def state_dict(self) -> Any:
        return {**super().state_dict(), "largest": np.array([np.inf])}


@pytest.mark.parametrize(
    ("sampler", "test", "message"),
    [
        (Biased, "test_weights_correct_the_bias", "the weights are biased"),
        (OwnRandomness, "test_all_randomness_comes_from_the_generator", "must use no other randomness"),
        (Counting, "test_all_randomness_comes_from_the_generator", r"update\(\) may change the sampler"),
        (Forgetful, "test_its_state_can_be_restored", "a restored sampler draws different timesteps"),
        (Unbounded, "test_its_state_can_be_restored", "'largest' of state_dict.. must be finite"),
        (Shared, "test_its_state_is_a_copy", "losses is not a copy"),
    ],
)
def test_samplers(sampler: Any, test: str, message: str | None) -> None:
    fails(TimestepSamplerContract, sampler, test, message)


def test_sampler_that_cannot_load_its_own_state_is_not_blamed_on_a_checkpoint() -> None:
    tested = type("Tested", (TimestepSamplerContract,), {"part": staticmethod(Renamed)})()
    with pytest.raises(UserError, match="does not work") as caught:
        tested.test_its_state_can_be_restored()
    assert "checkpoint" not in str(caught.value)


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
    test = "test_images_are_as_declared"
    fails(DatasetContract, source(zeros.copy, lambda: zeros[0]), test, "test images must be uint8 of shape")
    fails(DatasetContract, source(lambda: zeros, lambda: zeros), test, "share memory")
    fails(DatasetContract, source(zeros.copy, zeros.copy, ""), test, "describe the images")
    rng = np.random.default_rng()
    noise = source(lambda: rng.integers(0, 256, zeros.shape, np.uint8), zeros.copy)
    fails(DatasetContract, noise, test, "differ from call to call")


class Features:
    """A feature extractor for tests to modify."""

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

    fails(FeatureExtractorContract, Centred, "test_features_are_valid_and_independent_of_the_batch")
    fails(FeatureExtractorContract, Random, "test_its_fingerprint_is_deterministic")
    fails(FeatureExtractorContract, Logarithm, "test_black_and_white_images_have_features", "not all finite")
    strange = type("Strange", (Features,), {"framework": "pytorch"})
    fails(FeatureExtractorContract, strange, "test_its_framework_is_known", "must be one of")


class NoAverage(TorchModel):
    """A model that does not update the average."""

    def train_step(self, batch: Any, loss: Any, *, lr: float, ema_decay: float, max_grad_norm: float) -> Any:
        return super().train_step(batch, loss, lr=lr, ema_decay=1.0, max_grad_norm=max_grad_norm)


class NoClipping(TorchModel):
    """A model that does not clip gradients."""

    def train_step(self, batch: Any, loss: Any, *, lr: float, ema_decay: float, max_grad_norm: float) -> Any:
        return super().train_step(batch, loss, lr=lr, ema_decay=ema_decay, max_grad_norm=1e9)


class NoWeights(TorchModel):
    """A model that ignores the weights of images."""

    def train_step(self, batch: Any, loss: Any, **how: Any) -> Any:
        return super().train_step(replace(batch, weights=np.ones_like(batch.weights)), loss, **how)


class NoTotal(TorchModel):
    """A model that averages over its share of the batch instead of the whole batch."""

    def train_step(self, batch: Any, loss: Any, **how: Any) -> Any:
        return super().train_step(replace(batch, total=len(batch.t)), loss, **how)


class ShortMemory(TorchModel):
    """A model with a different Adam, whose second moment decays too fast."""

    def train_step(self, batch: Any, loss: Any, **how: Any) -> Any:
        with patch("ddim_torch.adam.ADAM_BETA2", 0.9):
            return super().train_step(batch, loss, **how)


class LargeEpsilon(TorchModel):
    """A model with a different Adam, which takes smaller steps for small gradients."""

    def train_step(self, batch: Any, loss: Any, **how: Any) -> Any:
        with patch("ddim_torch.adam.ADAM_EPSILON", 1e-3):
            return super().train_step(batch, loss, **how)


class OneDropout(TorchModel):
    """A model with the same dropout at every step."""

    def train_step(self, batch: Any, loss: Any, **how: Any) -> Any:
        return super().train_step(replace(batch, dropout_seed=0), loss, **how)


class NoMemory(TorchModel):
    """A model that does not restore the state of the optimizer."""

    def load_training_state(self, state: Any) -> None:
        """Restore nothing."""


class NoTime(TorchModel):
    """A model that ignores the timestep."""

    def predict(self, x_t: Any, t: int, *, which: Any) -> Any:
        return super().predict(x_t, 0, which=which)


class AnotherNetwork(TorchModel):
    """A model that pads on the other side when downsampling, as a faulty port might."""

    def predict(self, x_t: Any, t: int, *, which: Any) -> Any:
        return super().predict(x_t.flip(3), t, which=which).flip(3)


@pytest.mark.parametrize(
    ("model", "test"),
    [
        (AnotherNetwork, "test_predictions_match_the_reference"),
        (NoAverage, "test_every_step_is_a_step_of_adam"),
        (ShortMemory, "test_every_step_is_a_step_of_adam"),
        (LargeEpsilon, "test_every_step_is_a_step_of_adam"),
        (NoWeights, "test_the_gradient_is_that_of_the_weighted_losses"),
        (NoTotal, "test_the_gradient_is_that_of_the_weighted_losses"),
        (OneDropout, "test_dropout_follows_its_seed"),
        (NoClipping, "test_gradients_are_clipped_before_the_step"),
        (NoMemory, "test_training_can_be_resumed"),
        (NoTime, "test_predictions_are_independent_of_the_batch"),
    ],
)
def test_models(model: Any, test: str) -> None:
    def factory(spec: Any, device: Any, precision: Any) -> Any:
        whole = unet(spec, device, precision)
        whole.__class__ = model
        return whole

    fails(ModelFactoryContract, factory, test)


def test_mistakes_of_observers_are_found() -> None:
    class Rows(Observer):
        """An observer that divides by a value that may be 0 or missing."""

        def on_row(self, row: Any, /) -> None:
            _ = 1.0 / row.seconds

    class Early(Observer):
        """An observer that opens a file in its constructor."""

        def __init__(self) -> None:
            Path("opened.log").touch()

    class Shuffler(Observer):
        """An observer that draws from the global generator."""

        def on_grid(self, grid: Any, /) -> None:
            np.random.shuffle([1, 2, 3])  # noqa: NPY002

    class Mover(Observer):
        """An observer that deletes the picture."""

        def on_grid(self, grid: Any, /) -> None:
            grid.path.unlink()

    class Half:
        """An observer with a single method."""

        def on_row(self, row: Any, /) -> None:
            pass

    with pytest.raises(ZeroDivisionError):
        fails(ObserverContract, Rows, "test_it_accepts_all_events_of_a_run")
    fails(ObserverContract, Early, "test_it_opens_nothing_before_it_begins", "it wrote a file")
    leaves = "test_it_leaves_the_process_and_the_files_of_a_run_alone"
    fails(ObserverContract, Shuffler, leaves, "it changed the global random generator")
    fails(ObserverContract, Mover, leaves, "it moved or deleted the picture")
    fails(ObserverContract, Half, "test_it_accepts_all_events_of_a_run", "does not work")


_NOTICED = """
import ddim_host.testing.part
from ddim_host.testing import LossContract
from ddim_losses import mse

ddim_host.testing.part._NOTICE_SECONDS = 0.2

class TestMse(LossContract):
    part = mse
"""


@pytest.mark.process
def test_slow_framework_is_named_during_the_wait(tmp_path: Path, environment: dict[str, str]) -> None:
    """The note appears on the terminal even though pytest captures the output of tests."""
    (tmp_path / "test_noticed.py").write_text(_NOTICED, encoding="utf-8")
    out = pass_tests("-k", "every_framework and torch", cwd=tmp_path, env=environment)
    assert re.search(r"^torch has been running for \d+ s; its first use may compile", out, re.MULTILINE)
