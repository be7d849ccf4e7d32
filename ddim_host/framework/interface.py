"""Everything that the host asks of a framework.

A framework plugin provides model factories. What they return, a `Model`, is a deterministic function of
what it is given: all randomness comes from the host (in the batch, and as a seed for dropout).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from ddim_host.framework.processes import Processes

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from ddim_host.framework.unet import UNetSpec, Weights

Tensor: TypeAlias = Any
"""An array of the framework, on its device. The host only uses + - * / with Python floats on it."""

WhichWeights: TypeAlias = Literal["raw", "ema"]
Device: TypeAlias = Literal["auto", "cpu", "cuda"]
Precision: TypeAlias = Literal["auto", "fp32", "bf16"]


class Loss(Protocol):
    """One number per image from a prediction and its target, not reduced over the batch."""

    def __call__(self, prediction: Tensor, target: Tensor, /) -> Tensor:
        """Compare.

        Args:
            prediction: fp32 `(B, C, H, W)`.
            target: fp32 `(B, C, H, W)`.

        Returns:
            fp32 `(B,)`.
        """
        ...


@dataclass(frozen=True, eq=False)
class Batch:
    """Everything a step needs; the forward process was already applied, in the host, once for all frameworks.

    Attributes:
        x_t: float32 `(B, C, H, W)`, images in [-1, 1] with noise added.
        t: int64 `(B,)`, the timestep of each image.
        target: float32 `(B, C, H, W)`, what the network should predict: noise, clean image or v.
        weights: float32 `(B,)`, factor of each image's loss in the gradient.
        sampler_weights: float32 `(B,)`, the timestep sampler's part of `weights`, for the host: with it the
            mean loss of the batch estimates that at uniform timesteps.
        dropout_seed: Seed for whatever the framework draws inside this step; 63 bits.
        first: Which row of the whole batch the first one here is: 0 where there is one process.
        total: Rows of the whole batch, of all processes together: B where there is one.
    """

    x_t: NDArray[np.float32]
    t: NDArray[np.int64]
    target: NDArray[np.float32]
    weights: NDArray[np.float32]
    sampler_weights: NDArray[np.float32]
    dropout_seed: int
    first: int
    total: int


@dataclass(frozen=True, eq=False)
class TrainingState:
    """The optimizer's memory, by canonical parameter name: it crosses frameworks.

    Attributes:
        step: Number of optimizer steps taken.
        exp_avg: Adam's first moments.
        exp_avg_sq: Adam's second moments.
    """

    step: int
    exp_avg: Weights
    exp_avg_sq: Weights


ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON = 0.9, 0.999, 1e-8
"""Of the optimizer of every framework (arXiv 1412.6980, algorithm 1), as in DDPM."""


class Model(Protocol):
    """A network on a device, its averaged (EMA) twin and its optimizer.

    The optimizer is Adam with the constants above, and epsilon after the bias correction. Optimizer and EMA
    take no memory before they are needed.
    """

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where it computes, as resolved from `auto`."""
        ...

    @property
    def device_name(self) -> str:
        """The processor or GPU in words."""
        ...

    @property
    def threads(self) -> int:
        """How many threads of this process the framework computes with, beside any GPU."""
        ...

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """The arithmetic of the network, as resolved from `auto`."""
        ...

    def train_step(
        self, batch: Batch, loss: Loss, *, lr: float, ema_decay: float, max_grad_norm: float
    ) -> Tensor:
        """One step: forward, sum of weights x loss over `batch.total`, backward, clip, Adam, EMA.

        Where there are several processes, each adds its share of the gradient before it is clipped.

        Args:
            batch: B images, this process's share of the batch.
            loss: One number per image.
            lr: Learning rate of this step.
            ema_decay: `ema = ema_decay ema + (1 - ema_decay) raw`, after the update.
            max_grad_norm: Limit of the global gradient norm, applied before the update.

        Returns:
            The losses `(B,)` before weighting, still on the device.
        """
        ...

    def evaluate_loss(self, batch: Batch, loss: Loss) -> Tensor:
        """The losses `(B,)` of the raw weights, without gradient or dropout, still on the device."""
        ...

    def predict(self, x_t: Tensor, t: int, *, which: WhichWeights) -> Tensor:
        """Return what the network predicts for images that share one timestep, without gradient or dropout.

        Args:
            x_t: fp32 `(B, C, H, W)` on the device.
            t: The timestep.
            which: The weights to use.

        Returns:
            fp32 `(B, C, H, W)` on the device, valid until the next call.
        """
        ...

    def clip(self, tensor: Tensor, low: float, high: float) -> Tensor:
        """Limit each element to [low, high]."""
        ...

    def to_device(self, array: NDArray[np.float32]) -> Tensor:
        """Bring an array to the device."""
        ...

    def to_host(self, tensor: Tensor) -> NDArray[np.float32]:
        """Bring a tensor back, waiting for whatever computes it."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has done all that it was given; called before any clock is read."""
        ...

    def peak_memory_bytes(self) -> int:
        """The most memory used so far: of the GPU where one is used, of the process otherwise."""
        ...

    def weights(self, which: WhichWeights) -> Weights:
        """A copy of the parameters."""
        ...

    def load_weights(self, weights: Mapping[str, NDArray[np.float32]], which: WhichWeights) -> None:
        """Replace the parameters. Names and shapes have been checked by the host."""
        ...

    def training_state(self) -> TrainingState:
        """A copy of the optimizer's memory (zeros before the first step)."""
        ...

    def load_training_state(self, state: TrainingState) -> None:
        """Replace the optimizer's memory. Names and shapes have been checked by the host."""
        ...


JoinProcesses: TypeAlias = Callable[[Device], Processes]
"""Joins this process with the others that its launcher started, before anything is built on the device.

Raises `UserError` where the launcher is not one that the framework knows. A second call returns the same.
"""


class ModelFactory(Protocol):
    """A callable that builds a `Model`; its own keyword-only parameters are what users may set."""

    def __call__(self, spec: UNetSpec, device: Device, precision: Precision, /) -> Model:
        """Build the network described by `spec`, with weights not yet defined.

        Raises:
            UserError: The device or the precision is not to be had on this machine.
        """
        ...
