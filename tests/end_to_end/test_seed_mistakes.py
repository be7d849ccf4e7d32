"""One test for each mistake in the code from which this project began.

That code is github.com/hupeach/DDIM. Other tests cover most of this in more detail; here each has a name.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ddim_host.diffusion import NoiseSchedule, ddim_step, ddim_steps
from ddim_host.evaluation.paper import FID_WEIGHTS, differences_from_the_paper
from ddim_host.evaluation.scores import RealImages, Ruler, Sampled
from ddim_host.evaluation.statistics import MeasureSettings
from ddim_host.evaluation.worker import FeatureSpace
from ddim_host.experiment.defaults import default_model_parameters
from ddim_host.framework.interface import Batch
from ddim_host.framework.unet import UNet, UNetSpec, initial_weights, parameters
from ddim_host.parts import ddim_timestep_subsets
from ddim_host.parts.datasets import digits
from ddim_host.parts.noise_schedules import linear
from ddim_host.plugin.data import image_hash
from ddim_host.run import batches
from ddim_host.run.directory import RunDirectory
from ddim_host.run.images import to_network, to_uint8
from ddim_host.run.sampling import Denoiser, Sampler
from ddim_losses import mse
from ddim_torch.plugin import unet
from tests.support.fakes import NumpyModel
from tests.support.repository import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ddim_host.framework.interface import ModelFactory, WhichWeights
    from tests.support.commands import Command, Run

SCHEDULE = NoiseSchedule(linear(1000))
SMALL = UNetSpec(
    (8, 8), 1, 50, 8, channel_multipliers=(1, 2), attention_resolutions=(), num_groups=4, dropout=0.0
)
LIMIT = 1e-3
"""A limit below every gradient norm of this test."""


# --- Options reach their targets ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(several_runs: Callable[..., dict[str, Run]], tiny: list[str], pictures: Path) -> dict[str, Run]:
    """The same short run, each time with one change."""
    epochs = [*tiny[: tiny.index("--train-steps")], "--epochs", "3", "--lr-warmup-steps", "0"]
    return several_runs(
        {
            "plain": tiny,
            "eta": [*tiny, "--eta", "1"],
            "lr": [*tiny, "--lr", "1e-2"],
            "timesteps": [*tiny, "--num-train-timesteps", "30"],
            "epochs": [*epochs, "--data", f"images:path={pictures}", "--batch-size", "1"],
        }
    )


def losses(run: Run) -> list[tuple[float, float]]:
    assert run.outcome.code == 0, run.outcome.err
    return [(row.train_loss, row.test_loss) for row in RunDirectory(run.path).read_metrics()]


def test_eta_reaches_the_sampler(runs: dict[str, Run]) -> None:
    """Eta was assigned after the sampler had been built with eta 0."""
    assert losses(runs["eta"]) == losses(runs["plain"]), "eta must not affect training"
    assert runs["eta"].grid.read_bytes() != runs["plain"].grid.read_bytes()


def test_learning_rate_reaches_the_optimizer(runs: dict[str, Run]) -> None:
    """The learning rate was assigned after the optimizer had been built."""
    assert losses(runs["lr"]) != losses(runs["plain"])


def test_number_of_timesteps_reaches_the_diffusion(runs: dict[str, Run]) -> None:
    """The number was assigned after the diffusion had been built with 1000 timesteps."""
    assert losses(runs["timesteps"]) != losses(runs["plain"])
    last = {}
    for name in ("plain", "timesteps"):
        [protocol] = (runs[name].path / "samples").glob("*.json")
        last[name] = json.loads(protocol.read_text(encoding="utf-8"))["timesteps"][-1]
    assert last == {"plain": 999, "timesteps": 29}


def test_test_loss_is_one_number_per_epoch(runs: dict[str, Run]) -> None:
    """The test loss was stored once per batch; here the test images form two batches per epoch."""
    assert len(losses(runs["epochs"])) == 3


# --- Evaluation ---------------------------------------------------------------------------------------------


def test_quality_is_measured_against_training_images_with_a_protocol(
    tiny_run: Run, tmp_path: Path, ddim_host: Command
) -> None:
    """FID was computed in a classifier's features against the 10,000 test images, without saying so."""
    run = Path(shutil.copytree(tiny_run.path, tmp_path / "run"))
    outcome = ddim_host("evaluate", run, "--samples", "10", "--steps", "2", "--eta", "0")
    assert outcome.code == 0, outcome.err
    [score] = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["scores"]
    train = digits().load().train
    reference = score["ruler"]["reference"]
    assert (reference["half"], reference["num_images"]) == ("train", len(train))
    assert reference["sha256"] == image_hash(train)
    assert score["ruler"]["features"]["name"] == "digits_mlp"
    assert "not FID" in outcome.out


