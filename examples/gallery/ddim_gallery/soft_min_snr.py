"""The loss weighting `soft_min_snr`: a smooth version of min-SNR."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_host import UserError, epsilon_error_ratio, hookimpl

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ddim_host import LossWeighting, NoiseSchedule, PredictionType


@hookimpl
def ddim_loss_weightings() -> dict[str, LossWeighting]:
    """Register the loss weighting."""
    return {"soft_min_snr": soft_min_snr}


def soft_min_snr(
    schedule: NoiseSchedule, prediction_type: PredictionType, *, gamma: float = 4.0
) -> NDArray[np.float64]:
    """Weight the squared error of x_start by `1 / (1 / SNR + 1 / gamma)`, as in HDiT (arXiv 2401.11605).

    min-SNR uses the minimum of SNR and gamma; this weight is a smooth version. For epsilon it is
    `gamma / (SNR + gamma)`; for other prediction types it gives the same objective.
    """
    if not gamma > 0.0:
        raise UserError(f"parameter 'gamma' of loss weighting 'soft_min_snr' must be above 0, not {gamma}")
    return epsilon_error_ratio(prediction_type, schedule) * (gamma / (schedule.snr + gamma))
