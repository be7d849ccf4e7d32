"""Weights per timestep that change the training objective (unlike a sampler's, which only undo its bias).

A weight that is published for one prediction is the same objective for another one after multiplication with
the ratio of their squared errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ddim_host.diffusion import epsilon_error_ratio
from ddim_host.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.diffusion import NoiseSchedule, PredictionType

# Every weight stays a float32 number, the type that it has in a batch.
_MAX_P2_GAMMA = 10.0
_MIN_P2_K, _MAX_P2_K = 1e-3, 1e3


def none(schedule: NoiseSchedule, _prediction_type: PredictionType) -> NDArray[np.float64]:
    """Weight 1 at every timestep: L_simple of DDPM (arXiv 2006.11239, equation 14).

    So it is for each prediction: the plain loss of v is another objective than that of epsilon.

    Args:
        schedule: The noise schedule of the run.

    Returns:
        float64 `(T,)` of ones.
    """
    return np.ones(schedule.num_train_timesteps)


def min_snr(
    schedule: NoiseSchedule, prediction_type: PredictionType, *, gamma: float = 5.0
) -> NDArray[np.float64]:
    """Low noise, where the loss is easy to lower, counts less (arXiv 2303.09556, section 3.4).

    `min(SNR, gamma)` for a network that predicts x_start, divided by SNR for epsilon, by SNR + 1 for v.

    Args:
        schedule: The noise schedule of the run.
        prediction_type: What the network predicts.
        gamma: The signal-to-noise ratio above which a timestep counts less, > 0.

    Returns:
        float64 `(T,)`, in [0, 1] for epsilon and v, in [0, gamma] for x_start.

    Raises:
        UserError: `gamma` is not above 0.
    """
    if not gamma > 0.0:
        raise UserError("the gamma of the min_snr loss weighting must be above 0", why=f"given is {gamma}")
    most = np.maximum(schedule.snr / gamma, 1.0)
    weights: NDArray[np.float64] = epsilon_error_ratio(prediction_type, schedule) / most
    return weights


def p2(
    schedule: NoiseSchedule, prediction_type: PredictionType, *, gamma: float = 1.0, k: float = 1.0
) -> NDArray[np.float64]:
    """`1 / (k + SNR)^gamma`: low noise, where only invisible details are left, counts less.

    This is the P2 weight `lambda_t / (k + SNR)^gamma` (arXiv 2204.00227, equation 8). Its lambda_t turns the
    terms of the variational bound into those of DDPM's L_simple; the losses here are those of L_simple
    already, the error of epsilon without a factor, and need no lambda_t. For another prediction the weight is
    that of the same objective.

    Args:
        schedule: The noise schedule of the run.
        prediction_type: What the network predicts.
        gamma: How much less low noise counts, in [0, 10]; 0 is no weighting.
        k: Keeps the weights of high noise from growing without limit, in [0.001, 1000].

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
                f"the {name} of the p2 loss weighting must lie in [{low:g}, {high:g}]",
                why=f"given is {value}",
            )
    weights: NDArray[np.float64] = (
        epsilon_error_ratio(prediction_type, schedule) * (k + schedule.snr) ** -gamma
    )
    return weights
