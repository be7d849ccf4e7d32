"""Features of natural images from a small CIFAR-10 classifier. Distances between them are not FID."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors.numpy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.plugin.data import Images

    Maps = NDArray[np.float32]

_WEIGHTS = Path(__file__).with_name("cifar_cnn.safetensors")
_SIZE = 32
_STAGES = 3

_CHUNK = 100
"""Images per batch: with more, the windows no longer fit in the processor's caches."""


class CifarCNN:
    """224 features of an image: the means of all channels after each stage of a CIFAR-10 classifier.

    The network has ten convolutions, half a million weights and an accuracy of 81% on CIFAR-10's test
    images. Its three stages respond to edges, textures and parts of objects. Over the training images, each
    feature has mean 0 and variance 1. Images of other sizes are resized to 32 x 32 pixels, and grey images
    are converted to RGB.

    The weights are stored next to this module, so that the features are the same on every machine;
    `tests/support/fit_cifar_cnn.py` trains similar ones.
    """

    def __init__(self) -> None:
        stored = _WEIGHTS.read_bytes()
        self.fingerprint = hashlib.sha256(stored).hexdigest()
        self._weights = {
            name: array.astype(np.float32) for name, array in safetensors.numpy.load(stored).items()
        }

    def __call__(self, images: Images, /) -> NDArray[np.float32]:
        """See `contracts.FeatureExtractor`; maps uint8 `(N, H, W, C)` to float32 `(N, 224)`."""
        chunks = (images[first : first + _CHUNK] for first in range(0, len(images), _CHUNK))
        return np.concatenate([self._features(_resized(chunk)) for chunk in chunks])

    def _features(self, images: Images) -> NDArray[np.float32]:
        x = np.broadcast_to(images, (*images.shape[:3], 3)).astype(np.float32) / 127.5 - 1.0
        x = _relu(self._convolved(x, "stem"))
        means = []
        for stage in range(1, _STAGES + 1):
            x = _relu(self._convolved(x, f"down{stage}", stride=2))
            inner = _relu(self._convolved(x, f"first{stage}"))
            x = _relu(x + self._convolved(inner, f"second{stage}"))
            means.append(x.mean((1, 2)))
        features: NDArray[np.float32] = np.concatenate(means, axis=1) - self._weights["mean"]
        features *= self._weights["scale"]
        return features

    def _convolved(self, x: Maps, name: str, stride: int = 1) -> Maps:
        """Apply a 3 x 3 convolution with zero padding, as one matrix product."""
        kernel, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        windows = windows[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)  # (N, H, W, 3, 3, C)
        count, height, width = windows.shape[:3]
        products = windows.reshape(count * height * width, -1) @ kernel.reshape(-1, kernel.shape[3])
        return (products + bias).reshape(count, height, width, -1)


def _relu(x: Maps) -> Maps:
    return np.maximum(x, 0.0, out=x)


def _resized(images: Images) -> Images:
    """Resize to 32 x 32 pixels with Pillow's bicubic filter; its integer arithmetic is exact everywhere."""
    if images.shape[1:3] == (_SIZE, _SIZE):
        return images
    from PIL import Image  # noqa: PLC0415 - seldom needed, and slow to import

    found = np.empty((len(images), _SIZE, _SIZE, images.shape[3]), np.uint8)
    for image, place in zip(images, found, strict=True):
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        resized = np.asarray(picture.resize((_SIZE, _SIZE), Image.Resampling.BICUBIC))
        place[...] = resized.reshape(place.shape)
    return found
