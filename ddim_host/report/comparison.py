"""Comparison of runs: settings that differ, and results that can and cannot be compared."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np

from ddim_host.evaluation.tables import Table, tables_of
from ddim_host.run.images import grid_images

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ddim_host.evaluation.scores import Sampled, Score
    from ddim_host.plugin.observation import EpochMetrics
    from ddim_host.report.reported_run import Grid, ReportedRun

# Settings that change the units of a loss curve. The network and its training do not.
_LOSS_UNITS = ("data", "loss", "noise_schedule", "num_train_timesteps", "test_images")

# Keys of `provenance.provenance`, in display order.
_CONDITIONS = ("device", "precision", "threads", "processes", "processor", "cores")


@dataclass(frozen=True)
class Difference:
    """A setting, or a measurement condition, with its value in each run.

    Attributes:
        setting: The name of the setting.
        values: The value in each run; `-` if the run has none.
    """

    setting: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class LossGroup:
    """Runs whose losses were computed on the same data in the same units.

    Attributes:
        description: Settings shared by these runs but not by the other groups.
        runs: The runs, each with at least one row of metrics.
    """

    description: str
    runs: tuple[ReportedRun, ...]


@dataclass(frozen=True)
class Throughput:
    """Training speed of a run.

    Attributes:
        run: The run.
        images_per_second: The steady-state rate over complete epochs, or over all steps if there are none.
        range_over_epochs: The lowest and the highest rate of a complete epoch; None if there are none.
        seconds_per_epoch: The median over complete epochs; None if there are none.
        warmup_seconds: Time of compilation and warm-up, included only in `total_seconds`.
        total_seconds: Duration of the training loop, including warm-up but not tests and checkpoints.
        peak_memory_bytes: The maximum over the run.
    """

    run: ReportedRun
    images_per_second: float
    range_over_epochs: tuple[float, float] | None
    seconds_per_epoch: float | None
    warmup_seconds: float
    total_seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class QualityGroup:
    """Scores of several runs, measured with the same protocol.

    Attributes:
        tables: The runs with such scores, and their tables.
    """

    tables: tuple[tuple[ReportedRun, Table], ...]


@dataclass(frozen=True)
class GridDifference:
    """Difference between the images of two grids.

    Attributes:
        mean: Mean absolute difference over all pixels, in units of 1/255.
        largest: Largest absolute difference of a pixel, in units of 1/255.
        num_within_two: Number of images in which no pixel differs by more than 2/255.
    """

    mean: float
    largest: int
    num_within_two: int


@dataclass(frozen=True)
class GridSet:
    """Grids sampled from the same noise with the same protocol.

    Attributes:
        grids: A grid from each run that has one.
        differences: Difference of each grid from the first; None for the first grid, and if sizes differ.
    """

    grids: tuple[tuple[ReportedRun, Grid], ...]
    differences: tuple[GridDifference | None, ...]


@dataclass(frozen=True)
class Comparison:
    """Contents of a report.

    Attributes:
        runs: The runs that could be read.
        warnings: Results that cannot be compared, and files that could not be read.
        differing: Settings that differ.
        common: Settings with the same value in all runs, by name.
        conditions: Conditions other than settings that affect times, for each run in `throughput`.
        losses: Groups of runs with comparable losses.
        throughput: Training speed of each run; runs without metrics are missing.
        quality: Groups of comparable scores.
        grids: Sets of grids to show side by side.
    """

    runs: tuple[ReportedRun, ...]
    warnings: tuple[str, ...]
    differing: tuple[Difference, ...]
    common: dict[str, str]
    conditions: tuple[Difference, ...]
    losses: tuple[LossGroup, ...]
    throughput: tuple[Throughput, ...]
    quality: tuple[QualityGroup, ...]
    grids: tuple[GridSet, ...]


def compare(runs: Sequence[ReportedRun], unreadable: Sequence[str] = ()) -> Comparison:
    """Find the settings that differ between runs, and the results that can be compared.

    Args:
        runs: At least one run.
        unreadable: A message for each run that could not be read at all.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    values = {name: tuple(run.settings.get(name, "-") for run in runs) for name in names}
    losses = _loss_groups(runs)
    quality = _quality_groups(runs)
    warnings = [*unreadable, *(f"{run.name}: {problem}" for run in runs for problem in run.problems)]
    warnings += [line for run in runs if (line := unfinished(run))]
    if len(losses) > 1:
        described = "; ".join(
            f"{', '.join(run.name for run in group.runs)} ({group.description})" for group in losses
        )
        warnings.append(f"losses on different data or in different units are not comparable: {described}")
    if len(quality) > 1:
        warnings.append(
            f"there are {len(quality)} tables of sample quality with different protocols (number of samples, "
            "features, ...), whose numbers are not comparable"
        )
    timed = [run for run in runs if run.metrics]
    conditions = _conditions(timed)
    warnings += _unlike(timed, conditions)
    if len(timed) > 1:
        warnings += [
            f"{run.name} started from weights that had been trained for {run.first_step:,} steps; "
            "its times do not include them"
            for run in timed
            if run.first_step
        ]
    return Comparison(
        runs=tuple(runs),
        warnings=tuple(warnings),
        differing=tuple(Difference(n, values[n]) for n in names if len(set(values[n])) > 1),
        common={n: values[n][0] for n in names if len(set(values[n])) == 1},
        conditions=conditions,
        losses=losses,
        throughput=tuple(map(_throughput, timed)),
        quality=quality,
        grids=_grid_sets(runs),
    )


