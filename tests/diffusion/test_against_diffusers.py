"""Solvers against diffusers' schedulers, step by step, and schedulers whose result is wrong."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ddim_host.diffusion import (
    PREDICTION_TYPES,
    NoiseSchedule,
    ddim_step,
    ddim_steps,
    predict_x_start,
    solvers,
)
from ddim_host.parts.noise_schedules import linear
from ddim_host.parts.timestep_subsets import leading, trailing

if TYPE_CHECKING:
    from torch import Tensor

    from ddim_host.diffusion import DDIMStep, PredictionType
    from ddim_host.plugin.contracts import Solver

# NumPy 2.4 warns when diffusers converts a tensor to an array.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCHEDULE = NoiseSchedule(linear(1000))


def diffusers_scheduler(
    spacing: str,
    steps: int,
    *,
    prediction_type: PredictionType = "epsilon",
    limit: float | None = None,
    zero_snr: bool = False,
) -> Any:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler  # noqa: PLC0415 - takes seconds

    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        clip_sample=limit is not None,
        clip_sample_range=limit or 1.0,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=zero_snr,
        set_alpha_to_one=True,
        steps_offset=0,
        timestep_spacing=spacing,
    )
    # Its own tables are float32. This test compares formulas; tests/parts compares the betas.
    schedule = SCHEDULE.rescaled_to_zero_snr() if zero_snr else SCHEDULE
    ours = torch.from_numpy(schedule.alphas_cumprod.copy())
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), ours, rtol=1e-4, atol=1e-9)
    scheduler.alphas_cumprod = ours
    scheduler.set_timesteps(steps)
    return scheduler


def normal(seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((2, 3, 8, 8)))


def network(x_t: Tensor, t: int) -> Tensor:
    """A stand-in that depends on both arguments and predicts noise well enough to stay finite."""
    return torch.tanh(x_t * 1.3) + 0.1 * math.cos(t)


@pytest.mark.parametrize("limit", [None, 1.0, 0.7])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", [1, 10, 30, 1000])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_every_step_equals_diffusers(
    prediction_type: PredictionType, steps: int, eta: float, limit: float | None
) -> None:
    theirs = diffusers_scheduler("leading", steps, prediction_type=prediction_type, limit=limit)
    trajectory = ddim_steps(SCHEDULE, leading(SCHEDULE, steps), eta)
    assert [step.t for step in trajectory] == theirs.timesteps.tolist()
    x = y = normal(0)
    clipped = 0
    for number, step in enumerate(trajectory, start=1):
        noise = normal(number)
        y = theirs.step(
            network(y, step.t),
            step.t,
            y,
            eta=eta,
            use_clipped_model_output=limit is not None,
            variance_noise=noise,
        ).prev_sample
        x, x_start = ddim_step(
            x,
            network(x, step.t),
            step,
            prediction_type,
            fresh_noise=noise,
            limit=limit,
            clip=torch.clamp,
        )
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)
        clipped += int((x_start.abs() == limit).sum()) if limit else 0
    assert (clipped > 0) == (limit is not None), "clipping must occur if and only if there is a limit"


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
def test_steps_from_pure_noise_equal_diffusers(prediction_type: PredictionType) -> None:
    """Algorithm 1 of arXiv 2305.08891; 20 divides 1000, so diffusers visits the right timesteps."""
    theirs = diffusers_scheduler("trailing", 20, prediction_type=prediction_type, zero_snr=True)
    schedule = SCHEDULE.rescaled_to_zero_snr()
    assert schedule.alphas_cumprod[-1] == 0.0
    assert schedule.alphas_cumprod[0] == pytest.approx(SCHEDULE.alphas_cumprod[0], rel=1e-12)
    x = y = normal(0)
    for step in ddim_steps(schedule, trailing(schedule, 20), eta=0.0):
        y = theirs.step(network(y, step.t), step.t, y, eta=0.0).prev_sample
        x, _ = ddim_step(x, network(x, step.t), step, prediction_type)
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


def test_trailing_timesteps_equal_diffusers() -> None:
    """All S are tested; diffusers' float step sometimes adds a timestep or moves a tie by one."""
    timesteps = SCHEDULE.num_train_timesteps
    same = 0
    for steps in range(1, timesteps + 1):
        theirs = diffusers_scheduler("trailing", steps).timesteps.numpy()[::-1][-steps:]
        ours = trailing(SCHEDULE, steps)
        moved = ours != theirs
        assert np.all(np.abs(ours - theirs) <= moved)
        assert np.all((timesteps * (np.flatnonzero(moved) + 1) / steps) % 1 == 0.5)
        same += not moved.any()
    assert same > 0.9 * timesteps


