"""Import and export of diffusers' pipelines: the same noise schedules, the same images."""

from __future__ import annotations

import importlib
import json
import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from ddim_host.diffusion import NoiseSchedule
from ddim_host.exchange.scheduler import diffusion_from_diffusers
from ddim_host.parts import ddim_noise_schedules
from ddim_host.parts.datasets import digits as digits_data
from ddim_host.run.images import to_network
from ddim_host.run.sampling import start_noise
from tests.support.family import CIFAR10, TRAINING_EXAMPLE

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.support.commands import Command

# NumPy 2.4 warns when diffusers converts a tensor to an array.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS, COUNT, SEED = 20, 64, 3

# Two levels, unusual channels, oblong images, scale and shift by the time embedding.
OBLONG: dict[str, Any] = {
    "sample_size": [8, 16],
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 1,
    "block_out_channels": [16, 24],
    "norm_num_groups": 8,
    "attention_head_dim": 4,
    "resnet_time_scale_shift": "scale_shift",
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
}


def imported_diffusers() -> Any:
    return importlib.import_module("diffusers")  # takes seconds, so only on demand


def saved(folder: Path, network: dict[str, Any], **scheduler: Any) -> Any:
    """Save a pipeline with random weights, and return it."""
    diffusers = imported_diffusers()
    torch.manual_seed(0)
    pipeline = diffusers.DDIMPipeline(diffusers.UNet2DModel(**network), diffusers.DDIMScheduler(**scheduler))
    pipeline.save_pretrained(folder)
    return pipeline


def images_of(pipeline: Any, monkeypatch: pytest.MonkeyPatch, *, clip: bool = True) -> NDArray[np.uint8]:
    """Return the images that diffusers samples from the seed's noise."""
    channels = pipeline.unet.config.in_channels
    size = pipeline.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    noise = torch.from_numpy(start_noise(SEED, (channels, height, width))(np.arange(COUNT)))
    monkeypatch.setattr("diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", lambda *_, **__: noise)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(
        batch_size=COUNT, num_inference_steps=STEPS, use_clipped_model_output=clip, output_type="np"
    ).images
    images: NDArray[np.uint8] = np.rint(drawn * 255).astype(np.uint8)
    return images


def ours(ddim_host: Command, run: Path, subset: str = "leading") -> NDArray[np.uint8]:
    path = run / f"{subset}.npz"
    options = ["--steps", STEPS, "--num-images", COUNT, "--seed", SEED, "--timestep-subset", subset]
    sampled = ddim_host("sample", run, "--eta", "0", "--out", path, *map(str, options))
    assert sampled.code == 0, sampled.err
    with np.load(path) as arrays:
        images: NDArray[np.uint8] = arrays["images"]
    return images


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    assert one.shape == other.shape
    assert one.std() > 5, "the images must not be uniform"
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"beta_schedule": "sigmoid"},
        {"num_train_timesteps": 300, "beta_end": 0.05},
        {"num_train_timesteps": 4000, "beta_schedule": "squaredcos_cap_v2"},
        {"num_train_timesteps": 4, "trained_betas": [0.1, 0.2, 0.3, 0.4]},
        {"rescale_betas_zero_snr": True, "prediction_type": "sample"},
    ],
)
def test_noise_schedules_equal_those_of_diffusers(config: dict[str, Any]) -> None:
    scheduler = imported_diffusers().DDPMScheduler(**config)
    diffusion = diffusion_from_diffusers(dict(scheduler.config))
    make: Any = ddim_noise_schedules()[diffusion.noise_schedule.name]
    schedule = NoiseSchedule(make(diffusion.num_train_timesteps, **diffusion.noise_schedule.arguments))
    if diffusion.rescale_zero_snr:
        schedule = schedule.rescaled_to_zero_snr()
    expected = scheduler.alphas_cumprod.double().numpy()
    np.testing.assert_allclose(schedule.alphas_cumprod, expected, rtol=2e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("network", "scheduler"),
    [
        (CIFAR10, {}),
        (CIFAR10, {"prediction_type": "sample", "clip_sample_range": 0.8}),
        (TRAINING_EXAMPLE | {"sample_size": 32}, {"prediction_type": "v_prediction"}),
        (OBLONG, {"beta_schedule": "squaredcos_cap_v2", "clip_sample_range": 2.0}),
    ],
)
def test_imported_pipeline_yields_the_same_images(
    ddim_host: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    network: dict[str, Any],
    scheduler: dict[str, Any],
) -> None:
    pipeline = saved(tmp_path / "pipeline", network, **scheduler)
    imported = ddim_host("import", tmp_path / "pipeline", "--out", tmp_path / "run", "--plugin", "torch")
    assert imported.code == 0, imported.err
    assert difference(ours(ddim_host, tmp_path / "run"), images_of(pipeline, monkeypatch)) <= 1


