"""`--observer`: the events of real commands, the choice of observers, and runs that survive broken ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ddim_host.run.directory import RunDirectory
from tests.support.commands import DRY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.commands import Command, Outcome, PythonCode
    from tests.support.distributions import Site

TOLD = """
import json
from dataclasses import asdict
from ddim_host import Observer

class Told(Observer):
    '''Writes one line per event; raises at one of them.

    Args:
        fails_at: The event.
        interrupts_at: The event at which it sends SIGINT.
    '''

    def __init__(self, *, fails_at: str = "", interrupts_at: str = "") -> None:
        self._fails_at, self._interrupts_at = fails_at, interrupts_at

    def _record(self, event, what):
        with (self._path / "told.jsonl").open("a") as file:
            file.write(json.dumps([event, what], default=str) + "\\n")
        if event == self._interrupts_at:
            import os, signal
            os.kill(os.getpid(), signal.SIGINT)
        if event == self._fails_at:
            raise ValueError("no idea")

    def on_begin(self, run):
        self._path = run.path
        self._record("begin", asdict(run))

    def on_row(self, row):
        self._record("row", asdict(row))

    def on_grid(self, grid):
        assert grid.path.read_bytes()[:4] == b"\\x89PNG"
        self._record("grid", asdict(grid))

    def on_score(self, score):
        self._record("score", asdict(score))

    def on_end(self, ending):
        self._record("end", asdict(ending))

class Half:
    '''Has no methods.'''

@hookimpl
def ddim_observers():
    return {"told": Told, "half": Half}
"""


INTERRUPTIBLE = """
import signal
from ddim_host.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


@pytest.fixture
def told(site: Site) -> Site:
    site.plugin("told", TOLD)
    return site


def events(run: Path) -> list[tuple[str, dict[str, Any]]]:
    lines = (run / "told.jsonl").read_text(encoding="utf-8").splitlines()
    return [tuple(json.loads(line)) for line in lines]


def names(run: Path) -> list[str]:
    return [name for name, _ in events(run)]


def test_observer_gets_all_events_of_a_run(
    told: Site, ddim_host: Command, tiny: list[str], tmp_path: Path
) -> None:
    """Observers also get the events of `sample` and `evaluate` on this run, without another --observer."""
    path = tmp_path / "run"
    options = ["--train-steps", "40", "--batch-size", "100", "--seed", "3", "--observer", "told"]
    options += ["--sample-every", "40"]
    outcome = ddim_host(*tiny, *options, "--out", path, env=told.env)
    assert outcome.code == 0, outcome.err
    assert "observer          told (told 1.0)" in outcome.out
    assert names(path) == ["begin", "row", "row", "grid", "row", "grid", "end"]
    (_, begin), *rows, (_, grid), (_, end) = events(path)
    _, along = rows.pop(2)
    assert (along["path"], along["step"]) == (str(RunDirectory(path).training_grid_path(40)), 40)
    assert (begin["command"], begin["step"], begin["config"]["seed"]) == ("run", 0, 3)
    assert begin["config"]["loss"]["name"] == "mse"
    assert begin["config"]["observer"][0]["name"] == "told"
    assert "--observer told" in begin["made_with"]["command"]
    metrics = RunDirectory(path).read_metrics()
    assert [row for _, row in rows] == [vars(row) for row in metrics]
    assert {row.learning_rate for row in metrics} == {1e-3}
    assert (grid["path"], grid["step"]) == (str(path / "samples" / "linear-3-eta-0.png"), 40)
    assert grid["record"] == json.loads(
        (path / "samples" / "linear-3-eta-0.json").read_text(encoding="utf-8")
    )
    assert end == {"status": "finished", "reason": ""}
    (path / "told.jsonl").unlink()
    assert ddim_host("sample", path, "--eta", "1", env=told.env).code == 0
    assert ddim_host("sample", path, "--out", tmp_path / "x.npz", env=told.env).code == 0
    assert names(path) == ["begin", "grid", "end", "begin", "end"]
    assert events(path)[0][1]["config"]["eta"] == 1.0
    (path / "told.jsonl").unlink()
    evaluate = ("evaluate", path, "--samples", "20", "--steps", "2", "--eta", "0,1", "--grids", "4")
    assert ddim_host(*evaluate, env=told.env).code == 0
    assert names(path) == ["begin", "grid", "grid", "score", "score", "end"]
    score = events(path)[3][1]
    [stored, _] = json.loads((path / "evaluation.json").read_text(encoding="utf-8"))["scores"]
    assert score["record"] == stored
    assert (score["step"], score["steps"], score["eta"], score["num_images"]) == (40, 2, 0.0, 20)
    assert score["frechet_distance"] == stored["measures"]["frechet_distance"]
    assert ddim_host(*evaluate, env=told.env).code == 0
    assert names(path)[6:] == ["begin", "end"], "known scores are not reported again"


