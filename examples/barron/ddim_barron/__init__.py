"""A loss for ddim-host, written once for NumPy, PyTorch and Jittor.

It may use operations shared by all of them: arithmetic, `**`, `abs`, `reshape(tuple)`, `sum` and `mean` of
one axis.
"""

from __future__ import annotations

import math
from typing import Any

from ddim_host import UserError, hookimpl

__all__ = ["barron"]


@hookimpl
def ddim_losses() -> dict[str, Any]:
    """Register the loss."""
    return {"barron": barron}


def barron(prediction: Any, target: Any, *, alpha: float = 1.0, scale: float = 0.1) -> Any:
    """Barron's general robust loss (arXiv 1701.03077, equation 1); many others are special cases.

    `|a - 2| / a (((d / c)^2 / |a - 2| + 1)^(a / 2) - 1)` for a = alpha and c = scale: the squared error at
    alpha 2, the pseudo-Huber loss at 1, and the loss of Geman and McClure at -2, which is nearly constant for
    large errors.

    Args:
        prediction: `(B, C, H, W)`, an array of any framework.
        target: `(B, C, H, W)`.
        alpha: Robustness; finite, at most 2 and not 0, where the formula would become a logarithm. Lower
            values are more robust.
        scale: The difference above which the loss is no longer quadratic, above 0.

    Returns:
        One number per image, `(B,)`.

    Raises:
        UserError: A parameter is out of range.
    """
    if not -math.inf < alpha <= 2.0 or alpha == 0.0:
        raise UserError(
            f"parameter 'alpha' of loss 'barron' must be finite, nonzero and at most 2, not {alpha}"
        )
    if not scale > 0.0:
        raise UserError(f"parameter 'scale' of loss 'barron' must be a number above 0, not {scale}")
    squares = ((prediction - target) * (1.0 / scale)) ** 2
    if alpha == 2.0:
        errors = squares * 0.5
    else:
        distance = 2.0 - alpha
        errors = ((squares * (1.0 / distance) + 1.0) ** (alpha / 2.0) - 1.0) * (distance / alpha)
    return errors.reshape((prediction.shape[0], -1)).mean(1)
