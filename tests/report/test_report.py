"""Comparisons of runs: differences, comparability, and their page, Markdown and JSON."""

from __future__ import annotations

import json
import re
import shutil
import struct
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ddim_host.evaluation.scores import EvaluationFile, Scores
from ddim_host.report.comparison import compare
from ddim_host.report.headline import headline
from ddim_host.report.json_document import as_json
from ddim_host.report.markdown import as_markdown
from ddim_host.report.page import render_page
from ddim_host.report.quality import quality_of
from ddim_host.report.reported_run import Grid, ReportedRun, Training, _grid, read_reported_run
from ddim_host.run.images import grid_images, grid_png
from tests.support.evaluation_samples import FLOOR, RULER, SAMPLED, scored
from tests.support.reported_runs import (
    HOSTILE,
    IMAGES,
    RECORD,
    SETTINGS,
    reported,
    rows,
    whole_page,
    with_settings,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.commands import Outcome, Run

# --- Comparability -----------------------------------------------------------------------------


def test_differing_and_common_settings_are_separated() -> None:
    other = with_settings("two", plugin="jittor", **{"loss.delta": "0.1"})
    comparison = compare([reported(), other])
    assert {d.setting: d.values for d in comparison.differing} == {
        "plugin": ("torch", "jittor"),
        "loss.delta": ("-", "0.1"),
    }
    assert "plugin" not in comparison.common
    assert comparison.common["data"] == "digits"


@pytest.mark.parametrize(
    "change",
    [
        {"loss": "l2"},
        {"data": "cifar10"},
        {"data.images": "8 train (SHA-256 0123456789ab...), 2 test (0123456789ab...)"},
        {"num_train_timesteps": "50"},
    ],
)
def test_losses_in_different_units_are_not_compared(change: dict[str, str]) -> None:
    comparison = compare([reported(), reported("two"), with_settings("three", **change)])
    assert [[run.name for run in group.runs] for group in comparison.losses] == [["one", "two"], ["three"]]
    [warning] = [w for w in comparison.warnings if "losses" in w]
    assert "not comparable" in warning


def test_losses_of_different_frameworks_and_samplers_are_compared() -> None:
    other = with_settings("two", plugin="jittor", timestep_sampler="importance", batch_size="64")
    comparison = compare([reported(), other])
    assert len(comparison.losses) == 1
    assert comparison.warnings == ()


def test_speed_is_that_of_the_steady_state() -> None:
    [speed] = compare([reported()]).throughput
    assert speed.images_per_second == pytest.approx(100.0)
    assert speed.range_over_epochs == (100.0, 100.0)
    assert speed.seconds_per_epoch == 3.0, "the median of the two complete epochs without compilation"
    assert (speed.warmup_seconds, speed.total_seconds) == (7.0, 15.0)
    assert speed.peak_memory_bytes == 35_000_000


def test_rate_is_within_its_range_over_epochs() -> None:
    """The first epoch, which includes compilation, counts for neither."""
    first, *_ = rows()
    metrics = (
        replace(first, epoch=1, seconds=1.0, images_per_second=50.0, warmup_seconds=3.0),
        replace(first, epoch=2, seconds=2.0, images_per_second=90.0, warmup_seconds=0.0),
        replace(first, epoch=3, seconds=1.0, images_per_second=93.0, warmup_seconds=0.0),
    )
    [speed] = compare([reported(metrics=metrics)]).throughput
    assert speed.range_over_epochs == (90.0, 93.0)
    assert speed.images_per_second == pytest.approx(91.0)
    assert speed.total_seconds == pytest.approx(7.0)


def test_scores_are_compared_if_only_the_run_differs() -> None:
    jittor = scored(replace(SAMPLED, plugin="jittor", checkpoint_steps=(99,)), frechet=0.5)
    fewer = scored(replace(SAMPLED, num_images=1000))
    comparison = compare([reported(), reported("two", scores=Scores((jittor, fewer), (FLOOR,)))])
    assert [[run.name for run, _ in group.tables] for group in comparison.quality] == [
        ["one", "two"],
        ["two"],
    ]
    [warning] = [w for w in comparison.warnings if "quality" in w]
    assert "not comparable" in warning
    table = quality_of(comparison.quality[0]).tables[0]
    assert [[c.mean for c in row.cells] for row in table.rows] == [[1.0], [0.5]]


def seeds_scored(run: str, *distances: float) -> ReportedRun:
    scores = (scored(replace(SAMPLED, seed=seed), distance) for seed, distance in enumerate(distances))
    return reported(run, scores=Scores(tuple(scores), (FLOOR,)))


def marks(*runs: ReportedRun) -> list[list[bool]]:
    """Return the marks in the first table of each kind of row."""
    [group] = compare(runs).quality
    tables = {table.rows_are: table for table in reversed(quality_of(group).tables)}
    return [[row.cells[0].best for row in table.rows] for table in tables.values()]


def trained(loss: str, *distances: tuple[float, ...]) -> list[ReportedRun]:
    """Return a run for each training seed, with a score for each sampling seed."""
    return [
        replace(
            seeds_scored(f"{loss}-{seed}", *values),
            settings={**SETTINGS, "loss": loss, "seed": str(seed)},
        )
        for seed, values in enumerate(distances)
    ]


def test_runs_of_one_training_seed_are_not_marked() -> None:
    """Readers would take a mark in a table for a significant difference."""
    assert marks(seeds_scored("one", 1.0, 1.1), seeds_scored("two", 2.0, 2.1)) == [[False, False]]


def test_one_run_is_marked_by_its_ranges_over_sampling_seeds() -> None:
    def run(*distances: tuple[float, float, float]) -> ReportedRun:
        scores = [
            scored(replace(SAMPLED, seed=seed, eta=eta), distance)
            for seed, row in enumerate(distances)
            for eta, distance in zip((0.0, 0.5, 1.0), row, strict=True)
        ]
        return reported(scores=Scores(tuple(scores), (FLOOR,)))

    assert marks(run((1.0, 1.19, 1.3), (1.2, 1.6, 1.4))) == [[True, True, False]]
    assert marks(run((1.0, 1.1, 1.3))) == [[False, False, False]], "one seed has no range"


def test_scores_are_averaged_over_training_seeds() -> None:
    runs = [*trained("mse", (1.0, 1.2), (2.0, 2.2)), *trained("l2", (3.0, 3.2), (3.0, 3.4))]
    comparison = compare(runs)
    [quality] = map(quality_of, comparison.quality)
    table = quality.tables[0]
    assert "; mean (range) over training seeds; " in table.title
    assert [(row.name, [cell.text for cell in row.cells]) for row in table.rows] == [
        ("loss mse, seeds 0, 1", ["1.60 (1.10 to 2.10)"]),
        ("loss l2, seeds 0, 1", ["3.15 (3.10 to 3.20)"]),
    ]
    assert marks(*runs) == [[False] * 4, [True, False]]
    for text in (
        render_page(comparison, title="", command=""),
        as_markdown(comparison, title="", command=""),
        as_json(comparison, title="", command=""),
    ):
        assert "loss mse, seeds 0, 1" in text
    assert "| setting | eta | S = 3 |" in as_markdown(comparison, title="", command="")


def test_overlapping_ranges_over_training_seeds_are_marked_together() -> None:
    both = [*trained("mse", (974.0,), (990.0,)), *trained("l2", (975.0,), (988.0,))]
    assert marks(*both)[-1] == [True, True]
    assert marks(*both[:3])[-1] == [False, False], "one of the settings has a single seed"


def test_higher_precision_is_better() -> None:
    runs = [*trained("mse", (1.0,), (1.0,)), *trained("l2", (1.0,), (1.0,))]
    for run, precision in zip(runs, (0.5, 0.6, 0.8, 0.9), strict=True):
        [score] = run.scores.scores
        object.__setattr__(score, "measures", replace(score.measures, precision=precision))
    [quality] = map(quality_of, compare(runs).quality)
    [table] = [t for t in quality.tables if t.rows_are == "setting" and "Precision" in t.title]
    assert [row.cells[0].best for row in table.rows] == [False, True]


def test_columns_state_network_calls_if_there_are_more_than_steps() -> None:
    scores = Scores((replace(scored(), calls=5),), (FLOOR,))
    comparison = compare([reported(scores=scores)])
    [quality] = map(quality_of, comparison.quality)
    assert {(table.steps, table.calls, table.columns) for table in quality.tables} == {
        ((3,), (5,), ("S = 3, 5 calls",))
    }
    for text in (
        render_page(comparison, title="", command=""),
        as_markdown(comparison, title="", command=""),
        as_json(comparison, title="", command=""),
    ):
        assert "S = 3, 5 calls" in text


def test_grids_of_different_solvers_are_not_compared() -> None:
    png = grid_png(IMAGES)
    heun = Grid("heun.png", png, {**RECORD, "solver": "heun", "network_calls": 3})
    ddim = Grid("ddim.png", png, {**RECORD, "solver": "ddim", "network_calls": 2})
    old = Grid("old.png", png, RECORD)
    comparison = compare([reported("one", grids=(old, heun)), reported("two", grids=(ddim,))])
    assert [[grid.name for _, grid in grids.grids] for grids in comparison.grids] == [
        ["old.png", "ddim.png"],
        ["heun.png"],
    ]
    page = render_page(comparison, title="", command="")
    assert "2 steps, eta 0," in page
    assert "2 steps (3 calls) with heun, eta 0," in page


def test_captions_state_the_conditions_of_the_numbers() -> None:
    [group] = compare([seeds_scored("one", 1.0, 2.0), seeds_scored("two", 1.0, 2.0)]).quality
    for table in quality_of(group).tables:
        for fact in (
            "in the features of digits_mlp",
            "mean (range) over 2 sampling seeds, 1 training run each",
            "N = 4,000 samples against 1,500 real train images",
            "the 297 real test images: ",
        ):
            assert fact in table.title, fact
    kernel = quality_of(group).tables[1]
    assert "x 1000" in kernel.title
    assert kernel.title.endswith("real test images: 200"), "real images must have the unit of the table"


def test_rows_of_different_checkpoints_of_a_run_have_different_names() -> None:
    early = replace(SAMPLED, checkpoint="best-test", checkpoint_steps=(1200,))
    run = reported(scores=Scores((scored(), scored(sampled=early, frechet=2.0)), ()))
    [group] = compare([run]).quality
    names = {row.name for table in quality_of(group).tables for row in table.rows}
    assert names == {"one (latest of step 1,500)", "one (best-test of step 1,200)"}


def test_training_seeds_do_not_include_runs_that_start_from_others() -> None:
    of_seeds = [
        reported(f"seed {n}", settings=SETTINGS | {"seed": str(n)}, scores=Scores((scored(),), ()))
        for n in (0, 1)
    ]
    [group] = compare(of_seeds).quality
    assert quality_of(group).tables[0].rows_are == "setting"
    [group] = compare([of_seeds[0], replace(of_seeds[1], first_step=4)]).quality
    assert quality_of(group).tables[0].rows_are == "run"


def test_headline_prefers_the_newest_averaged_weights() -> None:
    now = replace(SAMPLED, checkpoint_steps=(35,))
    raw = scored(sampled=replace(now, weights="raw"), frechet=0.1)
    early = scored(sampled=replace(now, checkpoint_steps=(20,), num_images=9000), frechet=0.2)
    usual = scored(sampled=now, frechet=0.3)
    distance = headline(reported(scores=Scores((raw, early, usual), ())), None)[-1]
    assert distance.value == "0.300"
    assert "weights" not in distance.note
    distance = headline(reported(scores=Scores((raw, early), ())), None)[-1]
    assert (distance.value, "raw weights" in distance.note) == ("0.100", True)
    distance = headline(reported(scores=Scores((early,), ())), None)[-1]
    assert "weights of step 20" in distance.note


def test_distances_of_too_few_images_are_marked_in_headline_and_caption() -> None:
    few = replace(FLOOR, warnings=("it is singular",))
    run = reported(scores=Scores((scored(warnings=("it is singular",)),), (few,)))
    distance = headline(run, None)[-1]
    assert "4,000 images (too few; see the warnings), digits_mlp" in distance.note
    assert "real test images: 4.27 (too few; see the warnings)" in distance.note
    assert "too few" not in headline(reported(), None)[-1].note
    [quality] = map(quality_of, compare([run]).quality)
    assert (
        "the 297 real test images: 4.27 (too few images; see the warnings below)" in quality.tables[0].title
    )
    said = [line for line in quality.remarks if "singular" in line]
    assert said == ["Warning: it is singular."], "a warning about both must appear once"
    [quality] = map(quality_of, compare([reported(scores=Scores((scored(),), (few,)))]).quality)
    assert "Warning: noise floor: it is singular." in quality.remarks


CONDITIONS = {
    "device": "a processor, native kernels",
    "precision": "fp32",
    "threads": "1",
    "processes": "1",
    "torch": "2.13.0",
    "command": "ddim-host run --plugin torch",
}


@pytest.mark.parametrize(
    ("name", "value"), [("threads", "2"), ("precision", "bf16"), ("processes", "4"), ("device", "a GPU")]
)
def test_speeds_under_different_conditions_are_reported(name: str, value: str) -> None:
    other = reported("two", provenance={**CONDITIONS, name: value})
    comparison = compare([reported(provenance=CONDITIONS), other])
    [warning] = comparison.warnings
    wanted = f"times were measured under different conditions: {name} {CONDITIONS[name]} (one), {value} (two)"
    assert warning == wanted
    shown = {condition.setting: condition.values for condition in comparison.conditions}
    assert shown[name] == (CONDITIONS[name], value)
    assert shown["framework"] == ("torch 2.13.0", "torch 2.13.0")
    page = render_page(comparison, title="t", command="c")
    assert "Measurement conditions" in page
    document = json.loads(as_json(comparison, title="t", command="c"))
    assert document["conditions"][name] == {"one": CONDITIONS[name], "two": value}


def test_same_conditions_cause_no_warning() -> None:
    """Runs without stored conditions and runs without speed cause no warning either."""
    runs = [
        reported(provenance=CONDITIONS),
        reported("two", provenance={**CONDITIONS, "torch": "2.14.0", "command": "another one"}),
        reported("three", provenance={}),
    ]
    assert compare(runs).warnings == ()
    untrained = reported("four", provenance={**CONDITIONS, "threads": "2"}, metrics=(), training=None)
    assert compare([runs[0], untrained]).warnings == ("four: no epoch has finished yet",)


@pytest.mark.parametrize(
    "other",
    [
        replace(RULER, features=replace(RULER.features, fingerprint="00" * 32)),
        replace(RULER, reference=replace(RULER.reference, sha256="00" * 32)),
    ],
)
def test_scores_of_different_rulers_are_not_compared(other: Any) -> None:
    comparison = compare([reported(), reported("two", scores=Scores((scored(ruler=other),), ()))])
    assert len(comparison.quality) == 2


def test_grids_of_the_same_noise_are_compared() -> None:
    near, far = IMAGES.copy(), IMAGES.copy()
    near[:, 0] += 2
    far[1, 3, 3] += 50
    grids = [Grid("grid.png", grid_png(images), RECORD) for images in (near, far)]
    other_noise = Grid("grid.png", grid_png(IMAGES), {**RECORD, "seed": 1})
    comparison = compare(
        [reported(), reported("near", grids=(grids[0],)), reported("far", grids=(grids[1], other_noise))]
    )
    together, alone = comparison.grids
    assert [run.name for run, _ in together.grids] == ["one", "near", "far"]
    first, second, third = together.differences
    assert first is None
    assert second is not None
    assert third is not None
    assert (second.largest, second.num_within_two, second.mean) == (2, 5, 0.25)
    assert (third.largest, third.num_within_two) == (50, 4)
    assert alone.differences == (None,)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("interpolation", "interpolations, 2 steps"), ("trajectory", "predictions during sampling")],
)
def test_interpolations_and_trajectories_are_shown_side_by_side(
    kind: str, words: str, tmp_path: Path
) -> None:
    record = {**RECORD, "kind": kind, "rows": 2, "columns": 3, "seconds": 1.0, "warmup_seconds": 0.5}
    images = np.random.default_rng(1).integers(0, 200, (6, 8, 8, 1), np.uint8)
    brighter = images.copy()
    brighter[5, 0, 0] += 9
    grids = []
    for name, pixels in (("one", images), ("two", brighter)):
        picture = tmp_path / f"{name}.png"
        picture.write_bytes(grid_png(pixels, columns=3))
        picture.with_suffix(".json").write_text(json.dumps(record), encoding="utf-8")
        grid = _grid(picture)
        assert grid is not None
        grids.append(grid)
    comparison = compare([reported(grids=(grids[0],)), reported("two", grids=(grids[1],))])
    [together] = comparison.grids
    difference = together.differences[1]
    assert difference is not None
    assert (difference.largest, difference.num_within_two) == (9, 5)
    page = render_page(comparison, title="x", command="")
    assert words in page
    assert "6 images sampled by two" in page


