"""Jittor's fused group normalisation, against float64."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import PythonCode

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("jittor") is None, reason="Jittor is not installed"),
]

_CHECK = """
import itertools
import numpy as np
from ddim_jittor.environment import import_jittor

import_jittor("cpu")
import jittor as jt
from ddim_jittor.group_norm import group_norm

def exact(x, weight, bias, groups, silu):
    grouped = x.reshape(len(x), groups, -1)
    normalised = (grouped - grouped.mean(2, keepdims=True)) / np.sqrt(grouped.var(2, keepdims=True) + 1e-6)
    z = normalised.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]
    return z / (1 + np.exp(-z)) if silu else z

rng = np.random.default_rng(0)
for (shape, groups), silu in itertools.product(
    [((2, 8, 4, 4), 4), ((3, 32, 5, 7), 1), ((1, 6, 1, 1), 2), ((2, 64, 16, 16), 32)], [False, True]
):
    arrays = [rng.normal(0.5, 2.0, s) for s in (shape, shape[1:2], shape[1:2])]
    above = rng.normal(size=shape)
    variables = [jt.array(a.astype(np.float32)) for a in arrays]
    y = group_norm(*variables, groups=groups, silu=silu)
    gradients = jt.grad((y * jt.array(above.astype(np.float32))).sum(), variables)
    np.testing.assert_allclose(y.numpy(), exact(*arrays, groups, silu), rtol=1e-4, atol=2e-5)
    for position, gradient in enumerate(gradients):
        found = gradient.numpy().astype(np.float64)
        assert found.shape == arrays[position].shape
        for _ in range(5):
            direction = rng.normal(size=found.shape)
            ends = []
            for step in (1e-5, -1e-5):
                moved = list(arrays)
                moved[position] = moved[position] + step * direction
                ends.append((exact(*moved, groups, silu) * above).sum())
            slope = (ends[0] - ends[1]) / 2e-5
            size = np.linalg.norm(found) * np.linalg.norm(direction)
            assert abs((found * direction).sum() - slope) <= 1e-4 * size + 1e-4, (shape, silu, position)
print("right")
"""


def test_both_directions_equal_float64(python: PythonCode) -> None:
    done = python(_CHECK, timeout=1200.0)
    assert done.out.strip().endswith("right"), done.err
