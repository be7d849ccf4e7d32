"""`optimize`, and `--timestep-subset optimized` in the commands that sample."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.distributions import Site

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.commands import Command, Outcome, Run

SEARCH = ["--steps", "3,1,2", "--teacher-steps", "8", "--images", "6", "--batch-size", "4"]
USE = ["--timestep-subset", "optimized"]


def subsets(run: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((run / "subsets.json").read_text(encoding="utf-8"))["subsets"]
    return found


def timesteps(run: Path) -> list[list[int]]:
    return [subset["timesteps"] for subset in subsets(run)]


@pytest.fixture(scope="module")
def searched(
    several_runs: Callable[..., dict[str, Run]], tiny_run: Run, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Run]]:
    """A folder with two copies of a run, and the commands run on them."""
    folder = tmp_path_factory.mktemp("searched")
    run, other = str(folder / "run"), str(folder / "other")
    for copy in (run, other):
        shutil.copytree(tiny_run.path, copy)
    commands = {
        "search": ["optimize", run, *SEARCH],
        "again": ["optimize", other, *SEARCH],
        "sample.npz": ["sample", run, *USE, "--steps", "3"],
        "2m.npz": ["sample", run, *USE, "--steps", "3", "--solver", "dpmpp_2m"],
        "evaluate": ["evaluate", run, *USE, "--steps", "2,3", "--eta", "0", "--samples", "20"],
        "reconstruct.png": ["reconstruct", run, *USE, "--steps", "2", "--num-images", "4"],
        "transfer.npz": [
            *("sample", other, "--weights", "raw", "--steps", "2"),
            *("--timestep-subset", f"optimized:from={run}"),
        ],
        "more": ["optimize", other, *SEARCH[2:], "--steps", "2", "--weights", "raw"],
    }
    with_places = {
        name: [*words, "--out", str(folder / name)] if "." in name else words
        for name, words in commands.items()
    }
    return folder, several_runs(with_places)


def test_all_commands_succeed(searched: tuple[Path, dict[str, Run]]) -> None:
    for name, run in searched[1].items():
        assert run.outcome.code == 0, (name, run.outcome.err)


def test_subsets_are_stored_with_their_protocol(searched: tuple[Path, dict[str, Run]]) -> None:
    folder, runs = searched
    found = subsets(folder / "run")
    assert [len(subset["timesteps"]) for subset in found] == [1, 2, 3]
    for subset in found:
        search, chosen = subset["search"], subset["timesteps"]
        assert chosen == sorted(set(chosen))
        assert set(chosen) <= set(search["teacher_timesteps"])
        assert {0, 500, 999} <= set(search["teacher_timesteps"])
        assert 0.0 <= subset["expected_error"] <= subset["linear_expected_error"]
        assert (search["method"], search["distribution"]) == ("dynamic_programming", "ddim-host")
        assert search["version"]
        assert (search["num_images"], search["seed"], search["batch_size"]) == (6, 0, 4)
        assert (search["weights"], search["checkpoint"], search["checkpoint_steps"]) == ("ema", "latest", [3])
        assert (search["plugin"], search["device"], search["precision"]) == ("torch", "cpu", "fp32")
        assert subset["calls"] == 2 * len(search["teacher_timesteps"])
        assert subset["made_with"]["ddim-host"]
    out = runs["search"].outcome.out
    for subset in found:
        listed = ", ".join(map(str, subset["timesteps"]))
        assert any(line.split("  ")[-1] == listed for line in out.splitlines()), out
    assert "wrote" in out.splitlines()[-1]


def test_search_is_reproducible(searched: tuple[Path, dict[str, Run]]) -> None:
    folder, _ = searched
    one, other = subsets(folder / "run"), subsets(folder / "other")[:3]
    for subset in (*one, *other):
        del subset["seconds"], subset["made_with"]
    assert one == other


def test_subsets_of_other_weights_are_added(searched: tuple[Path, dict[str, Run]]) -> None:
    weights = [subset["search"]["weights"] for subset in subsets(searched[0] / "other")]
    assert weights == ["ema", "ema", "ema", "raw"]


@pytest.mark.parametrize(("name", "solver"), [("sample", "ddim"), ("2m", "dpmpp_2m")])
def test_sampling_uses_the_subset(searched: tuple[Path, dict[str, Run]], name: str, solver: str) -> None:
    folder, _ = searched
    record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    assert record["timesteps"] == timesteps(folder / "run")[2]
    assert (record["solver"], record["network_calls"]) == (solver, 3)
    assert record["timestep_subset"] == "optimized"
    assert np.load(folder / f"{name}.npz")["images"].shape == (4, 8, 8, 1)


def test_scores_and_reconstructions_record_the_subset(searched: tuple[Path, dict[str, Run]]) -> None:
    folder, _ = searched
    found = timesteps(folder / "run")
    scores = json.loads((folder / "run" / "evaluation.json").read_text(encoding="utf-8"))["scores"]
    assert [score["sampled"]["timesteps"] for score in scores] == found[1:]
    [row] = json.loads((folder / "reconstruct.json").read_text(encoding="utf-8"))["errors"]
    assert row["timesteps"] == found[1]


def test_subset_of_another_run_can_be_used(searched: tuple[Path, dict[str, Run]]) -> None:
    folder, _ = searched
    record = json.loads((folder / "transfer.json").read_text(encoding="utf-8"))
    assert record["timesteps"] == timesteps(folder / "run")[1]
    assert record["timestep_subset"] == f"optimized:from={folder / 'run'}"
    assert record["weights"] == "raw"


# --- Refused, before a framework is imported ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "optimize RUN --steps 0",
            "--steps must be an integer from 1 to 100,000, or several separated by commas, not '0'",
        ),
        (
            "optimize RUN --steps 3,x",
            "--steps must be an integer from 1 to 100,000, or several separated by commas, not '3,x'",
        ),
        (
            "optimize RUN --steps 9 --teacher-steps 8",
            "cannot choose 9 timesteps from a teacher with 8 steps",
        ),
        ("optimize RUN --teacher-steps 1", "integer from 2 to 10,000, not '1'"),
        ("optimize RUN --images 1", "integer from 2 to 10,000, not '1'"),
        ("optimize RUN --search dynamic", "there is no subset search named 'dynamic'"),
        ("optimize RUN --search dynamic_programming:depth=2", "has no parameter 'depth'"),
        ("optimize RUN --refine pixels", "--refine must be one of none, teacher, features, not 'pixels'"),
        ("optimize RUN --solver heun", "--solver has no effect without --refine"),
        ("optimize RUN --refine features --images 40", "20 images are too few to refine timesteps with the"),
        ("optimize RUN --refine teacher --solver other", "there is no solver named 'other'"),
        ("optimize RUN --seed -1", "--seed must be an integer in [0, 2^63), not '-1'"),
        ("optimize RUN --clip false --clip-range 2", "--clip-range has no effect with --clip false"),
        ("optimize RUN --steps 1001", "cannot sample in 1001 steps"),
        ("optimize RUN --eta 0.5", "`ddim-host optimize` does not accept '--eta'"),
        ("optimize RUN --checkpoint worst", "--checkpoint must be one of"),
        ("optimize nowhere", "there is no run in nowhere"),
        ("sample RUN USE --steps 5", "the run in RUN has no optimized timestep subset of 5 steps"),
        ("sample RUN USE --steps 5", "fix: ddim-host optimize RUN --steps 5"),
        ("sample RUN USE --steps 2 --weights raw", "were found for other weights"),
        ("sample RUN USE --steps 2 --weights raw", "ddim-host optimize RUN --steps 2 --weights raw"),
        ("evaluate RUN USE --steps 2,7 --eta 0", "has no optimized timestep subset of 7 steps"),
        ("reconstruct RUN USE --steps 2,7", "has no optimized timestep subset of 7 steps"),
        ("sample TINY USE --steps 2", "the run in TINY has no optimized timestep subsets"),
        ("sample TINY --timestep-subset optimized:from=TINY", "has no optimized timestep subsets"),
        ("sample TINY --timestep-subset optimized:from=nowhere", "there is no run in"),
        ("sample TINY --timestep-subset optimized:to=RUN", "has no parameter 'to'"),
        ("sample TINY --timestep-subset optimized:to=RUN", "from (path or none, default none)"),
        ("run --plugin torch USE", "needs a trained network"),
        ("run --start-from RUN USE --train-steps 9", "needs a trained network"),
        ("sweep --plugin torch USE", "needs a trained network"),
    ],
)
def test_invalid_request_is_one_error(
    in_process: Callable[..., Outcome],
    searched: tuple[Path, dict[str, Run]],
    tiny_run: Run,
    command: str,
    message: str,
) -> None:
    run, tiny = str(searched[0] / "run"), str(tiny_run.path)
    words = command.replace("USE", " ".join(USE)).replace("RUN", run).replace("TINY", tiny).split()
    before = (searched[0] / "run" / "subsets.json").read_bytes()
    outcome = in_process(*words)
    assert outcome.code == 2, outcome
    assert message.replace("RUN", run).replace("TINY", tiny) in outcome.err
    assert outcome.err.count("error: ") == 1
    assert "Traceback" not in outcome.err
    assert (searched[0] / "run" / "subsets.json").read_bytes() == before


def test_subsets_of_another_checkpoint_are_refused(
    in_process: Callable[..., Outcome], searched: tuple[Path, dict[str, Run]], tmp_path: Path
) -> None:
    """The weights themselves are compared, not the number of steps."""
    run = tmp_path / "trained-again"
    shutil.copytree(searched[0] / "run", run)
    [weights] = run.glob("checkpoints/*/ema.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    outcome = in_process("sample", run, *USE, "--steps", "2")
    assert outcome.code == 2
    assert "were found for other weights" in outcome.err


def test_damaged_subsets_file_is_not_overwritten(
    in_process: Callable[..., Outcome], searched: tuple[Path, dict[str, Run]], tmp_path: Path
) -> None:
    run = tmp_path / "damaged"
    shutil.copytree(searched[0] / "run", run)
    (run / "subsets.json").write_text("{}", encoding="utf-8")
    for command in (["optimize", run], ["sample", run, *USE]):
        outcome = in_process(*command)
        assert outcome.code == 2
        assert "subsets.json is damaged" in outcome.err
    assert (run / "subsets.json").read_text(encoding="utf-8") == "{}"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--refine", "teacher", "--solver", "ipndm", "--images", "6"], ("pixels", "ipndm", 3)),
        (["--refine", "features", "--images", "260"], ("features of digits_mlp", "ddim", 130)),
    ],
    ids=["teacher", "features"],
)
def test_timesteps_are_refined(
    ddim_host: Command,
    tiny_run: Run,
    tmp_path: Path,
    options: list[str],
    expected: tuple[str, str, int],
) -> None:
    distance, solver, num_images = expected
    run = tmp_path / "run"
    shutil.copytree(tiny_run.path, run)
    plain = ["optimize", str(run), "--steps", "2,3", "--teacher-steps", "12", "--images", options[-1]]
    assert ddim_host(*plain).code == 0
    outcome = ddim_host(*plain, *options)
    assert outcome.code == 0, outcome.err
    assert "Warning" not in outcome.err
    plain_2, plain_3, *refined = subsets(run)
    for before, after in zip((plain_2, plain_3), refined, strict=True):
        assert before["search"].pop("refinement") is None
        refinement = after["search"].pop("refinement")
        assert refinement["distance"].startswith(distance)
        assert (refinement["solver"], refinement["num_images"]) == (solver, num_images)
        assert before["search"] == after["search"]
        assert after["refined_from"] == before["timesteps"]
        first, last = after["distances"]
        assert 0.0 < last < first or (last == first and after["timesteps"] == before["timesteps"])
        assert set(after["timesteps"]) <= set(after["search"]["teacher_timesteps"])
        assert after["calls"] > before["calls"]
    assert any(after["timesteps"] != after["refined_from"] for after in refined)
    assert f"refined           with {solver}, minimising the distance in {distance}" in outcome.out
    used = ddim_host("sample", run, *USE, "--steps", "2", "--out", tmp_path / "x.npz")
    assert used.code == 0
    assert json.loads((tmp_path / "x.json").read_text())["timesteps"] == refined[0]["timesteps"]


ONLY_TWO = """
def only_two(schedule, teacher, sizes, *, first: int = 0):
    "Return the first timesteps for S = 2 and omit other sizes."
    return {2: teacher.timesteps[first : first + 2]}

