"""Adam for all parameters in one call, which is what `torch.optim.Adam(fused=True)` ends in.

The class itself imports PyTorch's compiler with its first step: two seconds, for nothing that is used here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from ddim_host.framework import ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@torch.no_grad()
def adam_step(
    parameters: Mapping[str, Tensor],
    exp_avg: Mapping[str, Tensor],
    exp_avg_sq: Mapping[str, Tensor],
    *,
    step: int,
    lr: float,
) -> None:
    """Move each parameter along its gradient's moments (arXiv 1412.6980, algorithm 1); all in place.

    Args:
        parameters: By name, each with its gradient.
        exp_avg: First moments, by name.
        exp_avg_sq: Second moments, by name.
        step: Number of this step, from 1.
        lr: Learning rate.
    """
    tensors = list(parameters.values())
    gradients = [cast("Tensor", parameter.grad) for parameter in tensors]  # a step gives each its own
    # One number for each parameter, on its device: a device that is fed asynchronously is not waited for.
    steps = [torch.full((), float(step), device=tensors[0].device)] * len(tensors)
    torch._fused_adam_(
        tensors,
        gradients,
        list(exp_avg.values()),
        list(exp_avg_sq.values()),
        [],
        steps,
        lr=lr,
        beta1=ADAM_BETA1,
        beta2=ADAM_BETA2,
        weight_decay=0.0,
        eps=ADAM_EPSILON,
        amsgrad=False,
        maximize=False,
    )