@pytest.mark.parametrize("event", ["begin", "row", "grid", "end"])
def test_broken_observer_does_not_change_the_run(
    event: str, told: Site, ddim_host: Command, tiny: list[str], tmp_path: Path
) -> None:
    watched, alone = tmp_path / "watched", tmp_path / "alone"
    outcome = ddim_host(*tiny, "--observer", f"told:fails_at={event}", "--out", watched, env=told.env)
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("warning: observer 'told' of told 1.0 failed and is now disabled") == 1
    assert "it raised ValueError: no idea (told.py:" in outcome.err
    assert names(watched)[-1] == event
    assert ddim_host(*tiny, "--out", alone).code == 0
    one, other = (RunDirectory(run).latest_checkpoint() for run in (watched, alone))
    for name in ("raw.safetensors", "ema.safetensors", "training.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    picture = "samples/linear-3-eta-0.png"
    assert (watched / picture).read_bytes() == (alone / picture).read_bytes()


def test_end_of_failed_and_interrupted_runs_is_reported(
    told: Site, ddim_host: Command, python: PythonCode, tiny: list[str], tmp_path: Path
) -> None:
    diverged = tmp_path / "diverged"
    options = ("--lr", "1e30", "--train-steps", "20", "--observer", "told")
    assert ddim_host(*tiny, *options, "--out", diverged, env=told.env).code == 1
    assert events(diverged)[-1][1] == {
        "status": "failed",
        "reason": "a loss or a weight is no longer finite",
    }
    stopped = tmp_path / "stopped"
    options = ("--train-steps", "40", "--batch-size", "100", "--observer", "told:interrupts_at=row")
    outcome = python(INTERRUPTIBLE, *tiny, *options, "--out", stopped, env=told.env)
    assert outcome.code == 1, outcome.err
    [*_, (_, end)] = events(stopped)
    assert end["status"] == "interrupted"
    assert end["reason"].startswith("interrupted after ")
    # A resumed run keeps its observers unless others are given.
    (stopped / "told.jsonl").unlink()
    resumed = ddim_host("run", "--resume", "--out", stopped, "--observer", "told", env=told.env)
    assert resumed.code == 0, resumed.err
    assert names(stopped)[0] == "begin"
    assert events(stopped)[0][1]["step"] > 0
    assert names(stopped)[-2:] == ["grid", "end"]
    assert events(stopped)[-1][1]["status"] == "finished"


def test_run_can_be_used_without_its_observer(
    told: Site, ddim_host: Command, tiny: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "run"
    assert ddim_host(*tiny, "--observer", "told", "--out", path, env=told.env).code == 0
    sampled = ddim_host("sample", path)
    assert sampled.code == 0, sampled.err
    assert sampled.err.count("note: observer 'told' of this run is skipped: there is no observer") == 1
    asked = ddim_host("sample", path, "--observer", "told")
    assert (asked.code, "there is no observer named 'told'" in asked.err) == (2, True)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("tolt", "there is no observer named 'tolt'; did you mean 'told'?"),
        ("told:fails=1", "observer 'told' has no parameter 'fails'"),
        ("half", "it has no on_begin(); derive it from ddim_host.Observer"),
        ("told:", "has no parameters after the colon"),
    ],
)
def test_invalid_observer_is_one_error_before_the_run(
    choice: str, message: str, told: Site, in_process: Callable[..., Outcome]
) -> None:
    outcome = in_process(*DRY, "--observer", choice)
    assert outcome.code == 2
    assert message in outcome.err


def test_observers_of_the_command_line_replace_those_of_the_file(
    told: Site, in_process: Callable[..., Outcome], tmp_path: Path
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'plugin = "torch"\nobserver = ["told", {name = "told", parameters = {fails_at = "row"}}]\n',
        encoding="utf-8",
    )
    dry = ("run", "--config", file, "--dry-run")
    assert in_process(*dry).out.count("observer          told (told 1.0)") == 2
    assert "fails_at=row" in in_process(*dry).out
    instead = in_process(*dry, "--observer", "told:fails_at=end").out
    assert instead.count("observer          told") == 1
    file.write_text('plugin = "torch"\nobserver = "told"\n', encoding="utf-8")
    assert in_process(*dry).out.count("observer          told (told 1.0)") == 1
    file.write_text('plugin = "torch"\nobserver = [3]\n', encoding="utf-8")
    assert "cannot read observer in" in in_process(*dry).err


def test_every_experiment_of_a_sweep_is_observed(
    told: Site, ddim_host: Command, tiny: list[str], tmp_path: Path
) -> None:
    """Observers are not an axis of the sweep: two of them neither add experiments nor change them."""
    folder = tmp_path / "sweep"
    options = [option for option in tiny if option != "run"]
    command = ["sweep", *options, "--lr=1e-3", "--lr=2e-3", "--out", str(folder)]
    evaluation = ["--evaluate-samples=20", "--evaluate-steps=2", "--evaluate-eta=0"]
    watched = ddim_host(
        *command, *evaluation, "--observer=told", "--observer=told:fails_at=row", env=told.env
    )
    assert watched.code == 0, watched.err
    runs = sorted(path.parent for path in folder.glob("*/trial.toml"))
    assert len(runs) == 2
    for run in runs:
        event_names = names(run)
        assert event_names.count("begin") == 4, "two observers, each for `run` and `evaluate`"
        assert {"score", "end"} <= set(event_names)
    again = ddim_host(*command, *evaluation)
    assert "2 experiments in" in again.out
    assert "2 of them done" in again.out, "observers do not change the identity of an experiment"
    late = ddim_host("sweep", "--out", folder, "--observer", "told", env=told.env)
    assert late.code == 2
    assert "--observer applies to new experiments only" in late.err
