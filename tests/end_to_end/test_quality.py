"""The main job on the built-in data set, as in `make demo`: the digits must be good."""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from tests.support.commands import printed_by

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module", params=["torch", "jittor"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    framework = str(request.param)
    if find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    path = tmp_path_factory.mktemp(framework) / "run"
    printed_by("-m", "ddim_host", "run", "--plugin", framework, "--loss", "mse", "--out", str(path))
    return path


def evaluate(run: Path, *options: str) -> None:
    printed_by("-m", "ddim_host", "evaluate", str(run), *options)


@pytest.mark.slow
def test_default_run_samples_good_digits(run: Path) -> None:
    evaluate(run, "--samples", "1000", "--reference", "test", "--steps", "20", "--eta", "0")
    document = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    [score], [floor] = document["scores"], document["noise_floors"]
    # Check the metric first: real training digits score 4.3, and noise 131.
    assert floor["measures"]["frechet_distance"] == pytest.approx(4.27, abs=0.01)
    assert score["measures"]["frechet_distance"] < 6.5
    assert score["sampled"]["num_images"] == 1000


@pytest.mark.slow
def test_eta_1_lowers_quality_with_few_steps(run: Path) -> None:
    """The paper's effect of eta (arXiv 2010.02502, table 1), which the original code missed."""
    evaluate(run, "--samples", "4000", "--steps", "5,10", "--eta", "0,1")
    document = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    distances = {
        (len(score["sampled"]["timesteps"]), score["sampled"]["eta"]): score["measures"]["frechet_distance"]
        for score in document["scores"]
        if score["sampled"]["num_images"] == 4000
    }
    for steps in (5, 10):
        assert distances[steps, 1.0] > 1.2 * distances[steps, 0.0], f"{steps} steps"
    for eta in (0.0, 1.0):
        assert distances[10, eta] < distances[5, eta], f"more steps are better at eta {eta}"


@pytest.mark.slow
def test_reconstruction_error_decreases_with_steps(run: Path) -> None:
    printed_by("-m", "ddim_host", "reconstruct", str(run), "--steps", "10,100,1000", "--num-images", "64")
    record = json.loads((run / "samples" / "reconstruction-1.json").read_text(encoding="utf-8"))
    errors = [row["mse"] for row in record["errors"]]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-4
