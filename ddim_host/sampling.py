"""The DDIM sampler: from noise to images, on the device, for any framework."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ddim_host.diffusion import ddim_step
from ddim_host.images import to_uint8
from ddim_host.randomness import Stream, normal_images

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ddim_host.data import Images
    from ddim_host.diffusion import DDIMStep
    from ddim_host.waist import Model, WhichWeights

__all__ = ["Samples", "sample", "sample_batch"]


@dataclass(frozen=True, eq=False)
class Samples:
    """Sampled images, and the time they took.

    Attributes:
        images: uint8 `(N, H, W, C)`.
        seconds: Time of the sampling itself, noise included, on a warm device.
        warmup_seconds: Time of one whole step before, which compiles where the framework does that.
    """

    images: Images
    seconds: float
    warmup_seconds: float


def sample(
    model: Model,
    steps: Sequence[DDIMStep],
    *,
    num_images: int,
    image_shape: tuple[int, int, int],
    batch_size: int,
    seed: int,
    clip: bool,
    which: WhichWeights,
    on_step: Callable[[int], None] = lambda _: None,
) -> Samples:
    """Sample images 0 to N - 1 of a seed.

    Image i depends on the seed and i alone, not on N or the batch size.

    Args:
        model: The network.
        steps: From `diffusion.ddim_steps`.
        num_images: N.
        image_shape: `(H, W, C)`.
        batch_size: Images per network call.
        seed: Seed of x_T and of the noise that eta adds.
        clip: Whether to limit the predicted x_start to [-1, 1].
        which: The weights to use.
        on_step: Called after each network call with the number of images in it.
    """
    batches = [
        np.arange(start, min(start + batch_size, num_images)) for start in range(0, num_images, batch_size)
    ]
    shape = (image_shape[2], image_shape[0], image_shape[1])
    model.synchronize()
    started = time.perf_counter()
    for size in {len(indices) for indices in batches}:
        # A whole step: a lazy framework compiles its arithmetic as well as the network.
        sample_batch(model, steps[:1], np.arange(size), shape=shape, seed=seed, clip=clip, which=which)
    model.synchronize()
    warm = time.perf_counter()
    images = [
        to_uint8(
            sample_batch(
                model, steps, indices, shape=shape, seed=seed, clip=clip, which=which, on_step=on_step
            )
        )
        for indices in batches
    ]
    model.synchronize()
    return Samples(np.concatenate(images), time.perf_counter() - warm, warm - started)


def sample_batch(
    model: Model,
    steps: Sequence[DDIMStep],
    indices: NDArray[np.int64],
    *,
    shape: tuple[int, int, int],
    seed: int,
    clip: bool,
    which: WhichWeights,
    on_step: Callable[[int], None] = lambda _: None,
) -> NDArray[np.float32]:
    """Sample the images of a seed with the given indices, in one batch.

    Args:
        model: The network.
        steps: From `diffusion.ddim_steps`.
        indices: int64 `(B,)`, which images.
        shape: `(C, H, W)`.
        seed: Seed of x_T and of the noise that eta adds.
        clip: Whether to limit the predicted x_start to [-1, 1].
        which: The weights to use.
        on_step: Called after each network call with B.

    Returns:
        x_start, float32 `(B, C, H, W)`.
    """

    def noise(stream: Stream, step: int) -> NDArray[np.float32]:
        return normal_images(seed, stream, steps=[step] * len(indices), indices=indices, shape=shape)

    x_t = model.to_device(noise(Stream.SAMPLE_START, 0))
    for step in steps:
        predicted_noise = model.predict_noise(x_t, step.t, which=which)
        fresh_noise = model.to_device(noise(Stream.SAMPLE_NOISE, step.t)) if step.sigma > 0.0 else None
        x_t, _ = ddim_step(
            x_t, predicted_noise, step, fresh_noise=fresh_noise, clip=model.clip if clip else None
        )
        on_step(len(indices))
    return model.to_host(x_t)
