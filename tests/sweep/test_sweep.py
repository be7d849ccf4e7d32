"""The `sweep` command."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ddim_host.run.directory import RunDirectory
from ddim_host.sweep.processes import CommandRunner
from ddim_host.system.failure import read_failure
from ddim_host.system.files import locked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.commands import Command, Outcome, PythonCode
    from tests.support.distributions import Site

# One option each, so that a sweep can repeat them.
TINY = [
    "--model=unet:base_channels=8,num_groups=4",
    *("--batch-size=8", "--test-images=8", "--num-images=4", "--steps=3"),
    *("--train-steps=3", "--lr-warmup-steps=0", "--device=cpu"),
]


def test_nested_bars_do_not_move_the_cursor_of_a_log(python: PythonCode) -> None:
    code = (
        "from ddim_host.system.progress import progress_bar\n"
        "with progress_bar('one', 3, unit='step'), progress_bar('two', 3, unit='step', leave=False) as bar:\n"
        "    bar.update(3)\n"
    )
    assert "\x1b" not in python(code).err


@pytest.fixture(scope="module")
def swept(ddim_host: Command, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Outcome]]:
    """Run a sweep with a failing experiment, repeat it, and repeat it with more values."""
    folder = tmp_path_factory.mktemp("swept") / "sweep"
    command = ["sweep", "--plugin=torch", *TINY, "--out", str(folder), "--lr=1e-3", "--lr=1e30"]
    evaluation = ["--evaluate-samples=20", "--evaluate-steps=2", "--evaluate-eta=0,1", "--evaluate-grids=4"]
    return folder, {
        "planned": ddim_host(*command, "--dry-run"),
        "first": ddim_host(*command),
        "again": ddim_host(*command),
        "evaluated": ddim_host(*command[:-1], "--loss=mse", "--loss=l1", *evaluation),
    }


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the command records of the experiments' folders by name."""
    return {
        path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/trial.json")
    }


def test_failure_does_not_stop_the_other_experiments(swept: tuple[Path, dict[str, Outcome]]) -> None:
    folder, outcomes = swept
    assert outcomes["planned"].code == 0, outcomes["planned"].err
    assert outcomes["planned"].out.splitlines()[1:] == ["  torch,lr=0.001  run", "  torch,lr=1e+30  run"]
    first = outcomes["first"]
    assert first.code == 1
    assert re.search(
        r"torch,lr=0.001: trained in [\d.]+ s, including [\d.]+ s in the training loop; train loss ",
        first.out,
    )
    assert (
        "torch,lr=1e+30: `run` failed with exit code 1: "
        "training stopped: a loss or a weight is no longer finite; "
        f"log: {folder / 'torch,lr=1e+30' / 'trial.log'}"
    ) in first.out
    assert "1 of 2 experiments failed: torch,lr=1e+30" in first.err
    assert "Traceback" not in first.out + first.err
    log = (folder / "torch,lr=1e+30" / "trial.log").read_text(encoding="utf-8")
    assert log.startswith("$ ddim-host run --config=")
    assert "network" in log
    assert "use a smaller --lr" in log
    assert "Traceback" not in log
    assert not (folder / "torch,lr=1e+30" / "failure.json").exists()


def test_bar_names_the_running_experiments(swept: tuple[Path, dict[str, Outcome]]) -> None:
    bars = [line for line in swept[1]["first"].err.splitlines() if "left;" in line]
    assert len(bars) == 2
    assert re.search(r"0/2 \[[\d:]+, \? left; torch,lr=0.001: run\]", bars[0])
    assert re.search(r"1/2 \[[\d:]+, \d\d:\d\d left; torch,lr=1e\+30: run\]", bars[1])
    stages = swept[1]["evaluated"].err
    assert re.search(r"0/2 \[[\d:]+, \? left; torch,lr=0.001: evaluate\]", stages)
    assert re.search(r"1/2 \[[\d:]+, \d\d:\d\d left; torch,loss=l1: run\]", stages)
    assert re.search(r"1/2 \[[\d:]+, \d\d:\d\d left; torch,loss=l1: evaluate\]", stages)


def test_completed_work_is_not_repeated(swept: tuple[Path, dict[str, Outcome]]) -> None:
    folder, outcomes = swept
    assert outcomes["again"].code == 1
    assert "  torch,lr=0.001  done" in outcomes["again"].out
    assert "torch,lr=0.001: trained" not in outcomes["again"].out
    assert "torch,lr=1e+30  run, resumed" in outcomes["again"].out
    log = (folder / "torch,lr=0.001" / "trial.log").read_text(encoding="utf-8")
    assert log.count("trained 3 steps") == 1