def test_only_fid_features_are_called_fid_and_compared_with_the_paper() -> None:
    """Distances in the classifier's features were listed beside published FIDs."""
    features = FeatureSpace("inception", "inception", "ddim-torch", "0.1.0", FID_WEIGHTS, 2048)
    real = RealImages("cifar10", "train", 50_000, "ab")
    sampled = Sampled(
        num_images=50_000,
        seed=0,
        eta=0.0,
        timesteps=(0, 999),
        timestep_subset="quad:span=0.8",
        solver="ddim",
        clip=None,
        checkpoint="latest",
        checkpoint_steps=(800_000,),
        weights="ema",
        plugin="torch",
        device="cuda",
        precision="fp32",
    )
    right = Ruler(features, real, MeasureSettings())
    classifier = replace(right, features=replace(features, fingerprint="00" * 32))
    test_images = replace(right, reference=replace(real, half="test", num_images=10_000))
    assert differences_from_the_paper(sampled, right) == []
    for mistaken in (classifier, test_images):
        assert len(differences_from_the_paper(sampled, mistaken)) == 1
    assert len(differences_from_the_paper(replace(sampled, num_images=10_000), right)) == 1


# --- Training -----------------------------------------------------------------------------------------------


def clipped_gradient_norm(unet: ModelFactory) -> float:
    """Return the norm of the gradient that reached Adam, read from its first moment after one step."""
    model = unet(SMALL, "cpu", "fp32")
    model.load_weights(initial_weights(UNet.from_spec(SMALL), seed=0), "raw")
    x_t, target = np.random.default_rng(0).standard_normal((2, 4, 1, 8, 8), dtype=np.float32)
    batch = Batch(
        x_t,
        np.arange(4),
        target,
        np.ones(4, np.float32),
        np.ones(4, np.float32),
        dropout_seed=0,
        first=0,
        total=4,
    )
    model.train_step(batch, mse, lr=1e-3, ema_decay=0.9, max_grad_norm=LIMIT)
    moments = model.training_state().exp_avg.values()
    return 10 * math.sqrt(sum(float((moment.astype(np.float64) ** 2).sum()) for moment in moments))


def effect_of_attended_values(unet: ModelFactory) -> float:
    """Return the change in the prediction when the sign of the attended values is flipped."""
    rng = np.random.default_rng(0)
    weights = {
        parameter.name: 0.2 * rng.standard_normal(parameter.shape, dtype=np.float32)
        for parameter in parameters(UNet.from_spec(SMALL))
    }
    x_t = rng.standard_normal((2, 1, 8, 8), dtype=np.float32)
    model = unet(SMALL, "cpu", "fp32")
    predictions = []
    for factor in (1, -1):
        values = {f"mid_block.attentions.0.to_v.{kind}" for kind in ("weight", "bias")}
        flipped = {name: factor * array if name in values else array for name, array in weights.items()}
        model.load_weights(flipped, "raw")
        predictions.append(model.to_host(model.predict(model.to_device(x_t), 7, which="raw")).copy())
    return float(np.abs(predictions[0] - predictions[1]).max())


def assert_clips_and_attends(clipped: float, effect: float) -> None:
    """Jittor updated before clipping, and the output projection was applied to the attention's input."""
    assert clipped == pytest.approx(LIMIT, rel=1e-2)
    assert effect > 1e-3


def test_pytorch_clips_before_the_update_and_projects_attended_values() -> None:
    assert_clips_and_attends(clipped_gradient_norm(unet), effect_of_attended_values(unet))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("jittor") is None, reason="Jittor is not installed")
def test_jittor_clips_before_the_update_and_projects_attended_values() -> None:
    code = (
        "from ddim_jittor.plugin import unet\n"
        "from tests.end_to_end.test_seed_mistakes import clipped_gradient_norm, effect_of_attended_values\n"
        "print(clipped_gradient_norm(unet), effect_of_attended_values(unet))"
    )
    # Use a separate process, in the folder from which `tests` is imported, with the user's kernel cache.
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    clipped, effect = done.stdout.split()
    assert_clips_and_attends(float(clipped), float(effect))


def test_channel_multipliers_do_not_compound() -> None:
    """Channels of 128, 256, 512 and 1024 made the network seven times as large as DDPM's for CIFAR-10."""

    def size(multipliers: tuple[int, ...]) -> int:
        spec = UNetSpec((32, 32), 3, 1000, channel_multipliers=multipliers)
        return sum(math.prod(parameter.shape) for parameter in parameters(UNet.from_spec(spec)))

    multipliers = default_model_parameters(32)["channel_multipliers"]
    assert multipliers == (1, 2, 2, 2)
    assert size((1, 2, 2, 2)) == 35_746_307
    assert size((1, 2, 4, 8)) > 200_000_000


