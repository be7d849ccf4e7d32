"""Runs as a report shows them, without run directories."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ddim_host.evaluation.scores import Scores
from ddim_host.parts.found_subsets import FoundSubset, Search
from ddim_host.plugin.observation import EpochMetrics
from ddim_host.report.comparison import compare
from ddim_host.report.page import render_page
from ddim_host.report.reported_run import Grid, ReportedRun, Training
from ddim_host.run.images import grid_png
from tests.support.evaluation_samples import FLOOR, SAMPLED, scored

SETTINGS = {
    "plugin": "torch",
    "data": "digits",
    "loss": "mse",
    "batch_size": "128",
    "num_train_timesteps": "1000",
}
RECORD: dict[str, Any] = {
    "kind": "samples",
    "rows": 5,
    "columns": 1,
    "seed": 0,
    "timesteps": [0, 999],
    "eta": 0.0,
    "clip": 1.0,
    "weights": "ema",
    "checkpoint": "latest",
}
IMAGES = np.random.default_rng(0).integers(0, 200, (5, 8, 8, 1), np.uint8)


def rows(factor: float = 1.0) -> tuple[EpochMetrics, ...]:
    """Return rows of a run: an epoch that compiles, two more complete epochs and an incomplete one."""
    return tuple(
        EpochMetrics(
            epoch=epoch,
            step=step,
            train_loss=0.5 / step,
            test_loss=0.6 / step,
            seconds=seconds * factor,
            learning_rate=1e-3,
            images_per_second=100.0 / factor,
            warmup_seconds=warmup,
            peak_memory_bytes=1_000_000 * step,
        )
        for epoch, step, seconds, warmup in (
            (1, 10, 1.0, 7.0),
            (2, 20, 2.0, 0.0),
            (3, 30, 4.0, 0.0),
            (3, 35, 1.0, 0.0),
        )
    )


def reported(name: str = "one", **changes: Any) -> ReportedRun:
    run = ReportedRun(
        name=name,
        path=Path("runs") / name,
        image_shape=(8, 8, 1),
        settings=SETTINGS,
        provenance={"device": "a processor", "command": "ddim-host run --plugin torch"},
        recorded={"device": "a processor", "command": "ddim-host run --plugin torch"},
        first_step=0,
        metrics=rows(),
        scores=Scores((scored(),), (FLOOR,)),
        subsets=(),
        grids=(Grid("grid.png", grid_png(IMAGES), RECORD),),
        training=Training(35, 35, "step"),
        num_parameters=1_001_729,
        during_training=(),
        real_images=None,
        problems=(),
    )
    return replace(run, **changes)


def found(*timesteps: int, error: float = 1e-3, **changes: Any) -> FoundSubset:
    """Return a subset as a search might find it."""
    search = Search(
        method="dynamic_programming",
        distribution="ddim-host",
        version="0.1.0",
        teacher_timesteps=(0, 20, 40, 60, 80, 99),
        num_images=8,
        seed=0,
        clip=1.0,
        checkpoint="latest",
        checkpoint_steps=(35,),
        weights="ema",
        weights_sha256="ab" * 32,
        noise_schedule="linear with 1,000 timesteps",
        schedule_sha256="cd" * 32,
        plugin="torch",
        device="cpu",
        precision="fp32",
        batch_size=8,
        refinement=None,
    )
    return FoundSubset(timesteps, error, 2e-3, (), (), replace(search, **changes), 6, 1.5, {})


def with_settings(name: str, **settings: str) -> ReportedRun:
    return reported(name, settings={**SETTINGS, **settings})


HOSTILE = '<script>alert("x")</script>'


def whole_page() -> str:
    """Return the page of two runs with everything that a page can show."""
    other = reported(
        "two" + HOSTILE,
        settings={**SETTINGS, "plugin": "jittor", "loss": HOSTILE},
        metrics=rows(2.0),
        problems=("metrics.csv is damaged",),
        provenance={"command": HOSTILE},
        scores=Scores((scored(), replace(scored(), calls=5, sampled=replace(SAMPLED, solver=HOSTILE)))),
        subsets=(found(20, 60), found(20, 60, 99), found(20, 60, method=HOSTILE)),
    )
    comparison = compare([reported(), other], ["there is no run in x"])
    return render_page(comparison, title="a title", command="a command")
