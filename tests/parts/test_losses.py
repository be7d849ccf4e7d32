"""The losses: one number per image, the same in every framework."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.errors import UserError
from ddim_losses import balanced, ddim_losses, huber, l1, l2, mse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.framework.interface import Loss

VARIANTS: dict[str, Loss] = {
    **ddim_losses(),
    "huber:delta=1e-6": partial(huber, delta=1e-6),
    "huber:delta=1e6": partial(huber, delta=1e6),
    "balanced:alpha=0": partial(balanced, alpha=0.0),
    "balanced:alpha=1": partial(balanced, alpha=1.0),
}
LOSSES = pytest.mark.parametrize("loss", VARIANTS.values(), ids=VARIANTS)
SHAPES = st.tuples(st.integers(1, 5), st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9))


def pair(shape: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    first, second = np.random.default_rng(0).standard_normal((2, *shape), dtype=np.float32)
    return first, second


def test_all_parts_are_registered_by_name() -> None:
    assert ddim_losses() == {"mse": mse, "l2": l2, "l1": l1, "huber": huber, "balanced": balanced}


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


@given(SHAPES)
def test_l1_is_the_mean_absolute_error(shape: tuple[int, ...]) -> None:
    prediction, target = pair(shape)
    errors = np.abs(prediction.astype(np.float64) - target)
    np.testing.assert_allclose(l1(prediction, target), [e.mean() for e in errors], rtol=1e-5)


@given(SHAPES, st.floats(1e-3, 1e3))
def test_huber_is_the_published_formula(shape: tuple[int, ...], delta: float) -> None:
    prediction, target = pair(shape)
    errors = 2 * delta * (np.sqrt((prediction.astype(np.float64) - target) ** 2 + delta**2) - delta)
    expected = [e.mean() for e in errors]
    np.testing.assert_allclose(huber(prediction, target, delta=delta), expected, rtol=1e-5)


def test_huber_lies_between_the_squared_and_the_absolute_error() -> None:
    prediction, target = pair((4, 3, 8, 8))
    np.testing.assert_allclose(huber(prediction, target, delta=1e6), mse(prediction, target), rtol=1e-5)
    np.testing.assert_allclose(
        huber(prediction, target, delta=1e-6), 2e-6 * l1(prediction, target), rtol=1e-5
    )


def test_huber_does_not_round_small_errors_to_zero() -> None:
    """The formula as written in the paper would be 0, the difference of two equal fp32 numbers."""
    target = np.zeros((1, 1, 4, 4), np.float32)
    tiny = np.full_like(target, 1e-5)
    assert np.sqrt(tiny**2 + np.float32(0.1) ** 2).max() - np.float32(0.1) == 0
    np.testing.assert_allclose(huber(tiny, target), 1e-10, rtol=1e-4)


@given(SHAPES, st.floats(0, 1))
def test_balanced_follows_its_formula(shape: tuple[int, ...], alpha: float) -> None:
    prediction, target = pair(shape)
    channels = ((prediction.astype(np.float64) - target) ** 2).mean(axis=(2, 3))
    expected = [(1 - alpha) * e.mean() + alpha * np.sqrt((e**2).mean()) for e in channels]
    np.testing.assert_allclose(balanced(prediction, target, alpha=alpha), expected, rtol=1e-5)


def test_balanced_counts_the_worst_channel_more() -> None:
    even, worse = np.ones((2, 1, 3, 4, 4), np.float32)
    worse *= np.sqrt(np.array([0.5, 0.5, 2.0], np.float32)).reshape(3, 1, 1)
    target = np.zeros_like(even)
    np.testing.assert_allclose(mse(worse, target), mse(even, target), rtol=1e-6)
    np.testing.assert_allclose(balanced(even, target), 1, rtol=1e-6)
    values = [balanced(worse, target, alpha=alpha).item() for alpha in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(values, [1, (1 + np.sqrt(1.5)) / 2, np.sqrt(1.5)], rtol=1e-6)


def test_balanced_weighs_each_channel_in_proportion_to_its_error() -> None:
    target = torch.zeros(1, 3, 2, 2)
    prediction = torch.tensor([0.5, 1.0, 2.0]).reshape(1, 3, 1, 1).expand_as(target).clone().requires_grad_()
    balanced(prediction, target, alpha=1.0).sum().backward()  # type: ignore[no-untyped-call]
    assert prediction.grad is not None
    weights = prediction.grad[0, :, 0, 0] / prediction.detach()[0, :, 0, 0]
    torch.testing.assert_close(weights / weights[0], torch.tensor([1.0, 4.0, 16.0]))


@given(st.floats(0, 1), st.integers(1, 9))
def test_balanced_is_mse_for_grey_images(alpha: float, size: int) -> None:
    prediction, target = pair((3, 1, size, size))
    np.testing.assert_allclose(balanced(prediction, target, alpha=alpha), mse(prediction, target), rtol=1e-5)


@pytest.mark.parametrize("delta", [0.0, -0.1, float("nan"), float("inf"), 1e-7])
def test_huber_refuses_a_delta_that_fp32_cannot_use(delta: float) -> None:
    with pytest.raises(UserError, match="parameter 'delta' of loss 'huber'"):
        huber(*pair((1, 1, 2, 2)), delta=delta)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_balanced_refuses_an_alpha_outside_0_to_1(alpha: float) -> None:
    with pytest.raises(UserError, match="parameter 'alpha' of loss 'balanced'"):
        balanced(*pair((1, 1, 2, 2)), alpha=alpha)


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


@pytest.mark.parametrize("loss", [mse, l2])
def test_pytorch_can_differentiate_it(loss: Loss) -> None:
    prediction, target = (torch.from_numpy(array) for array in pair((2, 3, 4, 4)))
    prediction.requires_grad_()
    loss(prediction, target).sum().backward()
    scale = 1 if loss is l2 else 1 / 48
    torch.testing.assert_close(prediction.grad, 2 * scale * (prediction - target).detach())


@LOSSES
def test_the_gradient_is_the_slope(loss: Loss) -> None:
    prediction, target = (torch.from_numpy(array.astype(np.float64)) for array in pair((2, 3, 2, 2)))
    # Avoid the kink of the absolute error, where finite differences mix both sides.
    prediction = target + torch.where((prediction - target).abs() < 0.01, 0.5, prediction - target)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), prediction.requires_grad_(), eps=1e-7)


@LOSSES
@pytest.mark.parametrize("size", [0.0, 1e-20, 1e-8, 1.0, 1e4])
def test_the_gradient_is_finite_however_large_the_error(loss: Loss, size: float) -> None:
    """At zero the slope of a square root is infinite."""
    _, target = (torch.from_numpy(array) for array in pair((2, 3, 4, 4)))
    errors = (size * target).requires_grad_()
    loss(errors, torch.zeros_like(target)).sum().backward()
    assert errors.grad is not None
    assert torch.all(torch.isfinite(errors.grad))
    assert torch.all(errors.grad * errors.detach() >= 0), "the gradient must point away from the target"


@LOSSES
def test_perfect_prediction_has_zero_loss(loss: Loss) -> None:
    prediction, _ = pair((2, 3, 4, 4))
    assert np.all(loss(prediction, prediction) >= 0)
    np.testing.assert_allclose(loss(prediction, prediction), [0, 0], atol=1e-14)
