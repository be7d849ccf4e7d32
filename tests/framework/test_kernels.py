"""The host's own kernels against float64, without any framework; and their compilation and choice."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ddim_host.framework.kernels import Kernels, cpu_kernels
from tests.support.commands import pass_tests
from tests.support.repository import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.support.commands import PythonCode

    Array = NDArray[np.float32]
    Bf16 = NDArray[np.uint16]
    Exact = NDArray[np.float64]

SIZES = st.tuples(*(st.integers(1, limit) for limit in (3, 11, 9, 40, 40)))
"""Batch, height, width, channels in and out, including partly filled tiles, vectors and panels."""

WIDE = st.tuples(*(st.integers(low, high) for low, high in ((1, 3), (1, 9), (14, 35), (1, 70), (1, 40))))
"""Images for which the tiles of matrix units cover one row each."""

NATIVE = cpu_kernels()
pytestmark = pytest.mark.skipif(NATIVE is None, reason="the kernels cannot be compiled on this machine")


@pytest.fixture(scope="module")
def native() -> Kernels:
    assert NATIVE is not None
    return NATIVE


def at(array: Array | Bf16 | None) -> int | None:
    assert array is None or (array.dtype in (np.float32, np.uint16) and array.flags.c_contiguous)
    return None if array is None else array.ctypes.data


def to_bf16(values: Array) -> Bf16:
    """Round to nearest, ties to even."""
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: Bf16) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(values: Array) -> Array:
    return from_bf16(to_bf16(values))


def unwritten(*shape: int) -> Bf16:
    """Return an array of NaN, to be overwritten by results."""
    return np.full(shape, 0x7FC0, dtype=np.uint16)


def normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape, dtype=np.float32)


def correlate(x: Array, w: Array) -> Exact:
    """Compute the 3 x 3 convolution tap by tap."""
    height, width = x.shape[1:3]
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [(i, j) for i in range(3) for j in range(3)]
    parts = [padded[:, i : i + height, j : j + width] @ w[:, :, i, j].T.astype(np.float64) for i, j in taps]
    total: Exact = np.sum(parts, axis=0)
    return total


def transform(native: Kernels, w: Array, *, turned: bool, bf16: bool = False) -> Array:
    from_channels, to_channels = (w.shape[0], w.shape[1]) if turned else (w.shape[1], w.shape[0])
    u = np.full(native.conv3x3_weights_size(from_channels, to_channels, bf16), np.nan, dtype=np.float32)
    native.conv3x3_transform(at(w), at(u), from_channels, to_channels, turned, bf16)
    return u


def convolve(native: Kernels, x: Array, u: Array, channels: int, *added: Array | None) -> Array:
    y = np.full((*x.shape[:3], channels), np.nan, dtype=np.float32)
    native.conv3x3(at(x), at(u), *map(at, added), at(y), *x.shape, channels, False)
    return y


def assert_close(found: Array, exact: Exact) -> None:
    """Allow a few rounding errors for sums of this size."""
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, exact, rtol=0, atol=3e-5 * max(1.0, float(np.abs(exact).max())))


@settings(max_examples=60)
@given(sizes=SIZES, seed=st.integers(0, 2**32 - 1), given_parts=st.tuples(*[st.booleans()] * 3))
def test_convolution_with_added_terms(
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
    assert_close(convolve(native, x, transform(native, w, turned=False), out, *added), exact)


@settings(max_examples=60)
@given(sizes=SIZES, seed=st.integers(0, 2**32 - 1))
def test_gradients_of_the_convolution_are_its_adjoints(
    native: Kernels, sizes: tuple[int, ...], seed: int
) -> None:
    """A convolution is linear in x and w: <g, conv(x, w)> = <grad_x, x> = <grad_w, w> for all g, x and w."""
    batch, height, width, channels, out = sizes
    rng = np.random.default_rng(seed)
    x, w = normal(rng, batch, height, width, channels), normal(rng, out, channels, 3, 3)
    g = normal(rng, batch, height, width, out)
    grad_x = convolve(native, g, transform(native, w, turned=True), channels, None, None, None)
    turned = np.ascontiguousarray(w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3))
    assert_close(grad_x, correlate(g, turned))
    grad_w = np.full_like(w, np.nan)
    native.conv3x3_grad_weights(at(x), at(g), at(grad_w), *sizes, False)
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i in range(3):
        for j in range(3):
            seen = padded[:, i : i + height, j : j + width]
            assert_close(grad_w[:, :, i, j], np.einsum("bhwo,bhwi->oi", g.astype(np.float64), seen))


def test_gradient_of_the_weights_over_several_blocks_of_tiles(native: Kernels) -> None:
    rng = np.random.default_rng(0)
    batch = 8 * (os.cpu_count() or 1)  # 64 tiles per image, for every thread
    x, g = normal(rng, batch, 32, 32, 5), normal(rng, batch, 32, 32, 18)
    grad_w = np.full((18, 5, 3, 3), np.nan, dtype=np.float32)
    native.conv3x3_grad_weights(at(x), at(g), at(grad_w), *x.shape, 18, False)
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i in range(3):
        for j in range(3):
            seen = padded[:, i : i + 32, j : j + 32]
            exact = np.tensordot(g.astype(np.float64), seen, axes=([0, 1, 2], [0, 1, 2]))
            assert_close(grad_w[:, :, i, j], exact)


def test_image_does_not_depend_on_the_rest_of_the_batch(native: Kernels) -> None:
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
    # If a group's values are nearly equal, dividing by their deviation magnifies the rounding of fp32.
    assume(x.reshape(batch, pixels, groups, width).std((1, 3)).min() > 0.1)
    weight, bias, g = normal(rng, channels), normal(rng, channels), normal(rng, batch, pixels, channels)
    y, grad_x = np.full_like(x, np.nan), np.full_like(x, np.nan)
    grad_weight, grad_bias = np.full_like(weight, np.nan), np.full_like(bias, np.nan)
    statistics = np.full((batch, groups, 2), np.nan, dtype=np.float32)
    native.group_norm(
        *map(at, (x, weight, bias, y, statistics)), batch, pixels, channels, groups, 1e-6, silu, False
    )
    arrays = [array.astype(np.float64) for array in (x, weight, bias)]
    np.testing.assert_allclose(y, normalised(arrays, groups, silu=silu), rtol=1e-4, atol=2e-4)
    native.group_norm_grad(
        *map(at, (x, weight, bias, statistics, g, grad_x, grad_weight, grad_bias)),
        *(batch, pixels, channels, groups, silu, False),
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
    """If exp overflows or underflows, z sigmoid(z) is still z or 0; NaN stays NaN."""
    bias = np.array([-1e8, -200, -90, -30, 0, 30, 90, 200, 3e38, np.nan, 1, 1, 1, 1, 1, 1], dtype=np.float32)
    x, weight, y = np.zeros((1, 2, 16), np.float32), np.ones(16, np.float32), np.empty((1, 2, 16), np.float32)
    statistics = np.empty((1, 16, 2), np.float32)
    native.group_norm(*map(at, (x, weight, bias, y, statistics)), 1, 2, 16, 16, 1e-6, True, False)
    np.testing.assert_allclose(y[0, 0, :4], [0, 0, 0, -30 * np.exp(-30.0)], atol=1e-30, rtol=1e-5)
    np.testing.assert_array_equal(y[0, 0, 4:9], np.array([0, 30, 90, 200, 3e38], dtype=np.float32))
    assert np.isnan(y[0, 0, 9])
    np.testing.assert_array_equal(y[0, 1], y[0, 0])


@pytest.mark.parametrize("columns", [1, 7, 16, 50, 256])
def test_softmax_of_any_scores(native: Kernels, columns: int) -> None:
    scores = 30.0 * normal(np.random.default_rng(0), 5, columns)
    exact = np.exp(scores.astype(np.float64) - scores.max(1, keepdims=True))
    exact /= exact.sum(1, keepdims=True)
    native.softmax(at(scores), 5, columns)
    np.testing.assert_allclose(scores, exact, rtol=3e-6, atol=1e-12)


def test_sum_over_pixels(native: Kernels) -> None:
    x, sums = normal(np.random.default_rng(0), 3, 50, 21), np.empty((3, 21), np.float32)
    native.sum_pixels(at(x), at(sums), *x.shape, False)
    np.testing.assert_allclose(sums, x.sum(1), atol=1e-5)


@given(size=st.integers(1, 100), start=st.integers(0, 100), seed=st.integers(0, 2**64 - 1))
def test_dropout_is_a_function_of_seed_and_position(
    native: Kernels, size: int, start: int, seed: int
) -> None:
    ones, first = np.ones(200, np.float32), np.empty(200, np.float32)
    native.dropout(at(ones), at(first), 200, 0, seed, 0.25, False)
    assert set(np.unique(first)) <= {np.float32(0), np.float32(4 / 3)}
    part = np.empty(size, np.float32)
    native.dropout(at(ones[:size].copy()), at(part), size, start, seed, 0.25, False)
    np.testing.assert_array_equal(part, first[start : start + size])


def test_dropout_has_the_right_rate_everywhere(native: Kernels) -> None:
    ones, size = np.ones(1_000_000, np.float32), 1_000_000
    masks = []
    for seed in range(8):
        y = np.empty_like(ones)
        native.dropout(at(ones), at(y), size, 0, seed, 0.1, False)
        masks.append(y > 0)
    kept = np.array(masks)
    deviation = np.sqrt(0.1 * 0.9)
    assert np.abs(kept.mean(1) - 0.9).max() < 5 * deviation / np.sqrt(size)
    for block in np.split(kept, 1000, axis=1):
        assert np.abs(block.mean(1) - 0.9).max() < 6 * deviation / np.sqrt(1000)
    # Neither neighbouring seeds nor neighbouring elements are correlated.
    dropped = ~kept
    pairs = [dropped[:-1] & dropped[1:], dropped[:, :-1] & dropped[:, 1:], dropped[:, :-16] & dropped[:, 16:]]
    for pair in pairs:
        assert np.abs(pair.mean(1) - 0.01).max() < 5 * np.sqrt(0.01 * 0.99 / size)


# --- bf16 ---------------------------------------------------------------------------------------------------


def assert_within_one_rounding(found: Bf16, exact: Array) -> None:
    """Compare with the results of fp32, rounded once."""
    np.testing.assert_allclose(from_bf16(found), exact, rtol=2**-8 + 1e-5, atol=1e-5)


def assert_rounded_once(found: Bf16, exact: Exact) -> None:
    """Allow one rounding to bf16, and a few of fp32 for sums of this size."""
    bound = 2**-8 * np.abs(exact) + 3e-5 * max(1.0, float(np.abs(exact).max()))
    assert (np.abs(from_bf16(found) - exact) <= bound).all()


@settings(max_examples=40)
@given(
    sizes=st.one_of(SIZES, WIDE), seed=st.integers(0, 2**32 - 1), given_parts=st.tuples(*[st.booleans()] * 3)
)
def test_bf16_convolution_rounds_only_its_result(
    native: Kernels, sizes: tuple[int, ...], seed: int, given_parts: tuple[bool, ...]
) -> None:
    """With weights that bf16 can represent: matrix units round others first."""
    batch, height, width, channels, out = sizes
    rng = np.random.default_rng(seed)
    x, residual = to_bf16(normal(rng, batch, height, width, channels)), to_bf16(normal(rng, *sizes[:3], out))
    w, bias, shift = rounded(normal(rng, out, channels, 3, 3)), normal(rng, out), normal(rng, batch, out)
    kept = bias if given_parts[0] else None, shift if given_parts[1] else None
    u, y = transform(native, w, turned=False, bf16=True), unwritten(batch, height, width, out)
    last = at(residual) if given_parts[2] else None
    native.conv3x3(at(x), at(u), *map(at, kept), last, at(y), *sizes, True)
    exact = correlate(from_bf16(x), w)
    exact += given_parts[0] * bias.astype(np.float64)
    exact += given_parts[1] * shift[:, None, None]
    exact += given_parts[2] * from_bf16(residual)
    assert_rounded_once(y, exact)
    if not native.has_matrix_units():
        wide_residual = from_bf16(residual) if given_parts[2] else None
        assert_within_one_rounding(y, convolve(native, from_bf16(x), u, out, *kept, wide_residual))


@settings(max_examples=40)
@given(sizes=st.one_of(SIZES, WIDE), seed=st.integers(0, 2**32 - 1))
def test_gradients_of_the_bf16_convolution(native: Kernels, sizes: tuple[int, ...], seed: int) -> None:
    batch, height, width, channels, out = sizes
    rng = np.random.default_rng(seed)
    x, g = (to_bf16(normal(rng, *sizes[:3], size)) for size in (channels, out))
    w, grad_x = rounded(normal(rng, out, channels, 3, 3)), unwritten(batch, height, width, channels)
    u = transform(native, w, turned=True, bf16=True)
    native.conv3x3(at(g), at(u), None, None, None, at(grad_x), *sizes[:3], out, channels, True)
    turned = np.ascontiguousarray(w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3))
    assert_rounded_once(grad_x, correlate(from_bf16(g), turned))
    grads = [np.full_like(w, np.nan) for _ in range(2)]
    native.conv3x3_grad_weights(at(x), at(g), at(grads[0]), *sizes, True)
    wide_x, wide_g = from_bf16(x), from_bf16(g)
    native.conv3x3_grad_weights(at(wide_x), at(wide_g), at(grads[1]), *sizes, False)
    assert_close(grads[0], grads[1].astype(np.float64))


def test_bf16_image_does_not_depend_on_the_rest_of_the_batch(native: Kernels) -> None:
    rng = np.random.default_rng(0)
    x, w = to_bf16(normal(rng, 13, 8, 8, 40)), normal(rng, 24, 40, 3, 3)
    u, together = transform(native, w, turned=False, bf16=True), unwritten(13, 8, 8, 24)
    native.conv3x3(at(x), at(u), None, None, None, at(together), *x.shape, 24, True)
    for image in range(len(x)):
        alone = unwritten(1, 8, 8, 24)
        native.conv3x3(at(x[image]), at(u), None, None, None, at(alone), 1, *x.shape[1:], 24, True)
        np.testing.assert_array_equal(alone[0], together[image])


def test_only_matrix_units_round_the_weights_and_to_nearest(native: Kernels) -> None:
    w = normal(np.random.default_rng(0), 40, 24, 3, 3)
    exact, own = (transform(native, weight, turned=False, bf16=True) for weight in (rounded(w), w))
    assert np.array_equal(own.view(np.uint32), exact.view(np.uint32)) == native.has_matrix_units()


@pytest.mark.process
@pytest.mark.parametrize("flag", ["-DDDIM_EMULATE_TILES", "-DDDIM_WITHOUT_TILES"])
def test_bf16_convolutions_with_and_without_matrix_units(flag: str, tmp_path: Path) -> None:
    """The tests above with the code that this processor does not run, in a process of its own."""
    compiler = os.environ.get("CXX") or "g++"
    environment = {
        **os.environ,
        "CXX": f"{compiler} {flag}",
        "DDIM_HOST_CACHE": str(tmp_path),
        "DDIM_HOST_KERNELS": "native",
    }
    out = pass_tests(
        "-k", "(bf16 or weights) and not with_and_without", __file__, cwd=ROOT, env=environment, timeout=1200
    )
    assert "skipped" not in out


@settings(max_examples=40)
@given(sizes=SIZES, seed=st.integers(0, 2**32 - 1), given_parts=st.tuples(*[st.booleans()] * 3))
def test_add_in_fp32_and_bf16(
    native: Kernels, sizes: tuple[int, ...], seed: int, given_parts: tuple[bool, ...]
) -> None:
    batch, height, width, channels, _ = sizes
    rng = np.random.default_rng(seed)
    shape = batch, height * width, channels
    y, residual = rounded(normal(rng, *shape)), rounded(normal(rng, *shape))
    bias, shift = normal(rng, channels), normal(rng, batch, channels)
    exact = y + given_parts[0] * bias + given_parts[1] * shift[:, None] + given_parts[2] * residual
    half_y, half_residual = to_bf16(y), to_bf16(residual)
    vectors = at(bias) if given_parts[0] else None, at(shift) if given_parts[1] else None
    native.add(at(y), *vectors, at(residual) if given_parts[2] else None, *shape, False)
    np.testing.assert_allclose(y, exact, atol=1e-6, rtol=1e-6)
    native.add(at(half_y), *vectors, at(half_residual) if given_parts[2] else None, *shape, True)
    assert_within_one_rounding(half_y, exact)


@settings(max_examples=40)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(2, 40), st.integers(1, 5), st.integers(1, 9)),
    seed=st.integers(0, 2**32 - 1),
    silu=st.booleans(),
)
def test_bf16_group_norm_rounds_only_its_results(
    native: Kernels, sizes: tuple[int, int, int, int], seed: int, *, silu: bool
) -> None:
    """Both directions equal those of fp32, which are tested above, for inputs that bf16 can represent."""
    batch, pixels, groups, width = sizes
    channels = groups * width
    rng = np.random.default_rng(seed)
    x, g = (rounded(normal(rng, batch, pixels, channels)) for _ in range(2))
    weight, bias = normal(rng, channels), normal(rng, channels)
    assume(x.reshape(batch, pixels, groups, width).std((1, 3)).min() > 0.1)
    shape = batch, pixels, channels, groups
    results: list[tuple[Any, ...]] = []
    for bf16 in (False, True):
        images = [to_bf16(image) if bf16 else image for image in (x, g)]
        y, grad_x = (unwritten(*x.shape) if bf16 else np.full_like(x, np.nan) for _ in range(2))
        statistics = np.full((batch, groups, 2), np.nan, dtype=np.float32)
        grad_weight, grad_bias = np.full_like(weight, np.nan), np.full_like(bias, np.nan)
        native.group_norm(*map(at, (images[0], weight, bias, y, statistics)), *shape, 1e-6, silu, bf16)
        native.group_norm_grad(
            *map(at, (images[0], weight, bias, statistics, images[1], grad_x, grad_weight, grad_bias)),
            *(*shape, silu, bf16),
        )
        results.append((y, grad_x, statistics, grad_weight, grad_bias))
    exact, found = results
    arrays = [array.astype(np.float64) for array in (x, weight, bias)]
    true = normalised(arrays, groups, silu=silu)
    assert (np.abs(from_bf16(found[0]) - true) <= 2**-8 * np.abs(true) + 2e-4).all()
    for bits, values in zip(found[:2], exact[:2], strict=True):
        assert_within_one_rounding(bits, values)
    for values, same in zip(found[2:], exact[2:], strict=True):
        np.testing.assert_allclose(values, same, rtol=1e-4, atol=1e-4)


@given(size=st.integers(1, 100), start=st.integers(0, 100), seed=st.integers(0, 2**64 - 1))
def test_bf16_dropout_has_the_mask_of_fp32(native: Kernels, size: int, start: int, seed: int) -> None:
    x = rounded(normal(np.random.default_rng(size), size))
    held, exact = to_bf16(x), np.empty(size, np.float32)
    native.dropout(at(held), at(held), size, start, seed, 0.25, True)
    native.dropout(at(x), at(exact), size, start, seed, 0.25, False)
    np.testing.assert_array_equal(from_bf16(held), rounded(exact))


def test_bf16_rounds_to_nearest_even(native: Kernels) -> None:
    """Full vectors and remainders are tested with ties, infinity and NaN."""
    bias = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8 - 2**-20, 3.4e38, np.inf, np.nan], np.float32)
    expected = np.array([1, 1, 1 + 2**-6, -1 - 2**-7, np.inf, np.inf, np.nan], np.float32)
    for repeats in (1, 16):
        y, values = np.zeros(7 * repeats, np.uint16), np.tile(bias, repeats)
        native.add(at(y), at(values), None, None, 1, 1, len(y), True)
        np.testing.assert_array_equal(from_bf16(y), np.tile(expected, repeats))


def test_sum_of_bf16_pixels_is_fp32(native: Kernels) -> None:
    x, sums = to_bf16(normal(np.random.default_rng(0), 3, 50, 21)), np.empty((3, 21), np.float32)
    native.sum_pixels(at(x), at(sums), *x.shape, True)
    np.testing.assert_allclose(sums, from_bf16(x).sum(1), atol=1e-5)


PORTABLE = """
import numpy as np
from ddim_host.framework.kernels import load_kernels
native = load_kernels()
values = np.random.default_rng(0).standard_normal(200).astype(np.float32)
y = np.zeros(200, np.uint16)
native.add(y.ctypes.data, values.ctypes.data, None, None, 1, 1, 200, True)
print(y.tobytes().hex())
"""


def test_bf16_is_the_same_without_bf16_instructions(python: PythonCode, tmp_path: Path) -> None:
    """Processors without AVX512_BF16 round with integers, and must yield the same bits as others."""
    plain = tmp_path / "c++"
    plain.write_text('#!/bin/sh\nexec g++ "$@" -mno-avx512bf16\n')
    plain.chmod(0o755)
    portable = python(PORTABLE, env={"DDIM_HOST_CACHE": str(tmp_path / "cache"), "CXX": str(plain)})
    if "cannot be compiled" in portable.err:
        pytest.skip("this compiler does not support these instructions")
    values = np.random.default_rng(0).standard_normal(200).astype(np.float32)
    assert portable.out.strip() == to_bf16(values).tobytes().hex()
    assert python(PORTABLE).out == portable.out


CHOOSE = """
import sys
from ddim_host.errors import UserError
from ddim_host.framework.kernels import cpu_kernels
try:
    print(cpu_kernels() is not None)
