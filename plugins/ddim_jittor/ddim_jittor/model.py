"""`Model` in Jittor: one network, its averaged twin and its optimizer."""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING, Literal

import jittor as jt
import numpy as np

from ddim_host.framework import (
    ADAM_BETA1,
    ADAM_BETA2,
    ADAM_EPSILON,
    ModelBase,
    cpu_kernels,
    process_peak_memory_bytes,
    processor_name,
    run_unet,
)
from ddim_jittor.cuda import gpu_name
from ddim_jittor.kernel_layers import KernelLayers
from ddim_jittor.layers import JittorLayers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.framework import Batch, Loss, UNetSpec, WhichWeights


class JittorModel(ModelBase[jt.Var]):
    """A U-Net in Jittor, on the device that Jittor was imported for; see `ddim_host.framework.Model`.

    Jittor is lazy: it collects operations and runs them when a value is asked for. Every step ends by running
    what was collected, so that what is fused does not depend on who looked at which value, and when.

    Args:
        spec: The network.
    """

    precision: Literal["fp32"] = "fp32"

    def __init__(self, spec: UNetSpec) -> None:
        self._kernels = None if jt.flags.use_cuda else cpu_kernels()
        super().__init__(spec)

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """See `Model`, as for the methods below."""
        return "cuda" if jt.flags.use_cuda else "cpu"

    @property
    def device_name(self) -> str:
        if jt.flags.use_cuda:
            return gpu_name()
        return f"{processor_name()}, {'native' if self._kernels else 'Jittor'} kernels"

    @property
    def threads(self) -> int:
        # Its own kernels, oneDNN's and the host's are all threaded by this one library.
        return int(ctypes.CDLL("libgomp.so.1").omp_get_max_threads())

    def train_step(
        self, batch: Batch, loss: Loss, *, lr: float, ema_decay: float, max_grad_norm: float
    ) -> jt.Var:
        ema = self._ema
        # Below 2^31, where Jittor's seeds end.
        jt.set_seed((batch.dropout_seed + batch.first) % 2**31)
        losses = self._losses(batch, loss, self._training_layers(batch))
        names = list(self._raw)
        mean = (losses * jt.array(batch.weights)).sum() / batch.total
        gradients = jt.grad(mean, [self._raw[name] for name in names])
        if jt.in_mpi:
            gradients = [gradient.mpi_all_reduce("add") for gradient in gradients]
        # `update` cuts the gradient by itself; under `no_grad` the parameters would stop asking for one.
        self._update(dict(zip(names, gradients, strict=True)), lr, max_grad_norm)
        for name, average in ema.items():
            average.update(average + (self._raw[name] - average) * (1.0 - ema_decay))
        self._forget_transformed()
        jt.sync_all()
        return losses.stop_grad()

    def evaluate_loss(self, batch: Batch, loss: Loss) -> jt.Var:
        with jt.no_grad():
            losses = self._losses(batch, loss, self._layers("raw"))
        jt.sync_all()
        return losses

    def predict(self, x_t: jt.Var, t: int, *, which: WhichWeights) -> jt.Var:
        jt.sync_all()
        with jt.no_grad():
            timesteps = jt.array(np.full(x_t.shape[0], t, dtype=np.int32))
            predicted = self._predict(self._layers(which), x_t, timesteps)
        jt.sync_all()
        return predicted

    def clip(self, tensor: jt.Var, low: float, high: float) -> jt.Var:
        return tensor.clamp(low, high)

    def to_device(self, array: NDArray[np.float32]) -> jt.Var:
        return jt.array(array).stop_grad()

    def to_host(self, tensor: jt.Var) -> NDArray[np.float32]:
        host: NDArray[np.float32] = tensor.numpy()
        return host

    def synchronize(self) -> None:
        jt.sync_all(True)

    def peak_memory_bytes(self) -> int:
        if jt.flags.use_cuda:
            # What Jittor's allocator holds of the GPU; it keeps for itself what it frees.
            return int(jt.get_mem_info().total_cuda_used)
        return process_peak_memory_bytes()

    def _zeros(self, shape: tuple[int, ...]) -> jt.Var:
        return jt.zeros(shape).stop_grad()

    def _parameter(self, shape: tuple[int, ...]) -> jt.Var:
        return jt.zeros(shape)

    def _assign(self, tensor: jt.Var, array: NDArray[np.float32]) -> None:
        tensor.update(jt.array(array))

    def _update(self, gradients: dict[str, jt.Var], lr: float, max_grad_norm: float) -> None:
        """Clip, then Adam with epsilon after the bias correction, as in PyTorch."""
        exp_avg, exp_avg_sq = self._exp_avg, self._exp_avg_sq
        self._steps += 1
        squares = [(gradient * gradient).sum() for gradient in gradients.values()]
        norm = jt.concat(squares).sum().sqrt()
        scale = (max_grad_norm / (norm + 1e-6)).minimum(1.0)
        correction1 = 1.0 - ADAM_BETA1**self._steps
        correction2 = math.sqrt(1.0 - ADAM_BETA2**self._steps)
        for name, parameter in self._raw.items():
            gradient = gradients[name] * scale
            mean, square = exp_avg[name], exp_avg_sq[name]
            mean.update(mean * ADAM_BETA1 + gradient * (1.0 - ADAM_BETA1))
            square.update(square * ADAM_BETA2 + gradient * gradient * (1.0 - ADAM_BETA2))
            parameter.update(
                parameter - mean * (lr / correction1) / (square.sqrt() / correction2 + ADAM_EPSILON)
            )

    def _training_layers(self, batch: Batch) -> JittorLayers:
        dropout = self._dropout_of(batch)
        if self._kernels is None:
            return JittorLayers(self._raw, dropout)
        return KernelLayers(self._kernels, self._raw, dropout)

    def _layers(self, which: WhichWeights) -> JittorLayers:
        parameters = self._parameters(which)
        if self._kernels is None:
            return JittorLayers(parameters)
        return KernelLayers(self._kernels, parameters, transformed=self._transformed[which])

    def _losses(self, batch: Batch, loss: Loss, layers: JittorLayers) -> jt.Var:
        predicted = self._predict(layers, jt.array(batch.x_t), jt.array(batch.t.astype(np.int32)))
        return loss(predicted, jt.array(batch.target))

    def _predict(self, layers: JittorLayers, x_t: jt.Var, t: jt.Var) -> jt.Var:
        predicted = run_unet(self._unet, layers, layers.to_layout(x_t), self._time_table[t])
        return layers.from_layout(predicted)