@pytest.mark.parametrize(("spacing", "steps"), [("linspace", 10), ("linspace", 50), ("trailing", 30)])
def test_diffusers_steps_to_wrong_timesteps_if_spacing_is_uneven(spacing: str, steps: int) -> None:
    """On the same timesteps ours reaches x_start, and diffusers does not.

    A step of diffusers goes from t to t - T // S, but its next step starts at the next timestep of the list.
    If the spacing is not exactly T // S, these differ, and the network is given a timestep with more noise
    than x_t has. Ours steps from each timestep to the next in the list. If epsilon is exact at every t (x_t
    was built from it and a known x_start), a correct sampler with eta 0 recovers x_start for any subset.
    """
    theirs = diffusers_scheduler(spacing, steps)
    trajectory = ddim_steps(SCHEDULE, theirs.timesteps.tolist()[::-1], eta=0.0)
    x_start, epsilon = normal(0), normal(1)
    abar = trajectory[0].alpha_cumprod
    x = y = math.sqrt(abar) * x_start + math.sqrt(1 - abar) * epsilon
    for step in trajectory:
        x, _ = ddim_step(x, epsilon, step)
        y = theirs.step(epsilon, step.t, y, eta=0.0).prev_sample
    assert float((x - x_start).abs().max()) < 1e-9
    assert float((y - x_start).abs().max()) > 0.01


# --- Solvers ------------------------------------------------------------------------------------------------

TIMESTEPS = pytest.mark.parametrize(
    "timesteps",
    [[500], [0, 999], [10, 300, 999], [0, 20, 80, 200, 450, 800], [*range(3, 1000, 50)]],
    ids=lambda timesteps: str(len(timesteps)),
)


def predict(x_t: Tensor, step: DDIMStep) -> tuple[Tensor, Tensor]:
    noise = network(x_t, step.t)
    return predict_x_start(x_t, noise, step.alpha_cumprod), noise


def descending(timesteps: list[int]) -> Tensor:
    """Return alphas_cumprod in sampling order, ending with the clean image."""
    return torch.from_numpy(np.append(SCHEDULE.alphas_cumprod[timesteps[::-1]], 1.0))


def use_double(theirs: Any, timesteps: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a scheduler the same sigmas in float64: its own are float32, and the tests compare formulas."""
    abar = descending(timesteps)
    theirs.sigmas = torch.sqrt((1 - abar) / abar)
    monkeypatch.setattr(torch, "float32", torch.float64)


def require_equal_steps(solver: Solver, theirs: Any, timesteps: list[int]) -> Tensor:
    """Compare all steps but the last from the same noise; return theirs minus ours at the last step."""
    steps = ddim_steps(SCHEDULE, timesteps, eta=0.0)
    x = y = start = normal(0)
    for step, (x, _) in zip(steps, solver(start, steps, predict, lambda _: None), strict=True):
        y = theirs.step(network(y, step.t), step.t, y).prev_sample
        assert y.dtype == torch.float64
        if step is not steps[-1]:
            torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)
    difference: Tensor = y - x
    return difference


@TIMESTEPS
def test_dpmpp_2m_equals_diffusers(timesteps: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.schedulers.scheduling_dpmsolver_multistep import (  # noqa: PLC0415 - takes seconds
        DPMSolverMultistepScheduler,
    )

    theirs: Any = DPMSolverMultistepScheduler(
        num_train_timesteps=1000, beta_schedule="linear", beta_start=1e-4, beta_end=0.02
    )
    assert (theirs.config.algorithm_type, theirs.config.solver_order) == ("dpmsolver++", 2)
    assert theirs.config.final_sigmas_type == "zero"
    theirs.set_timesteps(timesteps=timesteps[::-1])
    own = theirs.sigmas.double()
    use_double(theirs, timesteps, monkeypatch)
    torch.testing.assert_close(own, theirs.sigmas, rtol=1e-3, atol=0)
    assert float(require_equal_steps(solvers.dpmpp_2m, theirs, timesteps).abs().max()) < 1e-9


@pytest.mark.parametrize("b", ["bh1", "bh2"])
@TIMESTEPS
def test_unipc_equals_diffusers(timesteps: list[int], b: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With bh1, the last step of diffusers is NaN: it multiplies an infinite h by zero."""
    from diffusers.schedulers.scheduling_unipc_multistep import (  # noqa: PLC0415 - takes seconds
        UniPCMultistepScheduler,
    )

    theirs: Any = UniPCMultistepScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        solver_type=b,
    )
    assert (theirs.config.solver_order, theirs.config.final_sigmas_type) == (2, "zero")
    assert UniPCMultistepScheduler().config.solver_type == "bh2"
    theirs.set_timesteps(len(timesteps))
    theirs.timesteps = torch.tensor(timesteps[::-1])  # set_timesteps accepts no list
    use_double(theirs, timesteps, monkeypatch)
    last = require_equal_steps(partial(solvers.unipc, b=b), theirs, timesteps)
    assert bool(last.isnan().all() if b == "bh1" else (last.abs() < 1e-9).all())


