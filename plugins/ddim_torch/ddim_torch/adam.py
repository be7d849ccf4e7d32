"""Adam for all parameters in one call, the same call that `torch.optim.Adam(fused=True)` makes.

That class is not used because its first step imports PyTorch's compiler, which takes two seconds.
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
    """Update parameters and moments in place (arXiv 1412.6980, algorithm 1).

    Args:
        parameters: The parameters.
        gradients: The gradient of each parameter.
        exp_avg: First moments.
        exp_avg_sq: Second moments.
        step: fp32 `()` on the device, the number of this step, counted from 1.
        lr: Learning rate; a tensor `()` on the device for use in a CUDA graph.
    """
    # This function is private to PyTorch; if a release lacks it, the formula is used.
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
    """Do the same as `adam_step` with public operations: several times slower, but equal up to rounding."""
    size = lr / (1.0 - ADAM_BETA1**step)
    correction = (1.0 - ADAM_BETA2**step).sqrt()
    for parameter, gradient, mean, square in zip(parameters, gradients, exp_avg, exp_avg_sq, strict=True):
        mean.lerp_(gradient, 1.0 - ADAM_BETA1)
        square.mul_(ADAM_BETA2).addcmul_(gradient, gradient, value=1.0 - ADAM_BETA2)
        parameter.sub_(size * mean / (square.sqrt() / correction + ADAM_EPSILON))
