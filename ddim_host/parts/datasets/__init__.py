"""The built-in data sets, and `images` for your own."""

from ddim_host.parts.datasets.cifar10 import cifar10
from ddim_host.parts.datasets.digits import digits
from ddim_host.parts.datasets.images import images
from ddim_host.parts.datasets.mnist import fashion_mnist, mnist

__all__ = ["cifar10", "digits", "fashion_mnist", "images", "mnist"]
