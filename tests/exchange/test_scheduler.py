"""Settings of a run as a scheduler's configuration, and back."""

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


def back(asked: Request) -> Request:
    """Through diffusers' configuration."""
    experiment = assemble(asked, image_shape=SHAPE)
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
def test_a_noise_schedule_comes_back(schedule: str, name: str, timesteps: int, stretched: bool) -> None:
    asked = request(
        schedule, num_train_timesteps=timesteps, rescale_zero_snr=stretched, prediction_type="sample"
    )
    one, other = (assemble(r, image_shape=SHAPE) for r in (asked, back(asked)))
    assert other.config.noise_schedule.name == name
    assert other.config.prediction_type == "sample"
    np.testing.assert_allclose(other.schedule.betas, one.schedule.betas, rtol=1e-12)


@given(
    clip=st.booleans(),
    clip_range=st.floats(1e-3, 1e3),
    prediction_type=st.sampled_from(["epsilon", "sample", "v_prediction"]),
)
def test_settings_come_back(clip: bool, clip_range: float, prediction_type: str) -> None:
    settings: dict[str, Any] = {"clip": clip, "clip_range": clip_range, "prediction_type": prediction_type}
    assert back(request(**settings)).settings.items() >= settings.items()


def test_what_is_absent_has_the_default_of_diffusers() -> None:
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


def test_the_first_releases_called_predictions_by_another_name() -> None:
    assert diffusion_from_diffusers({"predict_epsilon": False}).prediction_type == "sample"


def test_the_first_releases_wrote_what_is_gone() -> None:
    old = {"timesteps": 500, "timestep_values": None, "tensor_format": "pt"}
    assert diffusion_from_diffusers(old).num_train_timesteps == 500
    assert diffusion_from_diffusers({"clip_sample": False, "clip_sample_range": None}).clip is False


def test_how_to_sample_is_not_read() -> None:
    sampling = {"timestep_spacing": "trailing", "steps_offset": 1, "set_alpha_to_one": False}
    assert diffusion_from_diffusers(sampling) == diffusion_from_diffusers({})


@pytest.mark.parametrize(
    ("schedule", "stretched", "spacing"), [("linear", False, "leading"), ("linear", True, "trailing")]
)
def test_the_spacing_is_one_that_diffusers_scheduler_arrives_with(
    schedule: str, stretched: bool, spacing: str
) -> None:
    asked = request(schedule, rescale_zero_snr=stretched, prediction_type="v_prediction")
    experiment = assemble(asked, image_shape=SHAPE)
    config = scheduler_config(experiment.config, experiment.schedule)
    assert config["timestep_spacing"] == spacing
    assert config["rescale_betas_zero_snr"] is stretched


def test_an_unknown_key_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="a scheduler with gamma = 2 cannot be read") as caught:
        diffusion_from_diffusers({"gamma": 2})
    assert "no key 'gamma'" in caught.value.why