@TIMESTEPS
@pytest.mark.parametrize("remembered", [1, 3])
def test_ipndm_equals_diffusers_with_one_remembered_prediction(timesteps: list[int], remembered: int) -> None:
    """diffusers' IPNDM remembers three predictions, is of fourth order, and differs from the third step on.

    Its PNDMScheduler starts with an extra step of its own and goes from t to t - T // S; its
    DEISMultistepScheduler weights predictions by the distance between their timesteps.
    """
    from diffusers.schedulers.scheduling_ipndm import IPNDMScheduler  # noqa: PLC0415 - takes seconds

    theirs: Any = IPNDMScheduler()
    theirs.set_timesteps(len(timesteps))
    theirs.set_begin_index(0)
    abar = descending(timesteps)
    theirs.alphas, theirs.betas = torch.sqrt(abar), torch.sqrt(1 - abar)
    steps = ddim_steps(SCHEDULE, timesteps, eta=0.0)
    y = start = normal(0)
    equal = []
    for step, (x, _) in zip(steps, solvers.ipndm(start, steps, predict, lambda _: None), strict=True):
        # Its input is the velocity `sqrt(abar) noise - sqrt(1 - abar) x_start`.
        x_start, noise = predict(y, step)
        share = math.sqrt(step.alpha_cumprod)
        velocity = share * noise - math.sqrt(1 - step.alpha_cumprod) * x_start
        y = theirs.step(velocity, step.t, y).prev_sample
        theirs.ets = theirs.ets[-remembered:]
        equal.append(torch.allclose(x, y, rtol=1e-9, atol=1e-9))
    assert equal == [remembered == 1 or position < 2 for position in range(len(timesteps))]


def short_steps() -> list[int]:
    """Return timesteps such that no step divides sigma by more than 3."""
    sigmas = np.sqrt(1.0 / SCHEDULE.alphas_cumprod - 1.0)
    found = [999]
    while found[-1] > 0:
        found.append(int(np.flatnonzero(sigmas >= sigmas[found[-1]] / 3.0)[0]))
        if found[-1] == found[-2]:
            return found[-2::-1]
    return found[::-1]


@pytest.mark.parametrize("timesteps", [[500], short_steps()], ids=lambda timesteps: str(len(timesteps)))
def test_heun_equals_diffusers_in_short_steps(timesteps: list[int]) -> None:
    """diffusers samples `x / sqrt(abar)`, with one call of `step` per network call."""
    from diffusers.schedulers.scheduling_heun_discrete import (  # noqa: PLC0415 - takes seconds
        HeunDiscreteScheduler,
    )

    theirs: Any = HeunDiscreteScheduler(
        num_train_timesteps=1000, beta_schedule="linear", beta_start=1e-4, beta_end=0.02
    )
    theirs.set_timesteps(timesteps=timesteps[::-1])
    theirs.set_begin_index(0)
    abar = descending(timesteps)
    sigmas = torch.sqrt((1 - abar) / abar)
    twice = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    torch.testing.assert_close(theirs.sigmas.double(), twice, rtol=1e-3, atol=0)
    theirs.sigmas = twice
    steps = ddim_steps(SCHEDULE, timesteps, eta=0.0)
    start = normal(0)
    y = start / math.sqrt(steps[0].alpha_cumprod)
    for step, (x, _) in zip(steps, solvers.heun(start, steps, predict, lambda _: None), strict=True):
        at = [(step.t, step.alpha_cumprod), (step.t_prev, step.alpha_cumprod_prev)]
        for t, alpha_cumprod in at if step.t_prev >= 0 else at[:1]:
            y = theirs.step(network(y * math.sqrt(alpha_cumprod), t), t, y).prev_sample
        torch.testing.assert_close(x, y * math.sqrt(step.alpha_cumprod_prev), rtol=1e-9, atol=1e-9)
