"""Plots of few-step sampling: Pareto fronts of optimized subsets, and quality against network calls."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ddim_host.evaluation.scores import Score, Scores
from ddim_host.parts.found_subsets import Refinement, SubsetsFile
from ddim_host.report.comparison import compare
from ddim_host.report.few_steps import front_plots, fronts_of, quality_plots
from ddim_host.report.json_document import as_json
from ddim_host.report.markdown import as_markdown
from ddim_host.report.page import render_page
from ddim_host.report.reported_run import ReportedRun, read_reported_run
from tests.support.evaluation_samples import SAMPLED, scored
from tests.support.reported_runs import found, reported

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.commands import Run

# --- Optimized subsets --------------------------------------------------------------------------------------


def test_front_contains_the_newest_subset_of_each_size() -> None:
    subsets = (found(20, 60, error=3.0), found(20, 60, 99), found(0, 60, error=2.0))
    [front] = fronts_of(compare([reported(subsets=subsets)]))
    assert (front.run, front.search) == ("one", "dynamic_programming")
    assert [(s.steps, s.timesteps, s.expected_error) for s in front.subsets] == [
        (2, (0, 60), 2.0),
        (3, (20, 60, 99), 1e-3),
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "gits:coeff=1.15"}, "gits:coeff=1.15"),
        ({"weights": "raw"}, "dynamic_programming, raw weights"),
        ({"checkpoint": "best-test"}, "dynamic_programming, checkpoint best-test"),
        (
            {"refinement": Refinement("pixels", "ipndm", 4)},
            "dynamic_programming, refined with ipndm by the distance between pixels",
        ),
    ],
)
def test_another_search_is_another_front(change: dict[str, Any], words: str) -> None:
    fronts = fronts_of(compare([reported(subsets=(found(20, 60), found(0, 60, **change)))]))
    assert [front.search for front in fronts] == ["dynamic_programming", words]


def test_the_front_of_each_run_is_drawn_with_its_numbers() -> None:
    subsets = (found(20, 60), found(20, 60, 99, error=5e-4))
    runs = [reported(subsets=subsets), reported("two", subsets=subsets), reported("three")]
    [plot] = front_plots(compare(runs))
    assert [row[:4] for row in plot.rows] == [
        [run, "dynamic_programming", size, error]
        for run in ("one", "two")
        for size, error in (("2", "0.00100"), ("3", "0.000500"))
    ]
    assert "one, dynamic_programming: 0.00100 at S = 2, 0.000500 at 3" in plot.summary
    assert all("two, dynamic_programming: linear" in drawn.svg for drawn in plot.drawn)
    assert front_plots(compare([reported()])) == []


def test_documents_of_all_formats_contain_the_subsets() -> None:
    comparison = compare([reported(subsets=(found(20, 60),))])
    page, markdown, document = (
        render(comparison, title="", command="") for render in (render_page, as_markdown, as_json)
    )
    assert "Optimized timesteps" in page
    assert "| one | dynamic_programming | 2 | 0.00100 | 0.00200 | 20, 60 |" in markdown
    assert json.loads(document)["runs"][0]["subsets"][0]["timesteps"] == [20, 60]
    without = render_page(compare([reported()]), title="", command="")
    assert "Optimized timesteps" not in without


def test_subsets_are_read_with_the_run_and_damage_is_reported(tiny_run: Run, tmp_path: Path) -> None:
    path = shutil.copytree(tiny_run.path, tmp_path / "run")
    SubsetsFile(path).add([found(20, 60)])
    assert read_reported_run(path, "tiny").subsets == (found(20, 60),)
    (path / "subsets.json").write_text("{}", encoding="utf-8")
    damaged = read_reported_run(path, "tiny")
    assert damaged.subsets == ()
    assert any("subsets.json is damaged" in problem for problem in damaged.problems)


# --- Quality against network calls --------------------------------------------------------------------------


def score_of(steps: int, frechet: float, *, calls: int | None = None, **changes: Any) -> Score:
    timesteps = changes.pop("timesteps", tuple(range(steps)))
    sampled = replace(SAMPLED, timesteps=timesteps, **changes)
    return replace(scored(sampled, frechet), calls=calls or steps)


def rows_of(*runs: ReportedRun) -> list[list[list[str]]]:
    return [plot.rows for plot in quality_plots(compare(runs))]


def test_each_subset_and_solver_has_a_line() -> None:
    scores = [
        score_of(5, 2.0),
        score_of(3, 4.0),
        score_of(3, 6.0, seed=1),
        score_of(3, 3.0, solver="heun", calls=5),
        score_of(5, 1.0, timestep_subset="optimized"),
        score_of(7, 0.5, eta=0.5),
    ]
    [rows] = rows_of(reported(scores=Scores(tuple(scores))))
    assert rows == [
        ["one", "linear", "ddim", "3", "5.00"],
        ["one", "linear", "ddim", "5", "2.00"],
        ["one", "linear", "heun", "5", "3.00"],
        ["one", "optimized", "ddim", "5", "1.00"],
    ]


def test_labels_contain_the_differences() -> None:
    alone = reported(scores=Scores((score_of(3, 2.0), score_of(5, 1.0))))
    [plot] = quality_plots(compare([alone]))
    assert plot.summary == "linear, ddim: 2.00 at calls = 3, 1.00 at 5"
    assert plot.title.startswith("Fréchet distance (not FID) of 4,000 samples at eta 0 against network calls")
    other = replace(alone, name="two", scores=Scores((score_of(3, 2.5),)))
    [plot] = quality_plots(compare([alone, other]))
    assert plot.summary == (
        "one, linear, ddim: 2.00 at calls = 3, 1.00 at 5; two, linear, ddim: 2.50 at calls = 3"
    )


def test_scores_of_different_networks_of_a_run_are_not_averaged() -> None:
    scores = (
        score_of(3, 4.0),
        score_of(5, 2.0),
        score_of(3, 9.0, checkpoint="best-test", checkpoint_steps=(1200,)),
        score_of(3, 5.0, precision="bf16"),
    )
    [rows] = rows_of(reported(scores=Scores(scores)))
    assert [(row[0], row[-1]) for row in rows] == [
        ("one (latest of step 1,500, fp32)", "4.00"),
        ("one (latest of step 1,500, fp32)", "2.00"),
        ("one (best-test of step 1,200, fp32)", "9.00"),
        ("one (latest of step 1,500, bf16)", "5.00"),
    ]


def test_newest_subset_of_a_repeated_search_is_shown() -> None:
    found_before = score_of(3, 9.0, timestep_subset="optimized")
    now = [
        score_of(3, value, timestep_subset="optimized", timesteps=(5, 6, 7), seed=seed)
        for seed, value in enumerate((2.0, 4.0))
    ]
    [rows] = rows_of(reported(scores=Scores((found_before, score_of(5, 1.0), *now))))
    assert ["one", "optimized", "ddim", "3", "3.00"] in rows
    assert len(rows) == 2


def test_each_protocol_has_a_figure_unless_it_has_a_single_number() -> None:
    """A single number appears in its table only."""
    other = [score_of(3, 2.0, num_images=1000), score_of(5, 1.0, num_images=1000)]
    run = reported(scores=Scores((score_of(3, 2.0), score_of(5, 1.0), *other)))
    assert [len(rows) for rows in rows_of(run)] == [2, 2]
    assert rows_of(reported(scores=Scores((score_of(3, 2.0),)))) == []
    assert "Quality against network calls" in render_page(compare([run]), title="", command="")
