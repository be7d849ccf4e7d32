"""Check that the framework honours its contract, has correct gradients, and trains like PyTorch."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ddim_numpy.plugin import unet
from ddim_numpy.tensor import Tensor

from ddim_host import UserError
from ddim_host.framework import UNet, initial_weights
from ddim_host.testing import ModelFactoryContract, one_batch, tiny_spec

if TYPE_CHECKING:
    from collections.abc import Callable


class TestNumpy(ModelFactoryContract):
    """The tests are inherited."""

    part = unet


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b + 2.0,
    "subtract": lambda a, b: 1.0 - (a - b),
    "multiply": lambda a, b: a * b * 3.0,
    "divide": lambda a, b: a / b + 1.0 / b,
    "power": lambda a, b: (a * a + 1.0) ** 0.5 + b**3,
    "abs": lambda a, b: abs(a) - abs(b),
    "reshape": lambda a, b: (a.reshape((2, 6)).sum(1).reshape((2, 1)) * b.reshape((2, 6))).reshape((3, 4)),
    "part": lambda a, b: (a[:, :2].reshape((3, 2, 1)) * b[:, 1:3].reshape((3, 1, 2))).reshape((3, 4)),
    "mean": lambda a, b: a.mean(1).reshape((3, 1)) * b,
}


@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_match_finite_differences(name: str) -> None:
    """Check the gradient of each operator with respect to both operands."""
    rng = np.random.default_rng(0)
    arrays: list[Any] = [rng.uniform(0.5, 2.0, (3, 4)) * rng.choice([-1.0, 1.0], (3, 4)) for _ in range(2)]
    factors = rng.standard_normal((3, 4))

    def value(*given: Any) -> float:
        return float((OPERATORS[name](*(np.asarray(a) for a in given)) * factors).sum())

    tensors: list[Any] = [Tensor(array, needs_gradient=True) for array in arrays]
    OPERATORS[name](*tensors).backward(factors)
    for which, tensor in enumerate(tensors):
        for place in np.ndindex(3, 4):
            step = np.zeros((3, 4))
            step[place] = 1e-6
            moved = [[a + sign * step if i == which else a for i, a in enumerate(arrays)] for sign in (1, -1)]
            expected = (value(*moved[0]) - value(*moved[1])) / 2e-6
            assert tensor.gradient[place] == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("ddim_torch") is None, reason="needs ddim-torch for comparison")
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"attention_head_dim": 4, "image_channels": 1},
        {"num_res_blocks": 2},
        {"image_size": (8, 12), "downsample_padding": 1, "middle_attention": False, "norm_eps": 1e-3},
        {
            "channel_multipliers": (1, 1.5),
            "up_attention_resolutions": (8,),
            "middle_scale_factor": 2.0,
            "scale_shift": True,
            "center_input": True,
            "time_embedding_dim": 12,
            "flip_sin_to_cos": True,
            "freq_shift": 0,
        },
    ],
)
def test_it_trains_like_pytorch(change: dict[str, Any]) -> None:
    """Compare losses and predictions over several steps, starting from the same weights."""
    from ddim_torch.plugin import unet as torch_unet  # noqa: PLC0415

    def loss(prediction: Any, target: Any) -> Any:
        return ((prediction - target) ** 2).reshape((prediction.shape[0], -1)).mean(1)

    spec = replace(tiny_spec(), **change)
    models: list[Any] = [make(spec, "cpu", "fp32") for make in (unet, torch_unet)]
    for model in models:
        for which in ("raw", "ema"):
            model.load_weights(initial_weights(UNet.from_spec(spec), 1), which)
    for step in range(4):
        batch = one_batch(spec, seed=step)
        losses = [
            model.to_host(model.train_step(batch, loss, lr=1e-3, ema_decay=0.9, max_grad_norm=1.0))
            for model in models
        ]
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    x_t = one_batch(spec).x_t
    predictions = [m.to_host(m.predict(m.to_device(x_t), 7, which="ema")) for m in models]
    np.testing.assert_allclose(predictions[0], predictions[1], atol=1e-4)


def test_dropout_depends_on_its_seed() -> None:
    """Check that the same seed drops the same elements, another seed others, and evaluation none."""
    spec = replace(tiny_spec(), dropout=0.5)

    def first_losses(seed: int) -> Any:
        model = unet(spec, "cpu", "fp32")
        # Shifted, because some of the initial weights are zero.
        weights = {n: a + np.float32(0.05) for n, a in initial_weights(UNet.from_spec(spec), 1).items()}
        model.load_weights(weights, "raw")
        batch = replace(one_batch(spec), dropout_seed=seed)
        loss = lambda p, t: ((p - t) ** 2).reshape((4, -1)).mean(1)  # noqa: E731
        evaluated = model.evaluate_loss(batch, loss)
        np.testing.assert_array_equal(evaluated, model.evaluate_loss(batch, loss))
        return model.train_step(batch, loss, lr=1e-3, ema_decay=0.9, max_grad_norm=1.0)

    np.testing.assert_array_equal(first_losses(1), first_losses(1))
    assert (first_losses(1) != first_losses(2)).any()


@pytest.mark.parametrize(("device", "precision"), [("cuda", "fp32"), ("cpu", "bf16")])
def test_unsupported_device_or_precision_is_an_error(device: Any, precision: Any) -> None:
    """Check that a GPU and bf16 are rejected with a UserError."""
    with pytest.raises(UserError):
        unet(tiny_spec(), device, precision)
