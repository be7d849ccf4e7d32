"""Tables of scores: no table mixes different protocols, and no score is hidden."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import asdict, replace
from typing import Any

import pytest

from ddim_host.evaluation.paper import FID_WEIGHTS, PAPER_FIDS
from ddim_host.evaluation.scores import Scores
from ddim_host.evaluation.tables import as_csv, as_markdown, as_text, tables_of
from tests.support.evaluation_samples import FLOOR, RULER, SAMPLED, TRAIN, scored

SUBSETS = {2: (0, 999), 3: (0, 499, 999)}


def grid(**changes: Any) -> list[Any]:
    """Return scores of two step counts, two etas and three seeds, each identified by its Fréchet distance."""
    return [
        scored(
            replace(SAMPLED, timesteps=SUBSETS[steps], eta=eta, seed=seed, **changes),
            frechet=100 * steps + 10 * eta + seed,
        )
        for seed in (0, 1, 2)
        for steps in (3, 2)
        for eta in (1.0, 0.0)
    ]


def cells(text: str, title: str) -> list[list[str]]:
    """Return the rows of a text table below its title."""
    lines = text.split("\n")
    [first] = [number for number, line in enumerate(lines) if line.startswith(title)]
    rows: list[list[str]] = []
    for line in lines[first + 1 :]:
        if not line:
            break
        if not rows and not line.lstrip().startswith("eta "):
            continue  # the title continues
        rows.append(re.split(r"\s{2,}", line.strip()))
    return rows


def test_table_is_eta_by_steps_with_mean_and_range() -> None:
    [table] = tables_of(Scores(tuple(grid()), (FLOOR,)))
    text = as_text(table)
    assert cells(text, "Fréchet distance") == [
        ["eta", "S = 2", "S = 3"],
        ["0", "201 (200 to 202)", "301 (300 to 302)"],
        ["1", "211 (210 to 212)", "311 (310 to 312)"],
    ]
    assert "mean (range) over 3 sampling seeds, 1 training run" in " ".join(text.split())
    assert "seeds 0, 1, 2" in text
    assert cells(text, "Kernel distance")[1] == ["0", *["12.3 (12.3 to 12.3)"] * 2]
    assert cells(text, "Recall")[2] == ["1", *["0.500 (0.500 to 0.500)"] * 2]


def test_table_includes_the_protocol() -> None:
    [table] = tables_of(Scores((scored(),), (FLOOR,)))
    for text in (as_text(table), as_markdown([table])):
        for fact in (
            "4,000",
            "torch (cpu, fp32)",
            "latest checkpoint, step 1,500, averaged (EMA) weights",
            "timestep subset linear, solver ddim, clipped to [-1, 1]",
            "digits_mlp of ddim-host 0.1.0",
            "abababababab",
            "1,500 train images of digits",
            "297 real test images",
            "not FID",
        ):
            assert fact in text, fact
        assert "4.27" in text, "the noise floor is missing"


@pytest.mark.parametrize(
    "other",
    [
        {"num_images": 1000},
        {"weights": "raw"},
        {"plugin": "jittor"},
        {"clip": None},
        {"timestep_subset": "quad:span=0.8"},
        {"solver": "dpmpp_2m"},
        {"checkpoint": "best-test"},
    ],
)
def test_different_protocols_are_different_tables(other: dict[str, Any]) -> None:
    tables = tables_of(Scores((*grid(), *grid(**other))))
    assert len(tables) == 2
    assert [len(table.scores) for table in tables] == [12, 12]
    document = as_markdown(tables)
    assert "2 tables with different protocols" in document
    assert "## Table 2" in document


def test_each_ruler_has_its_own_table_and_noise_floor() -> None:
    features = replace(RULER.features, fingerprint="00" * 32)
    ruler = replace(RULER, features=features)
    tables = tables_of(Scores((scored(), scored(ruler=ruler)), (replace(FLOOR, ruler=ruler),)))
    assert [table.noise_floor is not None for table in tables] == [False, True]


def test_cell_with_fewer_seeds_is_marked() -> None:
    [table] = tables_of(Scores(tuple(grid()[:-3])))
    assert cells(as_text(table), "Fréchet distance")[1:] == [
        ["0", "200 (200 to 201), 2 seeds", "300 (300 to 301), 2 seeds"],
        ["1", "210 (210 to 211), 2 seeds", "311 (310 to 312)"],
    ]


def test_missing_cells_are_dashes() -> None:
    other = replace(SAMPLED, timesteps=SUBSETS[2], eta=1.0)
    [table] = tables_of(Scores((scored(), scored(other))))
    assert cells(as_text(table), "Fréchet distance")[1:] == [["0", "-", "1.00"], ["1", "1.00", "-"]]


def test_columns_show_network_calls_if_more_than_steps() -> None:
    [table] = tables_of(Scores((replace(scored(), calls=5),)))
    assert "S = 3, 5 calls" in as_text(table)
    assert "calls" not in as_text(tables_of(Scores((scored(),)))[0])


def test_different_timesteps_of_a_searched_subset_are_different_tables() -> None:
    """In one table, their mean would look like a mean over seeds."""
    found = replace(SAMPLED, timestep_subset="optimized", timesteps=(100, 300, 700))
    again = replace(found, timesteps=(90, 310, 690))
    more = replace(found, timesteps=(9, 100, 300, 700))
    tables = tables_of(Scores((scored(found, 2.0), scored(again, 4.0), scored(more), scored(found, 3.0))))
    assert [[score.sampled.timesteps for score in table.scores] for table in tables] == [
        [found.timesteps, more.timesteps, found.timesteps],
        [again.timesteps],
    ]
    assert "timesteps: 100, 300, 700; 9, 100, 300, 700" in as_text(tables[0])
    assert "timesteps: 90, 310, 690" in as_text(tables[1])
    assert "timesteps: " not in as_text(tables_of(Scores((scored(),)))[0])


def test_warnings_are_shown_once() -> None:
    [table] = tables_of(Scores(tuple(replace(s, warnings=("too few",)) for s in grid())))
    assert as_text(table).count("Warning: too few.") == 1


def test_text_is_wrapped_without_breaks_in_paths_and_after_numbers() -> None:
    for length in range(20, 140):
        path = f"/data/scans-{'x' * length}/grey-images"
        reference = replace(TRAIN, data=f"images:path={path}")
        scores = [
            scored(replace(SAMPLED, seed=seed), ruler=replace(RULER, reference=reference)) for seed in (0, 1)
        ]
        [table] = tables_of(Scores(tuple(scores)))
        text = as_text(table)
        assert f"images:path={path}, " in text or f"images:path={path},\n" in text
        assert "1,500 train images" in " ".join(text.split("\n  "))
        assert not re.search(r"\d\n +[a-z]", text), text


def test_warning_about_the_noise_floor_is_shown() -> None:
    [table] = tables_of(Scores((scored(),), (replace(FLOOR, warnings=("too few",)),)))
    assert "Warning: noise floor: too few." in as_text(table)
    assert "Warning: noise floor: too few." in as_markdown([table])


# --- Comparison with the paper ------------------------------------------------------------------------------

INCEPTION = replace(RULER.features, name="inception", distribution="ddim-torch", fingerprint=FID_WEIGHTS)
CIFAR10 = replace(TRAIN, data="cifar10:path=none,flip=true", num_images=50_000)
PAPER_RULER = replace(RULER, features=INCEPTION, reference=CIFAR10)
PAPER_SAMPLED = replace(
    SAMPLED,
    num_images=50_000,
    timestep_subset="quad:span=0.8",
    clip=None,
    timesteps=tuple(range(20)),
)


def test_paper_results_are_shown_for_the_same_protocol() -> None:
    [table] = tables_of(Scores((scored(PAPER_SAMPLED, 7.0, ruler=PAPER_RULER),)))
    text = as_text(table)
    assert cells(text, "FID, the Fréchet distance")[1] == ["0", "7.00"]
    assert cells(text, "FID in the DDIM paper")[1] == ["0", "6.84"]
    assert "Not comparable" not in text


@pytest.mark.parametrize(
    ("sampled", "ruler", "why"),
    [
        ({"num_images": 10_000}, {}, "N is 10,000, not 50,000"),
        ({"timestep_subset": "linear"}, {}, "quad"),
        ({"solver": "dpmpp_2m"}, {}, "the solver is not ddim"),
        ({"clip": 1.0}, {}, "clipped"),
        ({"weights": "raw"}, {}, "not averaged"),
        ({"checkpoint_steps": (1, 2)}, {}, "several checkpoints"),
        ({}, {"features": replace(INCEPTION, fingerprint="00")}, "features"),
        ({}, {"reference": replace(CIFAR10, half="test", num_images=10_000)}, "50,000 training images"),
    ],
)
def test_paper_results_are_not_shown_for_another_protocol(
    sampled: dict[str, Any], ruler: dict[str, Any], why: str
) -> None:
    result = scored(replace(PAPER_SAMPLED, **sampled), ruler=replace(PAPER_RULER, **ruler))
    [table] = tables_of(Scores((result,)))
    text = as_text(table)
    assert "FID in the DDIM paper" not in text
    assert ("not FID" in text) == (why == "features"), "other weights are another network"
    [line] = [line for line in text.split("\n") if line.startswith("Not comparable")]
    assert why in line


def test_data_set_with_a_similar_name_is_not_compared_with_the_paper() -> None:
    ruler = replace(PAPER_RULER, reference=replace(CIFAR10, data="cifar100:flip=true"))
    [table] = tables_of(Scores((scored(PAPER_SAMPLED, ruler=ruler),)))
    assert "paper" not in as_text(table)


def test_digits_are_not_compared_with_the_paper() -> None:
    [table] = tables_of(Scores((scored(),)))
    assert "paper" not in as_text(table)


def test_paper_results_are_monotonic() -> None:
    """In the published table FID improves with more steps and worsens with eta, without exception."""
    for fids in PAPER_FIDS.values():
        assert list(fids.values()) == sorted(fids.values(), reverse=True)
    for steps in (10, 20, 50, 100, 1000):
        column = [fids[steps] for _, fids in sorted(PAPER_FIDS.items())]
        assert column == sorted(column)


# --- Other formats ------------------------------------------------------------------------------------------


def test_csv_has_a_row_for_every_score() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(Scores(tuple(grid()))))))
    assert len(rows) == 12
    first = rows[0]
    assert (first["steps"], first["eta"], first["seed"]) == ("3", "1.0", "0")
    assert float(first["frechet_distance"]) == 310.0
    assert first["timesteps"] == "0 499 999"
    assert (first["num_images"], first["reference_half"], first["features_name"]) == (
        "4000",
        "train",
        "digits_mlp",
    )
    assert float(first["seconds_sampling"]) == 12.5


def test_csv_columns_have_unique_names() -> None:
    """Every number of the JSON has a column with a name of its own."""
    result = scored(replace(SAMPLED, precision="bf16"))
    [header, values] = csv.reader(io.StringIO(as_csv(Scores((result,)))))
    assert len(header) == len(set(header)) == len(values)
    row = dict(zip(header, values, strict=True))
    for name, value in asdict(result.measures).items():
        assert float(row[name]) == value, name
    assert row["arithmetic"] == "bf16"
    renamed = {"arithmetic": "precision", "timesteps": "", "checkpoint_steps": ""}
    for name, value in asdict(result.sampled).items():
        if name not in renamed.values() and name not in renamed:
            assert row[name] == str(value), name
    for name, value in asdict(result.ruler.settings).items():
        assert row[name] == str(value), name
    for prefix, part in (
        ("seconds", result.seconds),
        ("features", result.ruler.features),
        ("reference", result.ruler.reference),
    ):
        for name, value in asdict(part).items():
            assert row[f"{prefix}_{name}"] == str(value), name


def test_markdown_tables_are_well_formed() -> None:
    document = as_markdown(tables_of(Scores(tuple(grid()), (FLOOR,))))
    blocks = [block.split("\n") for block in document.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 4
    for block in blocks:
        assert {line.count("|") for line in block} == {4}
        assert set(block[1]) <= set("| -:")


def test_no_scores_yield_no_tables() -> None:
    assert tables_of(Scores()) == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.00"),
        (0.60749, "0.607"),
        (5.156, "5.16"),
        (9.996, "10.0"),
        (131.4, "131"),
        (41234.0, "41234"),
        (-0.0123, "-0.0123"),
        (1.2e-7, "0.000000"),
    ],
)
def test_values_have_three_significant_digits(value: float, shown: str) -> None:
    [table] = tables_of(Scores((scored(frechet=value),)))
    assert cells(as_text(table), "Fréchet distance")[1] == ["0", shown]
