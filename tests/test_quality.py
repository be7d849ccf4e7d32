"""The main job on the embedded data set, as `make demo` does it: the digits must be good."""

from __future__ import annotations

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
