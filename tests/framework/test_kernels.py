"""The host's own kernels against float64, without any framework; and how they are compiled and chosen."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ddim_host.framework.kernels import Kernels, cpu_kernels

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.support.commands import PythonCode

    Array = NDArray[np.float32]
    Exact = NDArray[np.float64]

SIZES = st.tuples(*(st.integers(1, limit) for limit in (3, 11, 9, 40, 40)))
"""Batch, height, width, channels in and out: tiles, vectors and panels that are not full among them."""

NATIVE = cpu_kernels()
pytestmark = pytest.mark.skipif(NATIVE is None, reason="the kernels cannot be compiled here")


@pytest.fixture(scope="module")
def native() -> Kernels:
    assert NATIVE is not None
    return NATIVE


def at(array: Array | None) -> int | None:
    assert array is None or (array.dtype == np.float32 and array.flags.c_contiguous)
    return None if array is None else array.ctypes.data


def normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape, dtype=np.float32)


def correlate(x: Array, w: Array) -> Exact:
    """The convolution of 3 x 3, tap by tap."""
    height, width = x.shape[1:3]
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [(i, j) for i in range(3) for j in range(3)]
    parts = [padded[:, i : i + height, j : j + width] @ w[:, :, i, j].T.astype(np.float64) for i, j in taps]
    total: Exact = np.sum(parts, axis=0)
    return total


def transform(native: Kernels, w: Array, *, turned: bool) -> Array:
    from_channels, to_channels = (w.shape[0], w.shape[1]) if turned else (w.shape[1], w.shape[0])
    u = np.full(native.conv3x3_weights_size(from_channels, to_channels), np.nan, dtype=np.float32)
    native.conv3x3_transform(at(w), at(u), from_channels, to_channels, turned)
    return u


def convolve(native: Kernels, x: Array, u: Array, channels: int, *added: Array | None) -> Array:
    y = np.full((*x.shape[:3], channels), np.nan, dtype=np.float32)
    native.conv3x3(at(x), at(u), *map(at, added), at(y), *x.shape, channels)
    return y


def close(found: Array, exact: Exact) -> None:
    """Within a few rounding errors of sums of this size."""
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, exact, rtol=0, atol=3e-5 * max(1.0, float(np.abs(exact).max())))


@settings(max_examples=60)
@given(sizes=SIZES, seed=st.integers(0, 2**32 - 1), given_parts=st.tuples(*[st.booleans()] * 3))
def test_convolution_and_what_is_added(
    native: Kernels, sizes: tuple[int, ...], seed: int, given_parts: tuple[bool, ...]
) -> None:
    batch, height, width, channels, out = sizes
    rng = np.random.default_rng(seed)
    x, w = normal(rng, batch, height, width, channels), normal(rng, out, channels, 3, 3)
    bias, shift, residual = normal(rng, out), normal(rng, batch, out), normal(rng, batch, height, width, out)
    exact = correlate(x, w)
    exact += given_parts[0] * bias.astype(np.float64)
    exact += given_parts[1] * shift[:, None, None]
    exact += given_parts[2] * residual
    added = [
        part if there else None for part, there in zip((bias, shift, residual), given_parts, strict=True)
    ]
    close(convolve(native, x, transform(native, w, turned=False), out, *added), exact)


@settings(max_examples=60)
@given(sizes=SIZES, seed=st.integers(0, 2**32 - 1))
def test_gradients_of_the_convolution_are_its_adjoints(
    native: Kernels, sizes: tuple[int, ...], seed: int
) -> None:
    """A convolution is linear in x and in w: <g, conv(x, w)> = <grad_x, x> = <grad_w, w>, for all of them."""
    batch, height, width, channels, out = sizes
    rng = np.random.default_rng(seed)
    x, w = normal(rng, batch, height, width, channels), normal(rng, out, channels, 3, 3)
    g = normal(rng, batch, height, width, out)
    grad_x = convolve(native, g, transform(native, w, turned=True), channels, None, None, None)
    turned = np.ascontiguousarray(w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3))
    close(grad_x, correlate(g, turned))
    grad_w = np.full_like(w, np.nan)
    native.conv3x3_grad_weights(at(x), at(g), at(grad_w), *sizes)
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i in range(3):
        for j in range(3):
            seen = padded[:, i : i + height, j : j + width]
            close(grad_w[:, :, i, j], np.einsum("bhwo,bhwi->oi", g.astype(np.float64), seen))


def test_gradient_of_the_weights_over_more_tiles_than_are_summed_at_once(native: Kernels) -> None:
    rng = np.random.default_rng(0)
    batch = 8 * (os.cpu_count() or 1)  # of 64 tiles each, for every thread
    x, g = normal(rng, batch, 32, 32, 5), normal(rng, batch, 32, 32, 18)
    grad_w = np.full((18, 5, 3, 3), np.nan, dtype=np.float32)
    native.conv3x3_grad_weights(at(x), at(g), at(grad_w), *x.shape, 18)
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i in range(3):
        for j in range(3):
            seen = padded[:, i : i + 32, j : j + 32]
            exact = np.tensordot(g.astype(np.float64), seen, axes=([0, 1, 2], [0, 1, 2]))
            close(grad_w[:, :, i, j], exact)


def test_an_image_does_not_depend_on_its_company(native: Kernels) -> None:
    rng = np.random.default_rng(0)
    x, w = normal(rng, 13, 8, 8, 40), normal(rng, 24, 40, 3, 3)
    u = transform(native, w, turned=False)
    together = convolve(native, x, u, 24, None, None, None)
    for image in range(len(x)):
        alone = convolve(native, np.ascontiguousarray(x[image : image + 1]), u, 24, None, None, None)
        np.testing.assert_array_equal(alone[0], together[image])


def normalised(arrays: list[Exact], groups: int, *, silu: bool) -> Exact:
    x, weight, bias = arrays
    grouped = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    mean, variance = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    z: Exact = ((grouped - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape) * weight + bias
    return z / (1.0 + np.exp(-z)) if silu else z


@settings(max_examples=60)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(2, 40), st.integers(1, 5), st.integers(1, 9)),
    seed=st.integers(0, 2**32 - 1),
    silu=st.booleans(),
)
def test_group_norm_in_both_directions(
    native: Kernels, sizes: tuple[int, int, int, int], seed: int, *, silu: bool
) -> None:
    batch, pixels, groups, width = sizes
    channels = groups * width
    rng = np.random.default_rng(seed)
    x = normal(rng, batch, pixels, channels) * 2 + 3
    # Where a group's values are nearly equal, dividing by their deviation magnifies fp32's rounding.
    assume(x.reshape(batch, pixels, groups, width).std((1, 3)).min() > 0.1)
    weight, bias, g = normal(rng, channels), normal(rng, channels), normal(rng, batch, pixels, channels)
    y, grad_x = np.full_like(x, np.nan), np.full_like(x, np.nan)
    grad_weight, grad_bias = np.full_like(weight, np.nan), np.full_like(bias, np.nan)
    statistics = np.full((batch, groups, 2), np.nan, dtype=np.float32)
    native.group_norm(*map(at, (x, weight, bias, y, statistics)), batch, pixels, channels, groups, 1e-6, silu)
    arrays = [array.astype(np.float64) for array in (x, weight, bias)]
    np.testing.assert_allclose(y, normalised(arrays, groups, silu=silu), rtol=1e-4, atol=2e-4)
    native.group_norm_grad(
        *map(at, (x, weight, bias, statistics, g, grad_x, grad_weight, grad_bias)),
        *(batch, pixels, channels, groups, silu),
    )
    for position, gradient in enumerate((grad_x, grad_weight, grad_bias)):
        direction = rng.normal(size=gradient.shape)
        ends = []
        for step in (1e-6, -1e-6):
            moved = [a + step * direction if i == position else a for i, a in enumerate(arrays)]
            ends.append(float((normalised(moved, groups, silu=silu) * g).sum()))
        slope, size = (ends[0] - ends[1]) / 2e-6, float(np.linalg.norm(gradient) * np.linalg.norm(direction))
        assert abs(float((gradient * direction).sum()) - slope) <= 1e-3 * size + 1e-3


def test_silu_far_from_zero(native: Kernels) -> None:
    """Where exp leaves the floats, z sigmoid(z) is still z or nothing; what is no number stays so."""
    bias = np.array([-1e8, -200, -90, -30, 0, 30, 90, 200, 3e38, np.nan, 1, 1, 1, 1, 1, 1], dtype=np.float32)
    x, weight, y = np.zeros((1, 2, 16), np.float32), np.ones(16, np.float32), np.empty((1, 2, 16), np.float32)
    statistics = np.empty((1, 16, 2), np.float32)
    native.group_norm(*map(at, (x, weight, bias, y, statistics)), 1, 2, 16, 16, 1e-6, True)
    np.testing.assert_allclose(y[0, 0, :4], [0, 0, 0, -30 * np.exp(-30.0)], atol=1e-30, rtol=1e-5)
    np.testing.assert_array_equal(y[0, 0, 4:9], np.array([0, 30, 90, 200, 3e38], dtype=np.float32))
    assert np.isnan(y[0, 0, 9])
    np.testing.assert_array_equal(y[0, 1], y[0, 0])


def test_sum_of_pixels(native: Kernels) -> None:
    x, sums = normal(np.random.default_rng(0), 3, 50, 21), np.empty((3, 21), np.float32)
    native.sum_pixels(at(x), at(sums), *x.shape)
    np.testing.assert_allclose(sums, x.sum(1), atol=1e-5)


@given(size=st.integers(1, 100), start=st.integers(0, 100), seed=st.integers(0, 2**64 - 1))
def test_dropout_is_a_function_of_seed_and_position(
    native: Kernels, size: int, start: int, seed: int
) -> None:
    ones, first = np.ones(200, np.float32), np.empty(200, np.float32)
    native.dropout(at(ones), at(first), 200, 0, seed, 0.25)
    assert set(np.unique(first)) <= {np.float32(0), np.float32(4 / 3)}
    part = np.empty(size, np.float32)
    native.dropout(at(ones[:size].copy()), at(part), size, start, seed, 0.25)
    np.testing.assert_array_equal(part, first[start : start + size])


def test_dropout_keeps_as_many_as_it_should_everywhere(native: Kernels) -> None:
    ones, size = np.ones(1_000_000, np.float32), 1_000_000
    masks = []
    for seed in range(8):
        y = np.empty_like(ones)
        native.dropout(at(ones), at(y), size, 0, seed, 0.1)
        masks.append(y > 0)
    kept = np.array(masks)
    deviation = np.sqrt(0.1 * 0.9)
    assert np.abs(kept.mean(1) - 0.9).max() < 5 * deviation / np.sqrt(size)
    for block in np.split(kept, 1000, axis=1):
        assert np.abs(block.mean(1) - 0.9).max() < 6 * deviation / np.sqrt(1000)
    # Neither neighbouring seeds nor neighbouring elements have anything in common.
    dropped = ~kept
    pairs = [dropped[:-1] & dropped[1:], dropped[:, :-1] & dropped[:, 1:], dropped[:, :-16] & dropped[:, 16:]]
    for pair in pairs:
        assert np.abs(pair.mean(1) - 0.01).max() < 5 * np.sqrt(0.01 * 0.99 / size)


CHOOSE = """
import sys
from ddim_host.errors import UserError
from ddim_host.framework.kernels import cpu_kernels
try:
    print(cpu_kernels() is not None)
