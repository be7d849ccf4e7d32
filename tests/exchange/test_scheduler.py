"""Conversion of a run's settings to a scheduler's configuration and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.errors import UserError
from ddim_host.exchange.scheduler import diffusion_from_diffusers, scheduler_config
from ddim_host.experiment.assembly import assemble
from ddim_host.experiment.config import Request
from ddim_host.plugin.parameters import parse_choice
from ddim_host.plugin.registry import Kind

SHAPE = (8, 8, 1)


def request(schedule: str = "linear", **settings: Any) -> Request:
    return Request("torch", {Kind.NOISE_SCHEDULE: parse_choice(schedule)}, settings)


def round_trip(original: Request) -> Request:
    """Convert a request to diffusers' configuration and back."""
    experiment = assemble(original, image_shape=SHAPE)
    diffusion = diffusion_from_diffusers(scheduler_config(experiment.config, experiment.schedule))
    return Request("torch", {Kind.NOISE_SCHEDULE: diffusion.noise_schedule}, diffusion.settings)


@pytest.mark.parametrize(
    ("schedule", "name"),
    [
        ("linear", "linear"),
        ("linear:beta_start=0.002,beta_end=0.01", "linear"),
        ("quad", "quad"),
        ("cosine", "cosine"),
        ("cosine:s=0.1", "explicit"),
        ("sigmoid", "explicit"),
    ],
)
@pytest.mark.parametrize("timesteps", [50, 1000])
@pytest.mark.parametrize("stretched", [False, True])
def test_noise_schedule_survives_the_round_trip(
    schedule: str, name: str, timesteps: int, stretched: bool
) -> None:
    original = request(
        schedule, num_train_timesteps=timesteps, rescale_zero_snr=stretched, prediction_type="sample"
    )
    one, other = (assemble(r, image_shape=SHAPE) for r in (original, round_trip(original)))
    assert other.config.noise_schedule.name == name
    assert other.config.prediction_type == "sample"
    np.testing.assert_allclose(other.schedule.betas, one.schedule.betas, rtol=1e-12)


@given(
    clip=st.booleans(),
    clip_range=st.floats(1e-3, 1e3),
    prediction_type=st.sampled_from(["epsilon", "sample", "v_prediction"]),
)
def test_settings_survive_the_round_trip(clip: bool, clip_range: float, prediction_type: str) -> None:
    settings: dict[str, Any] = {"clip": clip, "clip_range": clip_range, "prediction_type": prediction_type}
    assert round_trip(request(**settings)).settings.items() >= settings.items()


def test_missing_keys_have_the_defaults_of_diffusers() -> None:
    diffusion = diffusion_from_diffusers({})
    assert diffusion.noise_schedule.name == "linear"
    assert diffusion.noise_schedule.arguments == {"beta_start": 1e-4, "beta_end": 0.02}
    assert diffusion.settings == {
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "rescale_zero_snr": False,
        "clip": True,
        "clip_range": 1.0,
    }


def test_predict_epsilon_of_the_first_releases_is_read() -> None:
    assert diffusion_from_diffusers({"predict_epsilon": False}).prediction_type == "sample"


def test_removed_keys_of_the_first_releases_are_accepted() -> None:
    old = {"timesteps": 500, "timestep_values": None, "tensor_format": "pt"}
    assert diffusion_from_diffusers(old).num_train_timesteps == 500
    assert diffusion_from_diffusers({"clip_sample": False, "clip_sample_range": None}).clip is False


def test_sampling_keys_are_ignored() -> None:
    sampling = {"timestep_spacing": "trailing", "steps_offset": 1, "set_alpha_to_one": False}
    assert diffusion_from_diffusers(sampling) == diffusion_from_diffusers({})


@pytest.mark.parametrize(
    ("schedule", "stretched", "spacing"), [("linear", False, "leading"), ("linear", True, "trailing")]
)
def test_exported_spacing_ends_at_the_clean_image_in_diffusers(
    schedule: str, stretched: bool, spacing: str
) -> None:
    original = request(schedule, rescale_zero_snr=stretched, prediction_type="v_prediction")
    experiment = assemble(original, image_shape=SHAPE)
    config = scheduler_config(experiment.config, experiment.schedule)
    assert config["timestep_spacing"] == spacing
    assert config["rescale_betas_zero_snr"] is stretched


def test_unknown_key_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="a diffusers scheduler with gamma = 2 cannot be imported") as caught:
        diffusion_from_diffusers({"gamma": 2})
    assert "no key 'gamma'" in caught.value.why


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"beta_start": 10**400}, "beta_start must be a number above 0"),
        ({"beta_end": 0.0}, "beta_end must be a number above 0"),
        ({"clip_sample_range": float("nan")}, "clip_sample_range must be a number above 0"),
        ({"clip_sample": 1}, "clip_sample must be true or false"),
        ({"num_train_timesteps": 1, "trained_betas": [10**400]}, "it must be a list of numbers"),
        ({"_class_name": "PNDMScheduler"}, "only DDIMScheduler and DDPMScheduler are supported"),
    ],
)
def test_invalid_value_is_refused(changes: dict[str, Any], why: str) -> None:
    """Numbers too large for a float are also invalid."""
    with pytest.raises(UserError, match=r"a diffusers scheduler with .* cannot be imported") as caught:
        diffusion_from_diffusers(changes)
    assert caught.value.why == why
