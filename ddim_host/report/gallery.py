"""Grids of samples for a page, side by side if they share their noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddim_host.evaluation.tables import number
from ddim_host.report.pictures import Captioned
from ddim_host.run.images import grid_images

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ddim_host.report.comparison import Comparison, GridDifference, GridSet
    from ddim_host.report.pictures import Picture, PictureBudget
    from ddim_host.report.reported_run import Grid, ReportedRun

_KINDS = {
    "samples": "",
    "interpolation": "interpolations, ",
    "trajectory": "predictions during sampling, ",
}

_DRAWN_LATER = ("evaluated-", "samples-")


@dataclass(frozen=True)
class Wall:
    """Pictures sampled from the same noise.

    Attributes:
        title: The sampling settings.
        shown: A picture for each run.
        same_noise: True if there are several runs.
    """

    title: str
    shown: tuple[Captioned, ...]
    same_noise: bool


@dataclass(frozen=True)
class RealWall:
    """Real images to compare with samples.

    Attributes:
        test: Some test images.
        neighbours: Samples, each with its nearest training images.
        test_distance: The median distance of a test image from its nearest training image.
        num_train: The number of training images.
    """

    test: Picture | None
    neighbours: tuple[Captioned, ...]
    test_distance: float
    num_train: int


def main_grid(run: ReportedRun) -> Grid | None:
    """Return the grid to show first on the page of a run, or None if there are no samples.

    The grid with real images to compare with is preferred, then the grid drawn at the end of the run, then
    those from `evaluate` and `sample`; among these, low eta and many steps are preferred.
    """
    samples = [grid for grid in run.grids if grid.kind == "samples"]
    beside = run.real_images.grid if run.real_images else None

    def order(grid: Grid) -> tuple[object, ...]:
        drawn_later = grid.name.startswith(_DRAWN_LATER)
        return grid.name != beside, drawn_later, float(grid.record["eta"]), -len(grid.record["timesteps"])

    return min(samples, key=order, default=None)


def walls(comparison: Comparison, budget: PictureBudget, *, without: Sequence[Grid] = ()) -> list[Wall]:
    """Return the grids of a comparison; grids shared by the most runs come first.

    Args:
        comparison: The runs.
        budget: Embeds the pictures.
        without: Grids shown elsewhere on the page.
    """

    def order(grids: GridSet) -> tuple[object, ...]:
        first = grids.grids[0][1]
        return -len(grids.grids), first.kind != "samples", first.name.startswith(_DRAWN_LATER)

    found = []
    for grids in sorted(comparison.grids, key=order):
        shown = tuple(
            Captioned(picture, _caption(run, grid, difference, alone=len(comparison.runs) == 1))
            for (run, grid), difference in zip(grids.grids, grids.differences, strict=True)
            if grid not in without and (picture := grid_picture(run, grid, budget)) is not None
        )
        if shown:
            found.append(Wall(title_of(grids.grids[0][1]), shown, same_noise=len(shown) > 1))
    return found


def title_of(grid: Grid) -> str:
    """Describe how a grid was sampled."""
    return f"{_KINDS[grid.kind]}{grid.steps}, eta {float(grid.record['eta']):g}, seed {grid.record['seed']}"


def grid_picture(
    run: ReportedRun, grid: Grid, budget: PictureBudget, alt: str | None = None
) -> Picture | None:
    """Embed a grid as separate images, or as one picture if its size does not match its record.

    Args:
        run: The run that was sampled.
        grid: The grid.
        budget: Embeds the picture.
        alt: Alternative text; None for the number of samples and the name of the run.
    """
    count, columns = grid.layout
    alt = alt or f"{count} images sampled by {run.name}"
    try:
        images = grid_images(grid.png, count, run.image_shape, columns=columns)
    except ValueError:
        return budget.file(grid.png, alt)
    return budget.sheet(images, alt, columns=columns)


def time_of(grid: Grid) -> str:
    """Return a description of a grid's sampling time, or an empty string if it was not measured."""
    if grid.seconds is None:
        return ""
    warmup = grid.warmup_seconds
    after = f", after {number(warmup)} s of compilation and warm-up" if warmup is not None else ""
    return f": sampled in {number(grid.seconds)} s{after}"


def real_wall(run: ReportedRun, budget: PictureBudget) -> RealWall | None:
    """Return the real images to compare with the samples of a run, or None if there are none."""
    real = run.real_images
    if real is None:
        return None
    neighbours, columns = real.neighbours, real.neighbours.columns
    shown = []
    for row, distances in enumerate(neighbours.distances):
        far = ", ".join(f"{distance:.0f}" for distance in distances)
        alt = f"sample {row} of {run.name} and its nearest training images, at distances {far}"
        picture = budget.sheet(real.nearest[row * columns : (row + 1) * columns], alt, columns=columns)
        if picture is not None:
            shown.append(Captioned(picture, far))
    alt = f"{len(real.test)} real test images"
    return RealWall(
        budget.sheet(real.test, alt), tuple(shown), neighbours.test_distance, neighbours.num_train
    )


def _caption(run: ReportedRun, grid: Grid, difference: GridDifference | None, *, alone: bool) -> str:
    text = (title_of(grid) if alone else run.name) + time_of(grid)
    if difference is None:
        return text
    return (
        f"{text}; differs from the first grid by {number(difference.mean)} on average and "
        f"{difference.largest} at most, on a scale from 0 to 255; in {difference.num_within_two} of "
        f"{grid.layout[0]} images, no pixel differs by more than 2"
    )
