"""The loss `multiscale`, which compares images at several sizes."""

from __future__ import annotations

from typing import Any

from ddim_host import UserError, hookimpl


@hookimpl
def ddim_losses() -> dict[str, Any]:
    """Register the loss."""
    return {"multiscale": multiscale}


def multiscale(prediction: Any, target: Any, *, smallest: int = 8) -> Any:
    """Squared error at full size and repeatedly halved sizes, as in simple diffusion (arXiv 2301.11093).

    The weight of a size is proportional to 1 / size, and the weights sum to 1. The paper's `smallest` is 32.
    """
    if smallest < 1:
        raise UserError(f"parameter 'smallest' of loss 'multiscale' must be at least 1, not {smallest}")
    difference = prediction - target
    batch, channels, size, _ = difference.shape
    total: Any = 0.0
    weights = 0.0
    while True:
        total = total + (difference**2).reshape((batch, -1)).mean(1) * (1.0 / size)
        weights += 1.0 / size
        if size % 2 or size // 2 < smallest:
            return total * (1.0 / weights)
        size //= 2
        difference = difference.reshape((batch, channels, size, 2, size, 2)).mean(5).mean(3)
