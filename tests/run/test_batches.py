"""Training and test batches, examined through their only output: the network's inputs.

`TestBatches` is used with its module's name, because pytest would collect it as a class of tests.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.diffusion import NoiseSchedule
from ddim_host.parts.noise_schedules import linear
from ddim_host.run import batches
from ddim_host.run.batches import TrainingBatches
from ddim_host.run.images import to_network
from ddim_timestep_samplers import Uniform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.framework.interface import Batch
    from ddim_host.plugin.data import Images

# Little noise, so that every image is recognisable in x_t.
SCHEDULE = NoiseSchedule(np.full(10, 1e-3))
SIZES = {"count": st.integers(1, 40), "batch_size": st.integers(1, 60)}


def numbered(count: int) -> Images:
    """Return images that encode their number and orientation: two columns, the number in the left one."""
    images = np.zeros((count, 2, 2, 1), dtype=np.uint8)
    images[:, :, 0, 0] = np.arange(1, count + 1)[:, None] * 6
    return images


def training(images: Images, batch_size: int, **changes: Any) -> TrainingBatches:
    options: dict[str, Any] = {
        "schedule": SCHEDULE,
        "sampler": Uniform(SCHEDULE),
        "weighting": np.ones(SCHEDULE.num_train_timesteps),
        "random_flip": False,
        "seed": 0,
    }
    return TrainingBatches(images, batch_size=batch_size, **options | changes)


def shown(batch: Batch) -> NDArray[np.int64]:
    """Return the images of a batch as pixels `(B, C, H, W)`, by subtracting the known noise."""
    abar = SCHEDULE.alphas_cumprod[batch.t].reshape(-1, 1, 1, 1)
    x_start = (batch.x_t - np.sqrt(1 - abar) * batch.target) / np.sqrt(abar)
    return np.rint((x_start + 1) * 127.5).astype(np.int64)


def numbers(batch: Batch) -> list[int]:
    """Return the numbers of the images in a batch, whether flipped or not."""
    return [int(pixels.max()) // 6 - 1 for pixels in shown(batch)]


def passed_by(stream: TrainingBatches, images: int, batch_size: int) -> list[int]:
    """Return the numbers of the first images of a stream."""
    steps = -(-images // batch_size)
    return [number for step in range(steps) for number in numbers(stream.batch(step))][:images]


# --- Training -----------------------------------------------------------------------------------------------


@given(**SIZES)
def test_every_image_once_per_epoch(count: int, batch_size: int) -> None:
    order = passed_by(training(numbered(count), batch_size), 3 * count, batch_size)
    for epoch in range(3):
        assert sorted(order[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(**SIZES)
def test_every_batch_is_full(count: int, batch_size: int) -> None:
    stream = training(numbered(count), batch_size)
    for step in range(4):
        batch = stream.batch(step)
        arrays = (batch.x_t, batch.t, batch.target, batch.weights)
        assert [len(array) for array in arrays] == [batch_size] * 4
        assert [array.dtype for array in arrays] == [np.float32, np.int64, np.float32, np.float32]


def test_epochs_and_seeds_have_different_orders() -> None:
    order = passed_by(training(numbered(40), 8), 80, 8)
    other = passed_by(training(numbered(40), 8, seed=1), 40, 8)
    assert order[:40] != order[40:]
    assert order[:40] != other
    assert order[:40] != sorted(order[:40])


@given(first=st.integers(1, 30), second=st.integers(1, 30))
def test_the_batch_size_changes_neither_order_nor_noise_nor_flips(first: int, second: int) -> None:
    count = 12

    def images(batch_size: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        stream = training(numbered(count), batch_size, random_flip=True)
        steps = [stream.batch(step) for step in range(-(-3 * count // batch_size))]
        noise = np.concatenate([batch.target for batch in steps])
        return noise[: 3 * count], np.concatenate([shown(batch) for batch in steps])[: 3 * count]

    for one, other in zip(images(first), images(second), strict=True):
        np.testing.assert_array_equal(one, other)


def test_noise_is_new_for_every_image_and_epoch() -> None:
    stream = training(numbered(20), 20)
    noise = np.concatenate([stream.batch(step).target for step in range(5)])
    assert len(np.unique(noise[:, 0, 0, 0])) == 100


@given(steps=st.lists(st.integers(0, 30), min_size=1, max_size=10))
def test_batch_does_not_depend_on_earlier_batches(steps: list[int]) -> None:
    """A resumed run must see the same batches as an uninterrupted one."""
    used = training(numbered(7), 5, random_flip=True)
    for step in steps:
        batch = used.batch(step)
    fresh = training(numbered(7), 5, random_flip=True).batch(steps[-1])
    for ours, theirs in (
        (batch.x_t, fresh.x_t),
        (batch.t, fresh.t),
        (batch.target, fresh.target),
        (batch.weights, fresh.weights),
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert batch.dropout_seed == fresh.dropout_seed


@pytest.mark.parametrize("random_flip", [False, True])
def test_images_are_flipped_horizontally_on_request(random_flip: bool) -> None:
    images = numbered(40)
    stream = training(images, 40, random_flip=random_flip)
    mirrored = []
    for step in range(10):
        batch = stream.batch(step)
        for number, pixels in zip(numbers(batch), shown(batch), strict=True):
            upright = images[number].transpose(2, 0, 1)
            assert np.array_equal(pixels, upright) or np.array_equal(pixels, upright[:, :, ::-1])
            mirrored.append(np.array_equal(pixels, upright[:, :, ::-1]))
    # Half of 400, within five standard deviations.
    assert abs(sum(mirrored) - 200) < 50 if random_flip else not any(mirrored)
    np.testing.assert_array_equal(images, numbered(40), "the data set must not change")


def test_x_t_is_a_draw_of_the_forward_process() -> None:
    schedule = NoiseSchedule(linear(100))
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    stream = training(image, 50, schedule=schedule, sampler=Uniform(schedule), weighting=np.ones(100))
    batch = stream.batch(0)
    assert len(set(batch.t.tolist())) > 20
    abar = np.cumprod(1 - linear(100))[batch.t].reshape(-1, 1, 1, 1)
    expected = np.sqrt(abar) * to_network(image) + np.sqrt(1 - abar) * batch.target
    np.testing.assert_allclose(batch.x_t, expected, atol=1e-6)


def test_image_weight_is_the_product_of_sampler_and_timestep_weights() -> None:
    class Weighing(Uniform):
        def sample(
            self, batch_size: int, rng: np.random.Generator
        ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
            t, _ = super().sample(batch_size, rng)
            return t, np.arange(batch_size, dtype=np.float32)

    weighting = np.linspace(0.5, 2.0, 10)
    batch = training(numbered(5), 8, sampler=Weighing(SCHEDULE), weighting=weighting).batch(3)
    np.testing.assert_allclose(batch.weights, np.arange(8) * weighting[batch.t], rtol=1e-6)


def test_every_step_has_new_randomness() -> None:
    stream = training(numbered(5), 5)
    steps = [stream.batch(step) for step in range(50)]
    assert len({batch.dropout_seed for batch in steps}) == 50
    assert len({tuple(batch.t.tolist()) for batch in steps}) > 45


@given(**SIZES, epochs=st.integers(1, 20))
def test_epochs_are_counted_in_images(count: int, batch_size: int, epochs: int) -> None:
    stream = training(numbered(count), batch_size)
    step = stream.first_step_after(epochs)
    assert (step - 1) * batch_size < epochs * count <= step * batch_size
    assert stream.epochs_done(step) >= epochs > stream.epochs_done(step - 1)
    assert stream.epochs_done(0) == 0


# --- Test ---------------------------------------------------------------------------------------------------


def counted(stream: batches.TestBatches) -> tuple[list[int], NDArray[np.int64], NDArray[np.float32]]:
    """Return numbers, timesteps and noise of the images, without padding."""
    parts = [(numbers(b)[:size], b.t[:size], b.target[:size]) for b, size in stream]
    found, t, noise = zip(*parts, strict=True)
    return list(itertools.chain(*found)), np.concatenate(t), np.concatenate(noise)


@given(**SIZES, limit=st.integers(1, 50))
def test_limit_skips_test_images_evenly(count: int, batch_size: int, limit: int) -> None:
    used, _, _ = counted(batches.TestBatches(numbered(count), SCHEDULE, batch_size, limit))
    assert len(used) == min(count, limit)
    assert used[0] == 0
    gaps = np.diff([*used, count])
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


@given(**SIZES, other=st.integers(1, 60))
def test_test_batches_are_reproducible(count: int, batch_size: int, other: int) -> None:
    """Fixed noise and timesteps make the test losses of epochs and of runs comparable."""
    stream = batches.TestBatches(numbered(count), SCHEDULE, batch_size, 30)
    again = batches.TestBatches(numbered(count), SCHEDULE, other, 30)
    for one, repeated, otherwise in zip(counted(stream), counted(stream), counted(again), strict=True):
        np.testing.assert_array_equal(one, repeated)
        np.testing.assert_array_equal(one, otherwise)


@given(**SIZES)
def test_test_batches_are_full_too(count: int, batch_size: int) -> None:
    """With a single size, compilation happens once; the last batch's padding does not count."""
    for batch, size in batches.TestBatches(numbered(count), SCHEDULE, batch_size, 30):
        assert len(batch.x_t) == len(batch.t) == len(batch.weights) == batch_size
        assert 1 <= size <= batch_size
        np.testing.assert_array_equal(batch.weights, 1)


