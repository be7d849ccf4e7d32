"""`Model` in NumPy: one network, its averaged copy and its optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from threadpoolctl import threadpool_info

from ddim_host.framework import (
    ADAM_BETA1,
    ADAM_BETA2,
    ADAM_EPSILON,
    ModelBase,
    process_peak_memory_bytes,
    processor_name,
    run_unet,
)
from ddim_numpy.layers import NumpyLayers
from ddim_numpy.tensor import Array, Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ddim_host.framework import Batch, Loss, WhichWeights

__all__ = ["NumpyModel"]


class NumpyModel(ModelBase[Array]):
    """A U-Net in NumPy; see `ddim_host.framework.Model`."""

    device: Literal["cpu"] = "cpu"
    precision: Literal["fp32"] = "fp32"

    @property
    def device_name(self) -> str:
        """See `Model`, which also documents the methods below."""
        return processor_name()

    @property
    def threads(self) -> int:
        """The number of threads used by NumPy's BLAS library."""
        pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        return int(max(pools, default=1))

    def train_step(
        self, batch: Batch, loss: Loss, *, lr: float, ema_decay: float, max_grad_norm: float
    ) -> Array:
        ema = self._ema
        raw = {name: Tensor(array, needs_gradient=True) for name, array in self._raw.items()}
        layers = NumpyLayers(raw, self._dropout_of(batch))
        losses: Tensor = loss(self._predict(layers, batch.x_t, batch.t), batch.target)
        # The gradient of sum(weights x losses) / total.
        losses.backward(batch.weights / np.float32(batch.total))
        gradients = {
            name: np.zeros_like(tensor.array) if tensor.gradient is None else tensor.gradient
            for name, tensor in raw.items()
        }
        squares = sum(float(np.vdot(g, g)) for g in gradients.values())
        shrink = min(1.0, max_grad_norm / (squares**0.5 + 1e-6))
        self._adam(gradients, shrink, lr)
        for name, array in self._raw.items():
            ema[name] += (1.0 - ema_decay) * (array - ema[name])
        return losses.array

    def evaluate_loss(self, batch: Batch, loss: Loss) -> Array:
        predicted = self._predict(self._layers("raw"), batch.x_t, batch.t).array
        losses: Array = loss(predicted, batch.target)
        return losses

    def predict(self, x_t: Array, t: int, *, which: WhichWeights) -> Array:
        return self._predict(self._layers(which), x_t, np.full(len(x_t), t)).array

    def clip(self, tensor: Array, low: float, high: float) -> Array:
        return tensor.clip(low, high)

    def to_device(self, array: Array) -> Array:
        return array

    def to_host(self, tensor: Array) -> Array:
        return tensor

    def synchronize(self) -> None:
        """Do nothing: NumPy is synchronous."""

    def peak_memory_bytes(self) -> int:
        return process_peak_memory_bytes()

    def _zeros(self, shape: tuple[int, ...]) -> Array:
        return np.zeros(shape, dtype=np.float32)

    def _assign(self, tensor: Array, array: Array) -> None:
        tensor[...] = array

    def _adam(self, gradients: Mapping[str, Array], shrink: float, lr: float) -> None:
        """Apply Adam (arXiv 1412.6980, algorithm 1) to the gradients times `shrink`."""
        self._steps += 1
        bias_1, bias_2 = 1.0 - ADAM_BETA1**self._steps, 1.0 - ADAM_BETA2**self._steps
        for name, gradient in gradients.items():
            clipped = gradient * shrink
            first, second = self._exp_avg[name], self._exp_avg_sq[name]
            first += (1.0 - ADAM_BETA1) * (clipped - first)
            second += (1.0 - ADAM_BETA2) * (clipped * clipped - second)
            self._raw[name] -= (lr / bias_1) * first / (np.sqrt(second / bias_2) + ADAM_EPSILON)

    def _predict(self, layers: NumpyLayers, x_t: Array, t: NDArray[np.int64]) -> Tensor:
        return run_unet(self._unet, layers, Tensor(x_t), Tensor(self._time_table[t]))

    def _layers(self, which: WhichWeights) -> NumpyLayers:
        return NumpyLayers({name: Tensor(array) for name, array in self._parameters(which).items()})
