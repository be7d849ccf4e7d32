"""Diffusers' configuration of a DDPM or DDIM scheduler as settings of a run, and the way back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, cast

from ddim_host.diffusion import PREDICTION_TYPES
from ddim_host.errors import UserError
from ddim_host.plugin.parameters import PartChoice
from ddim_host.system.limits import MAX_TIMESTEPS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ddim_host.diffusion import NoiseSchedule, PredictionType
    from ddim_host.experiment.config import Config

_HOST = "ddim-host"

CLASSES = ("DDIMScheduler", "DDPMScheduler")

_COSINE_OFFSET = 0.008
"""The offset s of `squaredcos_cap_v2`."""

_DEFAULTS: dict[str, object] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "prediction_type": "epsilon",
    "predict_epsilon": True,
    "rescale_betas_zero_snr": False,
    "thresholding": False,
    "timestep_values": None,
    "variance_type": "fixed_small",
}
"""Every key that says something about the network or the noise, and its value where it is absent."""

_WITHOUT_EFFECT = frozenset(
    {
        # How to sample: which timesteps, and what the last one arrives at.
        *("timestep_spacing", "steps_offset", "set_alpha_to_one"),
        # Only with thresholding.
        *("dynamic_thresholding_ratio", "sample_max_value"),
        # What array library the first releases of diffusers should compute with, and a name of timesteps.
        *("tensor_format", "timesteps"),
    }
)

_PART_OF = {"linear": "linear", "scaled_linear": "quad", "sigmoid": "sigmoid", "squaredcos_cap_v2": "cosine"}
"""The noise schedules of the host, by what diffusers calls them."""

_KNOWN_TO_DDIM = {"linear": "linear", "quad": "scaled_linear"}
"""Names in a `DDIMScheduler` of the host's noise schedules that have a first and a last beta."""


