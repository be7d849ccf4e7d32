"""The base class of models, on a framework whose tensors are NumPy arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ddim_host.framework.base import Dropout, ModelBase
from ddim_host.framework.interface import TrainingState
from ddim_host.framework.unet import UNet, initial_weights, parameters
from ddim_host.testing import one_batch, tiny_spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.framework.interface import WhichWeights

SPEC = tiny_spec()
UNET = UNet.from_spec(SPEC)


class ArrayModel(ModelBase[Any]):
    """Implements only the abstract methods.

    Attributes:
        made: Number of tensors allocated so far.
    """

    made = 0

    def to_device(self, array: NDArray[np.float32]) -> Any:
        return array

    def to_host(self, tensor: Any) -> NDArray[np.float32]:
        array: NDArray[np.float32] = tensor
        return array

    def synchronize(self) -> None:
        pass

    def _zeros(self, shape: tuple[int, ...]) -> Any:
        self.made += 1
        return np.zeros(shape, dtype=np.float32, order="F")

    def _assign(self, tensor: Any, array: NDArray[np.float32]) -> None:
        tensor[...] = array


def test_average_and_optimizer_state_are_allocated_on_demand() -> None:
    model = ArrayModel(SPEC)
    count = len(parameters(UNET))
    model.load_weights(initial_weights(UNET, 1), "raw")
    assert model.made == count
    model.weights("ema")
    assert model.made == 2 * count
    model.training_state()
    assert model.made == 4 * count


def test_average_starts_as_a_copy_of_the_parameters() -> None:
    model = ArrayModel(SPEC)
    first, second = (initial_weights(UNET, seed) for seed in (1, 2))
    model.load_weights(first, "raw")
    np.testing.assert_equal(model.weights("ema"), first)
    model.load_weights(second, "raw")
    np.testing.assert_equal(model.weights("ema"), first)
    np.testing.assert_equal(model.weights("raw"), second)


def test_returned_arrays_are_contiguous_copies() -> None:
    model = ArrayModel(SPEC)
    state = model.training_state()
    for arrays in (model.weights("raw"), model.weights("ema"), state.exp_avg, state.exp_avg_sq):
        for array in arrays.values():
            assert array.flags.c_contiguous
            array[...] = 7.0
    assert not any(array.any() for array in model.weights("raw").values())
    assert not any(array.any() for array in model.training_state().exp_avg_sq.values())


def test_optimizer_state_survives_the_round_trip() -> None:
    model = ArrayModel(SPEC)
    given = TrainingState(3, initial_weights(UNET, 1), initial_weights(UNET, 2))
    model.load_training_state(given)
    found = model.training_state()
    assert found.step == 3
    np.testing.assert_equal(found.exp_avg, given.exp_avg)
    np.testing.assert_equal(found.exp_avg_sq, given.exp_avg_sq)


@pytest.mark.parametrize("which", ["raw", "ema"])
def test_loading_weights_discards_derived_tensors(which: WhichWeights) -> None:
    model = ArrayModel(SPEC)
    model._transformed[which]["conv_in"] = 1
    model.load_weights(initial_weights(UNET, 1), which)
    assert model._transformed[which] == {}


def test_dropout_follows_the_batch() -> None:
    batch = replace(one_batch(SPEC), dropout_seed=5, first=8)
    assert ArrayModel(SPEC)._dropout_of(batch) is None
    dropout = ArrayModel(tiny_spec(dropout=0.25))._dropout_of(batch)
    assert isinstance(dropout, Dropout)
    assert (dropout.probability, dropout.seed, dropout.first) == (0.25, 5, 8)
    assert [dropout.next_seed() for _ in range(3)] == [5, 6, 7]
