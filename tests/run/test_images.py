"""Conversion between pixels and the range of the network, and grids of images."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ddim_host.run.images import (
    Enlargement,
    enlarged,
    grid_canvas,
    grid_images,
    grid_layout,
    grid_png,
    to_network,
    to_uint8,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


def network_values(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32).reshape(1, 1, 1, -1)


def test_every_pixel_value_survives_the_round_trip() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    x = to_network(pixels)
    assert (float(x.min()), float(x.max())) == (-1.0, 1.0)
    np.testing.assert_array_equal(to_uint8(x), pixels)


def test_channels_are_first_in_the_network_and_last_in_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    x = to_network(images)
    assert x.dtype == np.float32
    assert x.shape == (2, 3, 4, 5)
    assert x.flags.c_contiguous
    assert x[1, 2, 3, 4] == pytest.approx(images[1, 3, 4, 2] / 127.5 - 1, abs=1e-6)
    back = to_uint8(x)
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, images)


def test_values_out_of_range_are_clipped() -> None:
    """The original code (docs/seed.md) wrapped around: values slightly above white became black specks."""
    pixels = to_uint8(network_values(-1.001, -1.02, -50, 1.001, 1.02, 50)).ravel()
    assert pixels.tolist() == [0, 0, 0, 255, 255, 255]


@given(st.integers(0, 255), st.floats(-0.49, 0.49))
def test_values_between_pixels_round_to_the_nearest(pixel: int, offset: float) -> None:
    """The original code (docs/seed.md) truncated, which darkened images by half a level."""
    value = (pixel + offset) / 127.5 - 1
    assert to_uint8(network_values(value)).item() == pixel


def decode(png: bytes) -> NDArray[np.uint8]:
    assert png.startswith(b"\x89PNG")
    with Image.open(io.BytesIO(png)) as picture:
        pixels = np.asarray(picture)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def runs(dark: NDArray[np.bool_]) -> list[slice]:
    """Return the slices of consecutive lines that are not empty."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], dark.astype(np.int8), [0]])))
    return [slice(start, stop) for start, stop in edges.reshape(-1, 2).tolist()]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 32, 100])
@pytest.mark.parametrize(
    ("count", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (3, 2, 2), (5, 2, 3), (9, 3, 3), (12, 3, 4)]
)
def test_grid_shows_every_image_in_order(
    channels: int, size: int, count: int, rows: int, columns: int
) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(
        0, 255, (count, size, size, channels), dtype=np.uint8
    )  # never white, as the gaps are
    canvas = decode(grid_png(images, enlargement=Enlargement(nearest=True)))
    assert canvas.shape[2] == channels
    dark = (canvas != 255).any(axis=2)
    down, across = runs(dark.any(axis=1)), runs(dark.any(axis=0))
    assert (len(down), len(across)) == (rows, columns)
    cells = [canvas[y, x] for y in down for x in across]
    scale = cells[0].shape[0] // size
    assert size * scale >= 40, "small images must be enlarged"
    for cell, image in zip(cells, images, strict=False):
        np.testing.assert_array_equal(cell, image.repeat(scale, axis=0).repeat(scale, axis=1))
    assert all(np.all(cell == 128) for cell in cells[count:]), "empty cells must be grey"


@given(st.integers(1, 13), st.booleans(), st.sampled_from([1, 3]), st.integers(1, 7))
def test_images_are_recovered_from_a_grid_of_any_enlargement(
    scale: int, nearest: bool, channels: int, count: int
) -> None:
    """Reports compare the pixels of grids, so smoothing must be exactly reversible."""
    images = np.random.default_rng(scale).integers(0, 256, (count, 8, 6, channels), dtype=np.uint8)
    png = grid_png(images, columns=3, enlargement=Enlargement(scale, nearest))
    np.testing.assert_array_equal(grid_images(png, count, (8, 6, channels), columns=3), images)


@pytest.mark.parametrize("scale", [2, 3, 8, 12])
def test_enlargement_is_smooth_and_stays_within_the_range(scale: int) -> None:
    edge = np.zeros((8, 8, 1), np.uint8)
    edge[:, 4:] = 255  # the filter overshoots these values unless it is limited
    steps = np.abs(np.diff(enlarged(edge, scale).astype(int), axis=1))
    squares = np.abs(np.diff(enlarged(edge, scale, Enlargement(nearest=True)).astype(int), axis=1))
    assert squares.max() == 255
    assert steps.max() <= 255 * 1.5 / scale
    flat = np.full((8, 8, 3), 77, np.uint8)
    assert np.all(enlarged(flat, scale) == 77), "the border must equal the inside"


@pytest.mark.parametrize(
    ("count", "size", "channels", "scale"),
    [
        (64, 8, 1, 12),
        (16, 28, 1, 4),
        (64, 32, 3, 2),
        (64, 8, 3, 8),
        (9, 100, 1, 1),
        (9, 128, 3, 1),
        (10_000, 8, 1, 2),
        (10_000, 32, 3, 1),
    ],
)
def test_small_images_are_enlarged_and_large_grids_are_limited(
    count: int, size: int, channels: int, scale: int
) -> None:
    assert grid_layout(count, (size, size, channels)).scale == scale


def test_explicit_enlargement_is_used() -> None:
    images = np.zeros((4, 8, 8, 1), np.uint8)
    assert grid_canvas(images, enlargement=Enlargement(5)).shape[0] > 80
    assert grid_canvas(images, enlargement=Enlargement(1)).shape == (19, 19, 1)
