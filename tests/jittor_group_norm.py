"""Jittor's fused group normalisation, against float64; called by test_own_parts_contract.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ddim_host.plugins import load_plugins
from ddim_jittor.environment import import_jittor

load_plugins("jittor")  # no other framework may be imported from now on
import_jittor("cpu")

import jittor as jt  # noqa: E402 - only after its environment was made

from ddim_jittor.group_norm import group_norm  # noqa: E402 - imports Jittor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def exact(x: Array, weight: Array, bias: Array, groups: int, *, silu: bool) -> Array:
    grouped = x.reshape(len(x), groups, -1)
    centred = grouped - grouped.mean(2, keepdims=True)
    normalised = (centred / np.sqrt(grouped.var(2, keepdims=True) + 1e-6)).reshape(x.shape)
    z = normalised * weight[:, None, None] + bias[:, None, None]
    found: Array = z / (1 + np.exp(-z)) if silu else z
    return found


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(
    ("shape", "groups"), [((2, 8, 4, 4), 4), ((3, 32, 5, 7), 1), ((1, 6, 1, 1), 2), ((2, 64, 16, 16), 32)]
)
def test_both_directions_equal_float64(shape: tuple[int, ...], groups: int, *, silu: bool) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(0.5, 2.0, size) for size in (shape, shape[1:2], shape[1:2])]
    above = rng.normal(size=shape)
    variables = [jt.array(array.astype(np.float32)) for array in arrays]
    y = group_norm(*variables, groups=groups, silu=silu)
    gradients = jt.grad((y * jt.array(above.astype(np.float32))).sum(), variables)
    x, weight, bias = arrays
    np.testing.assert_allclose(y.numpy(), exact(x, weight, bias, groups, silu=silu), rtol=1e-4, atol=2e-5)
    for position, gradient in enumerate(gradients):
        found = gradient.numpy().astype(np.float64)
        assert found.shape == arrays[position].shape
        for _ in range(5):
            direction = rng.normal(size=found.shape)
            ends = []
            for step in (1e-5, -1e-5):
                moved = [a + step * direction if i == position else a for i, a in enumerate(arrays)]
                ends.append(float((exact(moved[0], moved[1], moved[2], groups, silu=silu) * above).sum()))
            slope = (ends[0] - ends[1]) / 2e-5
            size = np.linalg.norm(found) * np.linalg.norm(direction)
            assert abs(float((found * direction).sum()) - slope) <= 1e-4 * size + 1e-4
