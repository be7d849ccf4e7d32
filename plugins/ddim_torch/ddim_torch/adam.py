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

__all__ = ["Adam"]


class Adam:
    """Adam as `ddim_host.framework.Model` has it (arXiv 1412.6980, algorithm 1).

    Args:
        parameters: By name; each step changes them in place.

    Attributes:
        steps: Steps taken.
        exp_avg: First moments, by name.
        exp_avg_sq: Second moments, by name.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = parameters
        self.steps = 0
        self.exp_avg, self.exp_avg_sq = (
            {name: torch.zeros_like(parameter, requires_grad=False) for name, parameter in parameters.items()}
            for _ in range(2)
        )

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move each parameter along its gradient's moments.

        Args:
            lr: Learning rate.
        """
        self.steps += 1
        parameters = list(self._parameters.values())
        gradients = [cast("Tensor", parameter.grad) for parameter in parameters]  # a step gives each its own
        # One number for each parameter, on its device: a device that is fed asynchronously is not waited for.
        steps = [torch.full((), float(self.steps), device=parameters[0].device)] * len(parameters)
        torch._fused_adam_(
            parameters,
            gradients,
            list(self.exp_avg.values()),
            list(self.exp_avg_sq.values()),
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
