"""Films: several states of the same images, shown as a strip or with a slider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ddim_host.report.gallery import grid_picture
from ddim_host.report.pictures import Captioned
from ddim_host.run.images import grid_images

if TYPE_CHECKING:
    from ddim_host.report.pictures import PictureBudget
    from ddim_host.report.reported_run import Grid, ReportedRun

_MOST_FRAMES = 12


@dataclass(frozen=True)
class Film:
    """Frames in chronological order.

    Attributes:
        title: The heading.
        explanation: A sentence about the change from frame to frame.
        slider: The quantity that the slider varies.
        frames: The frames, at least two; each caption says when the picture was made.
    """

    title: str
    explanation: str
    slider: str
    frames: tuple[Captioned, ...]


def learning(run: ReportedRun, budget: PictureBudget) -> Film | None:
    """Return the grids drawn during training as a film, or None if there are fewer than two."""
    grids = [run.during_training[at] for at in _spread(len(run.during_training))]
    frames = [
        Captioned(picture, f"after {grid.step:,} training steps")
        for grid in grids
        if (picture := grid_picture(run, grid.grid, budget, f"samples after {grid.step:,} training steps"))
    ]
    if len(frames) < 2:
        return None
    return Film(
        "How it learned",
        "Samples from the same noise at several points during training.",
        "training steps",
        tuple(frames),
    )


def denoising(run: ReportedRun, budget: PictureBudget) -> tuple[Film, Grid] | None:
    """Return the newest trajectory of a run as a film, and its grid, or None if there is none."""
    for grid in reversed([grid for grid in run.grids if grid.kind == "trajectory"]):
        rows, columns = int(grid.record["rows"]), int(grid.record["columns"])
        times = grid.record.get("shown_timesteps")
        if not isinstance(times, list) or len(times) != columns or not all(isinstance(t, int) for t in times):
            continue
        try:
            images = grid_images(grid.png, rows * columns, run.image_shape, columns=columns)
        except ValueError:
            continue
        across = max(1, -(-rows // 2))  # two rows: a landscape picture
        frames = [
            Captioned(picture, f"predicted at t = {times[at]:,}")
            for at in _spread(columns)
            if (picture := budget.sheet(images[at::columns], f"predicted at t = {times[at]}", columns=across))
        ]
        if len(frames) < 2:
            continue
        film = Film(
            "From noise to images",
            f"The network's prediction of the final images, from the first of {grid.steps} to the last: "
            f"eta {grid.record['eta']}, seed {grid.record['seed']}.",
            "sampling steps",
            tuple(frames),
        )
        return film, grid
    return None


def _spread(count: int) -> list[int]:
    """Return at most `_MOST_FRAMES` evenly spread positions, including the first and the last."""
    positions = np.rint(np.linspace(0, count - 1, min(count, _MOST_FRAMES)))
    return [int(position) for position in positions]
