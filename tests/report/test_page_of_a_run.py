"""The page of one run: pictures of training and sampling, real images, commands, and its size."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ddim_host.plugin.data import TrainTest
from ddim_host.report.comparison import compare
from ddim_host.report.headline import headline
from ddim_host.report.page import render_page
from ddim_host.report.reported_run import DuringTraining, Grid, Training, read_reported_run
from ddim_host.report.summary import summary
from ddim_host.run.directory import RunDirectory
from ddim_host.run.execution import is_complete
from ddim_host.run.images import grid_png
from ddim_host.run.real_images import nearest, write_real_images
from tests.support.reported_runs import IMAGES, RECORD, reported, rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ddim_host.plugin.data import Images
    from tests.support.commands import Outcome, PythonCode, Run


def noise(count: int) -> Images:
    return np.random.default_rng(count).integers(0, 256, (count, 8, 8, 1), np.uint8)


def test_nearest_images_equal_those_of_a_direct_search() -> None:
    train, images = noise(5000), noise(7)
    train[4321] = images[3]
    indices, distances = nearest(images, train, 3)
    apart = images[:, None].astype(float) - train[None].astype(float)
    direct = np.sqrt((apart**2).mean(axis=(2, 3, 4)))
    np.testing.assert_array_equal(indices, np.argsort(direct, axis=1, kind="stable")[:, :3])
    np.testing.assert_allclose(distances, np.sort(direct, axis=1)[:, :3])
    assert (indices[3, 0], distances[3, 0]) == (4321, 0.0)


@pytest.fixture
def run(tiny_run: Run, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_run.path, tmp_path / "run")


def test_run_stores_the_training_images_nearest_to_its_samples(run: Path) -> None:
    real = read_reported_run(run, "x").real_images
    assert real is not None
    assert (run / "samples" / real.grid).exists()
    assert all(list(row) == sorted(row) for row in real.neighbours.distances)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Real images from the test set" in page
    assert f"the nearest of {real.neighbours.num_train:,} training images" in page


def test_run_without_its_real_images_is_not_complete(run: Path) -> None:
    """A page may have been written during training, by `report`."""
    assert is_complete(RunDirectory(run))
    [record] = (run / "samples" / "real").glob("linear-*.json")
    record.unlink()
    assert not is_complete(RunDirectory(run))


KILLED_BEFORE_ITS_PAGE = """
import os
from ddim_host.cli import main, run
run.write_report = lambda *_, **__: os._exit(9)
main()
"""


@pytest.mark.process
def test_run_killed_before_its_page_is_not_complete(run: Path, python: PythonCode) -> None:
    """An older page, written during training, does not show the last pictures."""
    for picture in (run / "samples").glob("*.png"):
        picture.unlink()
    assert python(KILLED_BEFORE_ITS_PAGE, "run", "--resume", "--out", run).code == 9
    assert list((run / "samples").glob("*.png"))
    assert not is_complete(RunDirectory(run))


def test_real_images_of_a_training_set_smaller_than_three(tmp_path: Path) -> None:
    samples = tmp_path / "run" / "samples"
    samples.mkdir(parents=True)
    train = noise(2)
    write_real_images(samples / "grid.png", train[::-1], TrainTest(train, noise(1)))
    real = json.loads((samples / "real" / "grid.json").read_text(encoding="utf-8"))
    assert (real["columns"], real["num_train"]) == (3, 2)
    assert [row[0] for row in real["distances"]] == [0.0, 0.0]


def test_large_images_are_compared_in_bounded_memory(tmp_path: Path) -> None:
    samples = tmp_path / "run" / "samples"
    samples.mkdir(parents=True)
    images = np.zeros((70, 512, 512, 3), np.uint8)
    images += np.arange(70, dtype=np.uint8)[:, None, None, None]
    tracemalloc.start()
    write_real_images(samples / "grid.png", images[:2], TrainTest(images, images))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 512 << 20
    assert json.loads((samples / "real" / "test.json").read_text(encoding="utf-8")) == {"num_images": 16}


def test_damaged_real_images_are_reported_and_left_out(run: Path) -> None:
    for record in (run / "samples" / "real").glob("*.json"):
        record.write_text("{}", encoding="utf-8")
    damaged = read_reported_run(run, "x")
    assert damaged.real_images is None
    assert any("is damaged" in problem for problem in damaged.problems)
    assert "Real images" not in render_page(compare([damaged]), title="t", command="c")


def test_damaged_picture_of_real_images_is_reported(run: Path) -> None:
    (run / "samples" / "real" / "test.png").write_bytes(b"no picture")
    damaged = read_reported_run(run, "x")
    assert damaged.real_images is None
    assert any("cannot show" in problem and "test.png" in problem for problem in damaged.problems)


def drawn_during_training(folder: Path, step: int) -> None:
    path = folder / f"step-{step:08d}.png"
    path.with_suffix(".json").write_text(json.dumps(RECORD | {"rows": 4}), encoding="utf-8")
    path.write_bytes(grid_png(noise(4)))


def test_training_grids_are_shown_in_order(run: Path) -> None:
    folder = run / "samples" / "during-training"
    for drawn in folder.glob("*"):  # drawn by the run
        drawn.unlink()
    folder.mkdir(exist_ok=True)
    for step in (100, 9, 1200):
        drawn_during_training(folder, step)
    (folder / "else.png").write_bytes(b"no picture")
    page = render_page(compare([read_reported_run(run, "x")]), title="t", command="c")
    assert re.findall(r"<figcaption>after ([\d,]+) training steps", page) == ["9", "100", "1,200"]


def test_many_training_grids_are_thinned_and_broken_ones_left_out() -> None:
    many = tuple(DuringTraining(step, Grid("grid.png", grid_png(IMAGES), RECORD)) for step in range(100))
    page = render_page(compare([reported(during_training=many)]), title="t", command="c")
    steps = re.findall(r"<figcaption>after (\d+) training steps", page)
    assert (steps[0], steps[-1], len(steps)) == ("0", "99", 12)
    broken = (*many[:2], DuringTraining(2, Grid("grid.png", b"no picture", RECORD)))
    page = render_page(compare([reported(during_training=broken)]), title="t", command="c")
    assert page.count(" training steps</figcaption>") == 2
    assert "1 more picture is omitted" in page


def test_a_trajectory_is_shown_step_by_step() -> None:
    record = RECORD | {"kind": "trajectory", "rows": 2, "columns": 3, "shown_timesteps": [999, 500, 0]}
    grid = Grid("trajectory-1.png", grid_png(noise(6), columns=3), record)
    page = render_page(compare([reported(grids=(grid,))]), title="t", command="c")
    assert re.findall(r"<figcaption>predicted at t = (\d+)", page) == ["999", "500", "0"]
    hostile = replace(grid, record=record | {"shown_timesteps": ["<b>"] * 3})
    page = render_page(compare([reported(grids=(hostile,))]), title="t", command="c")
    assert "From noise to images" not in page
    assert "predictions during sampling" in page


def test_the_newest_of_ten_trajectories_is_shown(run: Path) -> None:
    record = RECORD | {"kind": "trajectory", "rows": 2, "columns": 3, "shown_timesteps": [999, 500, 0]}
    for number in (2, 9, 10):
        path = run / "samples" / f"trajectory-{number}.png"
        path.write_bytes(grid_png(noise(6), columns=3))
        path.with_suffix(".json").write_text(json.dumps(record | {"seed": number}), encoding="utf-8")
    page = render_page(compare([read_reported_run(run, "x")]), title="t", command="c")
    assert "eta 0.0, seed 10" in page


def test_a_page_of_many_pictures_stays_below_two_megabytes() -> None:
    def grid(seed: int) -> Grid:
        images = np.random.default_rng(seed).integers(0, 256, (64, 32, 32, 3), np.uint8)
        return Grid(f"grid-{seed}.png", grid_png(images), RECORD | {"rows": 64, "seed": seed})

    run = reported(image_shape=(32, 32, 3), grids=tuple(map(grid, range(20))))
    page = render_page(compare([run]), title="t", command="c")
    assert len(page.encode()) < 2_000_000
    assert re.search(r"\d+ more pictures are omitted", page)


def test_a_page_of_many_epochs_stays_below_two_megabytes() -> None:
    many = tuple(replace(rows()[1], epoch=epoch, step=10 * epoch) for epoch in range(1, 50_001))
    page = render_page(compare([reported(metrics=many)]), title="t", command="c")
    assert len(page.encode()) < 2_000_000
    assert "at most 1,000 of up to 50,000 epochs are shown" in page
    assert "<td>500000</td>" in page, "the last row is always shown"


def test_a_run_that_starts_from_another_one_reports_only_its_own_training() -> None:
    begun = reported("begun", first_step=30, metrics=rows()[3:])
    facts = {fact.name: fact for fact in headline(begun, compare([begun]).throughput[0])}
    assert (facts["Training"].value, facts["Training"].note) == (
        "1.00 s from step 30",
        "5 steps of 128 images",
    )
    both = compare([reported(), begun])
    assert "begun started from weights that had been trained for 30 steps; its times do not include them" in (
        both.warnings
    )
    assert "1.00 s from step 30" in summary(both)[2]


def test_a_run_that_only_samples_the_weights_of_another_is_finished(run: Path) -> None:
    (run / "metrics.csv").unlink()
    read = read_reported_run(run, "x")
    assert str(read.training) == "step 3 of 3"
    assert not compare([read]).warnings


def test_commands_are_limited_to_those_possible() -> None:
    def commands(**changes: Any) -> str:
        page = render_page(compare([reported(**changes)]), title="t", command="c")
        return page[page.index("<h2>Commands") :]

    assert "ddim-host sample runs/one" in commands()
    assert "--resume" not in commands()
    assert "--start-from runs/one --train-steps 70" in commands()
    assert "run --resume --out runs/one" in commands(training=Training(35, 50, "step"))
    assert "ddim-host sample" not in commands(num_parameters=None)


def test_page_reloads_itself_only_during_training() -> None:
    comparison = compare([reported(training=Training(35, 50, "step"))])
    live = render_page(comparison, title="t", command="c", refresh=5)
    assert '<meta http-equiv="refresh" content="5">' in live
    assert "In training: step 35 of 50." in live
    assert "has not finished" not in live
    still = render_page(comparison, title="t", command="c")
    assert "http-equiv" not in still
    assert "has not finished" in still


def test_report_rewrites_the_page(run: Path, in_process: Callable[..., Outcome]) -> None:
    (run / "report.html").write_text("old", encoding="utf-8")
    outcome = in_process("report", run)
    assert (outcome.code, outcome.out) == (0, f"wrote {run / 'report.html'}\n"), outcome.err
    assert "<h2>Samples" in (run / "report.html").read_text(encoding="utf-8")
    assert in_process("report", run / "gone").code == 2


def test_watching_a_finished_run_ends_immediately(run: Path, in_process: Callable[..., Outcome]) -> None:
    """Even if it was interrupted while it drew its last samples."""
    for picture in (run / "samples").glob("*.png"):
        picture.unlink()
    (run / "report.html").write_text("old", encoding="utf-8")
    outcome = in_process("report", run, "--watch")
    assert outcome.code == 0, outcome.err
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<title>" in page
    assert "http-equiv" not in page


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.process
@pytest.mark.parametrize("how", ["the run ends", "Ctrl-C"])
def test_a_page_follows_a_run(run: Path, environment: dict[str, str], how: str) -> None:
    """The test itself holds the lock on the folder, as a training process would."""
    page = run / "report.html"
    command = [sys.executable, "-m", "ddim_host", "report", str(run), "--watch"]
    with RunDirectory(run).training():
        page.unlink()
        watching = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            # A process started in the background ignores SIGINT.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        )
        wait_for(page.exists)
        assert "http-equiv" in page.read_text(encoding="utf-8")
        folder = run / "samples" / "during-training"
        folder.mkdir(exist_ok=True)
        for step in (3, 6):
            drawn_during_training(folder, step)
        wait_for(lambda: "after 6 training steps" in page.read_text(encoding="utf-8"))
        if how == "Ctrl-C":
            watching.send_signal(signal.SIGINT)
            assert watching.wait(60) == 0
    assert watching.wait(60) == 0
    assert "http-equiv" not in page.read_text(encoding="utf-8")
