"""A part that violates its contract is named in the error, with its distribution."""

from __future__ import annotations

import dataclasses
import importlib
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ddim_host.diffusion import NoiseSchedule, Teacher, ddim_steps, solvers
from ddim_host.errors import TRACEBACK, UserError
from ddim_host.experiment.assembly import assemble
from ddim_host.experiment.config import Request
from ddim_host.parts.subset_searches import dynamic_programming
from ddim_host.plugin import validation
from ddim_host.plugin.data import DataSource, TrainTest
from ddim_host.plugin.registry import Kind, Part
from tests.support.broken_plugins import HOOK
from tests.support.commands import DRY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.support.commands import Outcome
    from tests.support.distributions import Site

SCHEDULE = NoiseSchedule(np.linspace(0.01, 0.2, 10))
RNG = np.random.default_rng(0)
STEPS = ddim_steps(SCHEDULE, [0, 5, 9], eta=0.0)


def part(kind: Kind, make: Callable[..., Any]) -> Part:
    return Part(kind, "odd", make, "some-parts", "1.2")


def returning(value: object) -> Callable[..., Any]:
    return lambda *_: value


def raising(*_: object) -> None:
    raise ZeroDivisionError("by accident")


_LINE = raising.__code__.co_firstlineno + 1
ACCIDENT = f"it raised ZeroDivisionError: by accident (tests/plugin/test_validation.py:{_LINE})"


def blamed(check: Callable[[], object], kind: Kind) -> str:
    """Return the reason in the error, after checking that the error names the part and its distribution."""
    with pytest.raises(UserError) as caught:
        check()
    assert caught.value.what == f"{kind.words} 'odd' of some-parts 1.2 does not work"
    assert "some-parts" in caught.value.fix
    return caught.value.why


def test_exception_of_a_part_becomes_its_error() -> None:
    why = blamed(lambda: validation.use(part(Kind.LOSS, raising), raising), Kind.LOSS)
    assert why == ACCIDENT


def test_user_error_of_a_part_is_passed_on() -> None:
    def refuse() -> None:
        raise UserError("too steep")

    with pytest.raises(UserError, match=r"^too steep$"):
        validation.use(part(Kind.LOSS, refuse), refuse)


# --- Noise schedules, loss weightings, timestep subsets -----------------------------------------------------

BETAS = np.full(10, 0.1)
OUTSIDE = "its betas must be strictly between 0 and 1 (the last one may be 1)"


@pytest.mark.parametrize(
    ("betas", "why"),
    [
        (None, "its betas must be a NumPy array, float64 of shape (10,), not a NoneType"),
        ([0.1] * 10, "its betas must be a NumPy array, float64 of shape (10,), not a list"),
        (BETAS.astype(np.float32), "its betas must be float64 of shape (10,), not float32 of shape (10,)"),
        (BETAS[:9], "its betas must be float64 of shape (10,), not float64 of shape (9,)"),
        (BETAS[:, None], "its betas must be float64 of shape (10,), not float64 of shape (10, 1)"),
        (
            np.where(np.arange(10) == 3, np.nan, 0.1),
            OUTSIDE,
        ),
        (
            np.where(np.arange(10) == 0, 0.0, 0.1),
            OUTSIDE,
        ),
        (
            np.where(np.arange(10) == 8, 1.0, 0.1),
            OUTSIDE,
        ),
    ],
)
def test_betas(betas: object, why: str) -> None:
    checked = part(Kind.NOISE_SCHEDULE, returning(betas))
    assert blamed(lambda: validation.checked_schedule(checked, {}, 10), Kind.NOISE_SCHEDULE) == why


def test_a_schedule_may_end_in_pure_noise_unless_epsilon_is_predicted() -> None:
    checked = part(Kind.NOISE_SCHEDULE, returning(np.where(np.arange(10) == 9, 1.0, 0.1)))
    assert validation.checked_schedule(checked, {}, 10, "v_prediction").alphas_cumprod[-1] == 0.0
    with pytest.raises(UserError, match="ends in pure noise") as caught:
        validation.checked_schedule(checked, {}, 10)
    assert caught.value.fix.startswith("add --prediction-type v_prediction, or choose another")


@pytest.mark.parametrize(
    ("betas", "stretched"),
    [
        (np.where(np.arange(10) == 4, 1e-17, 0.1), False),
        (np.where(np.arange(10) == 4, 1e-17, 0.1), True),
        (np.array([0.5914174342232362, 1.8611728721136605e-16, 0.08482749534576549]), True),
    ],
)
def test_schedule_must_decrease_at_each_timestep(betas: NDArray[np.float64], stretched: bool) -> None:
    """A beta below the precision of alphas_cumprod, or of its root, would be a step of zero length."""
    checked = part(Kind.NOISE_SCHEDULE, returning(betas))
    with pytest.raises(UserError, match="cannot be used for sampling") as caught:
        validation.checked_schedule(checked, {}, len(betas), "v_prediction", rescale_zero_snr=stretched)
    assert "it must decrease at each timestep" in caught.value.why


