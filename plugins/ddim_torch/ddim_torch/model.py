"""`Model` in PyTorch: one network, its averaged copy and its optimizer on one device."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, distributed

from ddim_host import UserError
from ddim_host.framework import (
    ModelBase,
    cpu_kernels,
    cpu_precision,
    process_peak_memory_bytes,
    processor_name,
    run_unet,
)
from ddim_torch.adam import adam_step
from ddim_torch.kernel_layers import KernelLayers
from ddim_torch.layers import TorchLayers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np
    from numpy.typing import NDArray
    from torch.nn.parallel import DistributedDataParallel

    from ddim_host.framework import Batch, Device, Loss, Precision, UNetSpec, WhichWeights


def resolve_device(device: Device) -> torch.device:
    """Return the requested device; `auto` is the GPU if there is one.

    Raises:
        UserError: `cuda` was requested, but PyTorch finds no GPU.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UserError(
            "PyTorch cannot use a GPU on this machine",
            why=f"torch {torch.__version__} finds no CUDA device",
            fix=f"use --device cpu, or {_how_to_find_a_gpu()}",
        )
    if not available or device == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _how_to_find_a_gpu() -> str:
    """Return advice: check the driver, or install another build if this one cannot use GPUs."""
    if torch.version.cuda is None and torch.version.hip is None:
        return "install a CUDA build of torch, and the NVIDIA driver if it is missing"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        return f"check CUDA_VISIBLE_DEVICES, which is {hidden!r}, and whether nvidia-smi lists the GPU"
    return "check whether nvidia-smi lists the GPU, and whether its driver supports this CUDA version"


