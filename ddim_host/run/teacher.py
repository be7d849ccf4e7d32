"""A teacher's trajectory: DDIM with many steps, from noise that is used for nothing else."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ddim_host.diffusion import ddim_steps
from ddim_host.diffusion.randomness import Stream, normal_images
from ddim_host.diffusion.search import Teacher
from ddim_host.run.sampling import denoise, require_finite
from ddim_host.system.progress import progress_bar

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.experiment.assembly import Experiment
    from ddim_host.run.sampling import Denoiser


def follow_teacher(
    experiment: Experiment, denoiser: Denoiser, timesteps: NDArray[np.int64], num_images: int
) -> Teacher:
    """Sample with deterministic DDIM and a progress bar, and return the network's predictions.

    The seed, the clipping and the batch size are the experiment's.

    Args:
        experiment: The experiment.
        denoiser: Its trained network.
        timesteps: int64 `(G,)`, strictly increasing.
        num_images: The number of images N.

    Raises:
        UserError: A pixel is not finite.
    """
    config, model = experiment.config, denoiser.model
    height, width, channels = experiment.image_shape
    steps = ddim_steps(experiment.schedule, timesteps.tolist(), eta=0.0)
    noise = normal_images(
        config.seed,
        Stream.SEARCH_START,
        steps=[0] * num_images,
        indices=range(num_images),
        shape=(channels, height, width),
    )
    x_start = np.empty((len(steps), *noise.shape), dtype=np.float32)
    size = min(config.batch_size, num_images)
    with progress_bar("teacher", math.ceil(num_images / size) * len(steps), unit="call") as bar:
        for first in range(0, num_images, size):
            batch = slice(first, first + size)
            x_t = model.to_device(noise[batch])
            followed = denoise(denoiser, x_t, steps, limit=config.x_start_limit, on_call=bar.update)
            for position, (_, predicted) in enumerate(followed, start=1):
                x_start[-position, batch] = model.to_host(predicted)
            require_finite(x_start[0, batch])
    arrays = timesteps.copy(), noise.reshape(num_images, -1), x_start.reshape(len(steps), num_images, -1)
    for array in arrays:
        array.flags.writeable = False  # they are passed to a part, and the host uses them afterwards
    return Teacher(*arrays)
