"""`Model` in Jittor: one network, its averaged copy and its optimizer."""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING, Literal

import jittor as jt
import numpy as np

from ddim_host import UserError
from ddim_host.framework import (
    ADAM_BETA1,
    ADAM_BETA2,
    ADAM_EPSILON,
    KERNELS_VARIABLE,
    ModelBase,
    cpu_kernels,
    cpu_precision,
    process_peak_memory_bytes,
    processor_name,
    run_unet,
)
from ddim_jittor.cuda import gpu_name
from ddim_jittor.kernel_layers import KernelLayers
from ddim_jittor.layers import JittorLayers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.framework import Batch, Loss, Precision, UNetSpec, WhichWeights


class JittorModel(ModelBase[jt.Var]):
    """A U-Net in Jittor, on the device for which Jittor was imported; see `ddim_host.framework.Model`.

    Jittor is lazy: it collects operations and runs them when a value is needed. Every step ends by running
    all collected operations, so that fusion does not depend on when values are read.

    Weights are always fp32. With bf16, which needs the host's kernels, images are bf16 between all layers.

    Args:
        spec: The network.
        precision: Precision of the network; `auto` is fp32 on a GPU; see `cpu_precision` for CPUs.

    Raises:
        UserError: `bf16` is requested on a GPU, or without the host's kernels.
    """

    def __init__(self, spec: UNetSpec, precision: Precision = "auto") -> None:
        if jt.flags.use_cuda and precision == "bf16":
            raise UserError(
                "Jittor supports bf16 only on a CPU",
                fix="use --precision fp32, --device cpu, or --plugin torch",
            )
        self._kernels = None if jt.flags.use_cuda else cpu_kernels()
        self.precision: Literal["fp32", "bf16"] = (
            "fp32" if jt.flags.use_cuda else cpu_precision(precision, self._kernels)
        )
        if self._kernels is None and self.precision == "bf16":
            raise UserError(
                "Jittor supports bf16 only with this project's kernels",
                why="they are disabled, or could not be compiled",
                fix=f"unset {KERNELS_VARIABLE}, or use --precision fp32",
            )
        super().__init__(spec)

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """See `Model`, which also documents the methods below."""
        return "cuda" if jt.flags.use_cuda else "cpu"

    @property
    def device_name(self) -> str:
        if jt.flags.use_cuda:
            return gpu_name()
        return f"{processor_name()}, {'native' if self._kernels else 'Jittor'} kernels"

    @property
    def threads(self) -> int:
        # Jittor's kernels, oneDNN's and the host's all use this threading library.
        return int(ctypes.CDLL("libgomp.so.1").omp_get_max_threads())

    def train_step(
        self, batch: Batch, loss: Loss, *, lr: float, ema_decay: float, max_grad_norm: float
    ) -> jt.Var:
        ema = self._ema
        # Jittor's seeds must be below 2^31.
        jt.set_seed((batch.dropout_seed + batch.first) % 2**31)
        losses = self._losses(batch, loss, self._training_layers(batch))
        names = list(self._raw)
        mean = (losses * jt.array(batch.weights)).sum() / batch.total
        gradients = jt.grad(mean, [self._raw[name] for name in names])
        if jt.in_mpi:
            gradients = [gradient.mpi_all_reduce("add") for gradient in gradients]
        # `update` detaches the gradient itself; under `no_grad` the parameters would no longer require one.
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
            # GPU memory held by Jittor's allocator, which does not return freed memory.
            return int(jt.get_mem_info().total_cuda_used)
        return process_peak_memory_bytes()

    def _zeros(self, shape: tuple[int, ...]) -> jt.Var:
        return jt.zeros(shape).stop_grad()

    def _parameter(self, shape: tuple[int, ...]) -> jt.Var:
        return jt.zeros(shape)

    def _assign(self, tensor: jt.Var, array: NDArray[np.float32]) -> None:
        tensor.update(jt.array(array))

    def _update(self, gradients: dict[str, jt.Var], lr: float, max_grad_norm: float) -> None:
        """Clip the gradients, then apply Adam, adding epsilon after the bias correction as PyTorch does."""
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
        images = layers.to_layout(x_t)
        if self.precision == "bf16":
            images = images.bfloat16()
        predicted = layers.from_layout(run_unet(self._unet, layers, images, self._time_table[t]))
        return predicted.float32() if self.precision == "bf16" else predicted
