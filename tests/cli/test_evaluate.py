"""`evaluate` on the command line."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ddim_host.evaluation.distances import frechet_distance
from ddim_host.evaluation.moments import Moments
from ddim_host.parts.datasets import digits
from ddim_host.parts.feature_extractors import DigitsMLP

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.commands import Command, Outcome, Run
    from tests.support.distributions import Site

GRID = ["--samples", "20", "--steps", "3,2", "--eta", "0,1", "--seed", "1,0", "--batch-size", "8"]


@pytest.fixture
def run(tiny_run: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run.path, tmp_path / "run"))


def document(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    return content


def numbers(run: Path) -> dict[tuple[str, int, int, float], dict[str, float]]:
    """Return the measures by framework, seed, steps and eta, using the first score of each."""
    found: dict[tuple[str, int, int, float], dict[str, float]] = {}
    for score in document(run)["scores"]:
        s = score["sampled"]
        found.setdefault((s["plugin"], s["seed"], len(s["timesteps"]), s["eta"]), score["measures"])
    return found


@pytest.fixture(scope="module")
def evaluated(
    several_runs: Callable[..., dict[str, Run]], tiny_run: Run, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Outcome]]:
    """A run evaluated several times in one process, because importing torch is slow."""
    run = Path(shutil.copytree(tiny_run.path, tmp_path_factory.mktemp("evaluated") / "run"))
    command = ["evaluate", str(run)]
    commands = {
        "grid": [*command, *GRID],
        "again": [*command, *GRID],
        "more seeds": [*command, *GRID[:-4], "--seed", "0,1,2", "--batch-size", "5"],
        "other N": [*command, "--samples", "21", "--steps", "2", "--eta", "0"],
        "test": [*command, "--samples", "200", "--steps", "2", "--eta", "0", "--reference", "test"],
        "raw": [*command, "--samples", "20", "--steps", "2", "--eta", "0", "--weights", "raw"],
        "images": [
            "sample",
            str(run),
            "--num-images",
            "20",
            "--steps",
            "3",
            "--eta",
            "1",
            "--out",
            f"{run}/x.npz",
        ],
    }
    return run, {name: made.outcome for name, made in several_runs(commands).items()}


def test_every_combination_has_a_score_with_its_protocol(evaluated: tuple[Path, dict[str, Outcome]]) -> None:
    run, outcomes = evaluated
    for outcome in outcomes.values():
        assert outcome.code == 0, outcome.err
    assert outcomes["grid"].out.count("\nS=") == 8
    assert outcomes["grid"].out.count(" over subsets of these images), ") == 8
    assert "e+0" not in outcomes["grid"].out
    # Per seed and eta, three batches in three steps and in two steps.
    work = "to measure        8 scores, 160 images: 60 network calls with batches of up to 8\n"
    assert work in outcomes["grid"].out
    assert "to measure" not in outcomes["again"].out
    keys = list(numbers(run))
    assert keys[:8] == [
        ("torch", seed, steps, eta) for seed in (0, 1) for steps in (2, 3) for eta in (0.0, 1.0)
    ]
    first = document(run)["scores"][0]
    assert first["sampled"]["num_images"] == 20
    assert first["sampled"]["timesteps"] == [0, 999]
    assert first["ruler"]["features"]["fingerprint"] == DigitsMLP().fingerprint
    assert (first["ruler"]["reference"]["half"], first["ruler"]["reference"]["num_images"]) == ("train", 1500)
    assert first["seconds"]["sampling"] > 0.0
    assert first["made_with"]["ddim-host"] == "0.1.0"
    assert "too few for the covariance" in first["warnings"][0]


def test_scored_images_equal_those_of_sample(evaluated: tuple[Path, dict[str, Outcome]]) -> None:
    run, _ = evaluated
    with np.load(run / "x.npz") as arrays:
        images = arrays["images"]
    moments = []
    for pixels in (images, digits().load().train):
        moments.append(Moments(128))
        moments[-1].add(DigitsMLP()(pixels))
    expected = frechet_distance(*moments)
    assert numbers(run)["torch", 0, 3, 1.0]["frechet_distance"] == pytest.approx(expected, rel=1e-6)


def test_known_scores_are_not_measured_again(evaluated: tuple[Path, dict[str, Outcome]]) -> None:
    run, outcomes = evaluated
    assert "8 of 8 scores" in outcomes["again"].out
    assert "\nS=" not in outcomes["again"].out
    assert "8 of 12 scores" in outcomes["more seeds"].out
    assert outcomes["more seeds"].out.count("seed=2") == 4
    assert outcomes["again"].out.split("\n\n")[1:] == outcomes["grid"].out.split("\n\n")[1:], (
        "the tables must be the same"
    )
    assert len(document(run)["noise_floors"]) == 2, "one noise floor per reference"


def test_table_on_the_terminal(evaluated: tuple[Path, dict[str, Outcome]]) -> None:
    _, outcomes = evaluated
    out = outcomes["more seeds"].out
    assert "Fréchet distance (not FID) in the features of digits_mlp" in out
    assert "mean (range) over 3 sampling seeds, 1 training run" in " ".join(out.split())
    assert "For comparison, 297 real test images" in out
    assert "images: 20 per score, sampled with torch (cpu, fp32); seeds 0, 1, 2" in out
    assert "For comparison, 1,500 real train images" in outcomes["test"].out
    assert max(map(len, out.split("\n\n")[2].split("\n"))) <= 110


def test_each_protocol_has_its_own_table(
    evaluated: tuple[Path, dict[str, Outcome]],
) -> None:
    run, outcomes = evaluated
    for name in ("other N", "test", "raw"):
        assert outcomes[name].out.count("\nimages: ") == 1, "only the requested table is printed"
    text = (run / "evaluation.md").read_text(encoding="utf-8")
    assert "4 tables with different protocols" in text
    rows = list(csv.DictReader((run / "evaluation.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == len(document(run)["scores"]) == 15
    assert {row["num_images"] for row in rows} == {"20", "21", "200"}


def test_only_the_evaluation_files_are_written(
    evaluated: tuple[Path, dict[str, Outcome]], tiny_run: Run
) -> None:
    run, _ = evaluated
    new = {path.name for path in run.iterdir()} - {path.name for path in tiny_run.path.iterdir()}
    assert new == {"evaluation.json", "evaluation.csv", "evaluation.md", "x.npz", "x.json"}


def grids(run: Path) -> set[str]:
    return {path.name for path in (run / "samples").glob("evaluated-*.png")}


def test_grid_is_drawn_once_and_redrawn_if_lost(
    several_runs: Callable[..., dict[str, Run]], run: Path
) -> None:
    command = ["evaluate", str(run), "--samples", "20", "--steps", "2", "--eta", "0,1", "--seed", "0,1"]
    with_grids = [*command, "--grids", "4"]
    both = {"evaluated-linear-2-eta-0-1.png", "evaluated-linear-2-eta-1-1.png"}
    first = several_runs({"scores": command, "grids": with_grids, "again": with_grids})
    assert all(made.outcome.code == 0 for made in first.values()), first
    assert grids(run) == both
    assert first["grids"].outcome.out.count("wrote") == 2 + 2  # two grids, the tables and the page
    assert first["again"].outcome.out.count("existing          grid") == 2
    lost = run / "samples" / "evaluated-linear-2-eta-1-1.png"
    before = lost.read_bytes()
    lost.unlink()
    second = several_runs({"grids": with_grids})
    assert all(made.outcome.code == 0 for made in second.values()), second
    # The record without its image stays.
    assert grids(run) == both - {lost.name} | {"evaluated-linear-2-eta-1-2.png"}
    assert (run / "samples" / "evaluated-linear-2-eta-1-2.png").read_bytes() == before


def test_grid_of_another_enlargement_is_drawn(several_runs: Callable[..., dict[str, Run]], run: Path) -> None:
    command = ["evaluate", str(run), "--samples", "20", "--steps", "2", "--eta", "0", "--grids", "4"]
    scaled = [*command, "--grid-scale", "2"]
    nearest = [*scaled, "--nearest"]
    made = several_runs({"default": command, "scaled": scaled, "nearest": nearest, "again": scaled})
    assert all(one.outcome.code == 0 for one in made.values()), made
    name = "evaluated-linear-2-eta-0"
    assert grids(run) == {f"{name}-1.png", f"{name}-2.png", f"{name}-3.png"}
    assert f"existing          grid {run / 'samples' / name}-2.png" in made["again"].outcome.out
    # Grids of older versions have no such record, and the automatic size.
    record = run / "samples" / f"{name}-1.json"
    older = json.loads(record.read_text(encoding="utf-8"))
    del older["enlargement"]
    record.write_text(json.dumps(older), encoding="utf-8")
    assert f"{name}-1.png" in several_runs({"older": command})["older"].outcome.out


def test_unwritable_grid_is_one_error(several_runs: Callable[..., dict[str, Run]], run: Path) -> None:
    shutil.rmtree(run / "samples")
    (run / "samples").touch()
    command = ["evaluate", str(run), "--samples", "20", "--steps", "2", "--eta", "0", "--grids", "4"]
    outcome = several_runs({"grids": command})["grids"].outcome
    assert outcome.code == 2
    assert "ddim-host: error: cannot write" in outcome.err
    assert "Traceback" not in outcome.err


def test_killed_evaluation_continues_where_it_stopped(
    run: Path, environment: dict[str, str], ddim_host: Command, evaluated: tuple[Path, dict[str, Outcome]]
) -> None:
    command = [sys.executable, "-m", "ddim_host", "evaluate", str(run), *GRID]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    seen = 0
    while seen < 2:
        line = process.stdout.readline()
        assert line, "the command ended before it was killed"
        seen += line.startswith(b"S=")
    process.kill()
    process.stdout.close()
    process.wait(60)
    known = len(document(run)["scores"])
    assert 2 <= known < 8
    outcome = ddim_host("evaluate", run, *GRID)
    assert outcome.code == 0, outcome.err
    assert f"{known} of 8 scores" in outcome.out
    whole = numbers(evaluated[0])
    assert numbers(run) == {key: whole[key] for key in numbers(run)}
    assert len(numbers(run)) == 8


# Background jobs of a shell ignore Ctrl-C, and so do their child processes.
_WITH_DEFAULT_SIGINT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_evaluator_ends_with_an_interrupted_command(run: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", _WITH_DEFAULT_SIGINT, "-m", "ddim_host", "evaluate", str(run), *GRID]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        [*command, "--samples", "100000"], env=environment, start_new_session=True, **pipes
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"network")
            os.killpg(process.pid, signal.SIGINT)
            _, err = process.communicate(timeout=60)
            assert process.returncode == 1
            assert b"interrupted" in err
            assert b"Traceback" not in err
            deadline = time.monotonic() + 30
            while is_alive(process.pid):
                assert time.monotonic() < deadline, "a process of the command is still running"
                time.sleep(0.1)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def is_alive(group: int) -> bool:
    """Return True if any process of the group is running."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--steps", "10,x"],
            "--steps must be an integer from 1 to 100,000, or several separated by commas, not '10,x'",
        ),
        (
            ["--steps", ""],
            "--steps must be an integer from 1 to 100,000, or several separated by commas, not ''",
        ),
        (["--steps", "0"], "from 1 to"),
        (["--steps", "10,1001"], "cannot sample in 1001 steps"),
        (["--eta", "0,1.05"], "in [0, 1]"),
        (["--eta", "nan"], "--eta must be a number in [0, 1], or several separated by commas, not 'nan'"),
        (
            ["--seed", "-1"],
            "--seed must be an integer in [0, 2^63), or several separated by commas, not '-1'",
        ),
        (["--samples", "9"], "from 10 to"),
        (["--features", "fid"], "there is no feature extractor named 'fid'"),
        (["--features", "digits_mlp:size=3"], "size"),
        (["--data", "cifar10:path=nowhere"], "nowhere"),
    ],
)
def test_invalid_option_is_one_error(
    run: Path, in_process: Callable[..., Outcome], options: list[str], message: str
) -> None:
    outcome = in_process("evaluate", run, *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_features_unsuited_to_the_images_are_refused(
    several_runs: Callable[..., dict[str, Run]], tiny: list[str], pictures: Path, ddim_host: Command
) -> None:
    data = f"images:path={pictures}"
    trained = several_runs({"pictures": [*tiny, "--data", data]})["pictures"]
    assert trained.outcome.code == 0, trained.outcome.err
    outcome = ddim_host("evaluate", trained.path, "--features", "digits_mlp", "--samples", "10")
    assert outcome.code == 2
    assert "'digits_mlp' works only on digits" in outcome.err
    assert not (trained.path / "evaluation.json").exists()


def test_damaged_scores_file_is_not_overwritten(run: Path, in_process: Callable[..., Outcome]) -> None:
    (run / "evaluation.json").write_text("{}", encoding="utf-8")
    outcome = in_process("evaluate", run)
    assert outcome.code == 2
    assert "is damaged" in outcome.err
    assert (run / "evaluation.json").read_text(encoding="utf-8") == "{}"


def test_third_party_features_work_without_changes(site: Site, run: Path, ddim_host: Command) -> None:
    site.plugin(
        "brightness",
        """
import numpy as np
class Brightness:
    fingerprint = "00000001"
    def __init__(self, *, power: int = 1):
        self.power = power
    def __call__(self, images):
        return (images.reshape(len(images), -1)[:, ::16] / 255.0).astype(np.float32) ** self.power
@hookimpl
def ddim_feature_extractors():
    return {"brightness": Brightness}
""",
    )
    options = ["--samples", "10", "--steps", "2", "--eta", "0", "--features"]
    for choice in ("brightness", "brightness:power=2"):
        outcome = ddim_host("evaluate", run, *options, choice, env=site.env)
        assert outcome.code == 0, outcome.err
        assert "Fréchet distance (not FID) in the features of brightness" in outcome.out
    one, other = document(run)["scores"]
    features = other["ruler"]["features"]
    assert (features["distribution"], features["dimension"]) == ("brightness", 4)
    assert (one["ruler"]["features"]["choice"], features["choice"]) == (
        "brightness:power=1",
        "brightness:power=2",
    )
    assert one["measures"] != other["measures"], "each parameter value needs its own reference in the cache"
