"""Choice of the evaluator for commands that compare image features."""

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
    """Return an evaluator with the requested features, or with the defaults for the data set.

    Print a note if the features are not the usual ones.

    Raises:
        UserError: No feature extractor is available for these images.
    """
    if features is not None:
        return Evaluator(features, experiment.image_shape, MeasureSettings())
    data = experiment.config.data.name
    evaluator, note = default_evaluator(data, experiment.image_shape, MeasureSettings())
    if note:
        print(f"note: {note}", file=sys.stderr)
    return evaluator
