"""`Model` in PyTorch: one network, its averaged twin and its optimizer on one device."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, distributed

from ddim_host import UserError
from ddim_host.framework import (
    ModelBase,
    cpu_kernels,
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
    """The device that was asked for; `auto` is the GPU where there is one.

    Raises:
        UserError: `cuda` was asked for, and PyTorch sees no GPU.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UserError(
            "PyTorch cannot use a GPU on this machine",
            why=f"torch {torch.__version__} finds no CUDA device",
            fix="use --device cpu, or install a CUDA build of torch and the NVIDIA driver",
        )
    if not available or device == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def resolve_precision(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """The arithmetic that was asked for; `auto` is bf16 on a GPU that has it, otherwise fp32.

    Raises:
        UserError: `bf16` was asked for on a GPU that does not have it.
    """
    if device.type == "cpu":
        return "bf16" if precision == "bf16" else "fp32"
    supported = torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not supported:
        raise UserError(
            f"{torch.cuda.get_device_name(device)} does not have bf16", fix="use --precision fp32"
        )
    return "bf16" if supported and precision != "fp32" else "fp32"


class TorchModel(ModelBase[Tensor]):
    """A U-Net in PyTorch; see `ddim_host.framework.Model`.

    Weights are fp32 whatever the precision; bf16 is autocast around the network.

    Args:
        spec: The network.
        device: Where it lives.
        precision: The arithmetic of the network.
    """

    def __init__(self, spec: UNetSpec, device: torch.device, precision: Literal["fp32", "bf16"]) -> None:
        self.precision = precision
        self._device = device
        self._kernels = cpu_kernels() if device.type == "cpu" and precision == "fp32" else None
        if self._kernels:
            self._kernels.keep_freed_memory()
        if device.type == "cuda" and precision == "fp32":
            # By default convolutions round what they multiply to 10 bits.
            torch.backends.cudnn.allow_tf32 = False
        # PyTorch's convolutions run fastest with the channels last, on both kinds of device.
        self._layout = torch.contiguous_format if self._kernels else torch.channels_last
        super().__init__(spec)

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """See `Model`, as for the methods below."""
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
            [cast("Tensor", parameter.grad) for parameter in raw],  # a step gives each its own
            list(self._exp_avg.values()),
            list(self._exp_avg_sq.values()),
            # On its device: a device that is fed asynchronously is not waited for.
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
        x_t = x_t.contiguous(memory_format=torch.channels_last)
        enabled = self.precision == "bf16"
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=enabled):
            predicted = run_unet(self._unet, layers, x_t, self._time_table[t])
        return predicted.float()

    @cached_property
    def _parallel(self) -> DistributedDataParallel:
        """What averages gradients over several processes while the next ones are computed."""
        from torch.nn.parallel import DistributedDataParallel  # noqa: PLC0415 - slow, and seldom needed

        return DistributedDataParallel(_Shared(self._raw.values()))


class _Shared(torch.nn.Module):
    """The parameters as a module, for that is what PyTorch averages gradients of."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        self.shared = torch.nn.ParameterList(parameters)

    def forward(self, compute: Callable[[], Tensor]) -> Tensor:
        return compute()