def resolve_precision(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """Return the requested precision; `auto` is bf16 on a GPU that supports it, otherwise fp32.

    See `cpu_precision` for CPUs.

    Raises:
        UserError: `bf16` was requested on a GPU that does not support it.
    """
    if device.type == "cpu":
        return cpu_precision(precision, cpu_kernels())
    supported = torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not supported:
        raise UserError(
            f"{torch.cuda.get_device_name(device)} does not support bf16", fix="use --precision fp32"
        )
    return "bf16" if supported and precision != "fp32" else "fp32"


class TorchModel(ModelBase[Tensor]):
    """A U-Net in PyTorch; see `ddim_host.framework.Model`.

    Weights are always fp32. With bf16 and the host's kernels, images are bf16 between all layers; without the
    kernels, the network runs under bf16 autocast.

    Args:
        spec: The network.
        device: The device of the network.
        precision: The precision of the network.
    """

    def __init__(self, spec: UNetSpec, device: torch.device, precision: Literal["fp32", "bf16"]) -> None:
        self.precision = precision
        self._device = device
        self._kernels = cpu_kernels() if device.type == "cpu" else None
        if self._kernels:
            self._kernels.keep_freed_memory()
        if device.type == "cuda" and precision == "fp32":
            # TF32 rounds factors to 10-bit mantissas. It is the default for convolutions, and
            # TORCH_ALLOW_TF32_CUBLAS_OVERRIDE enables it for matrix products.
            torch.backends.cudnn.allow_tf32 = False
            torch.set_float32_matmul_precision("highest")
        # PyTorch's convolutions are fastest with the channels last, on CPU and GPU.
        self._layout = torch.contiguous_format if self._kernels else torch.channels_last
        super().__init__(spec)

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """See `Model`, which also documents the methods below."""
        return "cuda" if self._device.type == "cuda" else "cpu"

    @property
    def device_name(self) -> str:
        if self._device.type == "cuda":
            return torch.cuda.get_device_name(self._device)
        return f"{processor_name()}, {'native' if self._kernels else 'PyTorch'} kernels"

    @property
    def threads(self) -> int:
        return torch.get_num_threads()

    def train_step(
        self, batch: Batch, loss: Loss, *, lr: float, ema_decay: float, max_grad_norm: float
    ) -> Tensor:
        ema = self._ema
        torch.manual_seed((batch.dropout_seed + batch.first) % 2**63)
        layers = self._training_layers(batch)
        if distributed.is_initialized():
            losses: Tensor = self._parallel(lambda: self._losses(batch, loss, layers))
            # Gradients are averaged over the processes.
            share = distributed.get_world_size() / batch.total
        else:
            losses = self._losses(batch, loss, layers)
            share = 1.0 / batch.total
        weights = torch.from_numpy(batch.weights).to(self._device)
        for parameter in self._raw.values():
            parameter.grad = None
        ((losses * weights).sum() * share).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._raw.values(), max_grad_norm)
        self._steps += 1
        raw = list(self._raw.values())
        adam_step(
            raw,
            [cast("Tensor", parameter.grad) for parameter in raw],  # each backward pass creates new gradients
            list(self._exp_avg.values()),
            list(self._exp_avg_sq.values()),
            # Created on the device, to avoid synchronising with it.
            step=torch.full((), float(self._steps), device=self._device),
            lr=lr,
        )
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.values()), raw, 1.0 - ema_decay)
        self._forget_transformed()
        return losses.detach()

    @torch.no_grad()
    def evaluate_loss(self, batch: Batch, loss: Loss) -> Tensor:
        return self._losses(batch, loss, self._layers("raw"))

    @torch.no_grad()
    def predict(self, x_t: Tensor, t: int, *, which: WhichWeights) -> Tensor:
        timesteps = torch.full((x_t.shape[0],), t, dtype=torch.int64, device=self._device)
        return self._predict(self._layers(which), x_t, timesteps)

    def clip(self, tensor: Tensor, low: float, high: float) -> Tensor:
        return tensor.clamp(low, high)

    def to_device(self, array: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def to_host(self, tensor: Tensor) -> NDArray[np.float32]:
        host: NDArray[np.float32] = tensor.detach().cpu().contiguous().numpy()
        return host

    def synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def peak_memory_bytes(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return process_peak_memory_bytes()

    def _zeros(self, shape: tuple[int, ...]) -> Tensor:
        zeros = torch.zeros(shape, device=self._device)
        return zeros.contiguous(memory_format=self._layout) if zeros.ndim == 4 else zeros

    def _parameter(self, shape: tuple[int, ...]) -> Tensor:
        return torch.nn.Parameter(self._zeros(shape))

    @torch.no_grad()
    def _assign(self, tensor: Tensor, array: NDArray[np.float32]) -> None:
        tensor.copy_(torch.from_numpy(array))

    def _training_layers(self, batch: Batch) -> TorchLayers:
        dropout = self._dropout_of(batch)
        if self._kernels is None:
            return TorchLayers(self._raw, dropout)
        return KernelLayers(self._kernels, self._raw, dropout)

    def _layers(self, which: WhichWeights) -> TorchLayers:
        if self._kernels is None:
            return TorchLayers(self._parameters(which))
        return KernelLayers(self._kernels, self._parameters(which), transformed=self._transformed[which])

    def _losses(self, batch: Batch, loss: Loss, layers: TorchLayers) -> Tensor:
        x_t = torch.from_numpy(batch.x_t).to(self._device)
        t = torch.from_numpy(batch.t).to(self._device)
        target = torch.from_numpy(batch.target).to(self._device)
        losses: Tensor = loss(self._predict(layers, x_t, t), target)
        return losses

    def _predict(self, layers: TorchLayers, x_t: Tensor, t: Tensor) -> Tensor:
        bf16 = self.precision == "bf16"
        x_t = x_t.to(
            torch.bfloat16 if bf16 and self._kernels else torch.float32, memory_format=torch.channels_last
        )
        autocast = bf16 and not self._kernels
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=autocast):
            predicted = run_unet(self._unet, layers, x_t, self._time_table[t])
        return predicted.float()

    @cached_property
    def _parallel(self) -> DistributedDataParallel:
        """A module that averages gradients over processes while later ones are still being computed."""
        from torch.nn.parallel import DistributedDataParallel  # noqa: PLC0415 - slow, and rarely needed

        return DistributedDataParallel(_Shared(self._raw.values()))


class _Shared(torch.nn.Module):
    """The parameters as a module, because `DistributedDataParallel` accepts only modules."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        self.shared = torch.nn.ParameterList(parameters)

    def forward(self, compute: Callable[[], Tensor]) -> Tensor:
        return compute()
