"""`Model` on an NVIDIA GPU: steps and network calls are functions of static tensors, for CUDA graphs."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from torch import Tensor, distributed

from ddim_host.framework import parameters, run_unet
from ddim_torch.adam import adam_step
from ddim_torch.graphs import Captured
from ddim_torch.model import TorchModel
from ddim_torch.static_tensors import FlatTensors, StagedInputs
from ddim_torch.triton_layers import Training, TritonLayers

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ddim_host.framework import Batch, Loss, UNetSpec, WhichWeights

_BOTH: tuple[WhichWeights, ...] = ("raw", "ema")


class CudaModel(TorchModel):
    """A U-Net on a GPU; see `ddim_host.framework.Model`.

    Weights, optimizer and average are fp32. With bf16 the network uses a rounded copy of the weights, and its
    gradients are also bf16; everything computed from them is fp32.

    Training steps and network calls never synchronise, and use only tensors with fixed addresses. They can
    therefore be captured in CUDA graphs, one for each batch size.

    Args:
        spec: The network.
        device: The GPU. Tests also use the CPU, where nothing is captured.
        precision: The precision of the network.
        graphs: Whether to capture CUDA graphs.
    """

    def __init__(
        self, spec: UNetSpec, device: torch.device, precision: Literal["fp32", "bf16"], *, graphs: bool
    ) -> None:
        self._graphs = graphs and device.type == "cuda"
        self._training: dict[object, tuple[StagedInputs, Captured]] = {}
        self._calls: dict[object, tuple[Tensor, Tensor, Captured]] = {}
        self._outdated: set[WhichWeights] = set(_BOTH)
        # Otherwise the gradients of some convolutions are summed in an order that varies between runs.
        torch.backends.cudnn.deterministic = True
        super().__init__(spec, device, precision)
        self._kernels = None  # CPU kernels

    @property
    def device_name(self) -> str:
        """See `Model`, which also documents the methods below."""
        return f"{super().device_name}, {'CUDA graphs' if self._graphs else 'no CUDA graphs'}"

    def train_step(
        self, batch: Batch, loss: Loss, *, lr: float, ema_decay: float, max_grad_norm: float
    ) -> Tensor:
        self._steps += 1
        values: dict[str, ArrayLike] = {
            "x_t": batch.x_t,
            "t": batch.t,
            "target": batch.target,
            # Gradients are summed over all processes.
            "weights": batch.weights / batch.total,
            "dropout_seed": batch.dropout_seed,
            "lr": np.float32(lr),
            "step": np.float32(self._steps),
            "ema_share": np.float32(1.0 - ema_decay),
            "max_grad_norm": np.float32(max_grad_norm),
        }
        key = id(loss), batch.x_t.shape, batch.first
        if key not in self._training:
            _ = (
                self._ema,
                self._exp_avg,
                self._exp_avg_sq,
            )  # allocate them outside of a graph
            inputs = StagedInputs(values, self._device)
            added = FlatTensors(self._added, self._device).flat
            of_images = added.new_zeros((len(batch.t), len(added)))
            step = Captured(
                lambda: self._step(inputs, of_images, loss, batch.first),
                enabled=self._graphs,
                name="a training step",
            )
            self._training[key] = inputs, step
        inputs, step = self._training[key]
        inputs.load(values)
        losses = step().clone()  # the next replay overwrites the result
        self._forget_transformed()
        return losses

    @torch.no_grad()
    def evaluate_loss(self, batch: Batch, loss: Loss) -> Tensor:
        x_t, t, target = (
            torch.from_numpy(array).to(self._device) for array in (batch.x_t, batch.t, batch.target)
        )
        losses: Tensor = loss(self._call(x_t, t, "raw"), target)
        return losses

    @torch.no_grad()
    def predict(self, x_t: Tensor, t: int, *, which: WhichWeights) -> Tensor:
        return self._call(x_t, t, which)

    def _call(self, x_t: Tensor, t: Tensor | int, which: WhichWeights) -> Tensor:
        """Return the prediction, valid until the next call."""
        key = which, x_t.shape
        if key not in self._calls:
            x = torch.empty_like(x_t)
            timesteps = torch.zeros(len(x_t), dtype=torch.int64, device=x_t.device)
            layers = TritonLayers(self._computing(which))
            call = Captured(
                lambda: self._network(layers, x, timesteps), enabled=self._graphs, name="a network call"
            )
            self._calls[key] = x, timesteps, call
        x, timesteps, call = self._calls[key]
        if which in self._outdated:
            self._round(which)
            self._outdated.discard(which)
        x.copy_(x_t)
        timesteps.copy_(t) if isinstance(t, Tensor) else timesteps.fill_(t)
        return call()

    def _step(self, inputs: StagedInputs, of_images: Tensor, loss: Loss, first: int) -> Tensor:
        """Take a training step in place, using only tensors with fixed addresses.

        Args:
            inputs: The batch and the scalars of this step.
            of_images: fp32 `(B, N)`, a buffer for the gradients of each image; see `Training`.
            loss: The loss.
            first: Index of this process's first image in the whole batch.
        """
        leaves, raw, ema, exp_avg, exp_avg_sq = (self._leaves, *self._flats)
        self._round("raw")
        start = len(raw.flat) - of_images.shape[1]
        gradients = {
            name: of_images[:, at.start - start : at.stop - start]
            for name, at in raw.slices.items()
            if name not in leaves
        }
        training = Training(gradients, self._spec.dropout, inputs["dropout_seed"], first)
        layers = TritonLayers(self._computing("raw") | leaves, training)
        losses: Tensor = loss(self._network(layers, inputs["x_t"], inputs["t"]), inputs["target"])
        total = (losses * inputs["weights"]).sum()
        multiplied = raw.flatten(torch.autograd.grad(total, list(leaves.values()))).float()
        gradient = torch.cat([multiplied, of_images.sum(0)])
        if distributed.is_initialized():
            distributed.all_reduce(gradient)
        # As in `torch.nn.utils.clip_grad_norm_`.
        norm = torch.linalg.vector_norm(gradient)
        gradient.mul_((inputs["max_grad_norm"] / (norm + 1e-6)).clamp(max=1.0))
        adam_step(
            [raw.flat], [gradient], [exp_avg.flat], [exp_avg_sq.flat], step=inputs["step"], lr=inputs["lr"]
        )
        with torch.no_grad():
            ema.flat.lerp_(raw.flat, inputs["ema_share"])
        return losses.detach()

    def _network(self, layers: TritonLayers, x_t: Tensor, t: Tensor) -> Tensor:
        x = x_t.to(self._dtype, memory_format=torch.channels_last)
        predicted = run_unet(self._unet, layers, x, self._time_table[t].to(self._dtype))
        return predicted.float().contiguous()

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    @cached_property
    def _rounded(self) -> dict[WhichWeights, FlatTensors]:
        """The bf16 copies of the weights that are used in matrix products and convolutions."""
        return {which: FlatTensors(self._multiplied, self._device, torch.bfloat16) for which in _BOTH}

    @cached_property
    def _leaves(self) -> dict[str, Tensor]:
        """The tensors with respect to which PyTorch computes gradients."""
        computing = self._computing("raw")
        return {name: computing[name].detach().requires_grad_() for name in self._multiplied}

    @property
    def _flats(self) -> tuple[FlatTensors, ...]:
        """The tensors changed by a step: parameters, their average and the optimizer's moments."""
        return tuple(
            cast("FlatTensors", tensors)
            for tensors in (self._raw, self._ema, self._exp_avg, self._exp_avg_sq)
        )

    def _computing(self, which: WhichWeights) -> dict[str, Tensor]:
        """Return the weights used by the network."""
        weights = self._parameters(which)
        return weights if self.precision == "fp32" else {**weights, **self._rounded[which]}

    @torch.no_grad()
    def _round(self, which: WhichWeights) -> None:
        """Update the bf16 copy of the weights."""
        if self.precision == "bf16":
            rounded = self._rounded[which].flat
            rounded.copy_(cast("FlatTensors", self._parameters(which)).flat[: len(rounded)])

    def _forget_transformed(self) -> None:
        self._outdated |= set(_BOTH)

    def _new_parameters(self) -> FlatTensors:
        return self._new_tensors()

    def _new_tensors(self) -> FlatTensors:
        return FlatTensors(self._multiplied | self._added, self._device)

    @cached_property
    def _multiplied(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights and dense biases in PyTorch's products, whose operands must share a dtype."""
        shapes = {p.name: p.shape for p in parameters(self._unet)}
        dense = {name.removesuffix("weight") + "bias" for name, shape in shapes.items() if len(shape) == 2}
        return {name: shape for name, shape in shapes.items() if len(shape) > 1 or name in dense}

    @cached_property
    def _added(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the other parameters: biases of convolutions, weights and biases of group norms."""
        return {p.name: p.shape for p in parameters(self._unet) if p.name not in self._multiplied}