def test_a_schedule_can_be_stretched_to_pure_noise() -> None:
    checked = part(Kind.NOISE_SCHEDULE, returning(BETAS))
    stretched = validation.checked_schedule(checked, {}, 10, "sample", rescale_zero_snr=True)
    assert stretched.alphas_cumprod[-1] == 0.0
    with pytest.raises(UserError, match="ends in pure noise") as caught:
        validation.checked_schedule(checked, {}, 10, rescale_zero_snr=True)
    assert caught.value.fix.endswith("or remove --rescale-zero-snr")
    single = part(Kind.NOISE_SCHEDULE, returning(BETAS[:1]))
    with pytest.raises(UserError, match="at least 2 timesteps"):
        validation.checked_schedule(single, {}, 1, "sample", rescale_zero_snr=True)


@pytest.mark.parametrize("beta", [0.99, 1e-17])
def test_betas_with_a_product_of_0_or_1_are_refused(beta: float) -> None:
    checked = part(Kind.NOISE_SCHEDULE, returning(np.full(1000, beta)))
    with pytest.raises(UserError):
        validation.checked_schedule(checked, {}, 1000)


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        (1.0, "its weights must be a NumPy array, float64 of shape (10,), not a float"),
        (np.ones(10, dtype=np.int64), "its weights must be float64 of shape (10,), not int64 of shape (10,)"),
        (np.ones(11), "its weights must be float64 of shape (10,), not float64 of shape (11,)"),
        (np.full(10, np.nan), "its weights must be finite and at least 0"),
        (np.full(10, np.inf), "its weights must be finite and at least 0"),
        (np.full(10, -0.1), "its weights must be finite and at least 0"),
    ],
)
def test_weightings(weights: object, why: str) -> None:
    checked = part(Kind.LOSS_WEIGHTING, returning(weights))
    assert blamed(lambda: validation.checked_weighting(checked, {}, SCHEDULE), Kind.LOSS_WEIGHTING) == why


@pytest.mark.parametrize(
    ("subset", "why"),
    [
        ((1, 2, 3), "its timesteps must be a NumPy array, int64 of shape (3,), not a tuple"),
        (np.array([1, 2]), "its timesteps must be int64 of shape (3,), not int64 of shape (2,)"),
        (np.array([1, 2, 3], np.int32), "its timesteps must be int64 of shape (3,), not int32 of shape (3,)"),
        (np.array([1.0, 2.0, 3.0]), "its timesteps must be int64 of shape (3,), not float64 of shape (3,)"),
        (np.array([1, 3, 3]), "its timesteps must strictly increase within [0, 10)"),
        (np.array([3, 2, 1]), "its timesteps must strictly increase within [0, 10)"),
        (np.array([-1, 2, 3]), "its timesteps must strictly increase within [0, 10)"),
        (np.array([1, 2, 10]), "its timesteps must strictly increase within [0, 10)"),
    ],
)
def test_subsets(subset: object, why: str) -> None:
    checked = part(Kind.TIMESTEP_SUBSET, returning(subset))
    assert blamed(lambda: validation.checked_subset(checked, {}, SCHEDULE, 3), Kind.TIMESTEP_SUBSET) == why


@pytest.mark.parametrize(
    "check",
    [
        lambda: validation.checked_subset(part(Kind.TIMESTEP_SUBSET, raising), {}, SCHEDULE, 11),
        lambda: validation.try_search(part(Kind.SEARCH, raising), {}, SCHEDULE, (11, 3)),
    ],
)
def test_more_steps_than_timesteps_is_not_an_error_of_the_part(check: Callable[[], object]) -> None:
    with pytest.raises(UserError, match="cannot sample in 11 steps") as caught:
        check()
    assert caught.value.fix == "use --steps 10 or less"


def test_exceptions_of_parts_are_attributed_to_them() -> None:
    for kind, check in (
        (Kind.NOISE_SCHEDULE, lambda p: validation.checked_schedule(p, {}, 10)),
        (Kind.LOSS_WEIGHTING, lambda p: validation.checked_weighting(p, {}, SCHEDULE)),
        (Kind.TIMESTEP_SUBSET, lambda p: validation.checked_subset(p, {}, SCHEDULE, 3)),
        (Kind.SOLVER, lambda p: validation.checked_solver(p, {}, STEPS)),
        (Kind.SEARCH, lambda p: validation.checked_search(p, {}, SCHEDULE, TEACHER, [2])),
        (Kind.TIMESTEP_SAMPLER, lambda p: validation.CheckedSampler(p, {}, SCHEDULE)),
        (Kind.DATA, lambda p: validation.checked_source(p, {})),
        (Kind.LOSS, lambda p: validation.checked_loss(p, {})(np.ones((2, 1, 4, 4)), np.ones((2, 1, 4, 4)))),
    ):
        broken = part(kind, raising)
        assert blamed(lambda check=check, broken=broken: check(broken), kind) == ACCIDENT  # type: ignore[misc]


