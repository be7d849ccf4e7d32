"""Betas compared with those of diffusers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ddim_host.parts.noise_schedules import cosine, linear, quad, sigmoid

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Scaled = Callable[..., NDArray[np.float64]]


def diffusers_betas(timesteps: int, **settings: Any) -> NDArray[np.float32]:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler  # noqa: PLC0415 - takes seconds

    betas: NDArray[np.float32] = DDPMScheduler(num_train_timesteps=timesteps, **settings).betas.numpy()
    return betas


@pytest.mark.parametrize(
    ("part", "name"), [(linear, "linear"), (quad, "scaled_linear"), (sigmoid, "sigmoid")]
)
@pytest.mark.parametrize(("start", "end"), [(1e-4, 0.02), (0.00085, 0.012)])
def test_betas_equal_those_of_diffusers(part: Scaled, name: str, start: float, end: float) -> None:
    theirs = diffusers_betas(1000, beta_schedule=name, beta_start=start, beta_end=end)
    np.testing.assert_allclose(part(1000, beta_start=start, beta_end=end), theirs, rtol=2e-6, atol=0)


@pytest.mark.parametrize("timesteps", [50, 1000, 4000])
def test_cosine_equals_diffusers(timesteps: int) -> None:
    theirs = diffusers_betas(timesteps, beta_schedule="squaredcos_cap_v2")
    np.testing.assert_allclose(cosine(timesteps), theirs, rtol=1e-7, atol=0)
