"""Conversion between the configuration of a diffusers DDPM or DDIM scheduler and the settings of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ddim_host.diffusion import PREDICTION_TYPES
from ddim_host.plugin.parameters import PartChoice
from ddim_host.system.limits import MAX_TIMESTEPS
from ddim_host.system.typed_config import TypedConfig, is_number

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
"""Defaults of all keys that affect the network or the noise."""

_WITHOUT_EFFECT = frozenset(
    {
        # Sampling: the timesteps, and alphas_cumprod after the last one.
        *("timestep_spacing", "steps_offset", "set_alpha_to_one"),
        # Used only with thresholding.
        *("dynamic_thresholding_ratio", "sample_max_value"),
        # The array library in the first releases of diffusers, and their name for num_train_timesteps.
        *("tensor_format", "timesteps"),
    }
)

_PART_OF = {"linear": "linear", "scaled_linear": "quad", "sigmoid": "sigmoid", "squaredcos_cap_v2": "cosine"}
"""The host's noise schedules by their names in diffusers."""

_KNOWN_TO_DDIM = {"linear": "linear", "quad": "scaled_linear"}
"""Names in `DDIMScheduler` for the host's noise schedules that are given by a first and a last beta."""


@dataclass(frozen=True)
class Diffusion:
    """Diffusion process of a trained network, read from a scheduler's configuration.

    Attributes:
        noise_schedule: The noise schedule, as one of the host's parts.
        num_train_timesteps: The number of timesteps T.
        prediction_type: The network's prediction type.
        rescale_zero_snr: True if the schedule is stretched to end in pure noise.
        clip: True if the predicted x_start is clipped while sampling.
        clip_range: Limit on the absolute value of the clipped x_start.
    """

    noise_schedule: PartChoice
    num_train_timesteps: int
    prediction_type: PredictionType
    rescale_zero_snr: bool
    clip: bool
    clip_range: float

    @property
    def settings(self) -> dict[str, Any]:
        """The corresponding settings of a run."""
        names = ("num_train_timesteps", "prediction_type", "rescale_zero_snr", "clip", "clip_range")
        return {name: getattr(self, name) for name in names}


def diffusion_from_diffusers(config: Mapping[str, object]) -> Diffusion:
    """Read the `scheduler_config.json` of a DDPM or DDIM scheduler.

    Keys that affect only sampling (`timestep_spacing`, `steps_offset`, `set_alpha_to_one`) are ignored.

    Args:
        config: The contents of the file.

    Raises:
        UserError: A key is unknown, or its value has the wrong type or no equivalent in a run.
    """
    read = TypedConfig(
        config,
        "a diffusers scheduler",
        classes=CLASSES,
        defaults=_DEFAULTS,
        without_effect=_WITHOUT_EFFECT,
    )
    clips, rescales = read.flag("clip_sample"), read.flag("rescale_betas_zero_snr")
    if read.flag("thresholding"):
        read.refuse("thresholding", True, "a run supports only clipping to a fixed range")
    if str(read["variance_type"]).startswith("learned"):
        read.refuse("variance_type", read["variance_type"], "a run's network does not predict the variance")
    if read["timestep_values"] is not None:
        read.refuse("timestep_values", read["timestep_values"], "a run supports only integer timesteps")
    # The first releases of diffusers called this key `timesteps`.
    timesteps = config.get("num_train_timesteps", config.get("timesteps", _DEFAULTS["num_train_timesteps"]))
    if type(timesteps) is not int or not 1 <= timesteps <= MAX_TIMESTEPS:
        read.refuse("num_train_timesteps", timesteps, f"it must be an integer from 1 to {MAX_TIMESTEPS:,}")
    prediction_type = read["prediction_type"] if read.flag("predict_epsilon") else "sample"
    if prediction_type not in PREDICTION_TYPES:
        read.refuse("prediction_type", prediction_type, f"it must be one of {', '.join(PREDICTION_TYPES)}")
    if prediction_type == "epsilon" and rescales:
        read.refuse("rescale_betas_zero_snr", True, "epsilon prediction is undefined for pure noise")
    unlimited = read["clip_sample_range"] is None and not clips
    return Diffusion(
        noise_schedule=_noise_schedule(read, timesteps),
        num_train_timesteps=timesteps,
        prediction_type=prediction_type,
        rescale_zero_snr=rescales,
        clip=clips,
        clip_range=1.0 if unlimited else read.number("clip_sample_range", positive=True),
    )


def scheduler_config(config: Config, schedule: NoiseSchedule) -> dict[str, object]:
    """Return the configuration of a `DDIMScheduler` for a run.

    A noise schedule that has no name in diffusers is written as a list of betas. Diffusers always steps down
    by T // S timesteps; the timestep spacing is chosen so that each step ends at the next timestep that it
    visits.

    Args:
        config: The run's configuration.
        schedule: The run's noise schedule.
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
        # Betas in a list are already rescaled.
        "rescale_betas_zero_snr": config.rescale_zero_snr and named,
        "clip_sample": config.clip,
        "clip_sample_range": config.clip_range,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "timestep_spacing": "trailing" if schedule.alphas_cumprod[-1] == 0.0 else "leading",
        "thresholding": False,
    }


def _noise_schedule(read: TypedConfig, timesteps: int) -> PartChoice:
    trained, name = read["trained_betas"], read["beta_schedule"]
    if trained is not None:
        if not isinstance(trained, list) or not all(map(is_number, trained)):
            read.refuse("trained_betas", trained, "it must be a list of numbers")
        if len(trained) != timesteps:
            read.refuse(
                "num_train_timesteps",
                timesteps,
                f"there are {len(trained)} trained_betas, but there must be one per timestep",
            )
        return PartChoice("explicit", _HOST, {"betas": tuple(map(float, trained))})
    if not isinstance(name, str) or name not in _PART_OF:
        read.refuse("beta_schedule", name, f"it must be one of {', '.join(_PART_OF)}")
    if name == "squaredcos_cap_v2":
        return PartChoice(_PART_OF[name], _HOST, {"s": _COSINE_OFFSET})
    # The host's parts scale betas by 1000 / T; diffusers does not.
    scale = timesteps / 1000.0
    start, end = (read.number(key, positive=True) for key in ("beta_start", "beta_end"))
    if not (start <= end < 1.0 and end * scale < 1.0):
        read.refuse(
            "beta_end", end, f"it must be at least beta_start, {start:g}, and below {min(1.0, 1.0 / scale):g}"
        )
    ends: dict[str, object] = {"beta_start": start * scale, "beta_end": end * scale}
    return PartChoice(_PART_OF[name], _HOST, ends)