@pytest.mark.parametrize("count", [0, -1, 5, 10**30])
def test_impossible_number_of_images_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=r"it is not a grid|a grid cannot have"):
        grid_images(grid_png(np.zeros((4, 8, 8, 3), np.uint8)), count, (8, 8, 3))


def test_grid_that_claims_to_be_huge_is_refused() -> None:
    """Pillow raises its own error for this size."""
    png = grid_png(np.zeros((4, 8, 8, 3), np.uint8))
    header = b"IHDR" + struct.pack(">II", 65535, 65535) + png[24:29]
    huge = png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
    with pytest.raises(ValueError, match="it is not a PNG file"):
        grid_images(huge, 4, (8, 8, 3))


def test_grid_that_contradicts_its_record_has_no_difference() -> None:
    lying = Grid("grid.png", grid_png(IMAGES[:4]), RECORD)
    broken = Grid("grid.png", b"no picture", RECORD)
    [grids] = compare([reported(), reported("two", grids=(lying,)), reported("three", grids=(broken,))]).grids
    assert grids.differences == (None, None, None)


@pytest.mark.parametrize(
    ("count", "size", "channels"), [(1, 8, 1), (5, 8, 3), (64, 8, 1), (7, 32, 3), (3, 100, 3)]
)
def test_images_are_recovered_from_a_grid(count: int, size: int, channels: int) -> None:
    images = np.random.default_rng(count).integers(0, 256, (count, size, size, channels), np.uint8)
    np.testing.assert_array_equal(grid_images(grid_png(images), count, (size, size, channels)), images)
    with pytest.raises(ValueError, match=r"it is not a grid|a grid cannot have"):
        grid_images(grid_png(images), count + 5, (size, size, channels))


