"""Base classes for models and layers: the code shared by all frameworks."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from ddim_host.framework.interface import TrainingState
from ddim_host.framework.unet import UNet, parameters, time_embedding_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from ddim_host.framework.interface import Batch, WhichWeights
    from ddim_host.framework.unet import Conv, GroupNorm, UNetSpec, Weights

Tensor = TypeVar("Tensor", bound=Any)


@dataclass
class Dropout:
    """Dropout state of one training step; each dropout layer uses the next seed.

    Attributes:
        probability: Probability that an element is dropped, in (0, 1).
        seed: Seed of the first dropout layer.
        first: Index of this process's first image in the global batch, for which masks are drawn.
    """

    probability: float
    seed: int
    first: int
    _layers: Iterator[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._layers = itertools.count(self.seed)

    def next_seed(self) -> int:
        """Return the seed of the next layer, in [0, 2^64)."""
        return next(self._layers)


class LayersBase(ABC, Generic[Tensor]):
    """Base class of `Layers`: stores the parameters, and adds shift and residual to convolutions.

    Args:
        parameters: Parameters by canonical name.
        dropout: The dropout state of a training step; None outside training, or without dropout.
    """

    def __init__(self, parameters: Mapping[str, Tensor], dropout: Dropout | None = None) -> None:
        self._parameters = parameters
        self._dropout = dropout

    def conv(
        self, layer: Conv, x: Tensor, *, shift: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """See `Layers.conv`."""
        y = self._convolve(layer, x)
        if shift is not None:
            y = y + self._at_every_pixel(shift)
        if residual is not None:
            y = residual + y
        return y

    def conv_norm_dropout(self, conv: Conv, norm: GroupNorm, x: Tensor, *, shift: Tensor) -> Tensor:
        """See `Layers.conv_norm_dropout`."""
        return self.dropout(self.group_norm(norm, self.conv(conv, x, shift=shift), silu=True))

    def modulate_dropout(self, x: Tensor, scale_shift: Tensor) -> Tensor:
        """See `Layers.modulate_dropout`."""
        channels = scale_shift.shape[1] // 2
        scale = self._at_every_pixel(scale_shift[:, :channels])
        shift = self._at_every_pixel(scale_shift[:, channels:])
        return self.dropout(self.silu(x * (scale + 1.0) + shift))

    @abstractmethod
    def group_norm(self, layer: GroupNorm, x: Tensor, *, silu: bool) -> Tensor:
        """See `Layers.group_norm`."""

    @abstractmethod
    def silu(self, x: Tensor) -> Tensor:
        """Compute x sigmoid(x)."""

    @abstractmethod
    def dropout(self, x: Tensor) -> Tensor:
        """Apply dropout in a training step; otherwise, return `x`."""

    @abstractmethod
    def _convolve(self, layer: Conv, x: Tensor) -> Tensor:
        """Convolve and add the bias; see `Conv` for stride and padding."""

    def _at_every_pixel(self, values: Tensor) -> Tensor:
        """Reshape `(B, C)` to broadcast over images; override this if images are not `(B, C, H, W)`."""
        reshaped: Tensor = values.reshape((*values.shape, 1, 1))
        return reshaped

    def _weight_and_bias(self, name: str) -> tuple[Tensor, Tensor]:
        """Return a layer's weight and bias."""
        return self._parameters[f"{name}.weight"], self._parameters[f"{name}.bias"]