def test_test_loss_uses_the_same_unflipped_images_every_epoch() -> None:
    """Test images were mirrored at random, with new noise and timesteps in every epoch."""
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    stream = batches.TestBatches(images, SCHEDULE, batch_size=5, limit=5)
    [(first, _)], [(second, _)] = stream, stream
    for name in ("x_t", "t", "target"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    np.testing.assert_array_equal(
        first.x_t,
        SCHEDULE.add_noise(to_network(images), first.target, first.t),
        "images must not be mirrored",
    )


# --- Sampling -----------------------------------------------------------------------------------------------


def test_sigma_comes_from_alphas_cumprod() -> None:
    """Sigma was computed from single alphas, without square roots, so eta 1 was far from DDPM."""
    betas, abar = SCHEDULE.betas, SCHEDULE.alphas_cumprod
    alphas = 1 - betas
    steps = ddim_steps(SCHEDULE, range(1000), eta=1.0)[:-1]
    t = np.array([step.t for step in steps])
    posterior = (1 - abar[t - 1]) / (1 - abar[t]) * betas[t]
    mistaken = (1 - alphas[t - 1]) / (1 - alphas[t]) * (1 - alphas[t] / alphas[t - 1])
    np.testing.assert_allclose([step.sigma**2 for step in steps], posterior, rtol=1e-6)
    assert np.all(mistaken**2 < 0.01 * posterior)


@pytest.mark.parametrize("steps", [1, 20])
def test_last_of_s_network_calls_ends_at_the_clean_image(steps: int) -> None:
    """Sampling took S - 1 steps and stopped at alphas_cumprod[0], where some noise remains."""
    x_start, noise = np.random.default_rng(0).standard_normal((2, 100))
    subset = ddim_timestep_subsets()["linear"](SCHEDULE, steps)
    start = SCHEDULE.alphas_cumprod[subset[-1]]
    x = math.sqrt(start) * x_start + math.sqrt(1 - start) * noise
    calls = 0
    for step in ddim_steps(SCHEDULE, subset, eta=0.0):
        x, _ = ddim_step(x, noise, step)
        calls += 1
    assert calls == steps
    assert step.alpha_cumprod_prev == 1.0
    np.testing.assert_allclose(x, x_start, atol=1e-9)


@pytest.mark.parametrize("name", sorted(ddim_timestep_subsets().keys() - {"explicit", "optimized"}))
def test_no_timestep_of_a_subset_is_repeated(name: str) -> None:
    """Rounding and clamping repeated some timesteps, and these network calls changed nothing."""
    for steps in (20, 50, 100, 900):
        subset = ddim_timestep_subsets()[name](SCHEDULE, steps)
        assert len(set(subset.tolist())) == steps
    mistaken = (np.linspace(0, math.sqrt(800), 100) ** 2).astype(int)
    assert len(set(mistaken.tolist())) < 100


class BusyDevice(NumpyModel):
    """Takes one second per network call but returns at once; only reading the result waits."""

    def __init__(self) -> None:
        super().__init__(lambda x_t, t: np.zeros_like(x_t))
        self.now = self.queued = 0.0

    def predict(self, x_t: NDArray[np.float32], t: int, *, which: WhichWeights) -> NDArray[np.float32]:
        self.queued += 1.0
        return super().predict(x_t, t, which=which)

    def synchronize(self) -> None:
        self.now, self.queued = self.now + self.queued, 0.0

    def to_host(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        self.synchronize()
        return super().to_host(tensor)


def test_sampling_time_includes_waiting_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock was read before the device had finished, in both frameworks."""
    device = BusyDevice()
    monkeypatch.setattr("ddim_host.run.sampling.time", SimpleNamespace(perf_counter=lambda: device.now))
    sampler = Sampler(
        Denoiser(((device, 1.0),), "ema"),
        ddim_steps(SCHEDULE, [10, 500, 999], eta=0.0),
        image_shape=(4, 4, 1),
        seed=0,
        limit=1.0,
    )
    # Earlier work, such as the last training steps, does not count.
    device.queued = 100.0
    for _ in sampler.images(4, batch_size=2):
        pass
    assert sampler.seconds == 3 * 2
    assert sampler.warmup_seconds == 3  # the first two steps and the last


def test_pixels_are_clipped_and_rounded() -> None:
    """Values slightly above white wrapped around to black, visible as bright and dark specks."""
    x = np.array([-1.02, -1.0, 0.999, 1.02], np.float32).reshape(1, 1, 1, 4)
    mistaken = ((x + 1) / 2 * 255).astype(np.int64).astype(np.uint8)
    assert to_uint8(x).ravel().tolist() == [0, 0, 255, 255]
    assert mistaken.ravel().tolist() == [254, 0, 254, 1]
