"""`sweep`: its grid, its journal, and the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.errors import UserError
from ddim_host.files import locked
from ddim_host.progress import ProgressReport, read_report
from ddim_host.sweep.grid import AXES, Grid, read_grid, trial_name
from ddim_host.sweep.journal import Journal, Stage, Trial

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Command, Outcome, PythonCode

# One option each, so that a sweep can repeat them.
TINY = [
    "--model=unet:base_channels=8,num_groups=4",
    *("--batch-size=8", "--test-images=8", "--num-images=4", "--steps=3"),
    *("--train-steps=3", "--lr-warmup-steps=0", "--device=cpu"),
]


@given(st.dictionaries(st.sampled_from(AXES), st.lists(st.sampled_from("abc"), min_size=1), max_size=4))
def test_a_grid_is_every_combination_once(axes: dict[str, list[str]]) -> None:
    trials = Grid({name: tuple(values) for name, values in axes.items()}).trials()
    size = 1
    for values in axes.values():
        size *= len(set(values))
    assert len(trials) == size
    assert len({tuple(trial.items()) for trial in trials}) == size
    assert all(trial[name] in axes[name] for trial in trials for name in axes)


def test_the_framework_comes_first_and_settings_run_fastest() -> None:
    trials = Grid({"seed": ("0", "1"), "loss": ("mse",), "plugin": ("torch", "jittor")}).trials()
    assert [list(trial.values()) for trial in trials] == [
        ["torch", "mse", "0"],
        ["torch", "mse", "1"],
        ["jittor", "mse", "0"],
        ["jittor", "mse", "1"],
    ]


def test_absurdly_many_experiments_are_refused_at_once() -> None:
    values = tuple(map(str, range(1000)))
    with pytest.raises(UserError, match="more than 10,000"):
        Grid(dict.fromkeys(AXES, values)).trials()


def test_a_name_tells_what_others_do_not_share() -> None:
    options = {"plugin": "torch", "loss": "huber:delta=0.1", "data": "images:path=/a b/c", "seed": "0"}
    assert trial_name(options, set()) == "torch"
    assert trial_name(options, {"loss", "seed"}) == "torch,loss=huber-delta=0.1,seed=0"
    assert trial_name(options, {"data"}) == "torch,data=images-path=-a-b-c"


def test_the_length_of_the_command_line_wins() -> None:
    file = Grid({"epochs": ("3",), "seed": ("0", "1")}, {"samples": "10"})
    asked = Grid({"train_steps": ("5",), "seed": ("2",)}, {"eta": "0"}).over(file)
    assert dict(asked.axes) == {"train_steps": ("5",), "seed": ("2",)}
    assert asked.evaluation == {"samples": "10", "eta": "0"}


def test_a_file_holds_values_and_lists_of_values(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(
        """
        plugin = ["torch", "jittor"]
        loss = ["mse", {name = "huber", distribution = "ddim-losses", parameters = {delta = 0.1}}]
        timestep_subset = {name = "explicit", parameters = {t = [0, 500, 999]}}
        lr = [1e-3, 0.5]
        clip = false
        [evaluate]
        steps = [5, 10]
        samples = 100
        """,
        encoding="utf-8",
    )
    grid = read_grid(path)
    assert dict(grid.axes) == {
        "plugin": ("torch", "jittor"),
        "loss": ("mse", "ddim-losses/huber:delta=0.1"),
        "timestep_subset": ("explicit:t=0,500,999",),
        "lr": ("0.001", "0.5"),
        "clip": ("false",),
    }
    assert grid.evaluation == {"steps": "5,10", "samples": "100"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("los = 'mse'", "unknown setting 'los'; did you mean 'loss'"),
        ("seed = []", "seed in .* has no values"),
        ("seed = [[1]]", "cannot read seed"),
        ("loss = [1]", "cannot read loss"),
        ("evaluate = 1", "not a table"),
        ("[evaluate]\nsample = 1", "unknown setting 'sample'"),
        ("=", "not valid TOML"),
    ],
)
def test_a_file_that_says_something_else(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_grid(path)


def test_a_journal_comes_back(tmp_path: Path) -> None:
    journal = Journal.read(tmp_path / "sweep.json")
    trial = journal.trial({"plugin": "torch"}, "torch")
    journal.write(Trial(trial.name, trial.options, Stage(("run", "--plugin=torch"), 0, 1.5)))
    again = Journal.read(journal.path)
    assert again == journal
    assert again.trial({"plugin": "torch"}, "another name") == journal.trials["torch"]
    assert again.trial({"plugin": "torch", "seed": "1"}, "torch").name == "torch-2"
    assert again.trial({"seed": "1"}, "torch", ["torch-2"]).name == "torch-3"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"trials": [1]}', '{"trials": [{"name": 1}]}', "[" * 10**5]
)
def test_a_damaged_journal_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "sweep.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"sweep\.json is damaged"):
        Journal.read(path)


def test_the_state_of_bars_comes_back_from_another_process(python: PythonCode) -> None:
    code = (
        "from ddim_host.progress import progress_bar\n"
        "with progress_bar('testing', 3, unit='step') as bar:\n"
        "    print('other output')\n"
        "    bar.set_postfix(loss=1, refresh=False)\n"
        "    bar.update(2)\n"
    )
    done = python(code, env={"DDIM_HOST_PROGRESS": "json"})
    reports = [read_report(line) for line in done.err.split("\n") if line]
    assert reports[0] == ProgressReport("testing", 0, 3, "step", "")
    assert reports[-1] == ProgressReport("testing", 2, 3, "step", "loss=1")
    assert read_report(done.out) is None


@pytest.mark.parametrize("line", ["", "training: 3%", "\x1e", "\x1e[]", '\x1e{"description": 1}'])
def test_other_lines_are_no_reports(line: str) -> None:
    assert read_report(line) is None


def test_bars_below_each_other_do_not_move_the_cursor_of_a_log(python: PythonCode) -> None:
    code = (
        "from ddim_host.progress import progress_bar\n"
        "with progress_bar('one', 3, unit='step'), progress_bar('two', 3, unit='step', leave=False) as bar:\n"
        "    bar.update(3)\n"
    )
    assert "\x1b" not in python(code).err


@pytest.fixture(scope="module")
def swept(ddim_host: Command, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Outcome]]:
    """A sweep in which one experiment fails, called again, and with more values."""
    folder = tmp_path_factory.mktemp("swept") / "sweep"
    command = ["sweep", "--plugin=torch", *TINY, "--out", str(folder), "--lr=1e-3", "--lr=1e30"]
    evaluation = ["--evaluate-samples=20", "--evaluate-steps=2", "--evaluate-eta=0,1", "--evaluate-grids=4"]
    return folder, {
        "planned": ddim_host(*command, "--dry-run"),
        "first": ddim_host(*command),
        "again": ddim_host(*command),
        "evaluated": ddim_host(*command[:-1], "--loss=mse", "--loss=l1", *evaluation),
    }


def trials(folder: Path) -> dict[str, dict[str, Any]]:
    document = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    return {trial["name"]: trial for trial in document["trials"]}


def test_a_failure_does_not_hold_up_the_others(swept: tuple[Path, dict[str, Outcome]]) -> None:
    folder, outcomes = swept
    assert outcomes["planned"].code == 0, outcomes["planned"].err
    assert outcomes["planned"].out.splitlines()[1:] == ["  torch,lr=1e-3  run", "  torch,lr=1e30  run"]
    first = outcomes["first"]
    assert first.code == 1
    assert "torch,lr=1e-3: trained in" in first.out
    assert "torch,lr=1e30: `run` failed with exit code 1: a loss or a weight is no longer" in first.out
    assert "1 of 2 experiments failed: torch,lr=1e30" in first.err
    assert "Traceback" not in first.out + first.err
    log = (folder / "logs" / "torch,lr=1e30.log").read_text(encoding="utf-8")
    assert "network" in log
    assert "\x1e" not in log
    assert "Traceback" not in log


def test_what_is_done_is_not_done_again(swept: tuple[Path, dict[str, Outcome]]) -> None:
    folder, outcomes = swept
    assert outcomes["again"].code == 1
    assert "  torch,lr=1e-3  done" in outcomes["again"].out
    assert "torch,lr=1e-3: trained" not in outcomes["again"].out
    assert "torch,lr=1e30  run, resumed" in outcomes["again"].out
    log = (folder / "logs" / "torch,lr=1e-3.log").read_text(encoding="utf-8")
    assert log.count("trained 3 steps") == 1


def test_every_run_is_evaluated_and_on_the_page(swept: tuple[Path, dict[str, Outcome]]) -> None:
    folder, outcomes = swept
    assert outcomes["evaluated"].code == 0, outcomes["evaluated"].err
    found = trials(folder)
    assert set(found) == {"torch,lr=1e-3", "torch,lr=1e30", "torch,loss=mse", "torch,loss=l1"}
    page = (folder / "report.html").read_text(encoding="utf-8")
    for name in ("torch,loss=mse", "torch,loss=l1"):
        assert found[name]["evaluate"]["exit_code"] == 0
        scores = json.loads((folder / name / "evaluation.json").read_text(encoding="utf-8"))["scores"]
        assert {score["sampled"]["eta"] for score in scores} == {0.0, 1.0}
        grids = sorted(path.name for path in (folder / name / "samples").glob("evaluated-*.png"))
        assert grids == ["evaluated-linear-2-eta-0-1.png", "evaluated-linear-2-eta-1-1.png"]
        assert name in page
        assert (folder / name / "report.html").exists()


def test_mistakes_are_known_before_the_first_experiment(
    in_process: Callable[..., Outcome], ddim_host: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    command = ["sweep", "--plugin=torch", "--out", str(folder)]
    for options, message in (
        (["--evaluate-steps=x"], "--steps cannot be 'x'"),
        (["--evaluate-samples=1"], "argument --samples"),
        (["--config=nowhere.toml"], "cannot read the configuration nowhere.toml"),
    ):
        done = in_process(*command, *options)
        assert (done.code, message in done.err) == (2, True), done.err
    assert "add one of these" in in_process("sweep").err
    done = ddim_host(*command, "--loss=mse", "--loss=msee", "--loss=l22")
    assert done.code == 2
    assert "the experiment torch,loss=msee cannot be run (nor can 1 others)" in done.err
    assert "no loss named 'msee'" in done.err
    assert not folder.exists()


def test_a_folder_with_something_else_is_refused(in_process: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    done = in_process("sweep", "--plugin=torch", "--out", tmp_path)
    assert done.code == 2
    assert "exists and holds no sweep" in done.err


def test_one_process_at_a_time(ddim_host: Command, tmp_path: Path) -> None:
    with locked(tmp_path):
        done = ddim_host("sweep", "--plugin=torch", *TINY, "--out", tmp_path)
    assert done.code == 2
    assert "another process runs the sweep" in done.err


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_ends_its_process_and_goes_on(
    how: signal.Signals, ddim_host: Command, environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    command = ["sweep", "--plugin=torch", *TINY, "--out", str(folder)]
    endless = [
        *(option for option in command if not option.startswith("--train-steps")),
        "--train-steps=1000000",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "ddim_host", *endless],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A process that was started in the background would not be interrupted.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    log = folder / "logs" / "torch.log"
    until = time.monotonic() + 60.0
    while not (folder / "torch" / "config.toml").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert "network" in log.read_text(encoding="utf-8")
    process.send_signal(how)
    _, errors = process.communicate(timeout=60.0)
    assert process.returncode == 1
    assert f"the same command with --out {folder} goes on" in errors
    assert "Traceback" not in errors
    assert not [line for line in processes() if str(folder) in line]
    assert "torch  run, resumed" in ddim_host(*endless, "--dry-run").out
    # Another length is another experiment: it stands beside the interrupted one.
    done = ddim_host(*command)
    assert done.code == 0, done.err
    assert "trained in" in done.out


def processes() -> list[str]:
    """The command lines of everything that runs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return [line for line in found if str(os.getpid()) not in line]
