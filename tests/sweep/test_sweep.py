"""`sweep`: its grid, its journal, and the command."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.errors import UserError
from ddim_host.sweep.commands import CommandRunner
from ddim_host.sweep.grid import AXES, Grid, read_grid, trial_name
from ddim_host.sweep.journal import _NAME, Journal, Stage, Trial
from ddim_host.sweep.sweeping import Sweep
from ddim_host.system.files import locked
from ddim_host.system.progress import ProgressReport, read_report

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.commands import Command, Outcome, PythonCode, Run
    from tests.support.distributions import Site

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
    long = trial_name({"plugin": "torch", "data": "images:path=" + "\u96ea" * 300}, {"data"})
    assert 100 < len(long.encode()) <= 120


def test_the_length_of_the_command_line_wins() -> None:
    file = Grid({"epochs": ("3",), "seed": ("0", "1")}, {"samples": "10"})
    asked = Grid({"train_steps": ("5",), "seed": ("2",)}, {"eta": "0"}).over(file)
    assert dict(asked.axes) == {"train_steps": ("5",), "seed": ("2",)}
    assert asked.evaluation == {"samples": "10", "eta": "0"}


def test_a_run_s_own_file_is_swept_over_frameworks(tiny_run: Run) -> None:
    file = read_grid(tiny_run.path / "config.toml")
    assert file.axes["plugin"] == ("torch",)
    [model] = file.axes["model"]
    assert model.startswith("ddim-torch/unet:")
    [both] = Grid({"plugin": ("torch", "jittor")}).over(file).axes["model"]
    assert both == model.removeprefix("ddim-torch/")
    assert Grid({"plugin": ("torch",)}).over(file).axes["model"] == (model,)


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
        ('loss = "a\\u0000b"', "cannot read loss"),
        (f"seed = 0x{'f' * 5000}", "not valid TOML"),
        (f"seed = {'9' * 5000}", "not valid TOML"),
        (
            'data = {name = "images", parameters = {path = "a,size=3"}}',
            "data in .* cannot be swept over",
        ),
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


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/x", "a/b", "a\0b", "a\nb", "-x", "logs", "\ud800"])
def test_a_journal_cannot_name_a_folder_elsewhere(tmp_path: Path, name: str) -> None:
    """An experiment that is known already is gone on with in its folder: it would be written there."""
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps({"trials": [{**asdict(Trial("torch", {})), "name": name}]}), encoding="utf-8")
    with pytest.raises(UserError, match=r"sweep\.json is damaged"):
        Journal.read(path)


@given(st.dictionaries(st.sampled_from(AXES), st.text(max_size=200), max_size=3))
def test_every_name_that_is_given_can_be_read_back(options: dict[str, str]) -> None:
    assert _NAME.fullmatch(f"{trial_name(options, set(options))}-2")


def test_the_state_of_bars_comes_back_from_another_process(python: PythonCode) -> None:
    code = (
        "from ddim_host.system.progress import progress_bar\n"
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


INFINITE = '\x1e{"description": "", "done": Infinity, "total": null, "unit": "", "postfix": ""}'


@pytest.mark.parametrize(
    "line", ["", "training: 3%", "\x1e", "\x1e[]", '\x1e{"description": 1}', INFINITE, "\x1e" + "[" * 10**5]
)
def test_other_lines_are_no_reports(line: str) -> None:
    assert read_report(line) is None


def test_bars_below_each_other_do_not_move_the_cursor_of_a_log(python: PythonCode) -> None:
    code = (
        "from ddim_host.system.progress import progress_bar\n"
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
    assert re.search(
        r"torch,lr=1e-3: trained; the whole process took [\d.]+ s, its training loop [\d.]+ s; train loss ",
        first.out,
    )
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
        (["--evaluate-features=fid"], "no feature extractor named 'fid'"),
        (["--evaluate-steps=10,1001"], "cannot sample in 1001 steps"),
        (["--evaluate-features=inception:weights=/nowhere"], "cannot read the weights /nowhere"),
        (["--evaluate-features=inception:weights=/nowhere", "--dry-run"], "cannot read the weights /nowhere"),
        (["--preset=paper"], "there is no 'paper'; choose from paper-cifar10"),
        (["--config=nowhere.toml"], "cannot read the configuration nowhere.toml"),
    ):
        done = in_process(*command, *options)
        assert (done.code, message in done.err) == (2, True), done.err
    assert re.search(r"no framework was chosen\n  why: .*\n  fix: add --plugin ", in_process("sweep").err)
    done = ddim_host(*command, "--loss=mse", "--loss=msee", "--loss=l22")
    assert done.code == 2
    assert "the experiment torch,loss=msee cannot be run (nor can 1 others)" in done.err
    assert "no loss named 'msee'" in done.err
    offline = in_process(*command, "--evaluate-features=inception:weights=/nowhere")
    assert "--evaluate-features inception:weights=FILE" in offline.err
    assert not folder.exists()


def test_a_setting_that_an_earlier_sweep_did_not_have_is_in_the_name(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    axes = {"plugin": ("torch",), "loss": ("mse", "l1")}
    sweep = Sweep(folder)
    folder.mkdir()
    sweep._journal.write(*(one.trial for one in sweep.plan(Grid(axes))))
    names = [one.trial.name for one in Sweep(folder).plan(Grid({**axes, "lr": ("0.01",)}))]
    assert names == ["torch,loss=mse,lr=0.01", "torch,loss=l1,lr=0.01"]
    fewer = [one.trial.name for one in Sweep(folder).plan(Grid({"plugin": ("torch",), "loss": ("mse",)}))]
    assert fewer == ["torch,loss=mse"]


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


@pytest.mark.process
def test_processes_end_with_all_that_they_started(tmp_path: Path, site: Site) -> None:
    # A plugin's module can start processes that hold the pipe.
    site.plugin(
        "leaving-things-behind",
        f"import subprocess\nsubprocess.Popen(['sleep', '1234.5'])\nopen({str(tmp_path / 'here')!r}, 'w')",
    )
    output = io.StringIO()
    started = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in site.env.items():
            patch.setenv(name, value)
        code = CommandRunner().run(["plugins"], output, lambda _: None)
    assert code == 0, output.getvalue()
    assert (tmp_path / "here").exists()
    assert time.monotonic() - started < 60.0
    assert not [line for line in processes() if "sleep 1234.5" in line]


@pytest.mark.process
def test_a_report_after_a_line_that_was_not_ended(site: Site) -> None:
    report = json.dumps({"description": "d", "done": 1, "total": None, "unit": "u", "postfix": ""})
    site.plugin("chatty", f"import sys\nsys.stderr.write('half a line\\x1e' + {report!r} + '\\n')")
    output = io.StringIO()
    reports: list[ProgressReport] = []
    with pytest.MonkeyPatch.context() as patch:
        for name, value in site.env.items():
            patch.setenv(name, value)
        CommandRunner().run(["plugins"], output, reports.append)
    assert reports == [ProgressReport("d", 1, None, "u", "")]
    assert "half a line\n" in output.getvalue()
    assert "\x1e" not in output.getvalue()


def test_two_experiments_at_a_time(ddim_host: Command, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    done = ddim_host("sweep", "--plugin=torch", *TINY, "--seed=0", "--seed=1", "--jobs=2", "--out", folder)
    assert done.code == 0, done.err
    assert "cannot be compared" in done.err
    assert {trial["run"]["exit_code"] for trial in trials(folder).values()} == {0}


def test_what_cannot_be_done_for_one_experiment_does_not_stop_the_others(
    ddim_host: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    command = ["sweep", "--plugin=torch", *TINY, "--seed=0", "--seed=1", "--seed=2"]
    (folder / "logs" / "torch,seed=0.log").mkdir(parents=True)
    # A run that was begun and damaged.
    broken = folder / "torch,seed=1"
    broken.mkdir()
    (broken / "config.toml").write_text("=", encoding="utf-8")
    done = ddim_host(*command, "--out", folder)
    assert done.code == 1
    assert "torch,seed=0: `run` could not be run: Is a directory" in done.out
    assert "torch,seed=1: `run` failed with exit code 2: the configuration" in done.out
    assert "torch,seed=2: trained; the whole process took " in done.out
    assert "2 of 3 experiments failed: torch,seed=0, torch,seed=1" in done.err
    assert "Traceback" not in done.out + done.err
    # Without the journal, and from another place: what is there is taken up.
    (folder / "sweep.json").unlink()
    again = ddim_host(*command, "--out=-s", "--dry-run", cwd=_linked(tmp_path, folder))
    assert again.code == 0, again.err
    assert "torch,seed=2  run, resumed" in again.out


def _linked(tmp_path: Path, folder: Path) -> Path:
    """A folder in which `-s` is the sweep."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "-s").symlink_to(folder)
    return tmp_path / "elsewhere"


