"""Runs from Python equal those of the command, and the notebook in `examples/` runs without errors."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ddim_host.errors import UserError
from ddim_host.notebook import Run, grid, open_run, train
from tests.support.repository import ROOT

if TYPE_CHECKING:
    from pathlib import Path

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
