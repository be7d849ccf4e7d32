"""Contracts of the parts used for training."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pytest

from ddim_host.diffusion import PREDICTION_TYPES
from ddim_host.plugin import validation
from ddim_host.plugin.discovery import installed_frameworks
from ddim_host.plugin.parameters import format_value
from ddim_host.plugin.registry import Kind
from ddim_host.plugin.validation import CheckedSampler
from ddim_host.testing.part import UNUSABLE, PartContract, linear_schedule, run_python
from ddim_host.testing.terminal import terminal_notice

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_STANDARD_ERRORS = 6.0
"""Tolerance in standard errors; an unbiased estimate exceeds it once in 500 million draws."""


class NoiseScheduleContract(PartContract):
    """Tests of a noise schedule: betas, float64 `(T,)`, in (0, 1); only the last may be 1.

    Attributes:
        num_train_timesteps: The values of T to test.
    """

    kind = Kind.NOISE_SCHEDULE
    num_train_timesteps: ClassVar[tuple[int, ...]] = (50, 200, 1000)

    def betas(self, num_train_timesteps: int) -> NDArray[np.float64]:
        """Return the betas, after the host's checks."""
        # A prediction type that allows a schedule to end in pure noise.
        part, prediction = self.whole_part(), PREDICTION_TYPES[-1]
        return validation.checked_schedule(part, self.values(), num_train_timesteps, prediction).betas

    def test_betas_are_valid(self) -> None:
        """Check the dtype, shape and range, and that the schedule can be used for sampling."""
        for timesteps in self.num_train_timesteps:
            self.betas(timesteps)

    def test_it_is_deterministic(self) -> None:
        """Check that equal arguments give equal betas."""
        for timesteps in self.num_train_timesteps:
            np.testing.assert_array_equal(self.betas(timesteps), self.betas(timesteps))


class LossWeightingContract(PartContract):
    """Tests of a loss weighting: a factor for each timestep, float64 `(T,)`, finite and not negative."""

    kind = Kind.LOSS_WEIGHTING

    def test_weights_are_valid_and_deterministic(self) -> None:
        """Check the dtype, shape and range for each prediction type, and that repeated calls agree."""
        for timesteps, prediction_type in itertools.product((50, 1000), PREDICTION_TYPES):
            schedule = linear_schedule(timesteps)
            one, other = (
                validation.checked_weighting(self.whole_part(), self.values(), schedule, prediction_type)
                for _ in range(2)
            )
            np.testing.assert_array_equal(one, other)


class TimestepSamplerContract(PartContract):
    """Tests of a timestep sampler: timesteps, and weights that correct the bias of their distribution."""

    kind = Kind.TIMESTEP_SAMPLER

    def sampler(self, num_train_timesteps: int = 100) -> CheckedSampler:
        """Return a new sampler whose draws the host checks."""
        return CheckedSampler(self.whole_part(), self.values(), linear_schedule(num_train_timesteps))

    def taught(self, num_train_timesteps: int = 100) -> CheckedSampler:
        """Return a sampler that, if it uses losses, has received losses that grow with the timestep."""
        sampler = self.sampler(num_train_timesteps)
        if sampler.needs_losses:
            t = np.arange(num_train_timesteps, dtype=np.int64)
            for repeat in range(20):
                losses = (0.1 + t / num_train_timesteps + 0.01 * repeat).astype(np.float32)
                sampler.update(t, losses)
        return sampler

    @pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
    def test_draws_are_valid(self, batch_size: int) -> None:
        """Check the dtypes, shapes and ranges for several batch sizes, before and after updates."""
        for sampler in (self.sampler(), self.taught()):
            sampler.sample(batch_size, np.random.default_rng(0))

    def test_all_randomness_comes_from_the_generator(self) -> None:
        """Check that equal generators give equal draws, in two samplers and in repeated calls of one.

        `sample` must not change the sampler; only `update` may.
        """
        draws = [self.taught().sample(64, np.random.default_rng(3)) for _ in range(2)]
        sampler = self.taught()
        draws += [sampler.sample(64, np.random.default_rng(3)) for _ in range(2)]
        problem = (
            "sample() draws different timesteps from equal generators: it must use no other randomness, and "
            "only update() may change the sampler"
        )
        for drawn in draws[1:]:
            for one, other in zip(drawn, draws[0], strict=True):
                np.testing.assert_array_equal(one, other, err_msg=problem)

    def test_weights_correct_the_bias(self) -> None:
        """Check that the mean of `weight x f(t)` estimates the mean of f over uniform t, for several f."""
        timesteps, rng = 100, np.random.default_rng(5)
        position = np.arange(timesteps) / timesteps
        for sampler in (self.sampler(timesteps), self.taught(timesteps)):
            batches = [sampler.sample(100, rng) for _ in range(300)]
            for values in (np.ones(timesteps), position, position**4, np.cos(9.0 * position)):
                # Draws within a batch may be dependent, such as mirrored pairs.
                means = np.array([(weights * values[t]).mean(dtype=np.float64) for t, weights in batches])
                error = means.std(ddof=1) / len(means) ** 0.5
                off = abs(means.mean() - values.mean())
                assert off <= _STANDARD_ERRORS * error + 1e-6, (
                    f"the weights are biased: {means.mean():.5f} +- {error:.5f}, but uniform timesteps give "
                    f"{values.mean():.5f}; they should be 1 / (T p_t)"
                )

    def test_its_state_can_be_restored(self) -> None:
        """Check that a run resumed from a checkpoint draws the same timesteps as an uninterrupted one."""
        original = self.taught()
        original.sample(10, np.random.default_rng(1))
        restored = self.sampler()
        restored.load_state_dict(original.stored_state(), notes=())
        for step in range(3):
            draws = [sampler.sample(32, np.random.default_rng(step)) for sampler in (original, restored)]
            np.testing.assert_array_equal(
                draws[0][0], draws[1][0], "a restored sampler draws different timesteps"
            )
            np.testing.assert_array_equal(
                draws[0][1], draws[1][1], "a restored sampler returns different weights"
            )
            losses = np.linspace(0.5, 1.5, 32, dtype=np.float32)
            for sampler in (original, restored):
                sampler.update(draws[0][0], losses)

    def test_its_state_is_a_copy(self) -> None:
        """Check that later updates do not change an earlier state."""
        sampler = self.taught()
        state = sampler.state_dict()
        before = {name: array.copy() for name, array in state.items()}
        sampler.update(np.arange(100, dtype=np.int64), np.full(100, 9.0, dtype=np.float32))
        for name, array in state.items():
            np.testing.assert_array_equal(array, before[name], f"{name} is not a copy")


