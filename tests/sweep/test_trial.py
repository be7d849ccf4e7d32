"""`sweep.trial` and the plan of a sweep: the state of experiments, derived from their folders alone."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ddim_host.cli.sweep import _assembled
from ddim_host.errors import UserError
from ddim_host.experiment.assembly import assemble
from ddim_host.experiment.config_file import read_config_file
from ddim_host.plugin.parameters import parse_choice
from ddim_host.run.directory import RunDirectory
from ddim_host.sweep.grid import Grid, read_grid
from ddim_host.sweep.sweeping import Sweep
from ddim_host.sweep.trial import Stage, Trial

if TYPE_CHECKING:
    from pathlib import Path

    from ddim_host.sweep.trial import TrialRequest
    from tests.support.commands import Run

pytestmark = pytest.mark.usefixtures("no_framework")


def asked(**axes: Any) -> list[TrialRequest]:
    return _assembled(Grid({"plugin": ("torch",), **axes}), None)


def planned(folder: Path, wanted: list[TrialRequest]) -> list[Trial]:
    sweep = Sweep(folder)
    return sweep.plan(wanted, sweep.trials())


def prepared(folder: Path, wanted: list[TrialRequest]) -> list[str]:
    """Create the folders of experiments and return their names."""
    folder.mkdir(exist_ok=True)
    trials = planned(folder, wanted)
    for trial in trials:
        trial.prepare()
    return [trial.name for trial in trials]


def names(trials: list[Trial]) -> list[str]:
    return [trial.name for trial in trials]


LOSSES = {"loss": (parse_choice("mse"), parse_choice("huber:delta=0.1"))}


def test_folder_of_a_trial_contains_only_its_configuration(tmp_path: Path) -> None:
    wanted = asked(**LOSSES)
    assert prepared(tmp_path, wanted) == ["torch,loss=mse", "torch,loss=huber-delta=0.1"]
    for name, one in zip(names(planned(tmp_path, wanted)), wanted, strict=True):
        assert [path.name for path in (tmp_path / name).iterdir()] == ["trial.toml"]
        file = read_config_file(tmp_path / name / "trial.toml")
        assert file.provenance is None
        assert assemble(file.request).config == one.config
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names(planned(tmp_path, wanted)))


def test_trial_is_identified_by_its_configuration_not_its_name(tmp_path: Path) -> None:
    wanted = asked(**LOSSES, seed=(0, 1))
    prepared(tmp_path, wanted)
    (tmp_path / "torch,loss=mse,seed=1").rename(tmp_path / "mine")
    other_version = tmp_path / "torch,loss=mse,seed=0" / "trial.toml"
    text = other_version.read_text(encoding="utf-8")
    other_version.write_text(text.replace('version = "', 'version = "9.'), encoding="utf-8")
    found = planned(tmp_path, asked(seed=(1, 0, 2)))
    assert names(found) == ["mine", "torch,loss=mse,seed=0", "torch,seed=2"]


def test_equivalent_requests_are_one_experiment(tmp_path: Path) -> None:
    losses = (parse_choice("mse"), parse_choice("ddim-losses/mse"), parse_choice("huber"))
    assert prepared(tmp_path, asked(loss=losses)) == ["torch,loss=mse", "torch,loss=huber"]


def test_setting_new_to_a_sweep_is_in_the_name(tmp_path: Path) -> None:
    loss = (parse_choice("mse"), parse_choice("l1"))
    prepared(tmp_path, asked(loss=loss))
    more = planned(tmp_path, asked(loss=loss, lr=(0.01,)))
    assert names(more) == ["torch,loss=mse,lr=0.01", "torch,loss=l1,lr=0.01"]
    assert names(planned(tmp_path, asked(loss=loss[:1]))) == ["torch,loss=mse"]


def test_name_in_use_gets_a_number(tmp_path: Path) -> None:
    prepared(tmp_path, asked(seed=(3,)))
    (tmp_path / "torch-2").mkdir()  # another user's folder
    assert names(planned(tmp_path, asked())) == ["torch-3"]


def test_folders_are_sorted_by_the_numbers_in_their_names(tmp_path: Path) -> None:
    prepared(tmp_path, asked(seed=(10, 9, 1)))
    assert names(Sweep(tmp_path).trials()) == ["torch,seed=1", "torch,seed=9", "torch,seed=10"]
    assert names(planned(tmp_path, asked(seed=(10, 9)))) == ["torch,seed=10", "torch,seed=9"]


def test_damaged_configuration_affects_only_its_experiment(tmp_path: Path) -> None:
    wanted = asked(seed=(0, 1))
    prepared(tmp_path, wanted)
    damaged = tmp_path / "torch,seed=0" / "trial.toml"
    damaged.write_text("=", encoding="utf-8")
    assert names(planned(tmp_path, wanted)) == ["torch,seed=0-2", "torch,seed=1"]
    first, second = Sweep(tmp_path).trials()
    assert first.identity is None
    assert list(first.stages) == ["run"]
    assert second.identity is not None
    first.prepare()
    assert damaged.read_text(encoding="utf-8") == "="


def test_failure_to_create_a_folder_leaves_nothing(tmp_path: Path) -> None:
    [trial] = planned(tmp_path, asked())
    trial.path.mkdir()
    (trial.path / "letter.txt").touch()
    with pytest.raises(UserError, match=r"cannot create .*torch"):
        trial.prepare()
    assert [path.name for path in tmp_path.iterdir()] == ["torch"]
    assert [path.name for path in trial.path.iterdir()] == ["letter.txt"]


def test_leftovers_of_a_killed_process_are_ignored(tmp_path: Path) -> None:
    partial = tmp_path / f".{'0' * 32}.tmp"
    partial.mkdir()
    (partial / "trial.toml").touch()
    assert Sweep(tmp_path).trials() == []
    assert names(planned(tmp_path, asked())) == ["torch"]


@pytest.fixture
def trained(tiny_run: Run, tmp_path: Path) -> Path:
    """Create the folder of a sweep with an experiment trained by a scheduler."""
    path = tmp_path / "sweep" / "torch"
    shutil.copytree(tiny_run.path, path)
    config = (path / "config.toml").read_text(encoding="utf-8").partition("[provenance]")[0]
    (path / "trial.toml").write_text(config, encoding="utf-8")
    return path


def stages(path: Path, evaluation: dict[str, str] | None = None) -> list[str]:
    return list(Trial(path, evaluation).stages)


def test_training_by_another_process_counts_as_done(trained: Path, tiny_run: Run) -> None:
    assert stages(trained) == []
    assert stages(trained, {}) == ["evaluate"]
    grid = read_grid(tiny_run.path / "config.toml")
    [found] = planned(trained.parent, _assembled(grid, None))
    assert (found.path, found.stages) == (trained, {})


@pytest.mark.parametrize(
    "missing", ["report.html", "samples/linear-3-eta-0.png", "checkpoints/step-00000003/progress.json"]
)
def test_training_with_a_missing_file_is_not_done(trained: Path, missing: str) -> None:
    (trained / missing).unlink()
    trial = Trial(trained, None)
    assert trial.begun
    assert list(trial.stages) == ["run"]


@pytest.mark.parametrize(
    ("old", "new"),
    [("train_steps = 3", "train_steps = 4"), ("eta = 0.0\n", ""), ("seed = 0", "seed = "), ("[prov", "[x")],
)
def test_a_training_of_another_configuration_is_not_done(trained: Path, old: str, new: str) -> None:
    path = trained / "config.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    assert stages(trained) == ["run"]


def test_length_in_epochs_follows_from_the_training_images(trained: Path) -> None:
    path = trained / "config.toml"
    text = path.read_text(encoding="utf-8").replace("num_train = 1500", "num_train = 24")
    path.write_text(text.replace("train_steps = 3", "epochs = 1"), encoding="utf-8")
    assert stages(trained) == []  # 24 images, 8 at a time
    path.write_text(text.replace("train_steps = 3", "epochs = 2"), encoding="utf-8")
    assert stages(trained) == ["run"]


def test_evaluation_is_identified_by_its_options(trained: Path) -> None:
    evaluation = {"samples": "20", "eta": "0,1"}
    trial = Trial(trained, evaluation)
    done = Stage(trial.stages["evaluate"], 0, 1.5)
    trial.record("run", Stage(("run",), 0, 2.5))
    trial.record("evaluate", done)
    assert stages(trained, evaluation) == []
    assert stages(trained, {"samples": "20"}) == ["evaluate"]
    moved = trained.rename(trained.with_name("moved"))
    assert stages(moved, evaluation) == []
    record = json.loads((moved / "trial.json").read_text(encoding="utf-8"))
    assert record["run"] == {"command": ["run"], "exit_code": 0, "seconds": 2.5}
    Trial(moved, evaluation).record("evaluate", replace(done, exit_code=2))
    assert stages(moved, evaluation) == ["evaluate"]


def test_evaluation_of_outdated_weights_is_repeated(trained: Path) -> None:
    trial = Trial(trained, {})
    trial.record("evaluate", Stage(trial.stages["evaluate"], 0, 1.5))
    (trained / "report.html").unlink()
    assert stages(trained, {}) == ["run", "evaluate"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"run": 1, "evaluate": null}', "[" * 10**5])
def test_damaged_record_affects_only_its_experiment(trained: Path, text: str) -> None:
    shutil.copytree(trained, trained.with_name("other"))
    for path in (trained, trained.with_name("other")):
        trial = Trial(path, {})
        trial.record("evaluate", Stage(trial.stages["evaluate"], 0, 1.5))
    (trained / "trial.json").write_text(text, encoding="utf-8")
    assert [list(trial.stages) for trial in Sweep(trained.parent, {}).trials()] == [[], ["evaluate"]]
    trial = Trial(trained, {})
    trial.record("evaluate", Stage(trial.stages["evaluate"], 0, 1.5))
    assert stages(trained, {}) == []


def test_run_accepts_only_empty_folders_and_those_of_a_sweep(tmp_path: Path) -> None:
    for name in ("trial.toml", "trial.log", "trial.json", "failure.json"):
        (tmp_path / name).touch()
    RunDirectory(tmp_path).require_free()
    (tmp_path / "letter.txt").touch()
    with pytest.raises(UserError, match="is not an empty folder"):
        RunDirectory(tmp_path).require_free()


def test_jobs_are_shell_commands(tmp_path: Path) -> None:
    folder = tmp_path / "it's a $HOME \udcff"
    prepared(folder, asked(seed=(0, 1)))
    sweep = Sweep(folder)
    path, number = sweep.write_jobs(sweep.trials())
    lines = os.fsdecode(path.read_bytes()).splitlines()
    assert len(lines) == number == 2
    for line, seed in zip(lines, ("0", "1"), strict=True):
        words = shlex.split(line)
        trial = folder / f"torch,seed={seed}"
        assert words[1:] == [
            *("-P", "-m", "ddim_host", "run"),
            *(f"--config={trial / 'trial.toml'}", f"--out={trial}", "--resume"),
        ]


def test_job_with_a_line_break_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "two\nlines"
    prepared(folder, asked())
    sweep = Sweep(folder)
    with pytest.raises(UserError, match="contains a line break"):
        sweep.write_jobs(sweep.trials())
    assert not (folder / "jobs.txt").exists()