@hookimpl
def ddim_subset_searches():
    return {"only_two": only_two}
"""


def test_search_of_a_plugin_is_used_and_checked(ddim_host: Command, tiny_run: Run, tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    site.plugin("dist-two", ONLY_TWO)
    run = tmp_path / "run"
    shutil.copytree(tiny_run.path, run)
    options = ["--teacher-steps", "4", "--images", "2", "--search", "only_two:first=1"]
    outcome = ddim_host("optimize", run, *options, "--steps", "2,3", env=site.env)
    assert outcome.code == 2
    assert "subset search 'only_two' of dist-two 1.0 does not work" in outcome.err
    assert not (run / "subsets.json").exists()
    outcome = ddim_host("optimize", run, *options, "--steps", "2", env=site.env)
    assert outcome.code == 0, outcome.err
    assert "search            only_two:first=1 (dist-two 1.0)" in outcome.out
    [found] = subsets(run)
    assert found["timesteps"] == found["search"]["teacher_timesteps"][1:3]
    assert found["search"]["method"] == "only_two:first=1"
    assert found["expected_error"] > found["linear_expected_error"]


def test_new_run_can_use_the_subset_of_another(
    in_process: Callable[..., Outcome], searched: tuple[Path, dict[str, Run]]
) -> None:
    run = searched[0] / "run"
    options = ["--timestep-subset", f"optimized:from={run}", "--steps", "3"]
    outcome = in_process("run", "--plugin", "torch", "--dry-run", *options)
    assert outcome.code == 0, outcome.err
    assert f"t = {', '.join(map(str, timesteps(run)[2]))}" in outcome.out
    assert f"from={run}" in outcome.out


@pytest.mark.slow
@pytest.mark.skipif(find_spec("jittor") is None, reason="Jittor is not installed")
def test_both_frameworks_find_the_same_subsets(
    ddim_host: Command, searched: tuple[Path, dict[str, Run]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(searched[0] / "run", run)
    (run / "subsets.json").unlink()
    outcome = ddim_host("optimize", run, *SEARCH, "--plugin", "jittor")
    assert outcome.code == 0, outcome.err
    assert timesteps(run) == timesteps(searched[0] / "run")
    for ours, theirs in zip(subsets(run), subsets(searched[0] / "run"), strict=True):
        assert ours["expected_error"] == pytest.approx(theirs["expected_error"], rel=1e-3)
        assert ours["search"]["plugin"] == "jittor"
