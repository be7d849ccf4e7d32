"""What each kind of part is: a callable whose positional parameters are the contract.

Its keyword-only parameters are what users may set (`--loss huber:delta=0.1`), with types and defaults read
from the signature; see `ddim_host.plugin.parameters` for the types. The host checks what a part returns.
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
    """Betas, float64 `(T,)`, each in (0, 1)."""

    def __call__(self, num_train_timesteps: int, /) -> NDArray[np.float64]: ...


class TimestepSampler(Protocol):
    """Draws the timestep of each image of a training batch.

    Where `needs_losses` is true, `update` is called after every step, before the next `sample`.
    """

    needs_losses: bool

    def sample(
        self, batch_size: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Timesteps int64 `(B,)` in [0, T) and weights float32 `(B,)` that undo the bias of their choice."""
        ...

    def update(self, t: NDArray[np.int64], losses: NDArray[np.float32]) -> None:
        """Learn from the losses `(B,)`, times the loss weighting only, at the timesteps `t`."""
        ...

    def state_dict(self) -> SamplerState:
        """Everything that `sample` depends on besides its arguments; empty where there is nothing."""
        ...

    def load_state_dict(self, state: Mapping[str, NDArray[np.float64]]) -> None:
        """Take back what `state_dict` gave."""
        ...


class TimestepSamplerFactory(Protocol):
    """A timestep sampler for a noise schedule; most often the sampler's class itself."""

    def __call__(self, schedule: NoiseSchedule, /) -> TimestepSampler: ...


class LossWeighting(Protocol):
    """A factor per timestep, float64 `(T,)`, finite and not negative: it changes the objective."""

    def __call__(
        self, schedule: NoiseSchedule, prediction_type: PredictionType, /
    ) -> NDArray[np.float64]: ...


class TimestepSubset(Protocol):
    """Exactly S timesteps, int64 `(S,)`, strictly increasing, in [0, T)."""

    def __call__(self, schedule: NoiseSchedule, num_inference_steps: int, /) -> NDArray[np.int64]: ...


class Solver(Protocol):
    """A generator that follows the steps from noise to image, in the operators that all frameworks share."""

    def __call__(
        self,
        x_t: Tensor,
        steps: Sequence[DDIMStep],
        predict: Callable[[Tensor, DDIMStep], tuple[Tensor, Tensor]],
        fresh_noise: Callable[[DDIMStep], Tensor],
        /,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Sample.

        Args:
            x_t: fp32 `(B, C, H, W)`, where the first step begins.
            steps: The steps, in the order of sampling; coefficients are Python floats.
            predict: `(x_t, step) -> (x_start, noise)`: one network call, for x where the step begins. x_start
                is limited to [-1, 1] if the user wants that, and the two add up to x_t. The noise is valid
                until the next call; multiply it by something to keep it.
            fresh_noise: `(step) -> ` standard normal noise of the shape of `x_t`, for a step whose `sigma` is
                above 0. A solver that never asks for it is deterministic, and refused with an eta above 0.

        Yields:
            After each step x where it arrives, and the predicted x_start; arrays like `x_t`.
        """
        ...


class SubsetSearch(Protocol):
    """Chooses timesteps for few steps among those of a teacher; draws no random numbers of its own."""

    def __call__(
        self, schedule: NoiseSchedule, teacher: Teacher, sizes: Sequence[int], /
    ) -> Mapping[int, NDArray[np.int64]]:
        """Search.

        Args:
            schedule: The noise schedule of the network.
            teacher: What it predicted with many steps, for noise that nothing else samples from. Its arrays
                cannot be written to.
            sizes: Numbers S of timesteps, increasing, each from 1 to the number of the teacher's.

        Returns:
            For each S its timesteps, int64 `(S,)`, strictly increasing, all of them of the teacher's. They do
            not depend on the other sizes.
        """
        ...


DatasetFactory: TypeAlias = "Callable[..., DataSource]"
"""A data set, known at once and read when its `load` is called; no positional parameters.

A `Callable[..., ]`, because its keyword-only parameters may have no default (`images` needs a path).
"""


class FeatureExtractor(Protocol):
    """Features of images, for the evaluation of samples.

    Attributes:
        fingerprint: A hash of the weights, in hexadecimal. With the parameters that the user set and the
            version of the distribution it says what the features are: only those of one space are comparable.
    """

    fingerprint: str

    def __call__(self, images: Images, /) -> NDArray[np.float32]:
        """Features float32 `(N, D)`, finite, of images uint8 `(N, H, W, C)`; each depends on its image alone.

        Raises:
            UserError: The extractor is not made for images of this shape.
        """
        ...


FeatureExtractorFactory: TypeAlias = "Callable[..., FeatureExtractor]"
"""A feature extractor, with whatever weights it needs read; no positional parameters.

It is made in the evaluator's process, which samples nothing. One that computes with a framework says so in an
attribute `framework` (of the class, or of the function), and imports it when it is called, not before: that
is then the one framework of this process. It must come from a parts plugin, because no framework plugin is
loaded there. One that has to download something has an attribute `is_ready`, a function without parameters
that says whether it is there already.
"""


class Observer:
    """Watches a command, and is asked for nothing, so that no observer can change a run.

    It is told in the order of events, in the first process only. If a method raises, the observer is named on
    stderr and told of nothing more; the command goes on. Methods return soon: the command waits for them.

    Derive from this class and define the methods that you need; or define all of them.
    """

    def on_begin(self, run: ObservedRun, /) -> None:
        """The command begins its work on a run, whose folder exists. Open files and connections here."""

    def on_row(self, row: EpochMetrics, /) -> None:
        """A row of metrics was added, at the end of an epoch and of the training."""

    def on_grid(self, grid: DrawnGrid, /) -> None:
        """A grid of images was written."""

    def on_score(self, score: ObservedScore, /) -> None:
        """A score was measured."""

    def on_end(self, ending: Ending, /) -> None:
        """The command has ended, also by an error or Ctrl-C; only `kill -9` leaves no time to say so."""


ObserverFactory: TypeAlias = "Callable[..., Observer]"
"""An observer; no positional parameters.

It is made when an experiment is assembled, also for a dry run, so it opens nothing before `on_begin`.
"""
