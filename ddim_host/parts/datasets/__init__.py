"""The data sets that come with the host: `digits`, `cifar10`, and `images` for one's own."""

from ddim_host.parts.datasets.cifar10 import cifar10
from ddim_host.parts.datasets.digits import digits
from ddim_host.parts.datasets.images import images

__all__ = ["cifar10", "digits", "images"]
