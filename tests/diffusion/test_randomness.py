"""The host's randomness: a pure function of (seed, stream, step, index)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ddim_host.diffusion.randomness import Stream, dropout_seed, generator, normal_images
from ddim_host.system.limits import MAX_SEED

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEYS = st.tuples(
    st.integers(0, MAX_SEED), st.sampled_from(Stream), st.integers(0, 2**40), st.integers(0, 2**40)
)
NOISE_STREAMS = st.sampled_from([Stream.TRAINING_NOISE, Stream.TEST_NOISE, Stream.SAMPLE_START])
Key = tuple[int, Stream, int, int]


def draw(key: Key, size: int = 8) -> NDArray[np.float64]:
    seed, stream, step, index = key
    return generator(seed, stream, step=step, index=index).random(size)


@given(KEYS, KEYS)
def test_draw_depends_only_on_its_four_numbers(key: Key, other: Key) -> None:
    first = draw(key)
    draw(other, 3)
    np.testing.assert_array_equal(draw(key), first)


@given(KEYS, KEYS)
def test_different_numbers_give_different_draws(key: Key, other: Key) -> None:
    assume(key != other)
    assert np.all(draw(key) != draw(other))


@pytest.mark.parametrize(
    "other",
    [
        (1, Stream.TRAINING_NOISE, 1, 2),
        (0, Stream.TEST_NOISE, 1, 2),
        (0, Stream.TRAINING_NOISE, 2, 2),
        (0, Stream.TRAINING_NOISE, 1, 3),
        (0, Stream.TRAINING_NOISE, 2, 1),
        (MAX_SEED, Stream.TRAINING_NOISE, 1, 2),
    ],
)
def test_each_of_the_four_numbers_matters(other: Key) -> None:
    assert np.all(draw((0, Stream.TRAINING_NOISE, 1, 2)) != draw(other))


def test_long_draws_do_not_overlap() -> None:
    """The counter within a draw is a separate word, so no image's noise is a shifted copy of another's."""
    words = [draw((0, Stream.SAMPLE_START, 0, index), 20_000) for index in range(3)]
    assert len(np.unique(np.concatenate(words))) == 60_000


def test_streams_keep_their_numbers() -> None:
    """Every result depends on the numbers, so a new stream is added at the end."""
    assert {stream.name: stream.value for stream in Stream} == {
        "INITIAL_WEIGHTS": 1,
        "IMAGE_ORDER": 2,
        "FLIP": 3,
        "TIMESTEPS": 4,
        "TRAINING_NOISE": 5,
        "DROPOUT": 6,
        "TEST_TIMESTEPS": 7,
        "TEST_NOISE": 8,
        "SAMPLE_START": 9,
        "SAMPLE_NOISE": 10,
        "KERNEL_SUBSETS": 11,
        "SEARCH_START": 12,
    }


def test_results_of_a_seed_never_change() -> None:
    """Pinned values, the same in NumPy 1.26 and 2: a different algorithm would change every result."""
    noise = normal_images(0, Stream.SAMPLE_START, steps=[0], indices=[0], shape=(3,))
    np.testing.assert_allclose(noise[0], [1.8107067, 0.46833706, -0.4073495], rtol=1e-6)
    assert generator(7, Stream.TIMESTEPS, step=3).integers(0, 1000, 5).tolist() == [71, 271, 909, 222, 798]
    assert generator(7, Stream.IMAGE_ORDER, step=3).permutation(6).tolist() == [2, 5, 1, 0, 4, 3]
    assert dropout_seed(0, 0) == 4767345267979153683


@given(
    seed=st.integers(0, MAX_SEED),
    stream=NOISE_STREAMS,
    keys=st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)), max_size=8),
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9)),
)
def test_images_are_separate_draws(
    seed: int, stream: Stream, keys: list[tuple[int, int]], shape: tuple[int, int, int]
) -> None:
    """One generator is reset for each image, and must keep no state of the previous one."""
    images = normal_images(
        seed, stream, steps=[step for step, _ in keys], indices=[index for _, index in keys], shape=shape
    )
    assert images.dtype == np.float32
    assert images.shape == (len(keys), *shape)
    for image, (step, index) in zip(images, keys, strict=True):
        alone = generator(seed, stream, step=step, index=index).standard_normal(shape, dtype=np.float32)
        np.testing.assert_array_equal(image, alone)


@given(order=st.permutations(range(10)), first=st.integers(0, 10))
def test_noise_does_not_depend_on_the_rest_of_the_batch(order: list[int], first: int) -> None:
    def noise(indices: list[int]) -> NDArray[np.float32]:
        return normal_images(
            1, Stream.TRAINING_NOISE, steps=[4] * len(indices), indices=indices, shape=(1, 3, 3)
        )

    whole = noise(list(range(10)))
    np.testing.assert_array_equal(np.concatenate([noise(order[:first]), noise(order[first:])]), whole[order])


def test_steps_and_indices_must_have_equal_length() -> None:
    with pytest.raises(ValueError, match="shorter"):
        normal_images(0, Stream.TEST_NOISE, steps=[0, 1], indices=[0], shape=(1, 2, 2))


def test_noise_is_standard_normal_and_uncorrelated_between_neighbours() -> None:
    count, size = 400, 1024
    noise = normal_images(
        0, Stream.TRAINING_NOISE, steps=[1] * count, indices=range(count), shape=(1, 32, 32)
    ).reshape(count, size)
    flat = noise.astype(np.float64).ravel()
    tolerance = 4 / np.sqrt(flat.size)
    assert abs(flat.mean()) < tolerance
    assert abs((flat**2).mean() - 1) < tolerance * np.sqrt(2)
    assert abs((flat**3).mean()) < tolerance * np.sqrt(15)
    assert abs((flat**4).mean() - 3) < tolerance * np.sqrt(96)
    assert abs((noise[1:] * noise[:-1]).mean()) < tolerance
    assert abs((noise[:, 1:] * noise[:, :-1]).mean()) < tolerance


@given(st.integers(0, MAX_SEED), st.integers(0, 2**40))
def test_dropout_seeds_fit_63_bits_and_are_unrelated(seed: int, step: int) -> None:
    first, second = dropout_seed(seed, step), dropout_seed(seed, step + 1)
    assert 0 <= first < 2**63
    assert abs(first - second) > 2**20, "frameworks draw similar numbers from nearby seeds"
    assert first == dropout_seed(seed, step)


def test_global_generator_is_neither_read_nor_written() -> None:
    """Importing a framework may reseed it, and so may users."""
    state = np.random.get_state(legacy=False)  # noqa: NPY002
    first = draw((0, Stream.SAMPLE_START, 0, 0))
    np.random.seed(5)  # noqa: NPY002
    np.testing.assert_array_equal(draw((0, Stream.SAMPLE_START, 0, 0)), first)
    np.random.set_state(state)  # noqa: NPY002
