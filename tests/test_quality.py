"""The main job on the embedded data set, as `make demo` does it: the digits must be good."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.test_parity import command

RULER = Path(__file__).with_name("digits_ruler.py")


@pytest.fixture(scope="module", params=["torch", "jittor"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    framework = str(request.param)
    if find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    path = tmp_path_factory.mktemp(framework) / "run"
    command("-m", "ddim_host", "run", "--plugin", framework, "--loss", "mse", "--out", str(path))
    return path


@pytest.mark.slow
def test_the_default_run_draws_good_digits(run: Path) -> None:
    distance, real = (float(number) for number in command(str(RULER), str(run)).split())
    # Tells first that the ruler is the right one.
    assert real == pytest.approx(4.25, abs=0.05)
    assert distance < 6.5


@pytest.mark.slow
def test_noise_added_in_few_steps_costs_quality(run: Path) -> None:
    """The paper's effect of eta (arXiv 2010.02502, table 1), which the seed never had."""
    for line in command(str(RULER), str(run), "1", "5", "10").splitlines():
        _, steps, deterministic, stochastic = map(float, line.split())
        assert stochastic > 1.2 * deterministic, f"{steps} steps"


@pytest.mark.slow
def test_images_come_back_the_better_the_more_steps_are_taken(run: Path) -> None:
    command("-m", "ddim_host", "reconstruct", str(run), "--steps", "10,100,1000", "--num-images", "64")
    record = json.loads((run / "samples" / "reconstruction-1.json").read_text(encoding="utf-8"))
    errors = [row["mse"] for row in record["errors"]]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-4
