"""Training and test batches: which image, timestep and noise, as a function of the seed and the step."""

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
"""Test noise and timesteps do not follow the run's seed, so that the test losses of two runs compare."""


class TrainingBatches:
    """An endless stream of batches of one size.

    The training images pass by in a new order in every epoch, and a batch may hold the end of one epoch and
    the beginning of the next: no image is left out, and no batch is smaller than the others.

    Args:
        images: uint8 `(N, H, W, C)`.
        schedule: The noise schedule.
        sampler: Draws the timesteps.
        weighting: float64 `(T,)`, the loss weighting.
        prediction_type: What the network should predict.
        batch_size: B, of all processes together.
        random_flip: Whether images are mirrored at random.
        seed: The run's seed.
        processes: Who shares a batch; each gets its rows of the same one.
        ahead: For how many batches a thread prepares images and noise before they are asked for.
        end: The number of steps; nothing is prepared for steps from there on.
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
        """How many epochs are complete after `step` steps."""
        return step * self._batch_size // len(self._images)

    def first_step_after(self, epochs: int) -> int:
        """After how many steps so many epochs are complete."""
        return math.ceil(epochs * len(self._images) / self._batch_size)

    def batch(self, step: int) -> Batch:
        """This process's share of the batch of one step, counted from 0."""
        rows = self._rows
        x_start, noise = self._prepared(step)
        # The sampler may have a state that steps change, so it is never asked ahead.
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
        """End the thread that prepares batches, if there is one."""
        self._prepared.close()

    def _prepare(self, step: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The images of a step's batch as the network sees them, and their noise; a function of the step."""
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
        """Order of the images and which are mirrored, kept for the epochs that a batch can touch."""
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
    """Return the batches of an experiment's training, from the training images.

    Args:
        experiment: The assembled experiment.
        images: Its training images.
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
    """The same test images, timesteps and noise every time, in batches of one size.

    The timesteps cover [0, T) evenly, each image keeps its own. Images beyond `limit` are left out evenly.

    Attributes:
        images: uint8 `(M, H, W, C)`.
        schedule: The noise schedule.
        batch_size: B, of all processes together.
        limit: The most images to use.
        processes: Who shares a batch; each gets its rows of the same one.
        prediction_type: What the network should predict.
    """

    images: Images
    schedule: NoiseSchedule
    batch_size: int
    limit: int
    processes: Processes = ALONE
    prediction_type: PredictionType = "epsilon"

    def __iter__(self) -> Iterator[tuple[Batch, int]]:
        """Batches, each with how many of the whole one's images count: the last is filled up with repeats."""
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
