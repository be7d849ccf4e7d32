"""Default features for comparing images.

The digits use `digits_mlp`. All other images use the FID features, `inception`, whose weights are downloaded,
or `cifar_cnn`, which is included in the host, if those weights are not available.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_host.errors import UserError
from ddim_host.evaluation.evaluator import Evaluator
from ddim_host.plugin.parameters import PartChoice
from ddim_host.plugin.registry import Kind
from ddim_host.plugin.validation import use

if TYPE_CHECKING:
    from ddim_host.evaluation.statistics import MeasureSettings
    from ddim_host.plugin.registry import Registry

_OF_DIGITS, _OF_FID = PartChoice("digits_mlp", "ddim-host", {}), PartChoice("inception", None, {})
OFFLINE = PartChoice("cifar_cnn", "ddim-host", {})
"""Features that are always available, for images of any size."""


def default_evaluator(
    data: str, image_shape: tuple[int, int, int], settings: MeasureSettings
) -> tuple[Evaluator, str]:
    """Return an evaluator with a data set's default features, and a note if it had to fall back on others.

    Missing weights are downloaded. The note is empty if there was no fallback.

    Args:
        data: The name of the data set.
        image_shape: `(H, W, C)` of its images.
        settings: Settings of the measures.

    Raises:
        UserError: No features are available for these images.
    """
    if data == "digits":
        return Evaluator(_OF_DIGITS, image_shape, settings), ""
    try:
        return Evaluator(_OF_FID, image_shape, settings), ""
    except UserError as error:
        grey = "; grey images become RGB" if image_shape[2] == 1 else ""
        note = (
            f"the FID features are not available ({error.summary}), so these scores use {OFFLINE.name} "
            f"and are not FIDs{grey}; choose other features with --features"
        )
        return Evaluator(OFFLINE, image_shape, settings), note


def offline_features(data: str, registry: Registry) -> PartChoice:
    """Return a data set's default features, or `OFFLINE` if those would have to be downloaded.

    Args:
        data: The name of the data set.
        registry: The installed parts.

    Raises:
        UserError: The extractor of the FID features raised an exception.
    """
    if data == "digits":
        return _OF_DIGITS
    try:
        part = registry.find(Kind.FEATURES, _OF_FID)
    except UserError:
        return OFFLINE
    is_ready = use(part, lambda: getattr(part.make, "is_ready", None))
    return _OF_FID if is_ready is None or use(part, is_ready) else OFFLINE
