"""Contracts of the parts used for sampling."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pytest

from ddim_host.diffusion import Teacher, ddim_step, ddim_steps
from ddim_host.plugin import validation
from ddim_host.plugin.registry import Kind
from ddim_host.plugin.validation import DeterministicSolverError
from ddim_host.testing.part import PartContract, linear_schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from ddim_host.diffusion import DDIMStep
    from ddim_host.plugin.validation import SamplingPlan

    Images = NDArray[np.float32]
    Predict = Callable[[Images, DDIMStep], tuple[Images, Images]]

_TIMESTEPS = 1000

_VARIANCES = np.array([0.02, 0.1, 0.5, 1.0])
"""Variances of the four pixels of the images used to test searches."""


class TimestepSubsetContract(PartContract):
    """Tests of a timestep subset: exactly S timesteps, int64 `(S,)`, strictly increasing, in [0, T).

    Attributes:
        sizes: Pairs (T, S) to test. If S = T, the only possible result is all timesteps.
    """

    kind = Kind.TIMESTEP_SUBSET
    sizes: ClassVar[tuple[tuple[int, int], ...]] = (
        *((1000, steps) for steps in (1, 2, 3, 5, 10, 20, 50, 100, 333, 999, 1000)),
        *((25, steps) for steps in range(1, 26)),
    )

    def test_timesteps_are_valid_and_deterministic(self) -> None:
        """Check the dtype, number, order and range, and that repeated calls agree."""
        for timesteps, steps in self.sizes:
            schedule = linear_schedule(timesteps)
            one, other = (
                validation.checked_subset(self.whole_part(), self.values(), schedule, steps) for _ in range(2)
            )
            np.testing.assert_array_equal(one, other)


class SolverContract(PartContract):
    """Tests of a solver: it follows any steps from noise to image, on arrays of any framework."""

    kind = Kind.SOLVER

    def plan(self, num_inference_steps: int, eta: float = 0.0) -> SamplingPlan:
        """Return the solver with evenly spaced steps, after the host's checks."""
        timesteps = np.linspace(0, _TIMESTEPS - 1, num_inference_steps + 1)[1:].astype(np.int64)
        steps = ddim_steps(linear_schedule(_TIMESTEPS), timesteps.tolist(), eta)
        return validation.checked_solver(self.whole_part(), self.values(), steps)

    def sampled(self, x_t: Images, plan: SamplingPlan, predict: Predict) -> Images:
        """Return the result of the last step; `predict` takes the place of the network."""
        noise = np.random.default_rng(1)
        states = plan.solver(
            x_t, plan.steps, predict, lambda _: noise.standard_normal(x_t.shape, dtype=np.float32)
        )
        return np.asarray([x for x, _ in states][-1])

    @staticmethod
    def noise() -> Images:
        """Return the noise from which sampling begins, `(4, 3, 8, 8)`."""
        return np.random.default_rng(0).standard_normal((4, 3, 8, 8), dtype=np.float32)

    @staticmethod
    def gaussian(v: float) -> Predict:
        """Return the optimal network for images whose pixels are N(0, v)."""

        def predict(x_t: Images, step: DDIMStep) -> tuple[Images, Images]:
            abar = step.alpha_cumprod
            variance = abar * v + 1.0 - abar
            image_share, noise_share = math.sqrt(abar) * v / variance, math.sqrt(1.0 - abar) / variance
            return x_t * np.float32(image_share), x_t * np.float32(noise_share)

        return predict

    @pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 20, 200])
    def test_states_are_valid_for_any_number_of_steps(self, steps: int) -> None:
        """Check the number, shape and dtype of the states; also with eta 1 if the solver adds noise."""
        self.plan(steps)
        with contextlib.suppress(DeterministicSolverError):
            self.plan(steps, eta=1.0)

    @pytest.mark.parametrize("steps", [1, 2, 3, 10])
    def test_an_image_known_to_the_network_is_found(self, steps: int) -> None:
        """Check that sampling ends at the image if the network always predicts the same one."""
        image = np.tanh(np.random.default_rng(2).standard_normal((4, 3, 8, 8))).astype(np.float32)

        def predict(x_t: Images, step: DDIMStep) -> tuple[Images, Images]:
            image_share, noise_share = math.sqrt(step.alpha_cumprod), math.sqrt(1.0 - step.alpha_cumprod)
            return image, np.asarray((x_t - image * image_share) / noise_share, dtype=np.float32)

        found = self.sampled(self.noise(), self.plan(steps), predict)
        np.testing.assert_allclose(found, image, atol=1e-3)

    def test_more_steps_are_more_accurate(self) -> None:
        """Check the standard deviation of samples for pixels N(0, v), whose optimal network is known."""
        for v in (0.1, 1.0, 4.0):
            scales = [
                float(np.std(self.sampled(self.noise(), self.plan(steps), self.gaussian(v))))
                / float(np.std(self.noise()))
                for steps in (10, 40, 160)
            ]
            errors = [abs(scale / math.sqrt(v) - 1.0) for scale in scales]
            assert errors[-1] < 0.05, f"v = {v}: {errors}"
            assert errors[-1] <= errors[0] + 0.01, f"v = {v}: {errors}"

    def test_images_are_independent_of_the_batch(self) -> None:
        """Check that an image does not depend on the others in the batch."""
        plan, network = self.plan(10), self.gaussian(0.5)
        together = self.sampled(self.noise(), plan, network)
        alone = [self.sampled(self.noise()[i : i + 1], plan, network) for i in range(len(together))]
        np.testing.assert_allclose(np.concatenate(alone), together, rtol=1e-5, atol=1e-6)

    def test_its_arguments_are_unchanged(self) -> None:
        """Check that the initial noise is not overwritten, and that sampling again gives the same result."""
        x_t, plan = self.noise(), self.plan(5)
        first = self.sampled(x_t, plan, self.gaussian(0.5)).copy()
        np.testing.assert_array_equal(x_t, self.noise(), "x_t was overwritten")
        np.testing.assert_array_equal(self.sampled(x_t, plan, self.gaussian(0.5)), first)