def unfinished(run: ReportedRun) -> str:
    """Return a warning if training has not finished, and an empty string otherwise."""
    if run.training is not None and run.training.is_complete:
        return ""
    if not run.metrics:
        return f"{run.name}: no epoch has finished yet"
    if run.training is None:
        return ""
    return f"{run.name}: training has not finished; its metrics end at {run.training}"


def _conditions(runs: Sequence[ReportedRun]) -> tuple[Difference, ...]:
    """Return the conditions under which each run was trained, omitting those that no run recorded."""
    frameworks = tuple(f"{run.framework} {run.provenance.get(run.framework, '')}".strip() for run in runs)
    known = [Difference(name, tuple(run.provenance.get(name, "-") for run in runs)) for name in _CONDITIONS]
    return (Difference("framework", frameworks), *(one for one in known if set(one.values) - {"-"}))


def _unlike(runs: Sequence[ReportedRun], conditions: Sequence[Difference]) -> list[str]:
    """Return a warning if the compared speeds were measured under different conditions."""
    differing = []
    for condition in conditions:
        runs_of: dict[str, list[str]] = defaultdict(list)
        for run, value in zip(runs, condition.values, strict=True):
            runs_of[value].append(run.name)
        runs_of.pop("-", None)
        if len(runs_of) > 1 and condition.setting in _CONDITIONS:
            different = ", ".join(f"{value} ({', '.join(names)})" for value, names in runs_of.items())
            differing.append(f"{condition.setting} {different}")
    return [f"times were measured under different conditions: {'; '.join(differing)}"] if differing else []


def seconds_at(metrics: Sequence[EpochMetrics]) -> list[float]:
    """Return the seconds of training up to the end of each row, including warm-up."""
    return list(accumulate(row.seconds + row.warmup_seconds for row in metrics))


def whole_epochs(metrics: Sequence[EpochMetrics]) -> list[EpochMetrics]:
    """Return the rows that cover exactly one complete epoch and include no compilation."""
    return [
        row
        for before, row in pairwise(metrics)
        if row.epoch == before.epoch + 1 and row.warmup_seconds == 0.0
    ]