@dataclass(frozen=True)
class Diffusion:
    """What a scheduler's configuration says of the diffusion that a network was trained for.

    Attributes:
        noise_schedule: The noise schedule, as a part of the host.
        num_train_timesteps: T.
        prediction_type: What the network predicts.
        rescale_zero_snr: Whether the schedule is stretched to end in pure noise.
        clip: Whether the predicted x_start is limited while sampling.
        clip_range: To what.
    """

    noise_schedule: PartChoice
    num_train_timesteps: int
    prediction_type: PredictionType
    rescale_zero_snr: bool
    clip: bool
    clip_range: float

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a run."""
        names = ("num_train_timesteps", "prediction_type", "rescale_zero_snr", "clip", "clip_range")
        return {name: getattr(self, name) for name in names}


def diffusion_from_diffusers(config: Mapping[str, object]) -> Diffusion:
    """Read the `scheduler_config.json` of a DDPM or DDIM scheduler.

    What only says how to sample (`timestep_spacing`, `steps_offset`, `set_alpha_to_one`) is passed over.

    Args:
        config: What the file holds.

    Raises:
        UserError: A key has a value of a wrong type, or one that a run cannot express, or is unknown.
    """
    name = config.get("_class_name", CLASSES[0])
    if name not in CLASSES:
        _refuse("_class_name", name, f"only {' and '.join(CLASSES)} can be read")
    for key, value in config.items():
        if key not in _DEFAULTS and key not in _WITHOUT_EFFECT and not key.startswith("_"):
            _refuse(key, value, f"a {name} has no key {key!r:.80}, so that its effect is unknown")
    read: dict[str, Any] = {key: config.get(key, default) for key, default in _DEFAULTS.items()}
    for key in ("clip_sample", "predict_epsilon", "rescale_betas_zero_snr", "thresholding"):
        if not isinstance(read[key], bool):
            _refuse(key, read[key], f"{key} must be true or false")
    if read["clip_sample_range"] is None and not read["clip_sample"]:
        read["clip_sample_range"] = _DEFAULTS["clip_sample_range"]
    if read["thresholding"]:
        _refuse("thresholding", True, "a run can limit x_start to a range only")
    if str(read["variance_type"]).startswith("learned"):
        _refuse("variance_type", read["variance_type"], "a run's network predicts no variance")
    if read["timestep_values"] is not None:
        _refuse("timestep_values", read["timestep_values"], "a run visits timesteps by their number")
    # The first releases of diffusers had another name for it.
    timesteps = config.get("num_train_timesteps", config.get("timesteps", _DEFAULTS["num_train_timesteps"]))
    if type(timesteps) is not int or not 1 <= timesteps <= MAX_TIMESTEPS:
        _refuse("num_train_timesteps", timesteps, f"it must be an integer from 1 to {MAX_TIMESTEPS:,}")
    prediction_type = read["prediction_type"] if read["predict_epsilon"] else "sample"
    if prediction_type not in PREDICTION_TYPES:
        _refuse("prediction_type", prediction_type, f"it must be one of {', '.join(PREDICTION_TYPES)}")
    if prediction_type == "epsilon" and read["rescale_betas_zero_snr"]:
        _refuse("rescale_betas_zero_snr", True, "a network that predicts epsilon sees nothing in pure noise")
    return Diffusion(
        noise_schedule=_noise_schedule(read, timesteps),
        num_train_timesteps=timesteps,
        prediction_type=prediction_type,
        rescale_zero_snr=read["rescale_betas_zero_snr"],
        clip=read["clip_sample"],
        clip_range=_number(read, "clip_sample_range"),
    )


def scheduler_config(config: Config, schedule: NoiseSchedule) -> dict[str, object]:
    """Return the configuration of the `DDIMScheduler` of a run.

    A noise schedule without a name in diffusers is written as a list of betas. The spacing of timesteps is
    one with which diffusers' scheduler arrives at the timesteps that it visits: it always takes the next one
    to be T // S below.

    Args:
        config: The run.
        schedule: Its noise schedule.
    """
    part, parameters = config.noise_schedule, cast("dict[str, float]", config.noise_schedule.parameters)
    own = part.distribution == _HOST
    timesteps = config.num_train_timesteps
    betas: dict[str, object] = {"beta_schedule": "linear", "trained_betas": None}
    if own and part.name in _KNOWN_TO_DDIM:
        scale = 1000.0 / timesteps
        betas |= {
            "beta_schedule": _KNOWN_TO_DDIM[part.name],
            "beta_start": parameters["beta_start"] * scale,
            "beta_end": parameters["beta_end"] * scale,
        }
    elif own and part.name == "cosine" and parameters["s"] == _COSINE_OFFSET:
        betas["beta_schedule"] = "squaredcos_cap_v2"
    else:
        betas["trained_betas"] = schedule.betas.tolist()
    named = betas["trained_betas"] is None
    return {
        "_class_name": CLASSES[0],
        "num_train_timesteps": timesteps,
        **betas,
        "prediction_type": config.prediction_type,
        # Betas in a list are those after rescaling.
        "rescale_betas_zero_snr": config.rescale_zero_snr and named,
        "clip_sample": config.clip,
        "clip_sample_range": config.clip_range,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "timestep_spacing": "trailing" if schedule.alphas_cumprod[-1] == 0.0 else "leading",
        "thresholding": False,
    }


def _noise_schedule(read: Mapping[str, Any], timesteps: int) -> PartChoice:
    trained, name = read["trained_betas"], read["beta_schedule"]
    if trained is not None:
        if not isinstance(trained, list) or not all(type(beta) in (int, float) for beta in trained):
            _refuse("trained_betas", trained, "it must be a list of numbers")
        if len(trained) != timesteps:
            _refuse("num_train_timesteps", timesteps, f"there are {len(trained)} trained_betas")
        return PartChoice("explicit", _HOST, {"betas": tuple(map(float, trained))})
    if not isinstance(name, str) or name not in _PART_OF:
        _refuse("beta_schedule", name, f"it must be one of {', '.join(_PART_OF)}")
    if name == "squaredcos_cap_v2":
        return PartChoice(_PART_OF[name], _HOST, {"s": _COSINE_OFFSET})
    # The host's parts scale betas with 1000 / T, diffusers does not.
    scale = timesteps / 1000.0
    start, end = (_number(read, key) for key in ("beta_start", "beta_end"))
    if not (start <= end < 1.0 and end * scale < 1.0):
        _refuse("beta_end", end, f"it must be from beta_start, {start:g}, to below {min(1.0, 1.0 / scale):g}")
    ends: dict[str, object] = {"beta_start": start * scale, "beta_end": end * scale}
    return PartChoice(_PART_OF[name], _HOST, ends)


def _number(read: Mapping[str, Any], key: str) -> float:
    value = read[key]
    if type(value) not in (int, float) or not math.isfinite(value) or not value > 0.0:
        _refuse(key, value, f"{key} must be a number above 0")
    return float(value)


def _refuse(key: str, value: object, why: str) -> NoReturn:
    raise UserError(f"a scheduler with {key} = {value!r:.80} cannot be read from diffusers", why=why)