def test_good_parts_pass_with_their_parameters() -> None:
    def betas(timesteps: int, *, beta: float) -> NDArray[np.float64]:
        return np.full(timesteps, beta)

    schedule = validation.checked_schedule(part(Kind.NOISE_SCHEDULE, betas), {"beta": 0.3}, 4)
    assert schedule.betas.tolist() == [0.3] * 4
    weights = validation.checked_weighting(part(Kind.LOSS_WEIGHTING, returning(np.eye(10)[3])), {}, SCHEDULE)
    assert weights.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    everything = part(Kind.TIMESTEP_SUBSET, returning(np.arange(10)))
    assert validation.checked_subset(everything, {}, SCHEDULE, 10).tolist() == list(range(10))


@pytest.mark.parametrize("largest", [0.0, 1e-30, 1e-5, 1e5, 1e30])
def test_weights_that_fp32_cannot_train_with_are_refused(largest: float) -> None:
    """Such weights make every gradient zero or its norm infinite, and the network would not change."""
    weighting = part(Kind.LOSS_WEIGHTING, returning(np.linspace(0.0, largest, 10)))
    with pytest.raises(UserError, match="cannot be used for training"):
        validation.checked_weighting(weighting, {}, SCHEDULE)


# --- Subset searches ----------------------------------------------------------------------------------------

TEACHER = Teacher(np.array([0, 2, 5, 9]), np.zeros((2, 3), np.float32), np.zeros((4, 2, 3), np.float32))


@pytest.mark.parametrize("timesteps", [1, 2, 10])
def test_search_is_tried_on_a_tiny_teacher(timesteps: int) -> None:
    schedule = NoiseSchedule(np.linspace(0.01, 0.2, timesteps))
    validation.try_search(part(Kind.SEARCH, dynamic_programming), {}, schedule, (1, timesteps))
    why = blamed(lambda: validation.try_search(part(Kind.SEARCH, raising), {}, schedule, (1,)), Kind.SEARCH)
    assert why == ACCIDENT


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (None, "it must return timesteps for each of the sizes [1, 2], not NoneType"),
        ({2: np.array([0, 9])}, "it must return timesteps for each of the sizes [1, 2], not ['2']"),
        (
            {1: np.array([9]), 2: np.array([0, 9]), 3: np.array([0, 2, 9])},
            "it must return timesteps for each of the sizes [1, 2], not ['1', '2', '3']",
        ),
        (
            {1: [9], 2: np.array([0, 9])},
            "its timesteps for S = 1 must be a NumPy array, int64 of shape (1,), not a list",
        ),
        (
            {1: np.array([9]), 2: np.array([9])},
            "its timesteps for S = 2 must be int64 of shape (2,), not int64 of shape (1,)",
        ),
        (
            {1: np.array([9]), 2: np.array([9, 0])},
            "its timesteps for S = 2 must be strictly increasing and among the teacher's, not [9, 0]",
        ),
        (
            {1: np.array([9]), 2: np.array([9, 9])},
            "its timesteps for S = 2 must be strictly increasing and among the teacher's, not [9, 9]",
        ),
        (
            {1: np.array([8]), 2: np.array([0, 9])},
            "its timesteps for S = 1 must be strictly increasing and among the teacher's, not [8]",
        ),
    ],
)
def test_subset_searches(found: object, why: str) -> None:
    search = part(Kind.SEARCH, returning(found))
    assert why == blamed(
        lambda: validation.checked_search(search, {}, SCHEDULE, TEACHER, (2, 1)), Kind.SEARCH
    )


def test_search_receives_increasing_sizes_and_its_parameters() -> None:
    asked = []

    def search(_: Any, teacher: Teacher, sizes: Any, *, last: int) -> dict[int, Any]:
        asked.append((sizes, last))
        return {size: teacher.timesteps[-size:] for size in reversed(sizes)}

    found = validation.checked_search(part(Kind.SEARCH, search), {"last": 7}, SCHEDULE, TEACHER, [3, 1, 3])
    assert asked == [((1, 3), 7)]
    assert {size: timesteps.tolist() for size, timesteps in found.items()} == {1: [9], 3: [2, 5, 9]}
    assert [*found] == [1, 3]


# --- Solvers ------------------------------------------------------------------------------------------------

X = np.zeros((2, 3, 2, 2), dtype=np.float32)


