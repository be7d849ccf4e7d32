"""Telling observers: in order, in the first process only, and without harm if one of them is broken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ddim_host.errors import DivergedError, InterruptedTrainingError, UserError
from ddim_host.experiment.observers import Observers, Watcher
from ddim_host.plugin.contracts import Observer
from ddim_host.plugin.observation import DrawnGrid, Ending, EpochMetrics, ObservedRun, ObservedScore
from ddim_host.system.launch import Launch

if TYPE_CHECKING:
    from pathlib import Path

ROW = EpochMetrics(1, 12, 0.5, 0.6, 1e-3, 1.5, 850.25, 0.25, 1 << 20)
SCORE = ObservedScore(12, 20, 0.0, 0, 100, "digits_mlp", 1.0, 2.0, 0.5, 0.5, {})


class Recorder(Observer):
    """Keeps what it is told; raises when it is told what it should raise at."""

    def __init__(self, raises_at: str = "", error: BaseException | None = None) -> None:
        self.told: list[Any] = []
        self._raises_at = raises_at
        self._error = error or ValueError("no idea")

    def _take(self, name: str, what: object) -> None:
        self.told.append(what)
        if name == self._raises_at:
            raise self._error

    def on_begin(self, run: ObservedRun, /) -> None:
        self._take("begin", run)

    def on_row(self, row: EpochMetrics, /) -> None:
        self._take("row", row)

    def on_grid(self, grid: DrawnGrid, /) -> None:
        self._take("grid", grid)

    def on_score(self, score: ObservedScore, /) -> None:
        self._take("score", score)

    def on_end(self, ending: Ending, /) -> None:
        self._take("end", ending)


def watched_by(*observers: Observer) -> Observers:
    return Observers(
        [
            Watcher(one, f"observer {number}", __name__.partition(".")[0])
            for number, one in enumerate(observers)
        ]
    )


def tell_all(observers: Observers, path: Path) -> list[Any]:
    run, grid = ObservedRun(path, "run", {}, {}), DrawnGrid(path / "x.png", 12, {})
    with observers.watching(run):
        observers.row(ROW)
        observers.grid(grid)
        observers.score(SCORE)
    return [run, ROW, grid, SCORE, Ending("finished")]


def test_all_are_told_everything_in_order(tmp_path: Path) -> None:
    one, other = Recorder(), Recorder()
    events = tell_all(watched_by(one, other), tmp_path)
    assert one.told == other.told == events


@pytest.mark.parametrize("event", ["begin", "row", "grid", "score", "end"])
@pytest.mark.parametrize(
    "error", [ValueError("no idea"), SystemExit(3), UserError("no server", why="it is off")]
)
def test_one_that_fails_is_named_once_and_told_nothing_more(
    event: str, error: BaseException, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, other = Recorder(event, error), Recorder()
    events = tell_all(watched_by(broken, other), tmp_path)
    assert other.told == events, "the others go on"
    assert broken.told == events[: len(broken.told)]
    assert len(broken.told) == 1 + ["begin", "row", "grid", "score", "end"].index(event)
    err = capsys.readouterr().err
    assert err.count("ddim-host: warning: the observer 0 does not work, and is switched off") == 1
    assert {"ValueError": "it raised ValueError: no idea (", "SystemExit": "it raised SystemExit"}.get(
        type(error).__name__, "why: no server; it is off"
    ) in err


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (KeyboardInterrupt(), Ending("interrupted", "interrupted")),
        (InterruptedTrainingError(1200), Ending("interrupted", "interrupted after 1,200 steps")),
        (DivergedError(), Ending("failed", "a loss or a weight is no longer a finite number")),
        (UserError("no room", why="the disk is full"), Ending("failed", "no room; the disk is full")),
        (ZeroDivisionError("by\x1b[31m 0"), Ending("failed", "ZeroDivisionError: by 0")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_end_is_told_and_its_error_goes_on(error: BaseException, ending: Ending, tmp_path: Path) -> None:
    recorder, broken = Recorder(), Recorder("end", RuntimeError("also broken"))
    observers = watched_by(broken, recorder)
    with pytest.raises(type(error)) as caught, observers.watching(ObservedRun(tmp_path, "run", {}, {})):
        raise error
    assert caught.value is error
    assert recorder.told[-1] == ending


def test_ctrl_c_in_an_observer_is_the_users(tmp_path: Path) -> None:
    recorder = Recorder("row", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        tell_all(watched_by(recorder), tmp_path)
    assert recorder.told[-1] == Ending("interrupted", "interrupted")


def test_other_processes_tell_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ddim_host.experiment.observers.launched", lambda: Launch(1, 2, "torchrun"))
    recorder = Recorder()
    tell_all(Observers([Watcher(recorder, "observer", "")], ["one is missing"]), tmp_path)
    assert recorder.told == []
    assert capsys.readouterr().err == ""


def test_methods_that_are_not_needed_can_be_left_out(tmp_path: Path) -> None:
    class Rows(Observer):
        def __init__(self) -> None:
            self.rows: list[EpochMetrics] = []

        def on_row(self, row: EpochMetrics, /) -> None:
            self.rows.append(row)

    observer = Rows()
    tell_all(watched_by(observer), tmp_path)
    assert observer.rows == [ROW]
