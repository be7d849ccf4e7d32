"""The evaluator of commands that compare images in features."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ddim_host.evaluation.default_features import default_evaluator
from ddim_host.evaluation.evaluator import Evaluator
from ddim_host.evaluation.statistics import MeasureSettings

if TYPE_CHECKING:
    from ddim_host.experiment.assembly import Experiment
    from ddim_host.plugin.parameters import PartChoice


def evaluator_of(experiment: Experiment, features: PartChoice | None = None) -> Evaluator:
    """Return an evaluator with the features that were asked for, else with those for the data set.

    If those are not the usual ones, a note says so.

    Raises:
        UserError: There are no features for such images.
    """
    if features is not None:
        return Evaluator(features, experiment.image_shape, MeasureSettings())
    data = experiment.config.data.name
    evaluator, said = default_evaluator(data, experiment.image_shape, MeasureSettings())
    if said:
        print(f"note: {said}", file=sys.stderr)
    return evaluator
