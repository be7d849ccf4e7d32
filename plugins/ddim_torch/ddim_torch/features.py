"""Feature extractors in PyTorch; a plugin for parts, because they evaluate samples from any framework.

torch is imported only when an extractor is created, in the evaluator's process.
"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - parameter types are resolved at run time
from typing import TYPE_CHECKING, cast

import numpy as np

from ddim_host import UserError, hookimpl
from ddim_torch.inception_files import are_cached

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host import FeatureExtractorFactory, Images
    from ddim_host.framework import Device

_CHUNK = 50
"""Images per batch: larger batches need gigabytes of memory and are not faster."""


@hookimpl
def ddim_feature_extractors() -> dict[str, FeatureExtractorFactory]:
    """`inception`: the FID network."""
    return {"inception": Inception}


class Inception:
    """The 2,048 features of FID and KID: the last pooling layer of the 2015 Inception v3 network.

    They equal pytorch-fid's: images in [0, 1] are resized to 299 x 299 (bilinear, corners not aligned), then
    scaled to [-1, 1], all in fp32. Grey images are converted to RGB.

    Args:
        weights: A file with the weights; None for the published ones, which are downloaded once. See
            `inception_weights.read_weights`.
        device: `cuda`, `cpu`, or `auto`: `cuda` if there is a GPU.

    Raises:
        UserError: The weights or the device are not available.
    """

    framework = "torch"
    is_ready = staticmethod(are_cached)

    def __init__(self, *, weights: Path | None = None, device: str = "auto") -> None:
        import torch  # noqa: PLC0415 - heavy, and not allowed in every process

        from ddim_torch.inception import InceptionNetwork  # noqa: PLC0415
        from ddim_torch.inception_weights import read_weights  # noqa: PLC0415
        from ddim_torch.model import resolve_device  # noqa: PLC0415

        if device not in ("auto", "cpu", "cuda"):
            raise UserError(
                f"parameter 'device' of feature extractor 'inception' must be auto, cpu or cuda, "
                f"not {device!r:.40}"
            )
        resolved = resolve_device(cast("Device", device))
        parameters, self.fingerprint = read_weights(weights)
        self._network = InceptionNetwork(parameters, resolved)
        self._tensor = torch.from_numpy

    def __call__(self, images: Images, /) -> NDArray[np.float32]:
        """See `contracts.FeatureExtractor`; maps uint8 `(N, H, W, C)` to float32 `(N, 2048)`."""
        found = []
        for first in range(0, len(images), _CHUNK):
            chunk = np.ascontiguousarray(images[first : first + _CHUNK].transpose(0, 3, 1, 2))
            rgb = self._tensor(chunk).expand(-1, 3, -1, -1)
            found.append(self._network(rgb).cpu().numpy())
        return np.concatenate(found)
