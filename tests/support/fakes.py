"""Test doubles shared by tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from ddim_host.framework.interface import Batch, Loss, Tensor, TrainingState, WhichWeights
    from ddim_host.framework.unet import Weights


class NumpyModel:
    """A `framework.Model` without training: its network is a function `(x_t, t) -> noise`.

    Attributes:
        calls: `(t, batch size, which weights)` of every network call.
        inputs: x_t of every network call.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    device_name = "a pocket calculator"
    threads = 1
    precision: Literal["fp32", "bf16"] = "fp32"

    def __init__(self, network: Callable[[NDArray[np.float32], int], NDArray[np.float32]]) -> None:
        self._network = network
        self.calls: list[tuple[int, int, WhichWeights]] = []
        self.inputs: list[NDArray[np.float32]] = []

    def predict(self, x_t: NDArray[np.float32], t: int, *, which: WhichWeights) -> NDArray[np.float32]:
        self.calls.append((t, len(x_t), which))
        self.inputs.append(x_t.copy())
        return self._network(x_t, t)

    def clip(self, tensor: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
        return np.clip(tensor, low, high)

    def to_device(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        return array

    def to_host(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        return tensor

    def synchronize(self) -> None:
        pass

    def peak_memory_bytes(self) -> int:
        return 0

    def train_step(
        self, batch: Batch, loss: Loss, *, lr: float, ema_decay: float, max_grad_norm: float
    ) -> Tensor:
        raise NotImplementedError

    def evaluate_loss(self, batch: Batch, loss: Loss) -> Tensor:
        raise NotImplementedError

    def weights(self, which: WhichWeights) -> Weights:
        raise NotImplementedError

    def load_weights(self, weights: Mapping[str, NDArray[np.float32]], which: WhichWeights) -> None:
        raise NotImplementedError

    def training_state(self) -> TrainingState:
        raise NotImplementedError

    def load_training_state(self, state: TrainingState) -> None:
        raise NotImplementedError


class ConstantModel(NumpyModel):
    """A model that predicts the mean of its weights everywhere."""

    def __init__(self) -> None:
        super().__init__(lambda x_t, t: np.full_like(x_t, self.number))
        self.number = 0.0

    def load_weights(self, weights: Mapping[str, NDArray[np.float32]], which: WhichWeights) -> None:
        self.number = float(np.concatenate([array.ravel() for array in weights.values()]).mean(dtype=float))


@dataclass(frozen=True)
class FakeProcess:
    """One of several processes; `others` is the contribution of the rest."""

    rank: int
    count: int
    others: NDArray[np.float32] | float = 0.0

    def sum(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        return array + np.float32(self.others)
