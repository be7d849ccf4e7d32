"""What observers are told: the run, its rows of metrics, its grids, its scores, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 - documentation looks the types up
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class ObservedRun:
    """The run that is watched, and the command that works on it.

    Attributes:
        path: The folder of the run, which exists; an observer may write into it, under a name of its own.
        command: `run`, `sample` or `evaluate`.
        config: The settings and parts of the command, as in `config.toml`: texts, numbers, lists, tables.
        made_with: Versions, hardware and the whole command, as texts by name.
        step: The optimizer steps taken before it began: 0, or those of the checkpoint that it goes on from.
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
        epoch: Epochs complete at the end of the row; the last row of a run may end within one.
        step: Optimizer steps taken by then.
        train_loss: Mean loss over the images trained on since the last row, raw weights, times the timestep
            sampler's weights: every sampler estimates the loss at uniform timesteps. The loss weighting is
            not in it.
        test_loss: Mean loss over the test images, raw weights, fixed timesteps and noise.
        learning_rate: Of the last step.
        seconds: Time of the training steps since the last row, steady state, without tests and checkpoints.
        images_per_second: Training images per second in that time.
        warmup_seconds: Time of steps that also compiled or warmed up, not in `seconds`.
        peak_memory_bytes: Most memory used so far.
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


@dataclass(frozen=True)
class DrawnGrid:
    """A grid of images, written.

    Attributes:
        path: The PNG.
        step: The optimizer steps of the weights that made it; of an ensemble, the most.
        record: How it was made, as the JSON file beside it says.
    """

    path: Path
    step: int
    record: Mapping[str, Any]


@dataclass(frozen=True)
class ObservedScore:
    """A score of sampled images. Only those of equal N, features, reference and sampling are comparable.

    Attributes:
        step: The optimizer steps of the weights that were scored; of an ensemble, the most.
        steps: S, the timesteps of the sampler.
        eta: 0 to 1.
        seed: Of the noise.
        num_images: N.
        features: The feature extractor, as users write it.
        frechet_distance: The squared Fréchet distance.
        kernel_distance: The unbiased squared MMD, not multiplied.
        precision: From 0 to 1.
        recall: From 0 to 1.
        record: All that the numbers depend on, as in `evaluation.json`.
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
    """How a command ended.

    Attributes:
        status: `finished`; `interrupted`, by Ctrl-C or a signal; or `failed`, by an error.
        reason: Why, in one line; empty if it finished.
    """

    status: Literal["finished", "interrupted", "failed"]
    reason: str = ""