# --- Documents ------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """A parser that checks the nesting of elements, and collects text, ids and addresses."""

    VOID = frozenset({"meta", "link", "img", "br", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.addresses += [str(named[name]) for name in ("src", "href", "xlink:href") if name in named]
        self.ids += [str(named["id"])] if "id" in named else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not set(self.open) & {"script", "style"}:
            self.text += data


@pytest.fixture(scope="module")
def page() -> Elements:
    elements = Elements()
    elements.feed(whole_page())
    elements.close()
    return elements


def test_page_is_complete_and_self_contained(page: Elements) -> None:
    assert page.open == []
    assert page.addresses
    for address in page.addresses:
        assert address.startswith(("data:", "#")), address
    assert len(page.ids) == len(set(page.ids)), "plots must not share ids"


def test_the_page_shows_everything(page: Elements) -> None:
    for said in (
        "a title",
        "a command",
        "there is no run in x",
        "metrics.csv is damaged",
        "not comparable",
        "images per second",
        "Seconds per epoch",
        "Loss against seconds",
        "Fréchet distance (not FID)",
        "For comparison, ",
        "from the same noise",
        "ddim-host run --config",
    ):
        assert said in page.text, said


def test_names_and_settings_cannot_run_code(page: Elements) -> None:
    assert HOSTILE in page.text, "the name must be shown literally"


def test_markdown_begins_with_results() -> None:
    comparison = compare([reported("one", scores=Scores((scored(),), (FLOOR,))), reported("two")])
    titles = re.findall(r"^## (\w+ \w+)", as_markdown(comparison, title="", command=""), re.MULTILINE)
    assert titles[:2] == ["Last losses", "Sample quality"]
    assert titles[-1] == "Common settings"


def test_page_of_a_single_run_has_no_comparison() -> None:
    text = render_page(compare([reported()]), title="one", command="c")
    assert "Differences" not in text
    assert "from the same noise" not in text


def test_run_with_only_settings_has_a_page() -> None:
    empty = reported("empty", metrics=(), training=Training(0, 35, "step"), scores=Scores(), grids=())
    comparison = compare([empty])
    assert "empty: no epoch has finished yet" in comparison.warnings
    assert "Differences" not in render_page(comparison, title="empty", command="c")
    assert as_markdown(comparison, title="empty", command="c").startswith("# empty")
    assert json.loads(as_json(comparison, title="empty", command="c"))["throughput"] == {}


def page_with_times(**times: object) -> str:
    """Render the page of a run with one grid that has these times in its record."""
    [grid] = reported().grids
    timed = replace(grid, record={**grid.record, **times})
    return render_page(compare([reported(grids=(timed,))]), title="t", command="c")


@pytest.fixture(scope="module")
def page_with_good_times() -> str:
    return page_with_times(seconds=0.5, warmup_seconds=12.25)


@pytest.mark.parametrize("seconds", ["<b>", None, float("nan"), -1, True, [1.0]])
def test_invalid_times_are_not_shown(seconds: object, page_with_good_times: str) -> None:
    assert ": sampled in" not in page_with_times(seconds=seconds)
    assert "seed 0: sampled in 0.500 s, after 12.2 s of compilation" in page_with_good_times


def test_a_single_run_begins_with_its_pictures() -> None:
    page = render_page(compare([reported(metrics=rows())]), title="one", command="c")
    order = [
        "Test loss",
        "<h2>Samples",
        "<h2>Curves",
        "<h2>Sample quality",
        "<h2>Training speed",
        "<h2>Background",
    ]
    assert sorted(order, key=page.index) == order
    assert "<details open" not in page
    several = render_page(compare([reported(), reported("two")]), title="two", command="c")
    order = ["<h2>Differences", "<h2>Samples", "<h2>Curves", "<h2>Training speed", "<h2>Background"]
    assert sorted(order, key=several.index) == order


@pytest.mark.parametrize(
    ("names", "titles"),
    [
        (["one"], ["Loss against steps"]),
        (
            ["one", "two"],
            ["Loss against steps", "Loss against seconds", "Seconds per epoch, in steady state"],
        ),
    ],
)
def test_no_plot_is_redundant(names: list[str], titles: list[str]) -> None:
    """With one run, the curves against seconds and against steps are the same."""
    page = render_page(compare([reported(name) for name in names]), title="t", command="c")
    assert re.findall("<figcaption><strong>(.*?)</strong>", page) == titles
    assert page.count('<th scope="col">train loss</th>') == 1


@pytest.mark.parametrize("name", ["$\\frac$", "_r", "运行", "a & b < c", "$x_1$"])
def test_any_folder_name_is_in_the_legend(name: str) -> None:
    """Warnings are errors in the tests, and Matplotlib must not read a name as a formula."""
    page = render_page(compare([reported(name), reported("other")]), title="t", command="c")
    for figure in re.findall(r"<svg .*?</svg>", page, re.DOTALL)[:2]:
        text = Elements()
        text.feed(figure)
        assert f"{name}, train" in text.text
        assert f"{name}, test" in text.text


def test_json_contains_no_nan_or_infinity() -> None:
    """A run that ended during its warm-up has no rate."""
    [row, *_] = rows()
    warm = replace(row, seconds=0.0, images_per_second=float("nan"))
    strange = Grid("grid.png", grid_png(IMAGES), {**RECORD, "seconds": float("inf")})
    text = as_json(compare([reported(metrics=(warm,), grids=(strange,))]), title="t", command="c")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    document = json.loads(text, parse_constant=refuse)
    assert document["runs"][0]["metrics"][0]["images_per_second"] is None
    assert document["throughput"]["one"]["range_over_epochs"] is None
    assert document["grids"][0]["protocol"]["seconds"] is None


def test_markdown_and_json_contain_the_same_numbers() -> None:
    comparison = compare([reported(), with_settings("two", plugin="jittor")])
    document = json.loads(as_json(comparison, title="t", command="c"))
    assert document["differing"] == {"plugin": {"one": "torch", "two": "jittor"}}
    assert document["throughput"]["one"]["images_per_second"] == pytest.approx(100.0)
    assert [run["metrics"][-1]["test_loss"] for run in document["runs"]] == [0.6 / 35] * 2
    text = as_markdown(comparison, title="t", command="c")
    assert "| plugin | torch | jittor |" in text
    assert "| one | 100 (100 to 100) | 3.00 | 7.00 | 15.0 | 35.0 |" in text
    assert "| one | 35 | 0.0143 | 0.0171 |" in text


# --- Through the command line -------------------------------------------------------------------------------


@pytest.fixture
def runs(tiny_run: Run, tmp_path: Path) -> tuple[Path, Path]:
    """Copy a run twice and evaluate one copy."""
    copies = [shutil.copytree(tiny_run.path, tmp_path / name / "run") for name in ("a", "b")]
    EvaluationFile(copies[1] / "evaluation.json").add(scored())
    return copies[0], copies[1]


def test_numbers_equal_those_of_the_run_directories(
    runs: tuple[Path, Path], in_process: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = in_process("compare", *runs, "--format", "json", "--out", tmp_path / "c.json")
    assert outcome.code == 0, outcome.err
    document = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert [run["name"] for run in document["runs"]] == ["a/run", "b/run"], (
        "names must be long enough to differ"
    )
    for path, run in zip(runs, document["runs"], strict=True):
        stored = read_reported_run(path, "x")
        assert [row["train_loss"] for row in run["metrics"]] == [row.train_loss for row in stored.metrics]
        assert run["settings"]["plugin"] == "torch"
    assert document["grids"][0]["differences_from_the_first"][1]["largest"] == 0
    assert document["runs"][1]["scores"][0]["measures"]["frechet_distance"] == 1.0


def test_broken_run_does_not_affect_the_others(
    runs: tuple[Path, Path], in_process: Callable[..., Outcome], tmp_path: Path
) -> None:
    (runs[1] / "metrics.csv").write_text("nonsense\n1\n", encoding="utf-8")
    (runs[1] / "evaluation.json").write_text("nonsense", encoding="utf-8")
    [picture] = (runs[1] / "samples").glob("*.png")
    picture.with_suffix(".json").write_text("nonsense", encoding="utf-8")
    broken_config = tmp_path / "broken"
    broken_config.mkdir()
    (broken_config / "config.toml").write_text("nonsense", encoding="utf-8")
    out = tmp_path / "page.html"
    outcome = in_process("compare", *runs, broken_config, "--out", out)
    assert outcome.code == 0, outcome.err
    text = out.read_text(encoding="utf-8")
    for problem in (
        "metrics.csv is damaged",
        "evaluation.json is damaged",
        "cannot show",
        "broken/config.toml is",
    ):
        assert problem in text
        assert problem in outcome.err
    assert "a/run" in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timesteps", 3),
        ("timesteps", None),
        ("timesteps", ["x"]),
        ("rows", "many"),
        ("seed", [0]),
        ("eta", "<b>"),
        ("eta", True),
    ],
)
def test_damaged_record_of_a_grid_is_reported(
    runs: tuple[Path, Path], in_process: Callable[..., Outcome], tmp_path: Path, name: str, value: object
) -> None:
    [picture] = (runs[0] / "samples").glob("*.png")
    beside = picture.with_suffix(".json")
    record = json.loads(beside.read_text(encoding="utf-8"))
    for damaged in ({**record, name: value}, {key: kept for key, kept in record.items() if key != name}):
        beside.write_text(json.dumps(damaged), encoding="utf-8")
        out = tmp_path / "page.html"
        outcome = in_process("compare", *runs, "--out", out, "--force")
        assert outcome.code == 0, outcome.err
        assert f"note: a/run: cannot show {picture}: " in outcome.err
        assert out.read_text(encoding="utf-8").count("<img ") == 1, "the picture of the other run must remain"


def test_a_name_that_is_too_long_is_one_error(
    runs: tuple[Path, Path], in_process: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = in_process("compare", *runs, "--out", tmp_path / ("x" * 300))
    assert outcome.code == 2
    assert "cannot write" in outcome.err
    assert "why: File name too long" in outcome.err


def test_without_a_name_the_page_is_written_to_the_current_folder(
    runs: tuple[Path, Path],
    in_process: Callable[..., Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = in_process("compare", *runs)
    assert f"wrote comparison.html in the current folder, {tmp_path}\n" in outcome.out
    assert (tmp_path / "comparison.html").is_file()


def test_existing_page_is_overwritten_only_with_force(
    runs: tuple[Path, Path], in_process: Callable[..., Outcome], tmp_path: Path
) -> None:
    out = tmp_path / "page.html"
    out.write_text("mine", encoding="utf-8")
    outcome = in_process("compare", *runs, "--out", out)
    assert outcome.code == 2
    assert "already exists" in outcome.err
    assert out.read_text(encoding="utf-8") == "mine"
    assert in_process("compare", *runs, "--out", out, "--force").code == 0
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_missing_run_is_an_error_before_anything_is_replaced(
    runs: tuple[Path, Path], in_process: Callable[..., Outcome], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    page.write_text("mine", encoding="utf-8")
    outcome = in_process("compare", *runs, tmp_path / "gone", "--out", page, "--force")
    assert outcome.code == 2
    assert f"there is no run in {tmp_path / 'gone'}\n  why: {tmp_path / 'gone'} does not exist" in outcome.err
    assert page.read_text(encoding="utf-8") == "mine"


def test_folder_without_a_run_does_not_affect_the_others(
    runs: tuple[Path, Path], in_process: Callable[..., Outcome], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    outcome = in_process("compare", *runs, tmp_path / "empty", "--out", tmp_path / "page.html")
    assert outcome.code == 0, outcome.err
    assert f"note: there is no run in {tmp_path / 'empty'}: it contains no config.toml" in outcome.err


def test_a_run_whose_name_is_too_long_is_one_error(
    in_process: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = in_process("compare", tmp_path / ("x" * 300), "--out", tmp_path / "page.html")
    assert outcome.code == 2
    assert "why: File name too long" in outcome.err


def test_comparison_without_a_readable_run_is_an_error(
    in_process: Callable[..., Outcome], tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text("nonsense", encoding="utf-8")
    outcome = in_process("compare", tmp_path, "--out", tmp_path / "page.html")
    assert outcome.code == 2
    assert "none of these runs can be read" in outcome.err
    assert not (tmp_path / "page.html").exists()


def test_unfinished_training_is_reported(
    runs: tuple[Path, Path], in_process: Callable[..., Outcome], tmp_path: Path
) -> None:
    metrics = runs[0] / "metrics.csv"
    header, row = metrics.read_text(encoding="utf-8").splitlines()
    epoch, step, *values = row.split(",")
    metrics.write_text(f"{header}\n{','.join((epoch, str(int(step) - 1), *values))}\n", encoding="utf-8")
    outcome = in_process("compare", *runs, "--out", tmp_path / "page.html")
    said = f"a/run: training has not finished; its metrics end at step {int(step) - 1} of {step}"
    assert f"note: {said}\n" in outcome.err
    assert said in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_page_is_deterministic(runs: tuple[Path, Path]) -> None:
    pages = {
        render_page(compare([read_reported_run(runs[0], "a")]), title="t", command="c") for _ in range(2)
    }
    assert len(pages) == 1
    assert not re.search(r"20\d\d-\d\d-\d\dT", pages.pop())
