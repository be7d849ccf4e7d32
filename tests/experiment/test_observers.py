"""Calls to observers: in order, in the first process only, and harmless if an observer is broken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ddim_host.errors import TRACEBACK, DivergedError, InterruptedTrainingError, UserError
from ddim_host.experiment.observers import Observers, Watcher
from ddim_host.plugin.contracts import Observer
from ddim_host.plugin.observation import DrawnGrid, Ending, EpochMetrics, ObservedRun, ObservedScore
from ddim_host.system.launch import Launch

if TYPE_CHECKING:
    from pathlib import Path

ROW = EpochMetrics(1, 12, 0.5, 0.6, 1e-3, 1.5, 850.25, 0.25, 1 << 20)
SCORE = ObservedScore(12, 20, 0.0, 0, 100, "digits_mlp", 1.0, 2.0, 0.5, 0.5, {})


class Recorder(Observer):
    """Records its events; raises an error at a given one."""

    def __init__(self, raises_at: str = "", error: BaseException | None = None) -> None:
        self.events_seen: list[Any] = []
        self._raises_at = raises_at
        self._error = error or ValueError("no idea")

    def _record(self, name: str, what: object) -> None:
        self.events_seen.append(what)
        if name == self._raises_at:
            raise self._error

    def on_begin(self, run: ObservedRun, /) -> None:
        self._record("begin", run)

    def on_row(self, row: EpochMetrics, /) -> None:
        self._record("row", row)

    def on_grid(self, grid: DrawnGrid, /) -> None:
        self._record("grid", grid)

    def on_score(self, score: ObservedScore, /) -> None:
        self._record("score", score)

    def on_end(self, ending: Ending, /) -> None:
        self._record("end", ending)


def watched_by(*observers: Observer) -> Observers:
    return Observers(
        [
            Watcher(one, f"observer {number}", __name__.partition(".")[0])
            for number, one in enumerate(observers)
        ]
    )


def send_all(observers: Observers, path: Path) -> list[Any]:
    run, grid = ObservedRun(path, "run", {}, {}), DrawnGrid(path / "x.png", 12, {})
    with observers.watching(run):
        observers.row(ROW)
        observers.grid(grid)
        observers.score(SCORE)
    return [run, ROW, grid, SCORE, Ending("finished")]


def test_all_observers_get_all_events_in_order(tmp_path: Path) -> None:
    one, other = Recorder(), Recorder()
    events = send_all(watched_by(one, other), tmp_path)
    assert one.events_seen == other.events_seen == events


@pytest.mark.parametrize("event", ["begin", "row", "grid", "score", "end"])
@pytest.mark.parametrize(
    "error", [ValueError("no idea"), SystemExit(3), UserError("no server", why="it is off")]
)
def test_failed_observer_is_reported_once_and_disabled(
    event: str, error: BaseException, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, other = Recorder(event, error), Recorder()
    events = send_all(watched_by(broken, other), tmp_path)
    assert other.events_seen == events, "the other observers continue"
    assert broken.events_seen == events[: len(broken.events_seen)]
    assert len(broken.events_seen) == 1 + ["begin", "row", "grid", "score", "end"].index(event)
    err = capsys.readouterr().err
    assert err.count("ddim-host: warning: observer 0 failed and is now disabled") == 1
    assert {"ValueError": "it raised ValueError: no idea (", "SystemExit": "it raised SystemExit"}.get(
        type(error).__name__, "why: no server; it is off"
    ) in err


def test_traceback_of_an_observer_is_printed_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for expected in (0, 1):
        send_all(watched_by(Recorder("row", ValueError("no idea"))), tmp_path)
        assert capsys.readouterr().err.count("Traceback") == expected
        monkeypatch.setenv(TRACEBACK, "1")


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (KeyboardInterrupt(), Ending("interrupted", "interrupted")),
        (InterruptedTrainingError(1200), Ending("interrupted", "interrupted after 1,200 steps")),
        (DivergedError(), Ending("failed", "a loss or a weight is no longer finite")),
        (UserError("no room", why="the disk is full"), Ending("failed", "no room; the disk is full")),
        (ZeroDivisionError("by\x1b[31m 0"), Ending("failed", "ZeroDivisionError: by 0")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_ending_is_reported_and_its_error_propagates(
    error: BaseException, ending: Ending, tmp_path: Path
) -> None:
    recorder, broken = Recorder(), Recorder("end", RuntimeError("also broken"))
    observers = watched_by(broken, recorder)
    with pytest.raises(type(error)) as caught, observers.watching(ObservedRun(tmp_path, "run", {}, {})):
        raise error
    assert caught.value is error
    assert recorder.events_seen[-1] == ending


def test_ctrl_c_in_an_observer_ends_the_run(tmp_path: Path) -> None:
    recorder = Recorder("row", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        send_all(watched_by(recorder), tmp_path)
    assert recorder.events_seen[-1] == Ending("interrupted", "interrupted")


def test_other_processes_call_no_observers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ddim_host.experiment.observers.launched", lambda: Launch(1, 2, "torchrun"))
    recorder = Recorder()
    send_all(Observers([Watcher(recorder, "observer", "")], ["one is missing"]), tmp_path)
    assert recorder.events_seen == []
    assert capsys.readouterr().err == ""


def test_observer_methods_are_optional(tmp_path: Path) -> None:
    class Rows(Observer):
        def __init__(self) -> None:
            self.rows: list[EpochMetrics] = []

        def on_row(self, row: EpochMetrics, /) -> None:
            self.rows.append(row)

    observer = Rows()
    send_all(watched_by(observer), tmp_path)
    assert observer.rows == [ROW]
