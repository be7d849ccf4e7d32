"""Interface between the host and a framework.

A framework plugin provides factories that build a `Model`. Models are deterministic: all randomness comes
from the host, in the batch and as a seed for dropout.
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
"""An array of the framework, on its device. The host uses only + - * / on arrays and Python floats."""

WhichWeights: TypeAlias = Literal["raw", "ema"]
Device: TypeAlias = Literal["auto", "cpu", "cuda"]
Precision: TypeAlias = Literal["auto", "fp32", "bf16"]


class Loss(Protocol):
    """A function that computes one loss per image from predictions and targets."""

    def __call__(self, prediction: Tensor, target: Tensor, /) -> Tensor:
        """Compute the loss of each image, without reducing over the batch.

        Args:
            prediction: fp32 `(B, C, H, W)`.
            target: fp32 `(B, C, H, W)`.

        Returns:
            fp32 `(B,)`.
        """
        ...


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs of a training step; the host has already applied the forward process to the images.

    Attributes:
        x_t: float32 `(B, C, H, W)`, images in [-1, 1] with noise added.
        t: int64 `(B,)`, the timestep of each image.
        target: float32 `(B, C, H, W)`, the quantity to predict: noise, clean image or v.
        weights: float32 `(B,)`, the weight of each image's loss in the gradient.
        sampler_weights: float32 `(B,)`, the timestep sampler's factor in `weights`. The host uses it to
            estimate the mean loss over uniformly sampled timesteps.
        dropout_seed: Seed for all random numbers that the framework draws in this step, in [0, 2^63).
        first: Index of the first row in the global batch; 0 for a single process.
        total: Number of rows in the global batch, over all processes; B for a single process.
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
    """The optimizer's state, by canonical parameter name; any framework can load it.

    Attributes:
        step: Number of optimizer steps taken.
        exp_avg: Adam's first moments.
        exp_avg_sq: Adam's second moments.
    """

    step: int
    exp_avg: Weights
    exp_avg_sq: Weights


ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON = 0.9, 0.999, 1e-8
"""Adam's constants for every framework (arXiv 1412.6980, algorithm 1), as in DDPM."""


class Model(Protocol):
    """A network on a device, with its averaged (EMA) copy and its optimizer.

    The optimizer is Adam with the constants above; it adds epsilon after the bias correction. The EMA and the
    optimizer's state are allocated on first use.
    """

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """The device; if `auto` was requested, the one selected."""
        ...

    @property
    def device_name(self) -> str:
        """Name of the processor or GPU."""
        ...

    @property
    def threads(self) -> int:
        """The number of CPU threads that the framework uses in this process."""
        ...

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """The precision of the network; if `auto` was requested, the one selected."""
        ...

    def train_step(
        self, batch: Batch, loss: Loss, *, lr: float, ema_decay: float, max_grad_norm: float
    ) -> Tensor:
        """Take one training step: forward, backward, gradient clipping, Adam, EMA.

        The objective is the sum of weights x losses, divided by `batch.total`. With several processes, the
        gradient is summed over all of them before it is clipped.

        Args:
            batch: This process's share of the batch, B images.
            loss: Computes the loss of each image.
            lr: Learning rate of this step.
            ema_decay: `ema = ema_decay ema + (1 - ema_decay) raw`, after the update.
            max_grad_norm: Maximum global norm of the gradient, which is clipped before the update.

        Returns:
            The losses `(B,)` before weighting, still on the device.
        """
        ...

    def evaluate_loss(self, batch: Batch, loss: Loss) -> Tensor:
        """Return the losses `(B,)` of the raw weights, without gradient or dropout, still on the device."""
        ...

    def predict(self, x_t: Tensor, t: int, *, which: WhichWeights) -> Tensor:
        """Return the network's prediction for images at one timestep, without gradient or dropout.

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
        """Copy an array to the device."""
        ...

    def to_host(self, tensor: Tensor) -> NDArray[np.float32]:
        """Copy a tensor to the host, after its computation has finished."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has finished all pending work; the host calls this before reading a clock."""
        ...

    def peak_memory_bytes(self) -> int:
        """Return the peak memory usage, of the GPU if one is used, otherwise of the process."""
        ...

    def weights(self, which: WhichWeights) -> Weights:
        """Return a copy of the parameters."""
        ...

    def load_weights(self, weights: Mapping[str, NDArray[np.float32]], which: WhichWeights) -> None:
        """Replace the parameters. Names and shapes have been checked by the host."""
        ...

    def training_state(self) -> TrainingState:
        """Return a copy of the optimizer's state (zeros before the first step)."""
        ...

    def load_training_state(self, state: TrainingState) -> None:
        """Replace the optimizer's state. Names and shapes have been checked by the host."""
        ...


JoinProcesses: TypeAlias = Callable[[Device], Processes]
"""A function that connects this process to those started by the same launcher, before it uses the device.

Raises `UserError` if the framework does not support the launcher. A second call returns the same object.
"""


class ModelFactory(Protocol):
    """A callable that builds a `Model`; users can set any keyword-only parameters that it adds."""

    def __call__(self, spec: UNetSpec, device: Device, precision: Precision, /) -> Model:
        """Build the network described by `spec`; the host loads its initial weights later.

        Raises:
            UserError: The device or precision is not available on this machine.
        """
        ...
