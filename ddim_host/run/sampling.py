"""Sampling from noise to images, on the device, for any framework."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ddim_host.diffusion import image_and_noise
from ddim_host.diffusion.randomness import Stream, normal_images
from ddim_host.diffusion.solvers import ddim
from ddim_host.errors import UserError
from ddim_host.framework.processes import ALONE, any_of, gather, share
from ddim_host.run.images import to_uint8

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from ddim_host.diffusion import DDIMStep, PredictionType
    from ddim_host.framework.interface import Model, Tensor, WhichWeights
    from ddim_host.framework.processes import Processes
    from ddim_host.plugin.contracts import Solver
    from ddim_host.plugin.data import Images

    StartNoise: TypeAlias = Callable[[NDArray[np.int64]], NDArray[np.float32]]
    FreshNoise: TypeAlias = Callable[[DDIMStep], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Denoiser:
    """One model, or several whose predictions are averaged.

    Attributes:
        members: Models on the same device with their weights in the average, which add up to 1.
        which: The weights to use, raw or averaged.
        prediction_type: The models' prediction type.
    """

    members: tuple[tuple[Model, float], ...]
    which: WhichWeights
    prediction_type: PredictionType = "epsilon"

    @property
    def model(self) -> Model:
        """The model used for everything except predictions."""
        return self.members[0][0]

    def predict(self, x_t: Tensor, t: int) -> Tensor:
        """See `framework.Model.predict`."""
        if len(self.members) == 1:
            return self.model.predict(x_t, t, which=self.which)
        weighted = [model.predict(x_t, t, which=self.which) * share for model, share in self.members]
        return sum(weighted[1:], weighted[0])


def denoise(
    denoiser: Denoiser,
    x_t: Tensor,
    steps: Sequence[DDIMStep],
    *,
    limit: float | None,
    fresh_noise: FreshNoise | None = None,
    solver: Solver = ddim,
    on_call: Callable[[], object] = lambda: None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Take the denoising steps on the device.

    Args:
        denoiser: The network.
        x_t: `(B, C, H, W)` at the start of the first step.
        steps: Steps from `diffusion.ddim_steps` or `diffusion.encoding_steps`.
        limit: Limit on the absolute value of the predicted x_start; None for no limit.
        fresh_noise: Returns float32 `(B, C, H, W)` for a step; required if any sigma is above 0.
        solver: The solver.
        on_call: Called after each network call.

    Yields:
        x at the end of each step, and the x_start predicted in it.

    Raises:
        ValueError: A step adds noise, and `fresh_noise` is None.
    """
    model = denoiser.model

    def predict(x_t: Tensor, step: DDIMStep) -> tuple[Tensor, Tensor]:
        prediction = denoiser.predict(x_t, step.t)
        on_call()
        return image_and_noise(x_t, prediction, step, denoiser.prediction_type, limit=limit, clip=model.clip)

    def added(step: DDIMStep) -> Tensor:
        if fresh_noise is None:
            raise ValueError("a step adds noise (sigma > 0), so fresh_noise is required")
        return model.to_device(fresh_noise(step))

    return solver(x_t, steps, predict, added)


def start_noise(seed: int, shape: tuple[int, int, int]) -> StartNoise:
    """Return a function that draws x_T for the images with the given indices.

    Args:
        seed: The seed.
        shape: `(C, H, W)`.
    """

    def start(indices: NDArray[np.int64]) -> NDArray[np.float32]:
        return normal_images(
            seed, Stream.SAMPLE_START, steps=[0] * len(indices), indices=indices, shape=shape
        )

    return start


def require_finite(pictures: NDArray[np.float32]) -> None:
    """Check that sampled images are finite.

    Raises:
        ImagesNotFiniteError: A pixel is not finite.
    """
    if not np.isfinite(pictures).all():
        raise ImagesNotFiniteError


class ImagesNotFiniteError(UserError):
    """A sampled image has a pixel that is not finite."""

    def __init__(self) -> None:
        super().__init__(
            "the sampled images are not finite",
            why="the weights diverged, or x_start was not clipped and grew from step to step",
            fix="use another checkpoint, or --clip true",
        )