@pytest.mark.parametrize(
    ("options", "subset"),
    [
        ([], "leading"),
        (["--noise-schedule", "sigmoid", "--prediction-type", "sample"], "leading"),
        (
            ["--noise-schedule", "quad", "--prediction-type", "v_prediction", "--rescale-zero-snr", "true"],
            "trailing",
        ),
    ],
)
def test_exported_run_yields_the_same_images_in_diffusers(
    ddim_host: Command,
    tiny: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    options: list[str],
    subset: str,
) -> None:
    run, folder = tmp_path / "run", tmp_path / "pipeline"
    assert ddim_host(*tiny, *options, "--lr", "0.02", "--train-steps", "20", "--out", run).code == 0
    exported = ddim_host("export", run, "--out", folder)
    assert exported.code == 0, exported.err
    pipeline = imported_diffusers().DDIMPipeline.from_pretrained(folder)
    assert difference(ours(ddim_host, run, subset), images_of(pipeline, monkeypatch)) <= 1


def test_import_of_an_export_is_the_same_run(ddim_host: Command, tmp_path: Path) -> None:
    saved(tmp_path / "pipeline", OBLONG, prediction_type="v_prediction")
    runs = []
    for number in (1, 2):
        run = tmp_path / f"run{number}"
        assert ddim_host("import", tmp_path / "pipeline", "--out", run, "--plugin", "torch").code == 0
        runs.append(run)
        if number == 1:
            assert ddim_host("export", run, "--out", tmp_path / "back").code == 0
            (tmp_path / "pipeline").rename(tmp_path / "first")
            (tmp_path / "back").rename(tmp_path / "pipeline")
    one, other = (
        (run / "config.toml").read_text(encoding="utf-8").partition("[provenance]")[0] for run in runs
    )
    assert one == other
    one_file, other_file = (run / "checkpoints" / "step-00000000" / "ema.safetensors" for run in runs)
    weights, again = safetensors.numpy.load_file(one_file), safetensors.numpy.load_file(other_file)
    assert weights.keys() == again.keys()
    assert all(np.array_equal(weights[name], again[name]) for name in weights)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("jittor") is None, reason="Jittor is not installed")
def test_jittor_run_yields_the_same_images_in_diffusers(
    ddim_host: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = tmp_path / "run", tmp_path / "pipeline"
    trained = ddim_host(
        "run", "--plugin", "jittor", "--train-steps", "150", "--num-images", "4", "--out", run
    )
    assert trained.code == 0, trained.err
    assert ddim_host("export", run, "--out", folder).code == 0
    pipeline = imported_diffusers().DDIMPipeline.from_pretrained(folder)
    assert difference(ours(ddim_host, run), images_of(pipeline, monkeypatch)) <= 1


@pytest.mark.slow
@pytest.mark.skipif(find_spec("jittor") is None, reason="Jittor is not installed")
def test_diffusers_pipeline_scores_the_same_in_both_frameworks(ddim_host: Command, tmp_path: Path) -> None:
    digits = to_network(digits_data().load().train)
    network = {**TRAINING_EXAMPLE, "sample_size": 8, "in_channels": 1, "out_channels": 1}
    network |= {"block_out_channels": [16, 32], "down_block_types": ["DownBlock2D", "AttnDownBlock2D"]}
    network |= {"up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}
    pipeline = saved(tmp_path / "pipeline", network)
    optimizer = torch.optim.AdamW(pipeline.unet.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        chosen = torch.randint(len(digits), (64,), generator=generator)
        images = torch.from_numpy(digits)[chosen]
        noise = torch.randn(images.shape, generator=generator)
        t = torch.randint(1000, (64,), generator=generator)
        predicted = pipeline.unet(pipeline.scheduler.add_noise(images, noise, t), t).sample
        optimizer.zero_grad()
        loss: Any = torch.nn.functional.mse_loss(predicted, noise)
        loss.backward()
        optimizer.step()
    shutil.rmtree(tmp_path / "pipeline")
    pipeline.save_pretrained(tmp_path / "pipeline")
    distances = []
    for framework in ("torch", "jittor"):
        run = tmp_path / framework
        options = ["--plugin", framework, "--data", "digits"]
        assert ddim_host("import", tmp_path / "pipeline", "--out", run, *options).code == 0
        scored = ddim_host("evaluate", run, "--samples", "500", "--steps", "10", "--eta", "0")
        assert scored.code == 0, scored.err
        [score] = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["scores"]
        distances.append(score["measures"]["frechet_distance"])
    assert distances[0] == pytest.approx(distances[1], rel=1e-3)
    assert distances[0] < 100, "noise scores 131"
