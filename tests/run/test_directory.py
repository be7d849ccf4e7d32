"""The rows of metrics, written and read back, and the folders of new runs."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

import pytest

from ddim_host.errors import UserError
from ddim_host.plugin.observation import EpochMetrics
from ddim_host.run.directory import RunDirectory, new_run
from ddim_host.run.metrics import growth

if TYPE_CHECKING:
    from pathlib import Path

ROW = EpochMetrics(1, 12, 0.5, 0.6, 1e-3, 1.5, 850.25, 0.25, 1 << 20)


def test_rows_survive_a_round_trip(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_metrics([ROW, ROW])
    assert run.read_metrics() == [ROW, ROW]


def test_suggested_commands_quote_the_folder(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "my run")
    run.path.mkdir()
    run.write_config("")
    for require in (run.require_free, run.latest_checkpoint):
        with pytest.raises(UserError) as caught:
            require()
        assert f"--resume --out '{tmp_path}/my run'" in caught.value.fix


def test_undefined_rate_of_a_run_without_duration_is_read_as_nan(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_metrics([EpochMetrics(0, 1, 0.9, 1.0, 1e-3, 0.0, math.nan, 0.5, 1 << 20)])
    [row] = run.read_metrics()
    assert math.isnan(row.images_per_second)


@pytest.mark.parametrize("step", ["12.5", "inf", "9" * 30, ""])
def test_invalid_step_is_damage(tmp_path: Path, step: str) -> None:
    run = RunDirectory(tmp_path)
    run.write_metrics([ROW])
    text = run.metrics_path.read_text(encoding="utf-8").replace("1,12,", f"1,{step},")
    run.metrics_path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="is damaged"):
        run.read_metrics()


def test_runs_started_simultaneously_get_separate_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    together, found = threading.Barrier(8), []

    def begin() -> None:
        together.wait()
        with new_run("torch", "digits") as run:
            found.append(run.path.name)
            together.wait()
            (run.path / "config.toml").touch()

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [f"torch-digits-{number}" for number in range(1, 9)]
    assert len(list((tmp_path / "runs").iterdir())) == 8


def test_run_that_fails_to_start_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such images"), new_run("torch", "digits"):
        raise UserError("no such images")
    assert not list(tmp_path.iterdir())
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match="cannot use the folder runs/"), new_run("torch", "digits"):
        pass


def test_failed_beginning_can_be_repeated_and_loses_nothing(tmp_path: Path) -> None:
    """A run that starts from another one writes a checkpoint before it becomes a run."""
    run = RunDirectory(tmp_path / "run")
    stale = run.checkpoints_path / "step-00000400"

    def fail() -> None:
        with run.training(), run.beginning():
            stale.mkdir()
            raise UserError("the disk is full")

    with pytest.raises(UserError, match="the disk is full"):
        fail()
    run.require_free()
    with run.training(), run.beginning():
        assert not stale.exists(), "it may have other weights"
        (run.checkpoints_path / "step-00000002").mkdir()
    assert [path.name for path in run.checkpoints_path.iterdir()] == ["step-00000002"]
    with pytest.raises(UserError, match="not an empty folder"):
        run.require_free()


def test_checkpoints_of_a_run_that_has_begun_are_never_worthless(tmp_path: Path) -> None:
    """The first process may be killed between its last two actions, so the next one takes the mark away."""
    run = RunDirectory(tmp_path / "run")

    def die() -> None:
        with run.training(), run.beginning():
            run.write_config('[provenance]\nthreads = "1"\n')
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        die()
    run.record_resumption(0, {"threads": "2"})
    assert list(run.checkpoints_path.iterdir()) == []
    assert run.config.made_with == {"threads": "1; 2 from step 0"}


def test_pictures_started_simultaneously_get_different_names(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    together, found = threading.Barrier(8), []

    def draw() -> None:
        together.wait()
        with run.new_samples_path("samples") as path:
            found.append(path.name)
            together.wait()
            path.write_bytes(b"")

    threads = [threading.Thread(target=draw) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [f"samples-{number}.png" for number in range(1, 9)]
    assert sorted(path.name for path in run.samples_path.iterdir()) == sorted(found), (
        "no claim file may remain"
    )


def test_name_is_freed_if_no_picture_was_written(tmp_path: Path) -> None:
    """A name claimed by a killed process is free too; a record alone occupies its name."""
    run = RunDirectory(tmp_path)
    with pytest.raises(UserError, match="no such weights"), run.new_samples_path("samples"):
        raise UserError("no such weights")
    assert not list(run.samples_path.iterdir())
    (run.samples_path / ".samples-1.png.claim").touch()
    with run.new_samples_path("samples") as path:
        assert path == run.samples_path / "samples-1.png"
    (run.samples_path / "samples-1.json").touch()
    with run.new_samples_path("samples") as path:
        assert path.name == "samples-2.png"
    (tmp_path / "blocked").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        RunDirectory(tmp_path / "blocked").new_samples_path("samples").__enter__()


@pytest.mark.parametrize(
    ("losses", "untrained", "words"),
    [
        ([], 1.0, ""),
        ([(0.9, 1.1)], 1.0, ""),
        ([(0.3, 0.3), (0.2, 0.5)], 1.0, ""),
        ([(0.3, 0.3), (0.2, 0.61)], 1.0, "the final test loss is 0.61, but it was 0.3 after 1 steps"),
        ([(500.0, 2.5)], 1.0, "the final train loss is 500, but predicting 0 would give 1"),
        ([(1.5, 2.5)], 1.0, "the final test loss is 2.5, but predicting 0 would give 1"),
        ([(120.0, 120.0)], 64.0, ""),  # a loss that is a sum
        ([(500.0, 2.5), (200.0, 2.5)], math.inf, ""),
    ],
)
def test_growing_loss_is_distinguished_from_a_noisy_one(
    losses: list[tuple[float, float]], untrained: float, words: str
) -> None:
    rows = [
        EpochMetrics(number, number, train, test, 1e-3, 1.0, 1.0, 0.0, 1)
        for number, (train, test) in enumerate(losses, start=1)
    ]
    found = growth(rows, untrained)
    assert found.startswith(words) if words else not found