class ModelBase(ABC, Generic[Tensor]):
    """Base class of `Model`: the parameters, their average (EMA) and the optimizer's state.

    This class implements `weights`, `load_weights`, `training_state` and `load_training_state`. A subclass
    implements `_zeros`, `_assign` and the rest of `Model`. Before it calls `super().__init__`, it must set
    every attribute that its `to_device` and `_zeros` use.

    Args:
        spec: The specification of the network.

    Attributes:
        _spec: The specification of the network.
        _unet: The network's layers, for `run_unet`.
        _time_table: `time_embedding_table` on the device.
        _raw: The parameters by canonical name. `_ema`, `_exp_avg` and `_exp_avg_sq` have the same keys; a
            training step updates all four in place.
        _steps: Number of optimizer steps so far.
        _transformed: Tensors that layers using the host's kernels compute from the weights alone; `cached`
            adds them, and `_forget_transformed` removes them.
    """

    def __init__(self, spec: UNetSpec) -> None:
        self._spec = spec
        self._unet = UNet.from_spec(spec)
        self._time_table = self.to_device(time_embedding_table(spec))
        self._raw = self._new_parameters()
        self._steps = 0
        self._transformed: dict[WhichWeights, dict[str, Tensor]] = {"raw": {}, "ema": {}}

    @cached_property
    def _ema(self) -> dict[str, Tensor]:
        """The averaged parameters, created on first access as a copy of the raw ones."""
        ema = self._new_tensors()
        self._load(ema, {name: self.to_host(tensor) for name, tensor in self._raw.items()})
        return ema

    @cached_property
    def _exp_avg(self) -> dict[str, Tensor]:
        """Adam's first moments."""
        return self._new_tensors()

    @cached_property
    def _exp_avg_sq(self) -> dict[str, Tensor]:
        """Adam's second moments."""
        return self._new_tensors()

    def weights(self, which: WhichWeights) -> Weights:
        """See `Model.weights`."""
        return self._to_arrays(self._parameters(which))

    def load_weights(self, weights: Mapping[str, NDArray[np.float32]], which: WhichWeights) -> None:
        """Replace the parameters."""
        self._load(self._parameters(which), weights)
        self._forget_transformed()

    def training_state(self) -> TrainingState:
        """Copy the optimizer's state."""
        return TrainingState(self._steps, self._to_arrays(self._exp_avg), self._to_arrays(self._exp_avg_sq))

    def load_training_state(self, state: TrainingState) -> None:
        """Replace the optimizer's state."""
        self._steps = state.step
        self._load(self._exp_avg, state.exp_avg)
        self._load(self._exp_avg_sq, state.exp_avg_sq)

    def _parameters(self, which: WhichWeights) -> dict[str, Tensor]:
        """Return the raw or the averaged parameters."""
        return self._raw if which == "raw" else self._ema

    def _dropout_of(self, batch: Batch) -> Dropout | None:
        """Return the dropout state for a training step on a batch, or None if the network has no dropout."""
        probability = self._spec.dropout
        return Dropout(probability, batch.dropout_seed, batch.first) if probability else None

    def _forget_transformed(self) -> None:
        """Remove cached tensors after the weights have changed; every training step must call this."""
        for tensors in self._transformed.values():
            tensors.clear()

    def _new_parameters(self) -> dict[str, Tensor]:
        """Create the raw parameters as zeros."""
        return {p.name: self._parameter(p.shape) for p in parameters(self._unet)}

    def _new_tensors(self) -> dict[str, Tensor]:
        """Create a tensor of zeros for every parameter."""
        tensors = {p.name: self._zeros(p.shape) for p in parameters(self._unet)}
        self.synchronize()  # so that a lazy framework allocates them now
        return tensors

    def _load(self, tensors: Mapping[str, Tensor], arrays: Mapping[str, NDArray[np.float32]]) -> None:
        for name, tensor in tensors.items():
            self._assign(tensor, arrays[name])
        self.synchronize()

    def _to_arrays(self, tensors: Mapping[str, Tensor]) -> Weights:
        return {
            name: np.array(self.to_host(tensor), dtype=np.float32, order="C")
            for name, tensor in tensors.items()
        }

    @abstractmethod
    def to_device(self, array: NDArray[np.float32]) -> Tensor:
        """See `Model.to_device`."""

    @abstractmethod
    def to_host(self, tensor: Tensor) -> NDArray[np.float32]:
        """Copy a tensor to the host."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for the device to finish."""

    @abstractmethod
    def _zeros(self, shape: tuple[int, ...]) -> Tensor:
        """Create a float32 tensor of zeros on the device, without gradient tracking."""

    def _parameter(self, shape: tuple[int, ...]) -> Tensor:
        """Create a raw parameter of zeros; override this if trainable tensors are created differently."""
        return self._zeros(shape)

    @abstractmethod
    def _assign(self, tensor: Tensor, array: NDArray[np.float32]) -> None:
        """Overwrite the values of a tensor that `_zeros` or `_parameter` created."""
