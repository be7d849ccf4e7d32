"""All randomness of an experiment: a pure function of (seed, stream, step, index).

Philox is counter-based: its output is a function of a 128-bit key and a 256-bit counter. Seed and stream are
the key; step and index are the upper words of the counter, whose lower word counts within one draw. So the
noise of image 7 in epoch 3 does not depend on earlier draws, processes or batch sizes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


class Stream(IntEnum):
    """Purpose of a stream of random numbers. Results depend on the values: never change or reuse one."""

    INITIAL_WEIGHTS = 1
    """Initial weights; `step` is 0, `index` the position of the parameter."""
    IMAGE_ORDER = 2
    """Order of the training images; `step` is the epoch."""
    FLIP = 3
    """Random mirroring of training images; `step` is the epoch."""
    TIMESTEPS = 4
    """Timesteps of a training batch; `step` is the training step."""
    TRAINING_NOISE = 5
    """Noise added to training images; `step` is the epoch, `index` the image."""
    DROPOUT = 6
    """Seeds for dropout; `step` is the training step."""
    TEST_TIMESTEPS = 7
    """Timesteps for the test loss; `step` is 0."""
    TEST_NOISE = 8
    """Noise for the test loss; `step` is 0, `index` the image."""
    SAMPLE_START = 9
    """x_T of samples; `step` is 0, `index` the sample."""
    SAMPLE_NOISE = 10
    """Noise added while sampling with eta > 0; `step` is the timestep, `index` the sample."""
    KERNEL_SUBSETS = 11
    """Subsets over which the kernel distance is averaged; `step` is 0."""
    SEARCH_START = 12
    """x_T of the images used by searches for timestep subsets; `step` is 0, `index` the image."""


def generator(seed: int, stream: Stream, *, step: int = 0, index: int = 0) -> np.random.Generator:
    """Return a generator positioned at the start of one draw.

    Args:
        seed: In [0, 2^63).
        stream: The purpose of the random numbers.
        step: At least 0; see `Stream` for its meaning.
        index: At least 0; see `Stream` for its meaning.
    """
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, step, index, 0]))


def normal_images(
    seed: int,
    stream: Stream,
    *,
    steps: Iterable[int],
    indices: Iterable[int],
    shape: tuple[int, ...],
) -> NDArray[np.float32]:
    """Draw standard normal noise for each image separately.

    Args:
        seed: In [0, 2^63).
        stream: The purpose of the noise.
        steps: One step per image.
        indices: One index per image.
        shape: Shape of one image.

    Returns:
        float32 `(N, *shape)`.
    """
    draws = list(zip(steps, indices, strict=True))
    noise = np.empty((len(draws), *shape), dtype=np.float32)
    bits = np.random.Philox(key=[seed, stream])
    rng = np.random.Generator(bits)
    state = bits.state
    # Resetting one generator is several times faster than creating one per image; the rest of its state (the
    # buffer of unused output) equals that of a new generator.
    for position, (step, index) in enumerate(draws):
        state["state"]["counter"][:] = (0, step, index, 0)
        bits.state = state
        rng.standard_normal(out=noise[position], dtype=np.float32)
    return noise


def dropout_seed(seed: int, step: int) -> int:
    """Return the dropout seed of one training step, in [0, 2^63); nearby steps have unrelated seeds."""
    return int(generator(seed, Stream.DROPOUT, step=step).integers(0, 2**63))