@pytest.mark.parametrize(
    ("states", "why"),
    [
        ([], "it must yield after each of 3 steps, but it yielded 0 times"),
        ([(X, X)] * 4, "it must yield after each of 3 steps, but it yielded 4 times"),
        ([X[0]] * 3, "it must yield (x, x_start)"),
        (
            [(X, None)] * 3,
            "the x_start that it yields must be a NumPy array, float32 of shape (2, 3, 2, 2), not a NoneType",
        ),
        ([(X.astype(np.float64), X)] * 3, "the x that it yields must be float32 of shape"),
        (
            [(X[:1], X)] * 3,
            "the x that it yields must be float32 of shape (2, 3, 2, 2), not float32 of shape (1, 3, 2, 2)",
        ),
        ([(X, X + np.inf)] * 3, "it yielded values that are not finite"),
        (None, "it raised TypeError: 'NoneType' object is not iterable"),
    ],
)
def test_solvers(states: object, why: str) -> None:
    solver = part(Kind.SOLVER, returning(states))
    assert why in blamed(lambda: validation.checked_solver(solver, {}, STEPS), Kind.SOLVER)


def test_network_calls_of_a_solver_are_counted() -> None:
    def twice(x_t: Any, steps: Any, predict: Any, fresh_noise: Any) -> Any:
        for step in steps:
            x_start, _ = predict(x_t, step)
            x_start, _ = predict(x_t, step)
            yield x_start, x_start

    assert validation.checked_solver(part(Kind.SOLVER, twice), {}, STEPS).calls == 6
    assert validation.checked_solver(part(Kind.SOLVER, solvers.ddim), {}, STEPS).calls == 3


def test_steps_with_noise_need_a_solver_with_noise() -> None:
    noisy = ddim_steps(SCHEDULE, [0, 5, 9], eta=0.5)
    validation.checked_solver(part(Kind.SOLVER, solvers.ddim), {}, noisy)
    with pytest.raises(UserError, match="solver 'odd' adds no noise, so eta must be 0") as caught:
        validation.checked_solver(part(Kind.SOLVER, solvers.dpmpp_2m), {}, noisy)
    assert "--eta 0" in caught.value.fix


def test_error_of_the_network_is_not_attributed_to_the_solver() -> None:
    plan = validation.checked_solver(part(Kind.SOLVER, solvers.dpmpp_2m), {}, STEPS)
    broken: Any = raising
    with pytest.raises(ZeroDivisionError):
        list(plan.solver(X, plan.steps, broken, broken))


def test_error_of_the_solver_on_framework_arrays_names_the_solver() -> None:
    plan = validation.checked_solver(part(Kind.SOLVER, solvers.dpmpp_2m), {}, STEPS)
    why = blamed(lambda: list(plan.solver("text", plan.steps, lambda *_: ("text", 0), raising)), Kind.SOLVER)
    assert "it raised TypeError" in why


# --- Losses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "given"),
    [
        (0.5, "float"),
        (None, "NoneType"),
        (np.float32(0.5), "numpy.float32 of shape ()"),
        (np.ones(()), "numpy.ndarray of shape ()"),
        (np.ones(1), "numpy.ndarray of shape (1,)"),
        (np.ones((2, 1)), "numpy.ndarray of shape (2, 1)"),
        ([1.0, 2.0], "list"),
        ((np.ones(2), np.ones(2)), "tuple"),
    ],
)
def test_losses_are_one_number_per_image(result: object, given: str) -> None:
    careless = part(Kind.LOSS, returning(result))
    message = blamed(lambda: validation.checked_loss(careless, {}), Kind.LOSS)
    assert message == f"it must return one number per image, of shape (2,), not {given}"


@pytest.mark.parametrize("dtype", [object, str, complex, np.int64])
def test_losses_are_floating_point_numbers(dtype: Any) -> None:
    careless = part(Kind.LOSS, returning(np.ones(2).astype(dtype)))
    message = blamed(lambda: validation.checked_loss(careless, {}), Kind.LOSS)
    assert message == f"it must return floating-point numbers, not {np.ones(2).astype(dtype).dtype}"


def test_invalid_shape_is_an_error_of_the_loss() -> None:
    class Odd:
        shape = 3

    message = blamed(lambda: validation.checked_loss(part(Kind.LOSS, returning(Odd())), {}), Kind.LOSS)
    assert message.startswith("it raised TypeError")


