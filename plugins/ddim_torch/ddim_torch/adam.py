"""Adam for all parameters in one call, which is what `torch.optim.Adam(fused=True)` ends in.

The class itself imports PyTorch's compiler with its first step: two seconds, for nothing that is used here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ddim_host.framework import ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@torch.no_grad()
def adam_step(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    exp_avg: Sequence[Tensor],
    exp_avg_sq: Sequence[Tensor],
    *,
    step: Tensor,
    lr: float | Tensor,
) -> None:
    """Move each parameter along its gradient's moments (arXiv 1412.6980, algorithm 1); all in place.

    Args:
        parameters: What moves.
        gradients: Of each parameter.
        exp_avg: First moments.
        exp_avg_sq: Second moments.
        step: fp32 `()` on the device, the number of this step, from 1.
        lr: Learning rate; a tensor `()` on the device if a CUDA graph is to read it anew.
    """
    # The function is PyTorch's own, not its users': a release without it gets the formula.
    fused: Any = getattr(torch, "_fused_adam_", None)
    if fused is None:
        adam_formula(parameters, gradients, exp_avg, exp_avg_sq, step=step, lr=lr)
        return
    fused(
        list(parameters),
        list(gradients),
        list(exp_avg),
        list(exp_avg_sq),
        [],
        [step] * len(parameters),
        lr=lr,
        beta1=ADAM_BETA1,
        beta2=ADAM_BETA2,
        weight_decay=0.0,
        eps=ADAM_EPSILON,
        amsgrad=False,
        maximize=False,
    )


@torch.no_grad()
def adam_formula(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    exp_avg: Sequence[Tensor],
    exp_avg_sq: Sequence[Tensor],
    *,
    step: Tensor,
    lr: float | Tensor,
) -> None:
    """Do the same by public operations, several times slower; equal but for rounding."""
    size = lr / (1.0 - ADAM_BETA1**step)
    correction = (1.0 - ADAM_BETA2**step).sqrt()
    for parameter, gradient, mean, square in zip(parameters, gradients, exp_avg, exp_avg_sq, strict=True):
        mean.lerp_(gradient, 1.0 - ADAM_BETA1)
        square.mul_(ADAM_BETA2).addcmul_(gradient, gradient, value=1.0 - ADAM_BETA2)
        parameter.sub_(size * mean / (square.sqrt() / correction + ADAM_EPSILON))
