"""Events that observers receive: the start of the run, its metrics, grids and scores, and its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 - the documentation resolves the types
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class ObservedRun:
    """The observed run, and the command that uses it.

    Attributes:
        path: The existing folder of the run; an observer may write its own files there.
        command: `run`, `sample` or `evaluate`.
        config: The settings and parts of the command, as in `config.toml`: strings, numbers, lists, tables.
        made_with: Versions, hardware and the full command line, as strings by name.
        step: The optimizer steps taken before the command began: 0, or those of the resumed checkpoint.
    """

    path: Path
    command: Literal["run", "sample", "evaluate"]
    config: Mapping[str, Any]
    made_with: Mapping[str, str]
    step: int = 0


@dataclass(frozen=True)
class EpochMetrics:
    """A row of `metrics.csv`.

    Attributes:
        epoch: Complete epochs at the end of the row; the last row of a run may end within an epoch.
        step: Optimizer steps taken by then.
        train_loss: Mean loss over the images trained on since the last row, with the raw weights, times the
            timestep sampler's weights, so that every sampler estimates the loss at uniform timesteps. It does
            not include the loss weighting.
        test_loss: Mean loss over the test images, with the raw weights and fixed timesteps and noise.
        learning_rate: Learning rate of the last step.
        seconds: Time of the training steps since the last row, in the steady state, without tests and
            checkpoints.
        images_per_second: Training images per second in that time.
        warmup_seconds: Time of steps that included compilation or warm-up, not counted in `seconds`.
        peak_memory_bytes: Peak memory use so far.
        grid_seconds: Time spent drawing grids since the last row (`--sample-every`), not counted elsewhere.
    """

    epoch: int
    step: int
    train_loss: float
    test_loss: float
    learning_rate: float
    seconds: float
    images_per_second: float
    warmup_seconds: float
    peak_memory_bytes: int
    grid_seconds: float = 0.0


@dataclass(frozen=True)
class DrawnGrid:
    """A grid of images that has been written.

    Attributes:
        path: The PNG.
        step: The optimizer steps of the sampled weights; for an ensemble, the largest.
        record: The settings of the grid, as in the JSON file next to it.
    """

    path: Path
    step: int
    record: Mapping[str, Any]


@dataclass(frozen=True)
class ObservedScore:
    """A score of sampled images. Only scores with equal N, features, reference and sampling are comparable.

    Attributes:
        step: The optimizer steps of the scored weights; for an ensemble, the largest.
        steps: S, the number of sampling steps.
        eta: The noise added while sampling, from 0 to 1.
        seed: Seed of the noise.
        num_images: N.
        features: The feature extractor, as users write it.
        frechet_distance: The squared Fréchet distance.
        kernel_distance: The unbiased squared MMD, without a scale factor.
        precision: From 0 to 1.
        recall: From 0 to 1.
        record: Everything that determines the numbers, as in `evaluation.json`.
    """

    step: int
    steps: int
    eta: float
    seed: int
    num_images: int
    features: str
    frechet_distance: float
    kernel_distance: float
    precision: float
    recall: float
    record: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Ending:
    """The end of a command.

    Attributes:
        status: `finished`; `interrupted`, by Ctrl-C or a signal; or `failed`, by an error.
        reason: The reason, on one line; empty if the command finished.
    """

    status: Literal["finished", "interrupted", "failed"]
    reason: str = ""