except UserError as error:
    print(f"{error.what}; {error.why}; {error.fix}")
"""


def test_they_are_compiled_once(python: PythonCode, tmp_path: Path) -> None:
    own: dict[str, Any] = {"env": {"DDIM_HOST_CACHE": str(tmp_path)}}
    first = python(CHOOSE, **own)
    assert first.out == "True\n"
    assert first.err.startswith("compiling kernels for this processor, once: ")
    (library,) = (tmp_path / "kernels").iterdir()
    when = library.stat().st_mtime_ns
    # What is compiled needs no compiler any more.
    again = python(CHOOSE, env={"DDIM_HOST_CACHE": str(tmp_path), "CXX": "no-such-compiler"})
    assert (again.out, again.err) == ("True\n", "")
    assert library.stat().st_mtime_ns == when


def test_without_a_compiler_the_frameworks_own_are_used_and_that_is_said(
    python: PythonCode, tmp_path: Path
) -> None:
    env = {"DDIM_HOST_CACHE": str(tmp_path), "CXX": "no-such-compiler"}
    auto = python(CHOOSE, env=env)
    assert auto.out == "False\n"
    assert "there is no C++ compiler no-such-compiler" in auto.err
    assert "the framework's own are used" in auto.err
    demanded = python(CHOOSE, env={**env, "DDIM_HOST_KERNELS": "native"})
    assert demanded.out.startswith("the native kernels cannot be compiled; there is no C++ compiler")
    assert "DDIM_HOST_KERNELS=framework" in demanded.out


def test_a_compiler_that_fails_is_told(python: PythonCode, tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho kernels.cpp: error: too modern >&2\nexit 1\n")
    compiler.chmod(0o755)
    env = {"DDIM_HOST_CACHE": str(tmp_path / "cache"), "CXX": str(compiler)}
    assert "too modern" in python(CHOOSE, env=env).err
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("wanted", "printed"), [("framework", "False"), ("fast", "unknown kernels")])
def test_the_choice_is_the_users(python: PythonCode, wanted: str, printed: str) -> None:
    assert python(CHOOSE, env={"DDIM_HOST_KERNELS": wanted}).out.startswith(printed)


def test_a_damaged_library_is_compiled_again(python: PythonCode, tmp_path: Path) -> None:
    own: dict[str, Any] = {"env": {"DDIM_HOST_CACHE": str(tmp_path)}}
    python(CHOOSE, **own)
    (library,) = (tmp_path / "kernels").iterdir()
    content = library.read_bytes()
    library.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    again = python(CHOOSE, **own)
    assert again.out == "True\n"
    assert again.err.startswith("compiling kernels for this processor, once: ")
    assert library.read_bytes() == content


def test_a_library_that_cannot_be_loaded_is_one_error(python: PythonCode, tmp_path: Path) -> None:
    python(CHOOSE, env={"DDIM_HOST_CACHE": str(tmp_path)})
    (library,) = (tmp_path / "kernels").iterdir()
    content = os.urandom(100)
    library.unlink()
    identity = library.name.partition("-")[0]
    other = f"{identity}-{hashlib.sha256(content).hexdigest()[:16]}.so"
    library.with_name(other).write_bytes(content)
    assert python(CHOOSE, env={"DDIM_HOST_CACHE": str(tmp_path)}).out.startswith(
        "the compiled kernels cannot be loaded"
    )
