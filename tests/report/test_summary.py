"""The table that commands print about several runs."""

from __future__ import annotations

import re
from dataclasses import replace

from ddim_host.evaluation.scores import Scores
from ddim_host.report.comparison import compare
from ddim_host.report.summary import summary
from tests.support.evaluation_samples import FLOOR, SAMPLED, scored
from tests.support.reported_runs import reported


def test_table_has_the_main_numbers_of_each_run() -> None:
    runs = [reported(), reported("another", scores=Scores((), ()))]
    assert summary(compare(runs)) == [
        "run      training  test loss  Fréchet distance (not FID), 4,000 images, digits_mlp",
        "one      15.0 s    0.0171     1.00 (3 steps, eta 0)",
        "another  15.0 s    0.0171     -",
    ]


def test_distances_of_different_protocols_have_different_columns() -> None:
    few = scored(sampled=replace(SAMPLED, num_images=500))
    lines = summary(compare([reported(), reported("few", scores=Scores((few,), (FLOOR,)))]))
    assert "4,000 images, digits_mlp  Fréchet distance (not FID), 500 images, digits_mlp" in lines[0]
    assert lines[1].endswith(" -")
    assert lines[2].split("  ")[-1].endswith("(3 steps, eta 0)")


def test_distances_of_different_solvers_have_different_columns() -> None:
    heun = scored(sampled=replace(SAMPLED, solver="heun"), frechet=50.0)
    lines = summary(compare([reported(), reported("both", scores=Scores((scored(), heun), (FLOOR,)))]))
    ddim_column, heun_column = lines[0].split("  ")[-2:]
    assert ddim_column.endswith("digits_mlp, ddim")
    assert heun_column.endswith("digits_mlp, heun")
    assert re.search(r"one +.* 1\.00 .* -$", lines[1])
    assert re.search(r"both +.* 1\.00 .* 50\.0 ", lines[2])


def test_lowest_of_several_searches_is_shown() -> None:
    other = scored(sampled=replace(SAMPLED, timesteps=(0, 400, 999)), frechet=0.5)
    [line] = summary(compare([reported(scores=Scores((scored(), other), (FLOOR,)))]))[1:]
    assert line.endswith("0.500 (3 steps, eta 0)")


def test_runs_without_results_have_no_table() -> None:
    assert summary(compare([reported(metrics=(), scores=Scores((), ()))])) == []
