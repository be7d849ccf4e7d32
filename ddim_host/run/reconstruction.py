"""Reconstruction: encode real images as noise with deterministic DDIM, and decode the noise.

A deterministic sampler maps between noise and images in both directions. The difference between an image and
its reconstruction measures the discretisation error (arXiv 2010.02502, section 5.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ddim_host.diffusion import ddim_steps, encoding_steps
from ddim_host.run.images import to_network
from ddim_host.run.sampling import denoise, require_finite

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ddim_host.diffusion import DDIMStep, NoiseSchedule
    from ddim_host.plugin.data import Images
    from ddim_host.run.sampling import Denoiser

PAPER_ERRORS = {10: 0.014, 20: 0.0065, 50: 0.0023, 100: 0.0009, 200: 0.0004, 500: 0.0001, 1000: 0.0001}
"""The paper's reconstruction errors on CIFAR-10 test images by number of steps
(arXiv 2010.02502, table 2)."""


def reconstruct(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    subset: NDArray[np.int64],
    images: Images,
    *,
    on_call: Callable[[], object] = lambda: None,
) -> NDArray[np.float32]:
    """Encode and decode images without clipping, which cannot be inverted.

    Args:
        denoiser: The network.
        schedule: The noise schedule that it was trained with.
        subset: int64 `(S,)`, the timesteps in both directions.
        images: uint8 `(B, H, W, C)`.
        on_call: Called after each of the 2 S network calls.

    Returns:
        float32 `(B, C, H, W)`, approximately in [-1, 1].

    Raises:
        UserError: A pixel is not finite.
    """
    model = denoiser.model
    timesteps = subset.tolist()

    def follow(x: NDArray[np.float32], steps: Sequence[DDIMStep]) -> NDArray[np.float32]:
        state = model.to_device(x)
        for arrived, _ in denoise(denoiser, state, steps, limit=None):
            state = arrived
            on_call()
        return model.to_host(state)

    noise = follow(to_network(images), encoding_steps(schedule, timesteps))
    decoded = follow(np.ascontiguousarray(noise), ddim_steps(schedule, timesteps, eta=0.0))
    require_finite(decoded)
    return decoded


def squared_errors(images: Images, reconstructed: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean squared error per dimension of each image, for pixels in [0, 1].

    Args:
        images: uint8 `(B, H, W, C)`.
        reconstructed: float32 `(B, C, H, W)`, approximately in [-1, 1]; neither clipped nor rounded.

    Returns:
        float64 `(B,)`.
    """
    difference = (reconstructed.astype(np.float64) - to_network(images)) / 2.0
    errors: NDArray[np.float64] = (difference**2).reshape(len(images), -1).mean(1)
    return errors