class SubsetSearchContract(PartContract):
    """Tests of a subset search: for each size, increasing timesteps with images close to the teacher's."""

    kind = Kind.SEARCH

    @staticmethod
    def teacher() -> Teacher:
        """Return the optimal network's predictions for images of four pixels N(0, v), each with its own v."""
        timesteps = np.unique(np.linspace(0, _TIMESTEPS - 1, 40).astype(np.int64))
        noise = np.random.default_rng(0).standard_normal((64, len(_VARIANCES))).astype(np.float32)
        return _teacher(timesteps, noise)

    def found(self, teacher: Teacher, sizes: Iterable[int]) -> dict[int, NDArray[np.int64]]:
        """Return the timesteps that the search finds, after the host's checks."""
        schedule = linear_schedule(_TIMESTEPS)
        return validation.checked_search(self.whole_part(), self.values(), schedule, teacher, sizes)

    def test_timesteps_of_every_size_are_valid_and_deterministic(self) -> None:
        """Check all sizes up to the teacher's: repeated calls agree, and the teacher is unchanged."""
        teacher = self.teacher()
        sizes = range(1, len(teacher.timesteps) + 1)
        one, other = (self.found(teacher, sizes) for _ in range(2))
        assert [*one] == [*sizes]
        for size in sizes:
            np.testing.assert_array_equal(one[size], other[size], f"S = {size}")

    def test_a_size_does_not_depend_on_the_others(self) -> None:
        """Check each size by itself, because the host stores the sizes separately."""
        teacher = self.teacher()
        for size, timesteps in self.found(teacher, (2, 3, 5, 8)).items():
            [alone] = self.found(teacher, [size]).values()
            np.testing.assert_array_equal(alone, timesteps, f"S = {size}")

    def test_images_are_closer_to_the_teachers_than_with_random_timesteps(self) -> None:
        """Check that the error of DDIM's images is below the median error for random timesteps."""
        teacher, rng = self.teacher(), np.random.default_rng(1)

        def error(timesteps: NDArray[np.int64]) -> float:
            images = _teacher(timesteps, teacher.noise).x_start[0]
            return float(np.square(images - teacher.x_start[0]).mean())

        for size, timesteps in self.found(teacher, (3, 5, 8)).items():
            chance = [error(np.sort(rng.choice(teacher.timesteps, size, replace=False))) for _ in range(99)]
            assert error(timesteps) < float(np.median(chance)), f"S = {size}"


def _teacher(timesteps: NDArray[np.int64], noise: NDArray[np.float32]) -> Teacher:
    """Run DDIM with the optimal network for pixels N(0, v), each with its own v."""
    x = noise.astype(np.float64)
    x_start = np.empty((len(timesteps), *noise.shape), dtype=np.float32)
    for position, step in enumerate(ddim_steps(linear_schedule(_TIMESTEPS), timesteps.tolist(), eta=0.0)):
        abar = step.alpha_cumprod
        epsilon = x * (math.sqrt(1.0 - abar) / (abar * _VARIANCES + 1.0 - abar))
        x, x_start[-1 - position] = ddim_step(x, epsilon, step)
    for array in (timesteps, noise, x_start):
        array.flags.writeable = False
    return Teacher(timesteps, noise, x_start)
