"""The features in which images are compared if the user names none.

Digits have features of their own. All other images are compared in those of FID, whose weights are a
download; if they are not available, in those of `cifar_cnn`, which come with the host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_host.errors import UserError
from ddim_host.evaluation.evaluator import Evaluator
from ddim_host.plugin.parameters import PartChoice
from ddim_host.plugin.registry import Kind

if TYPE_CHECKING:
    from ddim_host.evaluation.statistics import MeasureSettings
    from ddim_host.plugin.registry import Registry

_OF_DIGITS, _OF_FID = PartChoice("digits_mlp", "ddim-host", {}), PartChoice("inception", None, {})
OFFLINE = PartChoice("cifar_cnn", "ddim-host", {})
"""The features that are always at hand, for images of any size."""


def default_evaluator(
    data: str, image_shape: tuple[int, int, int], settings: MeasureSettings
) -> tuple[Evaluator, str]:
    """Return an evaluator with the features for a data set, and what to say of them; downloads what it needs.

    Args:
        data: The name of the data set.
        image_shape: `(H, W, C)` of its images.
        settings: How measures are taken.

    Raises:
        UserError: There are no features for such images.
    """
    if data == "digits":
        return Evaluator(_OF_DIGITS, image_shape, settings), ""
    try:
        return Evaluator(_OF_FID, image_shape, settings), ""
    except UserError as error:
        said = (
            f"the features of FID are not available ({error.summary}), so these scores are in those of "
            f"{OFFLINE.name}, and no FID; --features chooses others"
        )
        return Evaluator(OFFLINE, image_shape, settings), said


def features_at_hand(data: str, registry: Registry) -> PartChoice:
    """Return the features for a data set of those that need no download.

    Args:
        data: The name of the data set.
        registry: The parts that are installed.
    """
    if data == "digits":
        return _OF_DIGITS
    try:
        is_ready = getattr(registry.find(Kind.FEATURES, _OF_FID).make, "is_ready", None)
    except UserError:
        return OFFLINE
    return _OF_FID if is_ready is None or is_ready() else OFFLINE