class Tensor:
    """Stand-in for the array of a framework."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape


def test_loss_must_return_an_array_of_its_framework() -> None:
    loss = validation.checked_loss(part(Kind.LOSS, returning(np.ones(2))), {})
    images = Tensor((2, 1, 4, 4))
    assert re.fullmatch(
        r"it must return an array of the same framework as its arguments, \S*Tensor, not numpy.ndarray",
        blamed(lambda: loss(images, images), Kind.LOSS),
    )
    good = part(Kind.LOSS, lambda p, t: np.ones(2) if isinstance(p, np.ndarray) else Tensor((2,)))
    assert validation.checked_loss(good, {})(images, images).shape == (2,)


def test_loss_that_is_not_finite_is_refused_before_the_run() -> None:
    with pytest.raises(UserError, match="cannot be used for training") as caught:
        validation.checked_loss(part(Kind.LOSS, returning(np.array([np.nan, 1.0]))), {})
    assert caught.value.why == "its losses for two small images are nan and 1"


def test_error_of_a_loss_describes_its_arguments() -> None:
    with pytest.raises(UserError) as caught:
        validation.checked_loss(part(Kind.LOSS, lambda p, t: p.size()), {})
    assert caught.value.why.startswith("it raised TypeError: 'int' object is not callable")
    [note] = caught.value.notes
    assert note.startswith(
        "it was called with NumPy arrays of shape (2, 3, 4, 4), and may use only operations"
    )


def test_error_of_a_loss_that_imports_a_framework_says_so_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import torch\ndef loss(p, t):\n    return torch.square(p - t)\n"
    (tmp_path / "with_torch.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    made = importlib.import_module("with_torch").loss
    why = blamed(lambda: validation.checked_loss(part(Kind.LOSS, made), {}), Kind.LOSS)
    assert why.startswith("its module imports torch, but a loss must work on arrays of any framework; it ")
    assert "(with_torch.py:3)" in why


def test_long_message_is_reduced_to_its_first_line_without_colours() -> None:
    def long(prediction: Any, target: Any) -> None:
        raise RuntimeError("\n\x1b[31mWrong\tinputs\x1b[0m,\x07 see help\nTypes:\n\tself\n")

    why = blamed(lambda: validation.checked_loss(part(Kind.LOSS, long), {}), Kind.LOSS)
    assert why.startswith("it raised RuntimeError: Wrong inputs, see help (")


def test_losses_are_checked_at_every_use() -> None:
    loss = validation.checked_loss(part(Kind.LOSS, returning(np.ones(2))), {})
    images = np.zeros((3, 1, 4, 4), dtype=np.float32)
    assert "one number per image, of shape (3,), not" in blamed(lambda: loss(images, images), Kind.LOSS)


def test_loss_refuses_a_parameter_before_the_run() -> None:
    def picky(prediction: Any, target: Any, *, delta: float) -> Any:
        raise UserError("delta must be above 0")

    with pytest.raises(UserError, match="delta must be above 0"):
        validation.checked_loss(part(Kind.LOSS, picky), {"delta": -1.0})


def test_losses_receive_their_parameters() -> None:
    def scaled(prediction: Any, target: Any, *, factor: float) -> Any:
        return (prediction - target).reshape((2, -1)).mean(1) * factor

    loss = validation.checked_loss(part(Kind.LOSS, scaled), {"factor": 3.0})
    assert loss(np.ones((2, 1, 4, 4)), np.zeros((2, 1, 4, 4))).tolist() == [3.0, 3.0]


# --- Timestep samplers --------------------------------------------------------------------------------------


class Sampler:
    """A correct sampler, for tests to modify."""

    needs_losses = False

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.loaded: object = None

    def sample(self, batch_size: int, rng: np.random.Generator) -> Any:
        return np.zeros(batch_size, dtype=np.int64), np.ones(batch_size, dtype=np.float32)

    def update(self, t: Any, losses: Any) -> None:
        pass

    def state_dict(self) -> Any:
        return {"history": np.zeros(3)}

    def load_state_dict(self, state: Any) -> None:
        self.loaded = state


def sampler(**changed: object) -> validation.CheckedSampler:
    return validation.CheckedSampler(
        part(Kind.TIMESTEP_SAMPLER, type("Odd", (Sampler,), changed)), {}, SCHEDULE
    )


def test_a_good_sampler_passes() -> None:
    t, weights = sampler().sample(4, RNG)
    assert (t.tolist(), weights.tolist()) == ([0] * 4, [1.0] * 4)
    assert sampler().state_dict()["history"].tolist() == [0.0] * 3
    assert sampler().needs_losses is False
    assert sampler(needs_losses=True).needs_losses is True


@pytest.mark.parametrize("name", ["needs_losses", "sample", "update", "state_dict", "load_state_dict"])
def test_incomplete_sampler_is_refused(name: str) -> None:
    complete = {
        key: value for key, value in vars(Sampler).items() if key not in (name, "__dict__", "__weakref__")
    }
    odd = part(Kind.TIMESTEP_SAMPLER, type("Odd", (), complete))
    assert (
        blamed(lambda: validation.CheckedSampler(odd, {}, SCHEDULE), Kind.TIMESTEP_SAMPLER)
        == f"it has no {name}"
    )


def test_attribute_of_a_sampler_is_guarded() -> None:
    assert blamed(lambda: sampler(needs_losses=property(raising)), Kind.TIMESTEP_SAMPLER) == ACCIDENT


T, ONES = np.zeros(4, dtype=np.int64), np.ones(4, dtype=np.float32)


@pytest.mark.parametrize(
    ("drawn", "why"),
    [
        (T, "sample() must return (t, weights)"),
        ((T, ONES, ONES), "sample() must return (t, weights)"),
        (
            (T.tolist(), ONES),
            "the timesteps of sample() must be a NumPy array, int64 of shape (4,), not a list",
        ),
        (
            (T.astype(np.int32), ONES),
            "the timesteps of sample() must be int64 of shape (4,), not int32 of shape (4,)",
        ),
        ((T[:3], ONES), "the timesteps of sample() must be int64 of shape (4,), not int64 of shape (3,)"),
        (
            (T, ONES.astype(np.float64)),
            "the weights of sample() must be float32 of shape (4,), not float64 of shape (4,)",
        ),
        ((T, ONES[:3]), "the weights of sample() must be float32 of shape (4,), not float32 of shape (3,)"),
        ((T - 1, ONES), "the timesteps of sample() must be in [0, 10)"),
        ((T + 10, ONES), "the timesteps of sample() must be in [0, 10)"),
        ((T, ONES * np.nan), "the weights of sample() must be finite and at least 0"),
        ((T, -ONES), "the weights of sample() must be finite and at least 0"),
    ],
)
def test_samples(drawn: object, why: str) -> None:
    odd = sampler(sample=returning(drawn))
    assert blamed(lambda: odd.sample(4, RNG), Kind.TIMESTEP_SAMPLER) == why


def test_state_that_cannot_be_loaded_may_be_from_another_version() -> None:
    def load(_: object, state: Any) -> None:
        state["counts"]

    odd = part(Kind.TIMESTEP_SAMPLER, type("Renamed", (Sampler,), {"load_state_dict": load}))
    with pytest.raises(UserError) as caught:
        validation.CheckedSampler(odd, {}, SCHEDULE).load_state_dict({"count": np.zeros(3)})
    assert caught.value.why.startswith("it raised KeyError: 'counts' (tests/plugin/test_validation.py:")
    assert caught.value.notes == (
        "the state is from a checkpoint, which another version of the plugin may have written",
    )


@pytest.mark.parametrize("state", [None, [], {"x": 1.0}, {"x": np.ones(2, dtype=np.float32)}])
def test_sampler_states_are_float64_arrays(state: object) -> None:
    odd = sampler(state_dict=returning(state))
    assert re.match(r"('x' of )?state_dict\(\) must .*float64", blamed(odd.state_dict, Kind.TIMESTEP_SAMPLER))


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({0: np.zeros(3)}, "the keys of state_dict() must be text, not 0"),
        ({"x": np.array([0.0, np.inf])}, "'x' of state_dict() must be finite"),
        ({"\udcff": np.zeros(3)}, "it raised UnicodeEncodeError"),
        (
            {"x": np.broadcast_to(0.0, 5_000_000)},
            "state_dict() must return at most 33,554,432 bytes of arrays, not 40,000,000",
        ),
    ],
)
def test_state_that_a_checkpoint_cannot_keep_is_refused_before_training(state: object, why: str) -> None:
    odd = part(Kind.TIMESTEP_SAMPLER, type("Odd", (Sampler,), {"state_dict": returning(state)}))
    found = blamed(lambda: validation.checked_sampler(odd, {}, SCHEDULE, 4), Kind.TIMESTEP_SAMPLER)
    assert found.startswith(why)


@pytest.mark.parametrize("forgotten", ["sample", "update"])
def test_sampler_is_tried_with_a_restored_state(forgotten: str) -> None:
    class Restored(Sampler):
        needs_losses = True

        def load_state_dict(self, state: Any) -> None:
            setattr(self, forgotten, raising)

    odd = part(Kind.TIMESTEP_SAMPLER, Restored)
    assert blamed(lambda: validation.checked_sampler(odd, {}, SCHEDULE, 4), Kind.TIMESTEP_SAMPLER) == ACCIDENT


def test_every_method_of_a_sampler_is_guarded() -> None:
    odd = sampler(sample=raising, update=raising, state_dict=raising, load_state_dict=raising)
    for call in (
        lambda: odd.sample(4, RNG),
        lambda: odd.update(T, ONES),
        odd.state_dict,
        lambda: odd.load_state_dict({}),
    ):
        assert blamed(call, Kind.TIMESTEP_SAMPLER) == ACCIDENT


@pytest.mark.parametrize(
    ("method", "result"),
    [("sample", returning((T[:, None], ONES))), ("update", raising), ("state_dict", raising)],
)
def test_sampler_is_tried_before_it_is_used(method: str, result: Any) -> None:
    """A mistake that would appear in the first step, or in the first checkpoint, is found at once."""
    odd = part(Kind.TIMESTEP_SAMPLER, type("Odd", (Sampler,), {"needs_losses": True, method: result}))
    blamed(lambda: validation.checked_sampler(odd, {}, SCHEDULE, 4), Kind.TIMESTEP_SAMPLER)


def test_trial_of_a_sampler_leaves_no_trace() -> None:
    class Learning(Sampler):
        needs_losses = True

        def __init__(self, schedule: NoiseSchedule) -> None:
            self.updates = 0.0

        def update(self, t: Any, losses: Any) -> None:
            self.updates += 1.0

        def state_dict(self) -> Any:
            return {"updates": np.array([self.updates])}

    fresh = validation.checked_sampler(part(Kind.TIMESTEP_SAMPLER, Learning), {}, SCHEDULE, 4)
    assert fresh.state_dict()["updates"].tolist() == [0.0]


_FLAT = """
import numpy as np

