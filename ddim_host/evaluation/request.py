"""Evaluation options, in one table used by `evaluate`, `sweep`, TOML files and validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ddim_host.experiment.settings import Setting, read_list
from ddim_host.plugin.parameters import parse_choice
from ddim_host.system.limits import MAX_GRID_IMAGES, MAX_IMAGES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ddim_host.plugin.parameters import PartChoice

Half: TypeAlias = Literal["train", "test"]

EVALUATION_OPTIONS = {
    "samples": (
        "N",
        "number of images for each score; scores with different N are not comparable (default: 10000)",
    ),
    "steps": ("N,...", "numbers of steps (default: 10,20,50,100)"),
    "eta": ("X,...", "values of eta (default: 0,0.2,0.5,1)"),
    "seed": (
        "N,...",
        "seeds of the noise; with several, tables show the mean and range (default: the run's seed)",
    ),
    "features": (
        "PART",
        "the feature extractor: digits_mlp, cifar_cnn, or inception (FID), inception:weights=FILE "
        "(default: digits_mlp for digits; otherwise inception, or cifar_cnn if its weights are unavailable)",
    ),
    "reference": (
        "train|test",
        "the half of the real images to use as the reference; the other half is scored for comparison "
        "(default: train)",
    ),
    "grids": (
        "N",
        "also write a grid of the first N images of the first seed to RUN/samples for each combination of "
        "steps and eta, unless it already exists",
    ),
}
"""Metavar and help text of each option."""

_SETTINGS = {
    "samples": Setting(
        "samples", int, None, "", lambda n: 10 <= n <= MAX_IMAGES, f"from 10 to {MAX_IMAGES:,}"
    ),
    "reference": Setting("reference", str, None, "", lambda s: s in ("train", "test"), "train or test"),
    "grids": Setting(
        "grids", int, None, "", lambda n: 1 <= n <= MAX_GRID_IMAGES, f"from 1 to {MAX_GRID_IMAGES:,}"
    ),
}


@dataclass(frozen=True)
class EvaluationRequest:
    """Validated evaluation options.

    Attributes:
        samples: N, the number of images of each score.
        steps: Numbers of steps.
        eta: Values of eta.
        seed: Seeds of the noise; empty for the run's seed.
        features: The feature extractor; None for the default of the data set.
        reference: The half of the real images to compare with.
        grids: Number of images in the grid drawn for each score; None for no grids.
    """

    samples: int = 10_000
    steps: tuple[int, ...] = (10, 20, 50, 100)
    eta: tuple[float, ...] = (0.0, 0.2, 0.5, 1.0)
    seed: tuple[int, ...] = ()
    features: PartChoice | None = None
    reference: Half = "train"
    grids: int | None = None


def read_evaluation(given: Mapping[str, str], *, prefix: str = "--") -> EvaluationRequest:
    """Parse and validate evaluation options.

    Args:
        given: Values as on the command line, with keys from `EVALUATION_OPTIONS`.
        prefix: Prefix of the options in error messages.

    Raises:
        UserError: A value cannot be parsed or is not allowed.
    """
    values: dict[str, Any] = {}
    for name, text in given.items():
        if name in _SETTINGS:
            values[name] = _SETTINGS[name].read(text, origin=prefix + name)
        elif name == "features":
            values[name] = parse_choice(text)
        else:
            values[name] = read_list(name, text, origin=prefix + name)
    return EvaluationRequest(**values)
