"""PyTorch and Jittor, each in its own process, yield the same results."""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from ddim_host.run.directory import RunDirectory
from tests.support.commands import printed_by
from tests.support.repository import SUPPORT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Arrays = dict[str, np.ndarray[Any, Any]]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("jittor") is None, reason="Jittor is not installed"),
    pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed"),
]

WORKER = SUPPORT / "parity_worker.py"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[Arrays, Arrays]]:
    folder = tmp_path_factory.mktemp("parity")
    images = folder / "images"
    images.mkdir()
    rng = np.random.default_rng(2)
    for index in range(4):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(images / f"{index}.png")

    def run(task: str, data: str) -> tuple[Arrays, Arrays]:
        results = []
        for framework in ("torch", "jittor"):
            out = folder / f"{task}-{data}-{framework}.npz"
            if not out.exists():
                printed_by(str(WORKER), framework, task, data, str(images), str(out))
            with np.load(out) as arrays:
                results.append(dict(arrays))
        return results[0], results[1]

    return run


@pytest.mark.parametrize("data", ["digits", "images"])
def test_same_weights_predict_the_same_noise(
    both: Callable[[str, str], tuple[Arrays, Arrays]], data: str
) -> None:
    in_torch, in_jittor = both("predicted-noise", data)
    for name, expected in in_torch.items():
        assert np.abs(expected).mean() > 0.1  # two networks that predict zero would agree
        np.testing.assert_allclose(in_jittor[name], expected, atol=1e-4, rtol=0)