class Flat:
    needs_losses = False
    def __init__(self, schedule): ...
    def sample(self, batch_size, rng):
        return np.zeros((batch_size, 1), dtype=np.int64), np.ones(batch_size, dtype=np.float32)
    def update(self, t, losses): ...
    def state_dict(self): return {}
    def load_state_dict(self, state): ...

@hookimpl
def ddim_timestep_samplers():
    return {"flat": Flat}
"""


@pytest.mark.usefixtures("no_framework")
def test_traceback_of_a_part_is_printed_on_request(
    site: Site, in_process: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.plugin("ddim-deep", HOOK + "{'deep': deep}\ndef deep(p, t):\n    inner()\ndef inner():\n    1 / 0")
    site.plugin("ddim-odd", "{}['x']")
    err = in_process(*DRY, "--loss", "deep").err
    assert "Traceback" not in err
    assert f"or report it to the authors of ddim-deep; {TRACEBACK}=1 prints the traceback\n" in err
    monkeypatch.setenv(TRACEBACK, "1")
    err = in_process(*DRY, "--loss", "deep").err
    assert re.search(r"ddim_deep.py\", line 6, in deep\n.*ddim_deep.py\", line 8, in inner\n", err, re.DOTALL)
    assert re.search(r"ddim_odd.py\", line 2, in <module>\n", err)


@pytest.mark.usefixtures("no_framework")
def test_run_with_a_broken_sampler_leaves_no_folder(
    site: Site, in_process: Callable[..., Outcome], tmp_path: Path
) -> None:
    site.plugin("ddim-flat", _FLAT)
    path = tmp_path / "run"
    outcome = in_process("run", "--plugin", "torch", "--timestep-sampler", "flat", "--out", path)
    assert outcome.code == 2
    assert "timestep sampler 'flat' of ddim-flat 1.0 does not work" in outcome.err
    assert "the timesteps of sample() must be int64 of shape (128,), not int64 of shape" in outcome.err
    assert not path.exists()


# --- Data sets ----------------------------------------------------------------------------------------------


def source(shape: Any = (8, 8, 1), load: Callable[[], Any] = raising) -> DataSource:
    return DataSource(shape, random_flip=False, description="odd images", load=load)


ODD: Any = []


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (None, "it returned a NoneType, not a DataSource"),
        (
            TrainTest(np.zeros(1, np.uint8), np.zeros(1, np.uint8)),
            "it returned a TrainTest, not a DataSource",
        ),
        (source((8, 9, 1)), "its images must be square with 1 or 3 channels, not 8 x 9 x 1"),
        (source((0, 0, 1)), "its images must be square with 1 or 3 channels, not 0 x 0 x 1"),
        (source((8, 8, 2)), "its images must be square with 1 or 3 channels, not 8 x 8 x 2"),
        (source((8, 8, 4)), "its images must be square with 1 or 3 channels, not 8 x 8 x 4"),
        (
            source((8.0, 8.0, 1)),
            "its image_shape must be a tuple of 3 integers (H, W, C), not (8.0, 8.0, 1)",
        ),
        (dataclasses.replace(source(), known=ODD), "its known images must be a TrainTest, not a list"),
        (dataclasses.replace(source(), resolved=ODD), "its resolved must be a dict, not a list"),
        (
            dataclasses.replace(source(), resolved={"channels": 1}),
            "it resolved channels, but has no parameter of this name",
        ),
    ],
)
def test_sources(made: object, why: str) -> None:
    checked = part(Kind.DATA, returning(made))
    assert blamed(lambda: validation.checked_source(checked, {}), Kind.DATA) == why


@pytest.mark.parametrize("shape", [(8, 8), None, (8.0, 8.0, 1), ("8", "8", 1)])
def test_sources_with_an_invalid_shape_are_refused(shape: object) -> None:
    checked = part(Kind.DATA, returning(source(shape)))
    blamed(lambda: validation.checked_source(checked, {}), Kind.DATA)


def test_resolved_values_must_be_values_of_parameters() -> None:
    made = dataclasses.replace(source(), resolved={"channels": ODD})
    checked = part(Kind.DATA, lambda **_: made)
    why = blamed(lambda: validation.checked_source(checked, {"channels": "auto"}), Kind.DATA)
    assert why == "its resolved channels must be a bool, int, float or str, not a list"


def test_image_shape_may_consist_of_numpy_integers() -> None:
    made = source(tuple(np.array([8, 8, 1])))
    shape = validation.checked_source(part(Kind.DATA, returning(made)), {}).image_shape
    assert shape == (8, 8, 1)
    assert all(type(n) is int for n in shape)


GOOD = np.zeros((3, 8, 8, 1), dtype=np.uint8)
WANTED = "must be uint8 of shape (N, 8, 8, 1), not"


@pytest.mark.parametrize(
    ("loaded", "why"),
    [
        (None, "load() returned a NoneType, not a TrainTest"),
        (
            TrainTest(GOOD.astype(np.float32), GOOD),
            f"its train images {WANTED} float32 of shape (3, 8, 8, 1)",
        ),
        (TrainTest(GOOD, GOOD[:, :7]), f"its test images {WANTED} uint8 of shape (3, 7, 8, 1)"),
        (TrainTest(GOOD, GOOD.tolist()), f"its test images {WANTED} a list"),
        (TrainTest(GOOD[0], GOOD), f"its train images {WANTED} uint8 of shape (8, 8, 1)"),
        (TrainTest(GOOD[:0], GOOD), "it has no train images"),
        (TrainTest(GOOD, GOOD[:0]), "it has no test images"),
    ],
)
def test_images(loaded: object, why: str) -> None:
    odd = part(Kind.DATA, raising)
    found = blamed(lambda: validation.checked_images(odd, source(load=returning(loaded))), Kind.DATA)
    assert found == why


def test_error_of_loading_is_an_error_of_the_data_set() -> None:
    odd = part(Kind.DATA, returning(None))
    why = blamed(lambda: validation.checked_images(odd, source()), Kind.DATA)
    assert why == ACCIDENT


# --- Model factories ----------------------------------------------------------------------------------------


@pytest.fixture
def build(no_framework: None) -> Callable[[Callable[..., Any]], Callable[[], object]]:
    """Return a function that returns `build_model` of an experiment with the given model factory."""

    def with_factory(make: Callable[..., Any]) -> Callable[[], object]:
        experiment = assemble(Request(plugin="torch"))
        parts = {**experiment.parts, Kind.MODEL: part(Kind.MODEL, make)}
        return dataclasses.replace(experiment, parts=parts).build_model

    return with_factory


def test_framework_that_cannot_be_imported_is_an_error(
    build: Callable[[Callable[..., Any]], Callable[[], object]],
) -> None:
    def make(*_: object) -> None:
        raise ImportError("libcudart.so is not there")

    with pytest.raises(UserError, match="framework 'torch' cannot be imported") as caught:
        build(make)()
    assert caught.value.why == "libcudart.so is not there"
    assert caught.value.fix == "install the missing package, or reinstall some-parts with its dependencies"


def test_a_model_factory_that_raises(build: Callable[[Callable[..., Any]], Callable[[], object]]) -> None:
    assert "by accident" in blamed(build(raising), Kind.MODEL)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (None, "it returned a NoneType, not a Model: it has no device"),
        (
            SimpleNamespace(device="cpu", device_name="", threads=1, precision="fp32", train_step=raising),
            "it returned a SimpleNamespace, not a Model: it has no evaluate_loss",
        ),
        (type("Odd", (), {"device": property(raising)})(), ACCIDENT),
    ],
)
def test_incomplete_models_are_refused(
    build: Callable[[Callable[..., Any]], Callable[[], object]], model: object, why: str
) -> None:
    assert blamed(build(returning(model)), Kind.MODEL) == why


# --- Feature extractors and observers -----------------------------------------------------------------------


@pytest.mark.parametrize("framework", [["torch"], "pytorch", 1])
def test_framework_of_features_is_a_known_name(framework: object) -> None:
    odd = part(Kind.FEATURES, type("Odd", (), {"framework": framework}))
    assert blamed(lambda: validation.framework_of(odd), Kind.FEATURES).startswith(
        "its framework must be one of "
    )


def test_attributes_of_extractors_and_observers_are_guarded() -> None:
    extractor = part(Kind.FEATURES, type("Odd", (), {"fingerprint": property(raising)}))
    assert blamed(lambda: validation.checked_extractor(extractor, {}), Kind.FEATURES) == ACCIDENT
    observer = part(Kind.OBSERVER, type("Odd", (), {"on_begin": property(raising)}))
    assert blamed(lambda: validation.checked_observer(observer, {}), Kind.OBSERVER) == ACCIDENT
