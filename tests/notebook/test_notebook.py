"""Runs from Python equal those of the command, and the notebook in `examples/` runs without errors."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.numpy
import tomli_w

from ddim_host.errors import UserError
from ddim_host.experiment.assembly import Experiment
from ddim_host.notebook import Run, grid, open_run, train
from ddim_host.run.directory import RunDirectory
from tests.support.fakes import ConstantModel
from tests.support.repository import ROOT

if TYPE_CHECKING:
    from tests.support import commands
    from tests.support.commands import Command, PythonCode

SMALL = (
    "plugin='torch', model='unet:base_channels=8,num_res_blocks=1,num_groups=2', "
    "train_steps=3, batch_size=8, steps=2, num_images=4"
)


def test_run_from_python_equals_run_of_the_command(
    python: PythonCode, ddim_host: Command, tmp_path: Path
) -> None:
    code = f"""
        from ddim_host.notebook import Observer, open_run, train
        events = []
        class Recorder(Observer):
            def on_begin(self, run):
                events.append((run.command, run.config["train_steps"]))
            def on_row(self, row):
                events.append(row)
            def on_grid(self, grid):
                if grid.path.parent.name == "samples":
                    events.append(grid.path.name)
            def on_end(self, ending):
                events.append(ending.status)
        class Broken(Observer):
            def on_row(self, row):
                raise ValueError("enough")
        run = train({str(tmp_path / "here")!r}, {SMALL}, observers=[Broken(), Recorder()])
        assert events == [("run", 3), *run.metrics, "linear-2-eta-0.png", "finished"], events
        images = run.sample()
        assert images.shape == (4, 8, 8, 1) and images.dtype == "uint8"
        assert (run.sample(2) == images[:2]).all()
        assert not (run.sample(4, seed=1) == images).all()
        assert (open_run({str(tmp_path / "here")!r}).sample() == images).all()
        assert run._repr_png_()[:4] == b"\\x89PNG"
        """
    done = python(textwrap.dedent(code))
    assert done.code == 0, done.err
    assert "warning: observer Broken failed and is now disabled" in done.err
    options = ["--plugin", "torch", "--model", "unet:base_channels=8,num_res_blocks=1,num_groups=2"]
    options += ["--train-steps", "3", "--batch-size", "8", "--steps", "2", "--num-images", "4"]
    assert ddim_host("run", *options, "--out", tmp_path / "there").code == 0
    here, there = ((tmp_path / name / "config.toml").read_text("utf-8") for name in ("here", "there"))
    assert f"ddim_host.notebook.train('{tmp_path}/here', plugin='torch'," in here
    assert re.sub("command = .*", "", here) == re.sub("command = .*", "", there)
    picture = "samples/linear-2-eta-0.png"
    assert (tmp_path / "here" / picture).read_bytes() == (tmp_path / "there" / picture).read_bytes()


def test_stopped_run_is_resumed(python: PythonCode, tmp_path: Path) -> None:
    large = SMALL.replace("batch_size=8", "batch_size=1000").replace("steps=3", "steps=6")
    code = f"""
        import os, signal
        from ddim_host.errors import InterruptedTrainingError
        from ddim_host.notebook import Observer, train
        class Stop(Observer):
            def on_row(self, row):
                if row.step == 2:
                    os.kill(os.getpid(), signal.SIGINT)  # as the stop button of a notebook does
        signal.signal(signal.SIGINT, signal.default_int_handler)
        out = {str(tmp_path / "run")!r}
        try:
            train(out, {large}, observers=[Stop()])
        except InterruptedTrainingError as error:
            assert error.step == 3
        else:
            raise AssertionError
        run = train(out, resume=True, observers=[])
        assert run.metrics[-1].step == 6
        """
    done = python(textwrap.dedent(code))
    assert done.code == 0, done.err


def test_run_is_locked_until_its_page_is_written(python: PythonCode, tmp_path: Path) -> None:
    """`report --watch` ends when the lock is released."""
    code = f"""
        from ddim_host import notebook
        from ddim_host.run.directory import RunDirectory
        write_report = notebook.write_report
        def write(paths, *arguments, **options):
            print("locked:", RunDirectory(paths[0]).is_in_training())
            return write_report(paths, *arguments, **options)
        notebook.write_report = write
        run = notebook.train({str(tmp_path / "run")!r}, {SMALL})
        print("afterwards:", RunDirectory(run.path).is_in_training())
        """
    done = python(textwrap.dedent(code))
    assert done.out.splitlines()[-2:] == ["locked: True", "afterwards: False"], done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"losss": "mse"}, "unknown option 'losss'; did you mean 'loss'?"),
        ({"eta": 2.0}, "eta must be a number in [0, 1], not 2.0"),
        ({"loss": 3}, "loss must be a string such as 'name:parameter=value', not 3"),
        ({"epochs": 1, "train_steps": 2}, "epochs and train_steps are mutually exclusive"),
    ],
)
def test_invalid_option_is_one_error(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        train(tmp_path / "run", **options)
    assert caught.value.what == message
    assert not (tmp_path / "run").exists()


def test_existing_files_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError):
        train(tmp_path, plugin="torch")
    with pytest.raises(UserError):
        open_run(tmp_path)
    assert repr(Run(tmp_path)) == f"Run({str(tmp_path)!r})"


# --- Existing runs ------------------------------------------------------------------------------------------


class NetworkBuiltError(Exception):
    """A network is about to be built, so all checks before training have passed."""


@pytest.fixture
def no_network(no_framework: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """End `train` when it builds a network."""

    def build(_: Experiment) -> None:
        raise NetworkBuiltError

    monkeypatch.setattr(Experiment, "build_model", build)


@pytest.fixture
def first(tiny_run: commands.Run, tmp_path: Path) -> Path:
    """Copy a complete run, which has been trained for three steps."""
    return Path(shutil.copytree(tiny_run.path, tmp_path / "first"))


def change_images(run: Path) -> None:
    """Let a run record images that are not those of its data set."""
    config = run / "config.toml"
    config.write_text(config.read_text("utf-8").replace("num_train = 1500", "num_train = 1499"), "utf-8")


def make_imported(run: Path) -> None:
    """Let a run record that its network was imported, without its images."""
    config = run / "config.toml"
    document = tomllib.loads(config.read_text("utf-8"))
    del document["data"]
    document["provenance"]["imported"] = {"source": "somewhere"}
    config.write_text(tomli_w.dumps(document), "utf-8")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_steps": 2}, "{first} has already been trained for 3 steps"),
        ({"epochs": 1, "batch_size": 1000}, "{first} has already been trained for 3 steps"),
        ({"steps": 1001}, "cannot sample in 1001 steps"),
    ],
)
def test_start_from_is_refused_before_training(
    first: Path, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        train(tmp_path / "run", start_from=first, **options)
    assert caught.value.what == message.format(first=first)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_network")
def test_start_from_needs_a_checkpoint(first: Path, tmp_path: Path) -> None:
    shutil.rmtree(first / "checkpoints")
    with pytest.raises(UserError, match="has no checkpoint yet"):
        train(tmp_path / "run", start_from=first)


@pytest.mark.usefixtures("no_network")
def test_imported_run_needs_images_and_cannot_be_resumed(first: Path, tmp_path: Path) -> None:
    make_imported(first)
    with pytest.raises(UserError, match="the images that this network was trained on are unknown"):
        train(tmp_path / "run", start_from=first)
    with pytest.raises(UserError, match="was imported and has no training to resume"):
        train(first, resume=True)
    with pytest.raises(NetworkBuiltError):
        train(tmp_path / "run", start_from=first, data="digits")


@pytest.mark.usefixtures("no_network")
def test_start_from_notes_other_images(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NetworkBuiltError):
        train(tmp_path / "run", start_from=first)
    assert "note: " not in capsys.readouterr().err
    change_images(first)
    with pytest.raises(NetworkBuiltError):
        train(tmp_path / "run", start_from=first)
    note = f"note: these images differ from those of {first}/config.toml: the run was trained on 1,499 train"
    assert note in capsys.readouterr().err


@pytest.mark.usefixtures("no_network")
def test_complete_run_is_opened_if_its_images_are_the_same(first: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    assert repr(train(first, resume=True)) == f"Run({str(first)!r})"
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before
    change_images(first)
    with pytest.raises(UserError, match="these are not the images"):
        train(first, resume=True)
    (first / "report.html").unlink()
    with pytest.raises(UserError, match="these are not the images"):
        train(first, resume=True)


@pytest.fixture
def built(no_framework: None, monkeypatch: pytest.MonkeyPatch) -> list[ConstantModel]:
    """Return the list of the networks that are built, which predict a constant."""
    networks: list[ConstantModel] = []

    def build(_: Experiment) -> ConstantModel:
        networks.append(ConstantModel())
        return networks[-1]

    monkeypatch.setattr(Experiment, "build_model", build)
    return networks


def test_prediction_type_is_not_that_of_the_last_samples(first: Path, built: list[ConstantModel]) -> None:
    run = open_run(first)
    epsilon = run.sample(4)
    velocity = run.sample(4, prediction_type="v_prediction")
    assert not (velocity == epsilon).all()
    assert len(built) == 1
    assert (velocity == open_run(first).sample(4, prediction_type="v_prediction")).all()
    assert (epsilon == run.sample(4)).all()


@pytest.mark.parametrize(
    "options", [{"weights": "raw"}, {"precision": "fp32"}, {"model": "unet:base_channels=8,num_groups=2"}]
)
def test_another_network_is_loaded_once(
    first: Path, built: list[ConstantModel], options: dict[str, Any]
) -> None:
    run = open_run(first)
    run.sample(4)
    run.sample(4, **options)
    run.sample(4, **options)
    assert len(built) == 2


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("step", [3, 4])
def test_newest_weights_are_sampled(first: Path, step: int) -> None:
    run = open_run(first)
    before = run.sample(4)
    folder = RunDirectory(first).latest_checkpoint().rename(first / "checkpoints" / f"step-{step:08d}")
    weights = safetensors.numpy.load_file(folder / "ema.safetensors")
    ones = {name: np.ones_like(array) for name, array in weights.items()}
    safetensors.numpy.save_file(ones, folder / "ema.safetensors")
    progress = json.loads((folder / "progress.json").read_text("utf-8"))
    (folder / "progress.json").write_text(json.dumps(progress | {"step": step}), "utf-8")
    after = run.sample(4)
    assert not (after == before).all()
    assert (after == open_run(first).sample(4)).all()


def test_metrics_include_new_rows(first: Path) -> None:
    run = open_run(first)
    [row] = run.metrics
    rows = [row, replace(row, epoch=1, step=4)]
    RunDirectory(first).write_metrics(rows)
    assert run.metrics == rows


def test_grid_is_an_image() -> None:
    picture = grid(np.zeros((3, 8, 8, 3), dtype=np.uint8), columns=3)
    assert picture.mode == "RGB"
    assert picture.width > 2 * picture.height


@pytest.mark.slow
@pytest.mark.process
def test_the_notebook_runs_from_top_to_bottom(environment: dict[str, str], tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    path = ROOT / "examples" / "first_run.ipynb"
    assert all(not cell.get("outputs") for cell in json.loads(path.read_text("utf-8"))["cells"])
    shutil.copy(path, tmp_path)
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment)
    shown = [set(output.get("data", ())) for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in kinds for kinds in shown) >= 4
    assert (tmp_path / "runs" / "notebook" / "report.html").exists()
