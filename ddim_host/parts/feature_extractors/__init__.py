"""Feature extractors that need no framework and no download."""

from ddim_host.parts.feature_extractors.cifar_cnn import CifarCNN
from ddim_host.parts.feature_extractors.digits_mlp import DigitsMLP

__all__ = ["CifarCNN", "DigitsMLP"]