def test_every_run_is_evaluated_and_reported(swept: tuple[Path, dict[str, Outcome]]) -> None:
    folder, outcomes = swept
    assert outcomes["evaluated"].code == 0, outcomes["evaluated"].err
    found = records(folder)
    # The experiment with `mse`, the default, already existed.
    assert set(found) == {"torch,lr=0.001", "torch,lr=1e+30", "torch,loss=l1"}
    assert outcomes["evaluated"].out.splitlines()[1:3] == [
        "  torch,lr=0.001  evaluate",
        "  torch,loss=l1   run, then evaluate",
    ]
    header, *rows, wrote = outcomes["evaluated"].out.splitlines()[-5:]
    assert re.fullmatch(r"run +training  test loss  Fréchet distance \(not FID\), .*, digits_mlp", header)
    assert [row.partition(" ")[0] for row in rows] == ["torch,lr=0.001", "torch,loss=l1", "torch,lr=1e+30"]
    assert wrote == f"wrote {folder / 'report.html'}"
    page = (folder / "report.html").read_text(encoding="utf-8")
    for name in ("torch,lr=0.001", "torch,loss=l1"):
        assert found[name]["evaluate"]["exit_code"] == 0
        scores = json.loads((folder / name / "evaluation.json").read_text(encoding="utf-8"))["scores"]
        assert {score["sampled"]["eta"] for score in scores} == {0.0, 1.0}
        grids = sorted(path.name for path in (folder / name / "samples").glob("evaluated-*.png"))
        assert grids == ["evaluated-linear-2-eta-0-1.png", "evaluated-linear-2-eta-1-1.png"]
        assert name in page
        assert (folder / name / "report.html").exists()