@pytest.mark.check
def test_first_200_losses_on_digits_agree(both: Callable[[str, str], tuple[Arrays, Arrays]]) -> None:
    in_torch, in_jittor = both("loss-curve", "digits")
    assert in_torch["losses"][-1] < 0.3 * in_torch["losses"][0]
    np.testing.assert_allclose(in_jittor["losses"], in_torch["losses"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("task", ["gradients", "gradients-with-dropout"])
def test_every_parameter_receives_the_same_gradient(
    both: Callable[[str, str], tuple[Arrays, Arrays]], task: str
) -> None:
    """Dropout makes no difference: on the CPU both frameworks use the host's mask."""
    in_torch, in_jittor = both(task, "digits")
    norm = np.sqrt(sum(float((gradient**2).sum()) for gradient in in_torch.values()))
    for name, expected in in_torch.items():
        size = float(np.linalg.norm(expected))
        difference = float(np.linalg.norm(in_jittor[name] - expected))
        # The keys' bias shifts all scores of a query equally, which softmax ignores, so its gradient is zero.
        assert size > 0.0 or name.endswith("to_k.bias")
        assert difference < max(1e-3 * size, 1e-6 * norm), name


def test_bf16_rounds_alike_in_both(both: Callable[[str, str], tuple[Arrays, Arrays]]) -> None:
    """Noise within 3 %, and gradients within a twentieth: other roundings, but the same masks of dropout."""
    in_torch, in_jittor = both("predicted-noise-in-bf16", "digits")
    for name, expected in in_torch.items():
        difference = float(np.linalg.norm(in_jittor[name] - expected))
        assert 0.0 < difference < 0.03 * float(np.linalg.norm(expected)), name
    in_torch, in_jittor = both("gradients-with-dropout-in-bf16", "digits")
    norm = np.sqrt(sum(float((gradient**2).sum()) for gradient in in_torch.values()))
    for name, expected in in_torch.items():
        difference = float(np.linalg.norm(in_jittor[name] - expected))
        assert difference < 0.05 * float(np.linalg.norm(expected)) + 1e-3 * norm, name


def test_the_first_200_losses_in_bf16_are_those_of_fp32(
    both: Callable[[str, str], tuple[Arrays, Arrays]],
) -> None:
    """Means of 20: single losses differ by up to 5 % where the curve is steep, in both."""
    curves = [both("loss-curve", "digits")[0], *both("loss-curve-in-bf16", "digits")]
    exact, in_torch, in_jittor = (
        np.convolve(curve["losses"], np.full(20, 1 / 20), "valid") for curve in curves
    )
    for rounded in (in_torch, in_jittor):
        assert np.any(rounded != exact)
        np.testing.assert_allclose(rounded, exact, rtol=0.02)
    np.testing.assert_allclose(in_jittor, in_torch, rtol=0.02)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A short digits run in each framework."""
    folder = tmp_path_factory.mktemp("runs")
    for framework in ("torch", "jittor"):
        printed_by(
            "-m",
            "ddim_host",
            "run",
            "--plugin",
            framework,
            "--train-steps",
            "60",
            "--out",
            str(folder / framework),
        )
    return {framework: folder / framework for framework in ("torch", "jittor")}


@pytest.mark.parametrize("trained_in", ["torch", "jittor"])
@pytest.mark.parametrize("eta", ["0", "1"])
def test_checkpoint_yields_the_same_images_in_both_frameworks(
    runs: dict[str, Path], tmp_path: Path, trained_in: str, eta: str
) -> None:
    pictures = []
    for framework in ("torch", "jittor"):
        out = tmp_path / framework
        # All steps are done, so this only samples.
        printed_by(
            "-m", "ddim_host", "run", "--plugin", framework, "--start-from", str(runs[trained_in]),
            "--eta", eta, "--out", str(out),
        )  # fmt: skip
        with Image.open(out / "samples" / f"linear-20-eta-{eta}.png") as picture:
            pictures.append(np.asarray(picture, dtype=np.int64))
    assert pictures[0].std() > 30
    assert np.abs(pictures[0] - pictures[1]).max() <= 2


@pytest.mark.parametrize(
    "options",
    [
        "--num-images 9 --batch-size 4",
        "--interpolate 4 --num-images 2",
        "--checkpoint ensemble --steps 10 --eta 0.5",
        "--solver dpmpp_2m --steps 6 --num-images 64",
        "--solver ipndm --steps 6 --num-images 64",
        "--solver unipc --steps 6 --num-images 64",
        "--solver heun --steps 6 --num-images 64",
    ],
)
def test_torch_run_yields_the_same_samples_in_jittor(
    runs: dict[str, Path], tmp_path: Path, options: str
) -> None:
    images = []
    for framework in ("torch", "jittor"):
        out = tmp_path / f"{framework}.npz"
        printed_by(
            "-m", "ddim_host", "sample", str(runs["torch"]), "--plugin", framework, *options.split(),
            "--out", str(out),
        )  # fmt: skip
        with np.load(out) as arrays:
            images.append(arrays["images"].astype(np.int64))
        assert json.loads(out.with_suffix(".json").read_text())["plugin"] == framework
    assert images[0].std() > 30
    assert np.abs(images[0] - images[1]).max() <= 2


def test_reconstruction_errors_agree(runs: dict[str, Path], tmp_path: Path) -> None:
    errors = []
    for framework in ("torch", "jittor"):
        out = tmp_path / f"{framework}.png"
        printed_by(
            "-m", "ddim_host", "reconstruct", str(runs["torch"]), "--plugin", framework, "--steps", "5,20",
            "--num-images", "16", "--out", str(out),
        )  # fmt: skip
        rows = json.loads(out.with_suffix(".json").read_text())["errors"]
        errors.append([row["mse"] for row in rows])
    np.testing.assert_allclose(errors[1], errors[0], rtol=1e-3)


@pytest.mark.parametrize(("trained_in", "continued_in"), [("torch", "jittor"), ("jittor", "torch")])
def test_training_continues_in_the_other_framework(
    runs: dict[str, Path], tmp_path: Path, trained_in: str, continued_in: str
) -> None:
    weights = {}
    for framework in (trained_in, continued_in):
        out = tmp_path / framework
        printed_by(
            "-m", "ddim_host", "run", "--plugin", framework, "--start-from", str(runs[trained_in]),
            "--train-steps", "75", "--out", str(out),
        )  # fmt: skip
        metrics = RunDirectory(out).read_metrics()
        assert metrics[-1].step == 75
        weights[framework] = safetensors.numpy.load_file(
            out / "checkpoints" / "step-00000075" / "raw.safetensors"
        )
    # With the same optimizer state and batches, 15 more steps end at the same weights.
    for name, expected in weights[trained_in].items():
        np.testing.assert_allclose(weights[continued_in][name], expected, atol=2e-4, rtol=0, err_msg=name)
