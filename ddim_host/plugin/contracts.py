"""Contracts for each kind of part: callables whose positional parameters are fixed.

Users can set a part's keyword-only parameters (`--loss huber:delta=0.1`), whose types and defaults come from
the signature; see `ddim_host.plugin.parameters` for the types. The host checks the results of parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ddim_host.diffusion import DDIMStep, NoiseSchedule, PredictionType, Teacher
    from ddim_host.framework.interface import Tensor
    from ddim_host.plugin.data import DataSource, Images
    from ddim_host.plugin.observation import DrawnGrid, Ending, EpochMetrics, ObservedRun, ObservedScore

SamplerState: TypeAlias = "dict[str, NDArray[np.float64]]"
"""The state of a timestep sampler, as named arrays; it is stored in checkpoints."""


class NoiseScheduleFactory(Protocol):
    """Function that returns betas, float64 `(T,)`, each in (0, 1)."""

    def __call__(self, num_train_timesteps: int, /) -> NDArray[np.float64]: ...


class TimestepSampler(Protocol):
    """Sampler that draws the timestep of each image in a training batch.

    If `needs_losses` is true, `update` is called after every step, before the next `sample`.
    """

    needs_losses: bool

    def sample(
        self, batch_size: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return timesteps int64 `(B,)` in [0, T), and weights float32 `(B,)` that correct their bias."""
        ...

    def update(self, t: NDArray[np.int64], losses: NDArray[np.float32]) -> None:
        """Update the state from losses `(B,)` at timesteps `t`.

        The losses are multiplied by the loss weighting, but not by the sampler's weights.
        """
        ...

    def state_dict(self) -> SamplerState:
        """Return the state on which `sample` depends besides its arguments, at most 32 MiB of finite numbers.

        It is empty if the sampler is stateless.
        """
        ...

    def load_state_dict(self, state: Mapping[str, NDArray[np.float64]]) -> None:
        """Restore a state returned by `state_dict`."""
        ...


class TimestepSamplerFactory(Protocol):
    """Function that creates a timestep sampler for a noise schedule; usually the sampler's class itself."""

    def __call__(self, schedule: NoiseSchedule, /) -> TimestepSampler: ...


class LossWeighting(Protocol):
    """Function that returns a factor of the loss for each timestep: float64 `(T,)`, finite, not negative."""

    def __call__(
        self, schedule: NoiseSchedule, prediction_type: PredictionType, /
    ) -> NDArray[np.float64]: ...


class TimestepSubset(Protocol):
    """Function that returns exactly S timesteps, int64 `(S,)`, strictly increasing, in [0, T)."""

    def __call__(self, schedule: NoiseSchedule, num_inference_steps: int, /) -> NDArray[np.int64]: ...


class Solver(Protocol):
    """A generator that follows the steps from noise to image, using operators shared by all frameworks."""

    def __call__(
        self,
        x_t: Tensor,
        steps: Sequence[DDIMStep],
        predict: Callable[[Tensor, DDIMStep], tuple[Tensor, Tensor]],
        fresh_noise: Callable[[DDIMStep], Tensor],
        /,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the states of sampling.

        Args:
            x_t: fp32 `(B, C, H, W)`, x at the start of the first step.
            steps: The steps, in the order of sampling; coefficients are Python floats.
            predict: `(x_t, step) -> (x_start, noise)`: one network call, for x at the start of the step.
                x_start is limited to [-1, 1] if the user requests clipping, and the two add up to x_t. The
                noise is valid only until the next call; an expression computed from it, such as a product,
                remains valid.
            fresh_noise: `(step) -> ` standard normal noise of the shape of `x_t`, for a step whose `sigma` is
                above 0. A solver that never calls it is deterministic, and is rejected if eta is above 0.

        Yields:
            x at the end of each step, and the predicted x_start; arrays like `x_t`.
        """
        ...


class SubsetSearch(Protocol):
    """Function that chooses a few of a teacher's timesteps; it must not draw random numbers of its own."""

    def __call__(
        self, schedule: NoiseSchedule, teacher: Teacher, sizes: Sequence[int], /
    ) -> Mapping[int, NDArray[np.int64]]:
        """Return timesteps for each size.

        Args:
            schedule: The noise schedule of the network.
            teacher: The network's predictions with many steps, from noise that is used for nothing else. Its
                arrays are read-only.
            sizes: Numbers S of timesteps, increasing, each from 1 to the number of the teacher's timesteps.

        Returns:
            The timesteps for each S, int64 `(S,)`, strictly increasing and all among the teacher's. They do
            not depend on the other sizes.
        """
        ...


DatasetFactory: TypeAlias = "Callable[..., DataSource]"
"""Function that describes a data set, to be read later by `DataSource.load`.

It has no positional parameters. The type is `Callable[..., ]`, because keyword-only parameters may lack a
default (`images` needs a path).
"""


class FeatureExtractor(Protocol):
    """Callable that computes features of images, for the evaluation of samples.

    Attributes:
        fingerprint: A hash of the weights, in hexadecimal. Together with the parameters set by the user and
            the version of the distribution, it identifies the feature space; only scores in the same space
            are comparable.
    """

    fingerprint: str

    def __call__(self, images: Images, /) -> NDArray[np.float32]:
        """Return finite features float32 `(N, D)` of images uint8 `(N, H, W, C)`.

        An image's features must not depend on the other images.

        Raises:
            UserError: The extractor does not support images of this shape.
        """
        ...


FeatureExtractorFactory: TypeAlias = "Callable[..., FeatureExtractor]"
"""Function that creates a feature extractor and reads its weights; it has no positional parameters.

It is called in the evaluator's process, which does not sample. A factory that computes with a framework names
it in an attribute `framework` (of the class or function) and imports it only when called; no other framework
can then be imported in that process. The factory must come from a parts plugin, because the evaluator loads
no framework plugin. A factory that needs a download has an attribute `is_ready`, a function without
parameters that returns whether the files are already present.
"""


class Observer:
    """Receiver of a command's events. Its methods return nothing, so no observer can change a run.

    Events arrive in order, in the first process only. If a method raises, a message on stderr names the
    observer, which receives no further events; the command continues. The command waits for each method, so
    methods should return quickly.

    Derive from this class and override the methods that you need. A class that does not derive from it must
    define all of them.
    """

    def on_begin(self, run: ObservedRun, /) -> None:
        """Handle the start of a command on a run; the folder exists. Open files and connections here."""

    def on_row(self, row: EpochMetrics, /) -> None:
        """Handle a new row of metrics, at the end of each epoch and at the end of training."""

    def on_grid(self, grid: DrawnGrid, /) -> None:
        """Handle a new grid of images."""

    def on_score(self, score: ObservedScore, /) -> None:
        """Handle a new score."""

    def on_end(self, ending: Ending, /) -> None:
        """Handle the end of the command, even if by an error or Ctrl-C; not called after `kill -9`."""


ObserverFactory: TypeAlias = "Callable[..., Observer]"
"""Function that creates an observer; it has no positional parameters.

It is called when an experiment is assembled, even for a dry run, so the observer must not open any files or
connections before `on_begin`.
"""
