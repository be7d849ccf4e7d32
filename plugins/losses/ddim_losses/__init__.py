"""Losses, each one number per image, written once for NumPy, PyTorch and Jittor.

They use only the operators that all three share: arithmetic, `**`, `reshape(tuple)`, positional `sum` and
`mean`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ddim_host import hookimpl

if TYPE_CHECKING:
    from ddim_host.contracts import Loss

__all__ = ["l2", "mse"]

# An array of any framework; no type checker knows that unrelated array classes share these operators.
Tensor = TypeVar("Tensor", bound=Any)


@hookimpl
def ddim_losses() -> dict[str, Loss]:
    """`mse` and `l2`."""
    return {"mse": mse, "l2": l2}


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over channels and pixels: L_simple of DDPM (arXiv 2006.11239, equation 14).

    Args:
        prediction: `(B, C, H, W)`.
        target: `(B, C, H, W)`.

    Returns:
        `(B,)`.
    """
    losses: Tensor = ((prediction - target) ** 2).reshape((prediction.shape[0], -1)).mean(1)
    return losses


def l2(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared Euclidean distance, the *sum* over channels and pixels, as in the DDIM paper's code.

    It is `mse` times C x H x W (3072 for CIFAR-10). Adam does not see a constant factor, but gradient
    clipping does: with `l2` nearly every step is clipped, which is what makes the two train differently.

    Args:
        prediction: `(B, C, H, W)`.
        target: `(B, C, H, W)`.

    Returns:
        `(B,)`.
    """
    losses: Tensor = ((prediction - target) ** 2).reshape((prediction.shape[0], -1)).sum(1)
    return losses