class LossContract(PartContract):
    """Tests of a loss: one number per image, not reduced over the batch, in every framework."""

    kind = Kind.LOSS
    _say: Callable[[str], None] = staticmethod(lambda _: None)

    @pytest.fixture(autouse=True)
    def _speak(self, pytestconfig: pytest.Config) -> None:
        self._say = terminal_notice(pytestconfig)

    def losses(self, prediction: NDArray[np.float32], target: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the losses of NumPy arrays, float `(B,)`."""
        loss = validation.checked_loss(self.whole_part(), self.values())
        return np.asarray(loss(prediction, target))

    @staticmethod
    def images(seed: int, batch_size: int = 4, channels: int = 3) -> NDArray[np.float32]:
        """Return random images, `(B, C, 8, 8)`."""
        return np.random.default_rng(seed).standard_normal((batch_size, channels, 8, 8)).astype(np.float32)

    def test_each_image_has_its_own_loss(self) -> None:
        """Check that the loss of an image does not depend on the others in the batch."""
        for channels in (1, 3):
            prediction, target = self.images(0, channels=channels), self.images(1, channels=channels)
            alone = np.concatenate(
                [self.losses(prediction[i : i + 1], target[i : i + 1]) for i in range(len(target))]
            )
            together = self.losses(prediction, target)
            np.testing.assert_allclose(
                together, alone, rtol=1e-5, err_msg="the loss of an image depends on the other images"
            )

    def test_it_is_finite_not_negative_and_deterministic(self) -> None:
        """Check predictions that equal the target, nearly equal it, or are far from it."""
        target = self.images(1)
        for prediction in (self.images(0), target, target + np.float32(1e-4), 100.0 * self.images(0)):
            losses = self.losses(prediction.astype(np.float32), target)
            assert np.isfinite(losses).all(), f"not finite: {losses}"
            assert (losses >= 0.0).all(), f"below 0: {losses}"
            np.testing.assert_array_equal(losses, self.losses(prediction.astype(np.float32), target))

    def test_a_perfect_prediction_is_the_best(self) -> None:
        """Check that no prediction has a smaller loss than the target itself."""
        target = self.images(1)
        assert (self.losses(target, target) <= self.losses(self.images(0), target)).all()

    def test_its_arguments_are_unchanged(self) -> None:
        """Check that arguments are not overwritten, because the host uses them again."""
        arguments = self.images(0), self.images(1)
        copies = [array.copy() for array in arguments]
        self.losses(*arguments)
        for array, copy in zip(arguments, copies, strict=True):
            np.testing.assert_array_equal(array, copy, "an argument was overwritten")

    @pytest.mark.parametrize("framework", installed_frameworks())
    def test_it_is_the_same_in_every_framework(self, framework: str) -> None:
        """Check the values and a training step on the framework's arrays, each in a new process.

        The first use of a framework may compile for minutes, so progress is printed on the terminal.
        """
        make = self.whole_part().make
        # Passed as text, as on a command line, and parsed by the same rules.
        written = {name: format_value(value) for name, value in self.values().items()}
        done = run_python(
            *("-m", "ddim_host.testing.loss_in_framework", framework, make.__module__, make.__qualname__),
            json.dumps(written),
            waiting=lambda passed: self._say(
                f"{framework} has been running for {passed:.0f} s; its first use may compile for minutes"
            ),
        )
        if done.returncode == UNUSABLE:
            pytest.skip(f"{framework} cannot be used here: {done.stdout}")
        assert done.returncode == 0, f"in {framework}: {done.stdout}\n{done.stderr}"
        found = np.array(json.loads(done.stdout.splitlines()[-1]), dtype=np.float32)
        expected = self.losses(self.images(0), self.images(1))
        np.testing.assert_allclose(
            found, expected, rtol=1e-4, err_msg=f"{framework} computes a different loss"
        )


class DatasetContract(PartContract):
    """Tests of a data set: uint8 images of the declared shape, with separate training and test images."""

    kind = Kind.DATA

    def test_images_are_as_declared(self) -> None:
        """Check the dtype and shape of training and test images, and that repeated reads agree."""
        source = validation.checked_source(self.whole_part(), self.values())
        assert source.description, "describe the images in one line"
        images = validation.checked_images(self.whole_part(), source)
        again = validation.checked_images(
            self.whole_part(), validation.checked_source(self.whole_part(), self.values())
        )
        for half in ("train", "test"):
            np.testing.assert_array_equal(
                getattr(images, half), getattr(again, half), f"the {half} images differ from call to call"
            )
        assert not np.shares_memory(images.train, images.test), "the train and test images share memory"