def test_a_folder_whose_name_looks_like_an_option(ddim_host: Command, tmp_path: Path) -> None:
    command = ["sweep", "--plugin=torch", *TINY, "--out=-s"]
    evaluation = ["--evaluate-samples=20", "--evaluate-steps=2", "--evaluate-eta=0"]
    done = ddim_host(*command, *evaluation, cwd=tmp_path)
    assert done.code == 0, done.out + done.err
    assert "torch: evaluated; the whole process took " in done.out
    # Another spelling of the same folder.
    done = ddim_host(*command[:-1], *evaluation, "--out", tmp_path / "-s", "--dry-run")
    assert "1 of them done" in done.out


@pytest.mark.process
def test_a_training_that_is_killed_is_told_as_that(environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    sweep = begun_sweep(environment, folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.kill(child_of(folder), signal.SIGKILL)
    out, errors = sweep.communicate(timeout=60.0)
    assert sweep.returncode == 1
    assert "torch: `run` was killed by SIGKILL; all of it:" in out
    assert "1 of 1 experiments failed" in errors


@pytest.mark.process
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGHUP])
def test_no_training_outlives_its_sweep(
    how: signal.Signals, environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    sweep = begun_sweep(environment, folder)
    sweep.send_signal(how)
    sweep.wait(timeout=60.0)
    until = time.monotonic() + 30.0
    while [line for line in processes() if str(folder) in line]:
        assert time.monotonic() < until, "the training goes on"
        time.sleep(0.05)


def test_a_run_is_trained_by_one_process(
    environment: dict[str, str], ddim_host: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    sweep = begun_sweep(environment, folder)
    try:
        done = ddim_host("run", "--resume", "--out", folder / "torch")
        assert done.code == 2
        assert "another process trains the run" in done.err
    finally:
        sweep.terminate()
        sweep.wait(timeout=60.0)


def begun_sweep(environment: dict[str, str], folder: Path, **options: Any) -> subprocess.Popen[str]:
    """A sweep of one experiment that would take for ever, in its training."""
    endless = [option for option in TINY if not option.startswith("--train-steps")]
    command = ["sweep", "--plugin=torch", *endless, "--train-steps=1000000", "--out", str(folder)]
    sweep = subprocess.Popen(
        [sys.executable, "-m", "ddim_host", *command],
        env=environment,
        text=True,
        **{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options},
    )
    until = time.monotonic() + 60.0
    while not (folder / "torch" / "checkpoints").exists():
        assert time.monotonic() < until, "the training does not begin"
        time.sleep(0.05)
    return sweep


def child_of(folder: Path) -> int:
    """The process that trains in a sweep's folder."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        words = path.read_bytes().split(b"\0")
        if f"--out={folder / 'torch'}".encode() in words:
            return int(path.parent.name)
    raise AssertionError("nothing trains")


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
    assert "trained; the whole process took " in done.out


def processes() -> list[str]:
    """The command lines of everything that runs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return [line for line in found if str(os.getpid()) not in line]
