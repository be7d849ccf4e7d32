"""The options of an evaluation: one table for `evaluate`, `sweep`, TOML files and the checks."""

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
    "samples": ("N", "images for each score; scores of different N are not comparable (default: 10000)"),
    "steps": ("N,...", "numbers of steps (default: 10,20,50,100)"),
    "eta": ("X,...", "values of eta (default: 0,0.2,0.5,1)"),
    "seed": ("N,...", "seeds of the noise; several give mean and range (default: the run's)"),
    "features": (
        "PART",
        "the feature extractor: digits_mlp, cifar_cnn, or inception (FID), inception:weights=FILE "
        "(default: digits_mlp for digits; else inception, or cifar_cnn if its weights are not available)",
    ),
    "reference": (
        "train|test",
        "the real images to compare with; the others tell the noise floor (default: train)",
    ),
    "grids": (
        "N",
        "also draw the first N images of each steps and eta, of the first seed: grids in RUN/samples",
    ),
}
"""The metavar and the `--help` line of each option."""

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
    """The options of an evaluation, read and checked.

    Attributes:
        samples: N, the images of each score.
        steps: Numbers of steps.
        eta: Values of eta.
        seed: Seeds of the noise; none for that of the run.
        features: The feature extractor; None for the one that follows from the data set.
        reference: The real images to compare with.
        grids: How many images of each score to draw; None for no picture.
    """

    samples: int = 10_000
    steps: tuple[int, ...] = (10, 20, 50, 100)
    eta: tuple[float, ...] = (0.0, 0.2, 0.5, 1.0)
    seed: tuple[int, ...] = ()
    features: PartChoice | None = None
    reference: Half = "train"
    grids: int | None = None


def read_evaluation(given: Mapping[str, str], *, prefix: str = "--") -> EvaluationRequest:
    """Read the options of an evaluation.

    Args:
        given: Texts as on the command line; keys are those of `EVALUATION_OPTIONS`.
        prefix: What stands before them where they were given, for messages.

    Raises:
        UserError: A value cannot be read or is not allowed.
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
