"""Loss weightings: weights per timestep that define the training objective.

The weights of a timestep sampler, in contrast, only correct its bias. To give the same objective for another
prediction type, a published weight is multiplied by the ratio of the squared errors of the two types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ddim_host.diffusion import epsilon_error_ratio
from ddim_host.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.diffusion import NoiseSchedule, PredictionType

# Limits that keep every weight within the range of float32, the dtype of weights in a batch.
_MAX_P2_GAMMA = 10.0
_MIN_P2_K, _MAX_P2_K = 1e-3, 1e3


def none(schedule: NoiseSchedule, _prediction_type: PredictionType) -> NDArray[np.float64]:
    """Weight 1 at every timestep: L_simple of DDPM (arXiv 2006.11239, equation 14).

    The weight is 1 for every prediction type, so the loss of v is a different objective from that of epsilon.

    Args:
        schedule: The noise schedule of the run.

    Returns:
        float64 `(T,)` of ones.
    """
    return np.ones(schedule.num_train_timesteps)


def min_snr(
    schedule: NoiseSchedule, prediction_type: PredictionType, *, gamma: float = 5.0
) -> NDArray[np.float64]:
    """Reduce the weight of low noise, where the loss is easy to reduce (arXiv 2303.09556, section 3.4).

    The weight is `min(SNR, gamma)` for a network that predicts x_start; for epsilon it is divided by SNR, and
    for v by SNR + 1.

    Args:
        schedule: The noise schedule of the run.
        prediction_type: The type of prediction.
        gamma: The signal-to-noise ratio above which timesteps have less weight; must be above 0.

    Returns:
        float64 `(T,)`, in [0, 1] for epsilon and v, in [0, gamma] for x_start.

    Raises:
        UserError: `gamma` is not above 0.
    """
    if not gamma > 0.0:
        raise UserError(
            f"parameter 'gamma' of loss weighting 'min_snr' must be a number above 0, not {gamma}"
        )
    most = np.maximum(schedule.snr / gamma, 1.0)
    weights: NDArray[np.float64] = epsilon_error_ratio(prediction_type, schedule) / most
    return weights


def p2(
    schedule: NoiseSchedule, prediction_type: PredictionType, *, gamma: float = 1.0, k: float = 1.0
) -> NDArray[np.float64]:
    """`1 / (k + SNR)^gamma`: reduce the weight of low noise, where only invisible details remain.

    This is the P2 weight `lambda_t / (k + SNR)^gamma` (arXiv 2204.00227, equation 8). Its lambda_t converts
    the terms of the variational bound to those of DDPM's L_simple; the losses here are already those of
    L_simple (the error of epsilon without a factor) and need no lambda_t. For other prediction types, the
    weight is converted to give the same objective.

    Args:
        schedule: The noise schedule of the run.
        prediction_type: The type of prediction.
        gamma: Strength of the weighting, in [0, 10]; 0 disables it.
        k: Limit on the weights of high noise, in [0.001, 1000].

    Returns:
        float64 `(T,)`.

    Raises:
        UserError: A parameter is out of range.
    """
    for name, value, low, high in (
        ("gamma", gamma, 0.0, _MAX_P2_GAMMA),
        ("k", k, _MIN_P2_K, _MAX_P2_K),
    ):
        if not low <= value <= high:
            raise UserError(
                f"parameter {name!r} of loss weighting 'p2' must be a number in [{low:g}, "
                f"{high:g}], not {value}"
            )
    weights: NDArray[np.float64] = (
        epsilon_error_ratio(prediction_type, schedule) * (k + schedule.snr) ** -gamma
    )
    return weights