except UserError as error:
    print(f"{error.what}; {error.why}; {error.fix}")
"""


def test_kernels_are_compiled_once(python: PythonCode, tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    env = {"DDIM_HOST_CACHE": str(tmp_path), "CXX": str(compiler)}
    first = python(CHOOSE, env=env)
    assert first.out == "True\n"
    assert first.err.startswith("compiling kernels for this processor (only once): ")
    (library,) = (tmp_path / "kernels").iterdir()
    when = library.stat().st_mtime_ns
    compiler.unlink()  # compiled kernels need no compiler
    again = python(CHOOSE, env=env)
    assert (again.out, again.err) == ("True\n", "")
    assert library.stat().st_mtime_ns == when


def test_another_compiler_compiles_its_own_kernels(python: PythonCode, tmp_path: Path) -> None:
    env = {"DDIM_HOST_CACHE": str(tmp_path)}
    assert python(CHOOSE, env=env).out == "True\n"
    assert python(CHOOSE, env={**env, "CXX": "no-such-compiler"}).out == "False\n"


def test_missing_compiler_is_a_note_unless_kernels_are_required(python: PythonCode, tmp_path: Path) -> None:
    env = {"DDIM_HOST_CACHE": str(tmp_path), "CXX": "no-such-compiler"}
    auto = python(CHOOSE, env=env)
    assert auto.out == "False\n"
    assert "there is no C++ compiler no-such-compiler" in auto.err
    assert "using the framework's own operations" in auto.err
    demanded = python(CHOOSE, env={**env, "DDIM_HOST_KERNELS": "native"})
    assert demanded.out.startswith("the native kernels cannot be compiled; there is no C++ compiler")
    assert "DDIM_HOST_KERNELS=framework" in demanded.out


def test_message_of_a_failed_compiler_is_printed(python: PythonCode, tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho kernels.cpp: error: too modern >&2\nexit 1\n")
    compiler.chmod(0o755)
    env = {"DDIM_HOST_CACHE": str(tmp_path / "cache"), "CXX": str(compiler)}
    assert "too modern" in python(CHOOSE, env=env).err
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("wanted", "printed"), [("framework", "False"), ("fast", "DDIM_HOST_KERNELS must")])
def test_variable_chooses_the_kernels(python: PythonCode, wanted: str, printed: str) -> None:
    assert python(CHOOSE, env={"DDIM_HOST_KERNELS": wanted}).out.startswith(printed)


def test_damaged_library_is_recompiled(python: PythonCode, tmp_path: Path) -> None:
    own: dict[str, Any] = {"env": {"DDIM_HOST_CACHE": str(tmp_path)}}
    python(CHOOSE, **own)
    (library,) = (tmp_path / "kernels").iterdir()
    content = library.read_bytes()
    library.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    again = python(CHOOSE, **own)
    assert again.out == "True\n"
    assert again.err.startswith("compiling kernels for this processor (only once): ")
    assert library.read_bytes() == content


def test_library_that_cannot_be_loaded_is_one_error(python: PythonCode, tmp_path: Path) -> None:
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