class Sampler:
    """Samples the images of a seed, and measures the time taken.

    Image i depends only on the seed and i, not on the number of images or the batch size.

    Args:
        denoiser: The network.
        steps: Steps from `diffusion.ddim_steps`.
        image_shape: `(H, W, C)`.
        seed: Seed of x_T and of the noise added with eta > 0.
        limit: Limit on the absolute value of the predicted x_start; None for no limit.
        solver: The solver.
        start: Returns x_T for given indices; None draws it from the seed.
        shown: Increasing positions of the K steps whose predicted x_start is returned; None for only the last
            one, the finished image.
        processes: The processes that share a batch of `images`; each receives the complete batch.

    Attributes:
        seconds: Total sampling time so far on a warm device, including noise generation.
        warmup_seconds: Total time of the warm-ups, one per batch size: the first two steps and the last one,
            including any compilation.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        steps: Sequence[DDIMStep],
        *,
        image_shape: tuple[int, int, int],
        seed: int,
        limit: float | None,
        solver: Solver = ddim,
        start: StartNoise | None = None,
        shown: Sequence[int] | None = None,
        processes: Processes = ALONE,
    ) -> None:
        height, width, channels = image_shape
        self._denoiser = denoiser
        self._steps = steps
        self._shape = (channels, height, width)
        self._seed = seed
        self._limit = limit
        self._solver = solver
        self._start = start or start_noise(seed, self._shape)
        self._shown = frozenset([len(steps) - 1] if shown is None else shown)
        self._processes = processes
        self._warm: set[int] = set()
        self.seconds = 0.0
        self.warmup_seconds = 0.0

    def batch(
        self, indices: NDArray[np.int64], *, on_call: Callable[[], object] = lambda: None
    ) -> NDArray[np.float32]:
        """Sample the images with the given indices in one batch.

        Args:
            indices: int64 `(B,)`.
            on_call: Called after each network call.

        Returns:
            float32 `(B, K, C, H, W)`: the predicted x_start at the K shown steps; at the last step, the
            finished image.
        """
        return self._follow(indices, self._steps, self._shown, on_call)

    def images(
        self, num_images: int, *, batch_size: int, on_call: Callable[[], object] = lambda: None
    ) -> Iterator[Images]:
        """Sample images 0 to N - 1, a batch at a time.

        Args:
            num_images: The number of images N.
            batch_size: B, the number of images per network call, summed over all processes.
            on_call: Called after each network call.

        Yields:
            uint8 `(B K, H, W, C)`, with the K shown states of an image adjacent.

        Raises:
            ImagesNotFiniteError: A pixel is not finite.
        """
        model = self._denoiser.model
        whole_sizes = (min(batch_size, num_images), num_images % batch_size)
        sizes = {len(share(self._processes, size)) for size in whole_sizes} - {0} - self._warm
        self._warm |= sizes
        model.synchronize()
        started = time.perf_counter()
        # Run complete steps, because a lazy framework compiles their arithmetic along with the network, and
        # every kind of step: the first has no predecessor; the last adds no noise and returns the image.
        steps = (*self._steps[:-1][:2], self._steps[-1])
        last = len(steps) - 1
        shown = frozenset([last]) if len(self._shown) == 1 else frozenset([0, last])
        for size in sizes:
            self._follow(np.arange(size), steps, shown, lambda: None)
        model.synchronize()
        self.warmup_seconds += time.perf_counter() - started
        for first in range(0, num_images, batch_size):
            size = min(batch_size, num_images - first)
            mine = share(self._processes, size)
            started = time.perf_counter()
            pictures = self.batch(first + np.arange(mine.start, mine.stop), on_call=on_call)
            if any_of(self._processes, [not np.isfinite(pictures).all()])[0]:
                raise ImagesNotFiniteError
            images = to_uint8(pictures.reshape(-1, *self._shape))
            images = images.reshape(*pictures.shape[:2], *images.shape[1:])
            whole = gather(self._processes, images, size)
            self.seconds += time.perf_counter() - started
            yield whole.reshape(-1, *images.shape[2:])

    def _follow(
        self,
        indices: NDArray[np.int64],
        steps: Sequence[DDIMStep],
        shown: frozenset[int],
        on_call: Callable[[], object],
    ) -> NDArray[np.float32]:
        model = self._denoiser.model
        if not len(indices):  # fewer images than processes
            for _ in steps:
                on_call()
            return np.empty((0, len(shown), *self._shape), dtype=np.float32)

        def fresh_noise(step: DDIMStep) -> NDArray[np.float32]:
            timesteps = [step.t] * len(indices)
            return normal_images(
                self._seed, Stream.SAMPLE_NOISE, steps=timesteps, indices=indices, shape=self._shape
            )

        states = []
        followed = denoise(
            self._denoiser,
            model.to_device(self._start(indices)),
            steps,
            limit=self._limit,
            fresh_noise=fresh_noise,
            solver=self._solver,
            on_call=on_call,
        )
        for position, (x_t, x_start) in enumerate(followed):
            if position in shown:
                # Copy to the host at once: the framework's next call may overwrite its result.
                states.append(model.to_host(x_t if position == len(steps) - 1 else x_start))
        return np.stack(states, axis=1)