@given(count=st.integers(1, 40), timesteps=st.integers(1, 1000))
def test_test_timesteps_cover_the_time_axis_evenly(count: int, timesteps: int) -> None:
    schedule = NoiseSchedule(np.full(timesteps, 1e-3))
    stream = batches.TestBatches(numbered(count), schedule, count, count)
    [(batch, _)] = list(stream)
    # Each image has its own section of the axis.
    edges = np.arange(count + 1) * timesteps / count
    t = np.sort(batch.t)
    assert np.all((np.floor(edges[:-1]) <= t) & (t <= edges[1:]))
    assert t[-1] < timesteps


def test_test_timesteps_are_unrelated_to_the_order_of_the_images() -> None:
    """Data sets are often sorted by class, so timesteps would otherwise depend on the class."""
    schedule = NoiseSchedule(np.full(1000, 1e-3))
    [(batch, _)] = list(batches.TestBatches(numbered(40), schedule, 40, 40))
    assert abs(np.corrcoef(np.arange(40), batch.t)[0, 1]) < 0.5


def test_test_images_follow_the_forward_process_and_are_never_flipped() -> None:
    schedule = NoiseSchedule(linear(100))
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    [(batch, _)] = list(batches.TestBatches(images, schedule, 30, 30))
    abar = np.cumprod(1 - linear(100))[batch.t].reshape(-1, 1, 1, 1)
    expected = np.sqrt(abar) * to_network(images) + np.sqrt(1 - abar) * batch.target
    np.testing.assert_allclose(batch.x_t, expected, atol=1e-6)


@given(**SIZES, ahead=st.integers(1, 4), start=st.integers(0, 9))
def test_batches_prepared_ahead_are_the_same_even_after_a_resume(
    count: int, batch_size: int, ahead: int, start: int
) -> None:
    images = numbered(count)
    in_place = training(images, batch_size, random_flip=True)
    prepared = training(images, batch_size, random_flip=True, ahead=ahead, end=start + 5)
    for step in (*range(start, start + 5), 0):
        expected, found = in_place.batch(step), prepared.batch(step)
        for name in ("x_t", "t", "target", "weights"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert found.dropout_seed == expected.dropout_seed
    prepared.close()