def _loss_groups(runs: Sequence[ReportedRun]) -> tuple[LossGroup, ...]:
    groups: dict[tuple[tuple[str, str], ...], list[ReportedRun]] = defaultdict(list)
    for run in runs:
        if run.metrics:
            units = tuple(item for item in run.settings.items() if item[0].partition(".")[0] in _LOSS_UNITS)
            groups[units].append(run)
    shared = set.intersection(*map(set, groups)) if len(groups) > 1 else set()
    labels = {units: ", ".join(f"{n} {v}" for n, v in units if (n, v) not in shared) for units in groups}
    return tuple(LossGroup(labels[units], tuple(members)) for units, members in groups.items())


def _throughput(run: ReportedRun) -> Throughput:
    epochs = whole_epochs(run.metrics)
    steady = epochs or [row for row in run.metrics if row.seconds > 0.0]
    seconds = sum(row.seconds for row in steady)
    images = sum(row.seconds * row.images_per_second for row in steady)
    rates = [row.images_per_second for row in epochs]
    warmup = sum(row.warmup_seconds for row in run.metrics)
    return Throughput(
        run=run,
        images_per_second=images / seconds if seconds else 0.0,
        range_over_epochs=(min(rates), max(rates)) if rates else None,
        seconds_per_epoch=float(np.median([row.seconds for row in epochs])) if epochs else None,
        warmup_seconds=warmup,
        total_seconds=sum(row.seconds for row in run.metrics) + warmup,
        peak_memory_bytes=max(row.peak_memory_bytes for row in run.metrics),
    )


def _quality_groups(runs: Sequence[ReportedRun]) -> tuple[QualityGroup, ...]:
    groups: dict[object, list[tuple[ReportedRun, Table]]] = defaultdict(list)
    for run in runs:
        for table in tables_of(run.scores):
            groups[_comparable(table.scores[0])].append((run, table))
    return tuple(QualityGroup(tuple(tables)) for tables in groups.values())


def _comparable(score: Score) -> object:
    """Return the parts of a protocol that must be equal for comparable scores; the network may differ."""
    sampled, ruler = score.protocol
    return sampled.on_any_network(), ruler


def names_of(sampled: Iterable[tuple[str, Sampled]]) -> dict[tuple[str, Sampled], str]:
    """Name sets of images, given with the name of their run, by the run and by its network.

    Returns:
        The name of the run, and in brackets what distinguishes the network from others of this run, if there
        are any: `one (best-test of step 1,200, bf16)`.
    """
    of_runs: dict[str, dict[Sampled, tuple[str, ...]]] = defaultdict(dict)
    for run, one in sampled:
        steps = ", ".join(f"{step:,}" for step in one.checkpoint_steps)
        of_runs[run][one] = f"{one.checkpoint} of step {steps}", one.plugin, one.device, one.precision
    names = {}
    for run, networks in of_runs.items():
        differs = [len(set(values)) > 1 for values in zip(*networks.values(), strict=True)]
        for one, facts in networks.items():
            network = ", ".join(itertools.compress(facts, differs))
            names[run, one] = f"{run} ({network})" if network else run
    return names


def _grid_sets(runs: Sequence[ReportedRun]) -> tuple[GridSet, ...]:
    groups: dict[object, list[tuple[ReportedRun, Grid]]] = defaultdict(list)
    for run in runs:
        for grid in run.grids:
            group = groups[grid.protocol, run.image_shape]
            if run not in (member for member, _ in group):  # two commands may have drawn the same images
                group.append((run, grid))
    sets = []
    for grids in groups.values():
        first_run, first = grids[0]
        differences = [_difference(first, other, first_run.image_shape) for _, other in grids[1:]]
        sets.append(GridSet(tuple(grids), (None, *differences)))
    return tuple(sets)


def _difference(one: Grid, other: Grid, image_shape: tuple[int, int, int]) -> GridDifference | None:
    count, columns = one.layout
    try:
        pixels = [
            grid_images(grid.png, count, image_shape, columns=columns).astype(np.int16)
            for grid in (one, other)
        ]
    except ValueError:
        return None
    absolute = np.abs(pixels[0] - pixels[1])
    largest = absolute.reshape(count, -1).max(1)
    return GridDifference(float(absolute.mean()), int(largest.max()), int((largest <= 2).sum()))