def test_mistakes_are_found_before_the_first_experiment(
    in_process: Callable[..., Outcome], ddim_host: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    command = ["sweep", "--plugin=torch", "--out", str(folder)]
    for options, message in (
        (
            ["--evaluate-steps=x"],
            "--evaluate-steps must be an integer from 1 to 100,000, or several separated by commas, not 'x'",
        ),
        (
            ["--evaluate-eta=0,2"],
            "--evaluate-eta must be a number in [0, 1], or several separated by commas, not '0,2'",
        ),
        (["--evaluate-samples=1"], "--evaluate-samples must be an integer from 10 to 1,000,000, not '1'"),
        (["--evaluate-reference=all"], "--evaluate-reference must be train or test, not 'all'"),
        (["--lr=0"], "--lr must be a number above 0, not '0'"),
        (["--epochs=1", "--train-steps=1"], "--epochs and --train-steps are mutually exclusive"),
        (["--evaluate-features=fid"], "no feature extractor named 'fid'"),
        (["--evaluate-steps=10,1001"], "cannot sample in 1001 steps"),
        (["--evaluate-features=inception:weights=/nowhere"], "cannot read the weights /nowhere"),
        (["--evaluate-features=inception:weights=/nowhere", "--dry-run"], "cannot read the weights /nowhere"),
        (["--preset=paper"], "--preset must be one of paper-cifar10, not 'paper'"),
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


def test_damaged_experiment_is_reported(in_process: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    command = ["sweep", "--plugin=torch", "--seed=0", "--seed=1", f"--out={folder}"]
    assert in_process(*command, "--prepare").code == 0
    (folder / "torch,seed=0" / "trial.toml").write_text("=", encoding="utf-8")
    done = in_process(*command, "--dry-run")
    assert (done.code, done.out.count("run")) == (0, 2)
    assert "torch,seed=0-2" in done.out
    assert f"note: {folder / 'torch,seed=0' / 'trial.toml'} is damaged" in done.err


def test_folder_with_other_contents_is_refused(in_process: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    done = in_process("sweep", "--plugin=torch", "--out", tmp_path)
    assert done.code == 2
    assert "exists, but is not a sweep folder" in done.err


def test_sweep_allows_one_process_at_a_time(ddim_host: Command, tmp_path: Path) -> None:
    with locked(tmp_path):
        done = ddim_host("sweep", "--plugin=torch", *TINY, "--out", tmp_path)
    assert done.code == 2
    assert "another process is running the sweep" in done.err


@contextlib.contextmanager
def installed(site: Site) -> Iterator[None]:
    """Make fake distributions visible to the processes started here."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in site.env.items():
            patch.setenv(name, value)
        yield


@pytest.mark.process
def test_processes_end_with_all_their_children(tmp_path: Path, site: Site) -> None:
    # A plugin's module can start processes that hold the log.
    site.plugin(
        "leaving-things-behind",
        f"import subprocess\nsubprocess.Popen(['sleep', '1234.5'])\nopen({str(tmp_path / 'here')!r}, 'w')",
    )
    started = time.monotonic()
    with installed(site), (tmp_path / "log").open("w") as log:
        code = CommandRunner().run(["plugins"], log, tmp_path / "failure.json")
    assert code == 0, (tmp_path / "log").read_text(encoding="utf-8")
    assert (tmp_path / "here").exists()
    assert time.monotonic() - started < 60.0
    wait_until_gone("sleep 1234.5")


@pytest.mark.process
def test_command_records_the_reason_of_its_failure(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        code = CommandRunner().run(["run", "--plugin=torch", "--loss=msee"], log, tmp_path / "failure.json")
    assert code == 2
    failure = read_failure(tmp_path / "failure.json")
    assert (tmp_path / "log").read_text(encoding="utf-8") == f"ddim-host: error: {failure}\n"


def test_value_may_look_like_another_parameter(ddim_host: Command, pictures: Path, tmp_path: Path) -> None:
    """No command line can express this: there `size=16` would be a different parameter."""
    folder = tmp_path / "pictures,size=16"
    folder.symlink_to(pictures)
    data = f'{{name = "images", parameters = {{path = "{folder}"}}}}'
    (tmp_path / "sweep.toml").write_text(f'data = ["digits", {data}]', encoding="utf-8")
    command = ["sweep", "--plugin=torch", f"--config={tmp_path / 'sweep.toml'}", *TINY]
    done = ddim_host(*command, "--out", tmp_path / "sweep")
    assert done.code == 0, done.out + done.err
    shapes = {
        RunDirectory(path.parent).config.image_shape for path in (tmp_path / "sweep").glob("*/config.toml")
    }
    assert shapes == {(8, 8, 1), (8, 8, 3)}


def test_two_experiments_at_a_time(ddim_host: Command, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    done = ddim_host("sweep", "--plugin=torch", *TINY, "--seed=0", "--seed=1", "--jobs=2", "--out", folder)
    assert done.code == 0, done.err
    assert "not comparable" in done.err
    assert "0/2 [00:00, ? left; torch,seed=0: run, torch,seed=1: run]" in done.err
    assert {record["run"]["exit_code"] for record in records(folder).values()} == {0}
    assert set(records(folder)) == {"torch,seed=0", "torch,seed=1"}


RAISING = """def raising(prediction, target):
    if type(prediction).__module__ == "torch":
        raise RuntimeError("a bug")
    return ((prediction - target) ** 2).reshape((prediction.shape[0], -1)).mean(1)
@hookimpl
def ddim_losses():
    return {"raising": raising}
"""


def test_unwritable_or_broken_experiment_does_not_stop_the_others(
    in_process: Callable[..., Outcome], ddim_host: Command, site: Site, tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    site.plugin("raising", RAISING)
    losses = [*(f"--loss=huber:delta={number}" for number in (1, 2, 3, 4)), "--loss=raising"]
    command = ["sweep", "--plugin=torch", *TINY, *losses]
    assert in_process(*command, "--prepare", "--out", folder).code == 0
    first, second, third, fourth = (folder / f"torch,loss=huber-delta={number}" for number in (1, 2, 3, 4))
    (first / "trial.log").mkdir()
    (second / "config.toml").write_text("=", encoding="utf-8")  # a run that was started and damaged
    (third / "trial.json").mkdir()
    done = ddim_host(*command, "--out", folder, env=site.env)
    assert done.code == 1
    assert f"{first.name}: cannot run `run`; Is a directory" in done.out
    assert (
        f"{second.name}: `run` failed with exit code 2: the configuration {second / 'config.toml'} "
        "is not valid TOML; " in done.out
    )
    assert f"{third.name}: trained in " in done.out
    assert f"{third.name}: cannot write {third / 'trial.json'}; Is a directory" in done.out
    assert f"{fourth.name}: trained in " in done.out
    assert (
        "torch,loss=raising: `run` failed with exit code 2: loss 'raising' of raising 1.0 does not work; "
        "it raised RuntimeError: a bug (raising.py:4); log: "
    ) in done.out
    assert f"3 of 5 experiments failed: {first.name}, {second.name}, torch,loss=raising" in done.err
    assert "Traceback" not in done.out + done.err
    # From another folder, the sweep continues, with and without options.
    elsewhere = _linked(tmp_path, folder)
    for again in (
        ddim_host(*command, "--out=-s", "--dry-run", cwd=elsewhere, env=site.env),
        ddim_host("sweep", "--out=-s", "--dry-run", cwd=elsewhere),
    ):
        assert again.code == 0, again.err
        assert re.search(rf"^  {re.escape(first.name)} +run$", again.out, re.MULTILINE)
        assert re.search(rf"^  {re.escape(second.name)} +run, resumed$", again.out, re.MULTILINE)
        assert re.search(rf"^  {re.escape(fourth.name)} +done$", again.out, re.MULTILINE)


def _linked(tmp_path: Path, folder: Path) -> Path:
    """Return a folder in which `-s` is a link to the sweep."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "-s").symlink_to(folder)
    return tmp_path / "elsewhere"


def test_folder_name_may_look_like_an_option(ddim_host: Command, tmp_path: Path) -> None:
    command = ["sweep", "--plugin=torch", *TINY, "--out=-s"]
    evaluation = ["--evaluate-samples=20", "--evaluate-steps=2", "--evaluate-eta=0"]
    done = ddim_host(*command, *evaluation, cwd=tmp_path)
    assert done.code == 0, done.out + done.err
    assert "torch: evaluated in " in done.out
    # Another spelling of the same folder.
    done = ddim_host(*command[:-1], *evaluation, "--out", tmp_path / "-s", "--dry-run")
    assert "1 of them done" in done.out


@pytest.mark.process
@pytest.mark.parametrize(
    ("how", "said"),
    [
        (signal.SIGKILL, r"was killed by SIGKILL"),
        (signal.SIGTERM, r"failed with exit code 1: interrupted( after [\d,]+ steps)?"),
    ],
)
def test_training_ended_by_a_signal_is_reported_as_such(
    how: signal.Signals, said: str, environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    sweep = begun_sweep(environment, folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.kill(child_of(folder), how)
    out, errors = sweep.communicate(timeout=60.0)
    assert sweep.returncode == 1
    log = re.escape(str(folder / "torch" / "trial.log"))
    assert re.search(f"^torch: `run` {said}; log: {log}$", out, re.MULTILINE)
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
    wait_until_gone(str(folder))


def test_run_is_trained_by_one_process(
    environment: dict[str, str], ddim_host: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    sweep = begun_sweep(environment, folder)
    try:
        done = ddim_host("run", "--resume", "--out", folder / "torch")
        assert done.code == 2
        assert "another process is training the run" in done.err
    finally:
        sweep.terminate()
        sweep.wait(timeout=60.0)


def begun_sweep(environment: dict[str, str], folder: Path, **options: Any) -> subprocess.Popen[str]:
    """Start a sweep of one experiment with endless training, and wait until it trains."""
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
        assert time.monotonic() < until, "training does not start"
        time.sleep(0.05)
    return sweep


def child_of(folder: Path) -> int:
    """Return the id of the process that trains in a sweep's folder."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        words = path.read_bytes().split(b"\0")
        if f"--out={folder / 'torch'}".encode() in words:
            return int(path.parent.name)
    raise AssertionError("no process is training")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_sweep_ends_its_process_and_can_continue(
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
        # A process started in the background ignores SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    log = folder / "torch" / "trial.log"
    until = time.monotonic() + 60.0
    while not (folder / "torch" / "config.toml").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert "network" in log.read_text(encoding="utf-8")
    process.send_signal(how)
    _, errors = process.communicate(timeout=60.0)
    assert process.returncode == 1
    assert f"run the command again with --out {folder} to continue" in errors
    assert "Traceback" not in errors
    assert not [line for line in processes() if str(folder) in line]
    assert "torch  run, resumed" in ddim_host(*endless, "--dry-run").out
    # Another length is another experiment, beside the interrupted one.
    done = ddim_host(*command)
    assert done.code == 0, done.err
    assert "trained in " in done.out


def wait_until_gone(words: str) -> None:
    """Wait until killed processes are gone, which takes the kernel a moment."""
    until = time.monotonic() + 30.0
    while [line for line in processes() if words in line]:
        assert time.monotonic() < until, f"{words} still runs"
        time.sleep(0.05)


def processes() -> list[str]:
    """Return the command lines of all running processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return [line for line in found if str(os.getpid()) not in line]
