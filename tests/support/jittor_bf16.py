"""bf16 in Jittor on a CPU; `test_bf16.py` runs this in a process of its own."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ddim_host.errors import UserError
from ddim_host.framework import processor_flags
from ddim_host.framework.kernels import load_kernels
from ddim_host.plugin.loading import load_plugins
from ddim_host.testing import one_batch
from ddim_jittor.environment import import_jittor
from ddim_jittor.plugin import unet
from ddim_losses import mse
from tests.support.networks import TINY, random_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.framework import Batch, Model, Precision, UNetSpec, Weights

    Array = NDArray[np.float32]

pytestmark = pytest.mark.process  # Jittor starts compilers

load_plugins("jittor")  # no other framework may be imported from now on
jt: Any = import_jittor("cpu")
load_kernels()
kernel_layers, onednn = (
    importlib.import_module(f"ddim_jittor.{name}") for name in ("kernel_layers", "onednn")
)

ONEDNN_HAS_BF16 = "avx512bw" in processor_flags().split()
DROPPING = replace(TINY, dropout=0.5)


def rounded(values: Array) -> Array:
    """To bf16, to the nearest and to the even one of two."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def normal(seed: int, *shape: int) -> Array:
    return rounded(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def in_numpy(variable: Any) -> Array:
    variable.sync()  # otherwise a sum and its conversion are one operation, which rounds nothing in between
    array: Array = variable.float32().numpy()
    return array


# --- Jittor's own arithmetic --------------------------------------------------------------------------------


def test_jittor_rounds_to_the_nearest_and_to_the_even_one_of_two() -> None:
    ties = np.array([1.00390625, 1.01171875, -1.00390625, -1.01171875, 3.3895314e38, 0.0], dtype=np.float32)
    values = np.concatenate([ties, np.random.default_rng(0).standard_normal(1000, dtype=np.float32)])
    found = in_numpy(jt.array(values).bfloat16())
    np.testing.assert_array_equal(found, rounded(values))
    np.testing.assert_array_equal(found[:4], np.array([1.0, 1.015625, -1.0, -1.015625], dtype=np.float32))
    assert np.any(found != (values.view(np.uint32) & 0xFFFF0000).view(np.float32)), "it must not truncate"


def test_infinities_and_what_is_not_a_number_stay_so() -> None:
    values = np.array([0x7F800000, 0xFF800000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], dtype=np.uint32)
    found = in_numpy(jt.array(values.view(np.float32)).bfloat16())
    assert list(found[:2]) == [np.inf, -np.inf]
    assert np.isnan(found[2:]).all()


def test_sums_and_gradients_that_meet_are_rounded() -> None:
    a, b, c = (normal(seed, 3, 500) for seed in range(3))
    branching = jt.array(a).bfloat16()
    y = branching + jt.array(b).bfloat16()
    np.testing.assert_array_equal(in_numpy(y), rounded(a + b))
    products = branching.float32() * jt.array(b), branching.float32() * jt.array(c)
    (gradient,) = jt.grad(products[0].sum() + products[1].sum(), [branching])
    assert str(gradient.dtype) == "bfloat16"
    np.testing.assert_array_equal(in_numpy(gradient), rounded(b + c))


# --- Convolutions by oneDNN ---------------------------------------------------------------------------------


@pytest.mark.skipif(not ONEDNN_HAS_BF16, reason="oneDNN needs AVX-512 for bf16")
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize(
    ("size", "channels", "kernel", "stride", "padding"),
    [
        ((6, 6), (32, 16), 1, 1, (0, 0)),
        ((1, 20), (12, 5), 1, 1, (0, 0)),
        ((8, 6), (8, 8), 3, 2, (0, 1)),
        ((8, 6), (8, 24), 3, 2, (1, 1)),
        ((6, 7), (3, 16), 3, 1, (1, 1)),
        ((6, 7), (16, 1), 3, 1, (1, 1)),
    ],
)
def test_convolutions_round_only_their_results(
    size: tuple[int, int],
    channels: tuple[int, int],
    kernel: int,
    stride: int,
    padding: tuple[int, int],
    *,
    added: bool,
) -> None:
    """In all three directions they equal float64; shift and residual are added, and rounded, afterwards."""
    x = normal(0, 2, *size, channels[0])
    weight = np.random.default_rng(1).standard_normal((*channels[::-1], kernel, kernel), dtype=np.float32)
    bias = np.random.default_rng(2).standard_normal(channels[1], dtype=np.float32)
    padded = np.pad(x, [(0, 0), padding, padding, (0, 0)]).astype(np.float64)
    height, width = ((padded.shape[axis] - kernel) // stride + 1 for axis in (1, 2))
    shift, residual, g = (
        normal(3, 2, channels[1]),
        *(normal(s, 2, height, width, channels[1]) for s in (4, 5)),
    )
    held = rounded(weight).astype(np.float64)
    y = np.zeros(g.shape) + bias
    grad_padded, grad_weight = np.zeros(padded.shape), np.zeros(weight.shape)
    for i in range(kernel):
        for j in range(kernel):
            at = slice(None), slice(i, i + stride * height, stride), slice(j, j + stride * width, stride)
            y += padded[at] @ held[:, :, i, j].T
            grad_padded[at] += g @ held[:, :, i, j]
            grad_weight[:, :, i, j] = np.einsum("bhwo,bhwi->oi", g, padded[at])
    grad_x = grad_padded[:, padding[0] :, padding[0] :][:, : size[0], : size[1]]

    inputs = [jt.array(array) for array in (x, weight, bias, shift, residual)]
    image, beside = inputs[0].bfloat16(), inputs[4].bfloat16()
    sums = {"shift": inputs[3], "residual": beside} if added else {}
    found = onednn.convolve(image, *inputs[1:3], stride=stride, padding=padding, **sums)
    assert str(found.dtype) == "bfloat16"
    gradients = jt.grad((found.float32() * jt.array(g)).sum(), inputs if added else inputs[:3])
    bound = 2**-8 * np.abs(y) + 1e-5
    if added:
        y += shift[:, None, None] + residual
        bound += 2**-8 * np.abs(y)
        np.testing.assert_allclose(in_numpy(gradients[3]), g.sum((1, 2)), atol=1e-4)
        np.testing.assert_array_equal(in_numpy(gradients[4]), g)
    assert (np.abs(in_numpy(found) - y) <= bound).all()
    assert (np.abs(in_numpy(gradients[0]) - grad_x) <= 2**-8 * np.abs(grad_x) + 1e-5).all()
    np.testing.assert_allclose(in_numpy(gradients[1]), grad_weight, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(in_numpy(gradients[2]), g.sum((0, 1, 2)), atol=1e-4)


# --- The network --------------------------------------------------------------------------------------------


def model(spec: UNetSpec, precision: Precision, weights: Weights | None = None) -> Model:
    built = unet(spec, "cpu", precision)
    for which in ("raw", "ema"):
        built.load_weights(random_weights(spec) if weights is None else weights, which)
    return built


def step(trained: Model, batch: Batch) -> Array:
    losses = trained.train_step(batch, mse, lr=1e-3, ema_decay=0.9, max_grad_norm=1e9)
    return trained.to_host(losses).copy()


def norm(array: Array) -> float:
    return float(np.linalg.norm(array))


@pytest.mark.parametrize(("has_bf16", "scale_shift"), [(False, True), (True, False)])
def test_gradients_and_predictions_are_near_fp32(
    monkeypatch: pytest.MonkeyPatch, *, has_bf16: bool, scale_shift: bool
) -> None:
    """Every way that convolutions take; another mask of dropout would be farther away."""
    if has_bf16 and not ONEDNN_HAS_BF16:
        pytest.skip("oneDNN needs AVX-512 for bf16")
    monkeypatch.setattr(kernel_layers, "_HAS_BF16", has_bf16)
    spec = replace(DROPPING, scale_shift=scale_shift)
    found = []
    for precision in ("fp32", "bf16"):
        trained = model(spec, precision)
        assert trained.precision == precision
        x_t = trained.to_device(one_batch(spec).x_t)
        predicted = trained.to_host(trained.predict(x_t, 3, which="ema")).copy()
        losses = step(trained, one_batch(spec, batch_size=8))
        assert losses.dtype == np.float32
        assert {values.dtype for values in trained.weights("raw").values()} == {np.dtype(np.float32)}
        found.append((predicted, losses, trained.training_state().exp_avg))
    (exact, losses, gradients), (near, near_losses, rounded_gradients) = found
    assert 0.0 < norm(near - exact) < 0.02 * norm(exact)
    np.testing.assert_allclose(near_losses, losses, rtol=0.05)
    total = float(np.sqrt(sum(norm(values) ** 2 for values in gradients.values())))
    for name, values in gradients.items():
        assert norm(rounded_gradients[name] - values) < 0.15 * norm(values) + 1e-3 * total, name


def test_training_repeats_bit_for_bit_and_sampling_sees_it() -> None:
    first, second = (model(DROPPING, "bf16") for _ in range(2))
    x_t = one_batch(TINY).x_t
    before = first.to_host(first.predict(first.to_device(x_t), 3, which="raw")).copy()
    for seed in range(3):
        batch = replace(one_batch(DROPPING, seed=seed), dropout_seed=seed)
        np.testing.assert_array_equal(step(first, batch), step(second, batch))
    for which in ("raw", "ema"):
        weights = second.weights(which)
        for name, values in first.weights(which).items():
            np.testing.assert_array_equal(values, weights[name], err_msg=name)
    fresh = model(DROPPING, "bf16", first.weights("raw"))
    after, expected = (
        trained.to_host(trained.predict(trained.to_device(x_t), 3, which="raw")).copy()
        for trained in (first, fresh)
    )
    np.testing.assert_array_equal(after, expected)
    assert np.any(after != before)


def test_bf16_without_the_kernels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddim_jittor.model.cpu_kernels", lambda: None)
    with pytest.raises(UserError, match="Jittor supports bf16 only with this project's kernels") as caught:
        unet(TINY, "cpu", "bf16")
    assert "--precision fp32" in caught.value.fix


def test_auto_is_fp32() -> None:
    assert unet(TINY, "cpu", "auto").precision == "fp32"
