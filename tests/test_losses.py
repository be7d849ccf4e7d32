"""The losses: one number per image, the same in every framework."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddim_losses import ddim_losses, l2, mse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.contracts import Loss

LOSSES = pytest.mark.parametrize("loss", [mse, l2])
SHAPES = st.tuples(st.integers(1, 5), st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9))


def pair(shape: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    first, second = np.random.default_rng(0).standard_normal((2, *shape), dtype=np.float32)
    return first, second


def test_both_are_on_offer_by_name() -> None:
    assert ddim_losses() == {"mse": mse, "l2": l2}


@given(SHAPES)
def test_mse_is_the_mean_and_l2_the_sum_over_an_image(shape: tuple[int, ...]) -> None:
    prediction, target = pair(shape)
    squares = (prediction.astype(np.float64) - target) ** 2
    np.testing.assert_allclose(mse(prediction, target), [s.mean() for s in squares], rtol=1e-5)
    np.testing.assert_allclose(l2(prediction, target), [s.sum() for s in squares], rtol=1e-5)


@given(SHAPES)
def test_l2_is_mse_times_the_size_of_an_image(shape: tuple[int, ...]) -> None:
    prediction, target = pair(shape)
    size = shape[1] * shape[2] * shape[3]
    np.testing.assert_allclose(l2(prediction, target), size * mse(prediction, target), rtol=1e-5)


@LOSSES
@given(SHAPES)
def test_the_batch_is_not_reduced(loss: Loss, shape: tuple[int, ...]) -> None:
    prediction, target = pair(shape)
    together = loss(prediction, target)
    assert together.shape == (shape[0],)
    assert together.dtype == np.float32
    for image in range(shape[0]):
        alone = loss(prediction[image : image + 1], target[image : image + 1])
        np.testing.assert_allclose(together[image], alone[0], rtol=1e-6)


@LOSSES
@given(SHAPES)
def test_pytorch_computes_what_numpy_computes(loss: Loss, shape: tuple[int, ...]) -> None:
    prediction, target = pair(shape)
    ours = loss(torch.from_numpy(prediction), torch.from_numpy(target))
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), loss(prediction, target), rtol=1e-5)


@LOSSES
def test_pytorch_can_differentiate_it(loss: Loss) -> None:
    prediction, target = (torch.from_numpy(array) for array in pair((2, 3, 4, 4)))
    prediction.requires_grad_()
    loss(prediction, target).sum().backward()
    scale = 1 if loss is l2 else 1 / 48
    torch.testing.assert_close(prediction.grad, 2 * scale * (prediction - target).detach())


@LOSSES
def test_a_perfect_prediction_costs_nothing(loss: Loss) -> None:
    prediction, _ = pair((2, 3, 4, 4))
    np.testing.assert_array_equal(loss(prediction, prediction), [0, 0])
