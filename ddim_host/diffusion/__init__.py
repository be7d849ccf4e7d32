"""The mathematics of diffusion, in NumPy float64; independent of frameworks and plugins.

schedule       betas and the tables derived from them; the forward process q(x_t | x_start)
subset         the timesteps that sampling visits: exactly S, strictly increasing
trajectory     the explicit steps `(t, t_prev)` and their coefficients for one eta
prediction     the network's target: the noise, the clean image or v
ddim           one step, written once for arrays of any framework
solvers        integration of the steps: DDIM, DPM-Solver++(2M), iPNDM, UniPC, Heun
search         a search for the timesteps with the least error, given a trained network
interpolation  spherical interpolation between two noise samples
"""

from ddim_host.diffusion.ddim import ddim_arrival, ddim_step
from ddim_host.diffusion.interpolation import slerp
from ddim_host.diffusion.prediction import (
    PREDICTION_TYPES,
    PredictionType,
    epsilon_error_ratio,
    image_and_noise,
    predict_x_start,
    prediction_target,
)
from ddim_host.diffusion.schedule import NoiseSchedule
from ddim_host.diffusion.search import Teacher
from ddim_host.diffusion.subset import strictly_increasing
from ddim_host.diffusion.trajectory import DDIMStep, ddim_steps, encoding_steps, trajectory

__all__ = [
    "PREDICTION_TYPES",
    "DDIMStep",
    "NoiseSchedule",
    "PredictionType",
    "Teacher",
    "ddim_arrival",
    "ddim_step",
    "ddim_steps",
    "encoding_steps",
    "epsilon_error_ratio",
    "image_and_noise",
    "predict_x_start",
    "prediction_target",
    "slerp",
    "strictly_increasing",
    "trajectory",
]
