"""Training and test batches: images, timesteps and noise, determined by the seed and the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ddim_host.diffusion import prediction_target
from ddim_host.diffusion.randomness import Stream, dropout_seed, generator, normal_images
from ddim_host.framework.interface import Batch
from ddim_host.framework.processes import ALONE, share
from ddim_host.run.images import to_network
from ddim_host.run.lookahead import Lookahead

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ddim_host.diffusion import NoiseSchedule, PredictionType
    from ddim_host.experiment.assembly import Experiment
    from ddim_host.framework.processes import Processes
    from ddim_host.plugin.contracts import TimestepSampler
    from ddim_host.plugin.data import Images

TEST_SEED = 0
"""Seed of test noise and timesteps, the same for all runs, so that their test losses are comparable."""


class TrainingBatches:
    """An infinite sequence of batches of the same size.

    The images are reshuffled in each epoch. A batch may span two epochs, so that no image is skipped and no
    batch is smaller than the others.

    Args:
        images: uint8 `(N, H, W, C)`.
        schedule: The noise schedule.
        sampler: The timestep sampler.
        weighting: float64 `(T,)`, the loss weighting.
        prediction_type: The network's prediction type.
        batch_size: B, summed over all processes.
        random_flip: Flip images horizontally at random.
        seed: The run's seed.
        processes: The processes that share a batch; each receives its own rows.
        ahead: Number of batches whose images and noise a thread prepares in advance.
        end: The total number of training steps; no batches are prepared beyond it.
    """

    def __init__(
        self,
        images: Images,
        schedule: NoiseSchedule,
        sampler: TimestepSampler,
        weighting: NDArray[np.float64],
        *,
        prediction_type: PredictionType = "epsilon",
        batch_size: int,
        random_flip: bool,
        seed: int,
        processes: Processes = ALONE,
        ahead: int = 0,
        end: int = 0,
    ) -> None:
        self._images = images
        self._schedule = schedule
        self._sampler = sampler
        self._weighting = weighting
        self._prediction_type = prediction_type
        self._batch_size = batch_size
        self._random_flip = random_flip
        self._seed = seed
        self._rows = share(processes, batch_size)
        self._epochs: dict[int, tuple[NDArray[np.int64], NDArray[np.bool_]]] = {}
        self._prepared = Lookahead(self._prepare, depth=ahead, end=end)

    def epochs_done(self, step: int) -> int:
        """Return the number of complete epochs after `step` steps."""
        return step * self._batch_size // len(self._images)

    def first_step_after(self, epochs: int) -> int:
        """Return the number of steps after which `epochs` epochs are complete."""
        return math.ceil(epochs * len(self._images) / self._batch_size)

    def batch(self, step: int) -> Batch:
        """Return this process's share of the batch for a step; steps are counted from 0."""
        rows = self._rows
        x_start, noise = self._prepared(step)
        # A step may change the state of the sampler, so timesteps are never drawn in advance.
        rng = generator(self._seed, Stream.TIMESTEPS, step=step)
        whole_t, whole_weights = self._sampler.sample(self._batch_size, rng)
        t, weights = whole_t[rows.start : rows.stop], whole_weights[rows.start : rows.stop]
        return Batch(
            x_t=self._schedule.add_noise(x_start, noise, t),
            t=t,
            target=prediction_target(self._prediction_type, self._schedule, x_start, noise, t),
            weights=weights * self._weighting[t].astype(np.float32),
            sampler_weights=weights,
            dropout_seed=dropout_seed(self._seed, step),
            first=rows.start,
            total=self._batch_size,
        )

    def close(self) -> None:
        """Stop the thread that prepares batches, if any."""
        self._prepared.close()

    def _prepare(self, step: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the images of a step's batch in the network's format, and their noise."""
        rows = self._rows
        positions = step * self._batch_size + np.arange(rows.start, rows.stop)
        epochs, offsets = np.divmod(positions, len(self._images))
        indices = np.empty_like(positions)
        flips = np.zeros(len(positions), dtype=np.bool_)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            order, flipped = self._epoch(int(epoch))
            indices[here] = order[offsets[here]]
            flips[here] = flipped[indices[here]]
        x_start = to_network(self._images[indices])
        if self._random_flip:
            x_start[flips] = x_start[flips, :, :, ::-1]
        noise = normal_images(
            self._seed, Stream.TRAINING_NOISE, steps=epochs, indices=indices, shape=x_start.shape[1:]
        )
        return x_start, noise

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return an epoch's image order and its mask of flipped images; the last two epochs are cached."""
        if epoch not in self._epochs:
            size = len(self._images)
            if len(self._epochs) > 1:
                self._epochs.pop(min(self._epochs))
            self._epochs[epoch] = (
                generator(self._seed, Stream.IMAGE_ORDER, step=epoch).permutation(size),
                generator(self._seed, Stream.FLIP, step=epoch).random(size) < 0.5,
            )
        return self._epochs[epoch]


def training_batches(experiment: Experiment, images: Images, *, ahead: int = 0) -> TrainingBatches:
    """Return the training batches of an experiment.

    Args:
        experiment: The assembled experiment.
        images: The experiment's training images.
        ahead: See `TrainingBatches`.
    """
    config = experiment.config
    return TrainingBatches(
        images,
        experiment.schedule,
        experiment.sampler,
        experiment.weighting,
        prediction_type=config.prediction_type,
        batch_size=config.batch_size,
        random_flip=experiment.source.random_flip,
        seed=config.seed,
        processes=experiment.processes,
        ahead=ahead,
        end=config.length(len(images)),
    )


@dataclass(frozen=True, eq=False)
class TestBatches:
    """Test batches of the same size, with the same images, timesteps and noise in every pass.

    The timesteps cover [0, T) evenly, one per image. If there are more than `limit` images, an evenly
    spaced selection is used.

    Attributes:
        images: uint8 `(M, H, W, C)`.
        schedule: The noise schedule.
        batch_size: B, summed over all processes.
        limit: Maximum number of images.
        processes: The processes that share a batch; each receives its own rows.
        prediction_type: The network's prediction type.
    """

    images: Images
    schedule: NoiseSchedule
    batch_size: int
    limit: int
    processes: Processes = ALONE
    prediction_type: PredictionType = "epsilon"

    def __iter__(self) -> Iterator[tuple[Batch, int]]:
        """Yield each batch and the number of images that count; repeated images pad the last batch."""
        mine = share(self.processes, self.batch_size)
        size = min(len(self.images), self.limit)
        chosen = np.arange(size) * len(self.images) // size
        timesteps = self.schedule.num_train_timesteps
        rng = generator(TEST_SEED, Stream.TEST_TIMESTEPS)
        t = ((rng.permutation(size) + rng.random(size)) / size * timesteps).astype(np.int64)
        for start in range(0, size, self.batch_size):
            rows = (start + np.arange(mine.start, mine.stop)) % size
            x_start = to_network(self.images[chosen[rows]])
            noise = normal_images(
                TEST_SEED,
                Stream.TEST_NOISE,
                steps=np.zeros_like(rows),
                indices=chosen[rows],
                shape=x_start.shape[1:],
            )
            ones = np.ones(len(mine), dtype=np.float32)
            batch = Batch(
                x_t=self.schedule.add_noise(x_start, noise, t[rows]),
                t=t[rows],
                target=prediction_target(self.prediction_type, self.schedule, x_start, noise, t[rows]),
                weights=ones,
                sampler_weights=ones,
                dropout_seed=0,
                first=mine.start,
                total=self.batch_size,
            )
            yield batch, min(self.batch_size, size - start)
