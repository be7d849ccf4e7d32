"""The examples work: pip builds and installs them, they pass their own tests, and runs use them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.commands import pass_tests
from tests.support.distributions import Site
from tests.support.repository import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.commands import Command

EXAMPLES = sorted(path.parent for path in (ROOT / "examples").glob("*/pyproject.toml"))

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Build all examples as wheels and install them with pip."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-deps", "--disable-pip-version-check", "--target", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *EXAMPLES], check=True)
    return Site(folder)


def test_all_examples_are_found() -> None:
    names = {"barron", "ddim_numpy", "gallery", "gits", "karras", "logit_normal", "mlflow"}
    assert names == {path.name for path in EXAMPLES}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_passes_its_own_tests(example: Path, site: Site, environment: dict[str, str]) -> None:
    env = {**environment, **site.env}
    pass_tests("--rootdir", example, cwd=example / "tests", env=env, timeout=1200)


@pytest.mark.parametrize("framework", ["torch", "jittor"])
def test_runs_of_both_frameworks_use_the_examples(
    framework: str, site: Site, ddim_host: Command, tiny: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "run"
    parts = ["--loss", "barron:alpha=-1", "--timestep-sampler", "logit_normal", "--timestep-subset", "karras"]
    outcome = ddim_host(*tiny, *parts, "--plugin", framework, "--out", path, env=site.env)
    assert outcome.code == 0, outcome.err
    assert "loss              barron (ddim-barron 0.1.0)" in outcome.out
    [record] = (path / "samples").glob("*.json")
    assert json.loads(record.read_text(encoding="utf-8"))["timestep_subset"] == "karras:rho=7.0"
    search = ["--search", "gits:metric=l2", "--steps", "2", "--teacher-steps", "5", "--images", "4"]
    searched = ddim_host("optimize", path, *search, env=site.env)
    assert searched.code == 0, searched.err
    assert "search            gits:metric=l2,coeff=1.15 (ddim-gits 0.1.0)" in searched.out


def test_each_plugin_of_the_gallery_is_short() -> None:
    for path in (ROOT / "examples" / "gallery" / "ddim_gallery").glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 40, path.name


@pytest.mark.parametrize("framework", ["torch", "jittor"])
def test_runs_of_both_frameworks_use_the_gallery(
    framework: str, site: Site, ddim_host: Command, tiny: list[str], tmp_path: Path
) -> None:
    parts = (
        "--data one_digit --loss multiscale:smallest=4 --loss-weighting soft_min_snr "
        "--timestep-subset log_snr --timestep-sampler low_discrepancy --noise-schedule shifted_cosine:size=8"
    )
    options = [*parts.split(), "--plugin", framework]
    outcome = ddim_host(*tiny, *options, "--out", tmp_path / "run", env=site.env)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("(ddim-gallery 0.1.0)") == 6


def test_a_third_framework_trains_resumes_and_exchanges_weights(
    site: Site, ddim_host: Command, tiny: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "run"
    command = [*tiny, "--plugin", "numpy", "--out", str(path)]
    outcome = ddim_host(*command, env=site.env)
    assert outcome.code == 0, outcome.err
    assert "plugin            numpy (ddim-numpy 0.1.0)" in outcome.out
    assert ddim_host(*command, "--resume", env=site.env).code == 0
    images = {}
    for framework in ("numpy", "torch"):
        out = tmp_path / f"{framework}.npz"
        sampled = ddim_host("sample", path, "--plugin", framework, "--out", out, env=site.env)
        assert sampled.code == 0, sampled.err
        with np.load(out, allow_pickle=False) as file:
            images[framework] = file["images"].astype(int)
    assert np.abs(images["numpy"] - images["torch"]).max() <= 2
    longer = ["run", "--plugin", "torch", "--start-from", str(path), "--train-steps", "5"]
    assert ddim_host(*longer, "--out", tmp_path / "longer", env=site.env).code == 0
