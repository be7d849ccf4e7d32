"""A run records the images it was trained on, and using others is reported."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from ddim_host.experiment.config_file import read_config_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddim_host.plugin.data import DataFingerprint
    from tests.support.commands import Outcome, Run


def fingerprint(run: Path) -> DataFingerprint:
    found = read_config_file(run / "config.toml").fingerprint
    assert found is not None
    return found


def last_error(text: str) -> str:
    return text.rpartition("ddim-host: error: ")[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write twelve user images, two of them for testing."""
    path = tmp_path_factory.mktemp("own") / "pictures"
    path.mkdir()
    for index, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)):
        Image.fromarray(pixels).save(path / f"{index:02}.png")
    return path


@pytest.fixture(scope="module")
def before(several_runs: Callable[..., dict[str, Run]], tiny: list[str], folder: Path) -> Run:
    """Run training and delete its report, so that resuming has something to do."""
    run = several_runs({"before": [*tiny, *data(folder)]})["before"]
    (run.path / "report.html").unlink()
    return run


def data(folder: Path) -> list[str]:
    return ["--data", f"images:path={folder},flip=false", "--timestep-sampler", "importance:history=1"]


@pytest.fixture(scope="module")
def after(
    several_runs: Callable[..., dict[str, Run]],
    tiny_run: Run,
    folder: Path,
    before: Run,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Run]:
    """Run commands before and after an image is added and another is removed."""
    same = Path(shutil.copytree(before.path, tmp_path_factory.mktemp("same") / "run"))
    emptied = Path(shutil.copytree(before.path, tmp_path_factory.mktemp("emptied") / "run"))
    [training] = emptied.glob("checkpoints/*/training.safetensors")
    arrays = safetensors.numpy.load_file(training)
    kept = {name: array for name, array in arrays.items() if not name.startswith("timestep_sampler.")}
    assert len(kept) < len(arrays)
    safetensors.numpy.save_file(kept, training)
    digits = Path(shutil.copytree(tiny_run.path, tmp_path_factory.mktemp("digits") / "run"))
    config_path = digits / "config.toml"
    text = config_path.read_text(encoding="utf-8")
    config_path.write_text(text.replace("num_train = 1500", "num_train = 1499"), encoding="utf-8")
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    untouched = several_runs(
        {
            "same": ["run", "--resume", "--out", str(same)],
            "emptied": ["run", "--resume", "--out", str(emptied)],
            "moved": ["run", "--start-from", str(before.path), *data(copy)],
            "evaluated": ["evaluate", str(digits), "--samples=10", "--steps=2", "--eta=0"],
            "network": ["run", "--start-from", str(before.path), "--model", "unet:base_channels=16"],
        }
    )
    (folder / "03.png").unlink()
    Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(folder / "5.png")
    path, config = str(before.path), str(before.path / "config.toml")
    return untouched | several_runs(
        {
            "resumed": ["run", "--resume", "--out", path],
            "begun": ["run", "--start-from", path],
            "config": ["run", "--config", config],
            "reconstructed": ["reconstruct", path, "--steps", "2", "--out", str(folder.parent / "r.png")],
        }
    )


def test_run_prints_and_stores_its_images(before: Run) -> None:
    assert before.outcome.code == 0, before.outcome.err
    split = "10 train, 2 test (1 in 10 for testing, by name, starting with the first)"
    assert f"\nsplit             {split}\n" in before.outcome.out
    found = fingerprint(before.path)
    assert (found.num_train, found.num_test) == (10, 2)
    with (before.path / "config.toml").open("rb") as file:
        assert set(tomllib.load(file)["provenance"]["images"]) == {
            "num_train", "num_test", "train_sha256", "test_sha256"
        }  # fmt: skip


def test_resume_with_the_same_images(before: Run, after: dict[str, Run]) -> None:
    assert after["same"].outcome.code == 0, after["same"].outcome.err
    assert "note: these are not" not in after["same"].outcome.err
    assert after["moved"].outcome.code == 0, after["moved"].outcome.err
    assert "note: these are not" not in after["moved"].outcome.err, (
        "the images are the same, in another folder"
    )
    assert fingerprint(after["moved"].path) == fingerprint(before.path)


def test_a_resumed_run_refuses_other_images(before: Run, after: dict[str, Run]) -> None:
    outcome = after["resumed"].outcome
    assert outcome.code == 2
    message = last_error(outcome.err)
    assert message.startswith(f"these are not the images that the run in {before.path} started with\n")
    assert "10 train" in message
    assert f"--start-from {before.path}" in message
    assert not (before.path / "report.html").exists()


def test_scores_with_other_images_are_noted(after: dict[str, Run]) -> None:
    outcome = after["evaluated"].outcome
    assert outcome.code == 0, outcome.err
    assert "the run was trained on 1,499 train" in outcome.err


@pytest.mark.parametrize("name", ["begun", "config", "reconstructed"])
def test_other_images_are_noted(before: Run, after: dict[str, Run], name: str) -> None:
    outcome = after[name].outcome
    assert outcome.code == 0, outcome.err
    config = before.path / "config.toml"
    assert f"note: these images differ from those of {config}: the run was trained on 10 train" in outcome.err


def test_new_run_stores_its_own_images(before: Run, after: dict[str, Run]) -> None:
    for name in ("begun", "config"):
        assert fingerprint(after[name].path) != fingerprint(before.path)
    assert fingerprint(after["begun"].path) == fingerprint(after["config"].path)


def test_comparison_shows_different_images(
    before: Run, after: dict[str, Run], in_process: Callable[..., Outcome], tmp_path: Path
) -> None:
    out = tmp_path / "page.md"
    done = in_process("compare", before.path, after["config"].path, "--format", "md", "--out", out)
    assert done.code == 0, done.err
    page = out.read_text(encoding="utf-8")
    assert "| data.images | 10 train" in page


def test_resume_with_an_empty_sampler_state_is_refused(after: dict[str, Run]) -> None:
    outcome = after["emptied"].outcome
    assert outcome.code == 2
    assert "the stored state does not fit timestep sampler 'importance'" in outcome.err
    assert "it contains nothing" in outcome.err


def test_start_from_another_network_is_refused(after: dict[str, Run]) -> None:
    outcome = after["network"].outcome
    assert outcome.code == 2
    assert "does not fit the network" in outcome.err
    assert "  fix: use the same --model, image size and channels as when it was" in outcome.err


def test_epochs_include_the_steps_of_the_first_run(
    before: Run, after: dict[str, Run], in_process: Callable[..., Outcome], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = in_process("run", "--start-from", before.path, "--epochs", "1", "--batch-size", "5", "--out", run)
    assert done.code == 2
    assert f"{before.path} has already been trained for 3 steps" in done.err
    assert "--epochs 1 is 2 steps, the total including those steps" in done.err
    assert not run.exists()
