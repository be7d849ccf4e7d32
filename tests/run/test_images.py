"""From pixels to the network's range and back, and the grid."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ddim_host.run.images import grid_png, to_network, to_uint8

if TYPE_CHECKING:
    from numpy.typing import NDArray


def network_values(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32).reshape(1, 1, 1, -1)


def test_every_pixel_value_survives_the_round_trip() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    x = to_network(pixels)
    assert (float(x.min()), float(x.max())) == (-1.0, 1.0)
    np.testing.assert_array_equal(to_uint8(x), pixels)


def test_channels_come_first_inside_and_last_outside() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    x = to_network(images)
    assert x.dtype == np.float32
    assert x.shape == (2, 3, 4, 5)
    assert x.flags.c_contiguous
    assert x[1, 2, 3, 4] == pytest.approx(images[1, 3, 4, 2] / 127.5 - 1, abs=1e-6)
    back = to_uint8(x)
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, images)


def test_values_out_of_range_stop_at_the_end() -> None:
    """The seed's conversion wrapped around: slightly more than white became black, seen as specks."""
    pixels = to_uint8(network_values(-1.001, -1.02, -50, 1.001, 1.02, 50)).ravel()
    assert pixels.tolist() == [0, 0, 0, 255, 255, 255]


@given(st.integers(0, 255), st.floats(-0.49, 0.49))
def test_values_between_pixels_round_to_the_nearest(pixel: int, offset: float) -> None:
    """The seed's conversion cut off instead, which darkens an image by half a step."""
    value = (pixel + offset) / 127.5 - 1
    assert to_uint8(network_values(value)).item() == pixel


def decode(png: bytes) -> NDArray[np.uint8]:
    assert png.startswith(b"\x89PNG")
    with Image.open(io.BytesIO(png)) as picture:
        pixels = np.asarray(picture)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def runs(dark: NDArray[np.bool_]) -> list[slice]:
    """Where something is, between empty lines."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], dark.astype(np.int8), [0]])))
    return [slice(start, stop) for start, stop in edges.reshape(-1, 2).tolist()]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 32, 100])
@pytest.mark.parametrize(
    ("count", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (3, 2, 2), (5, 2, 3), (9, 3, 3), (12, 3, 4)]
)
def test_a_grid_shows_every_image_in_order(
    channels: int, size: int, count: int, rows: int, columns: int
) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(
        0, 255, (count, size, size, channels), dtype=np.uint8
    )  # never white, as the gaps are
    canvas = decode(grid_png(images))
    assert canvas.shape[2] == channels
    dark = (canvas != 255).any(axis=2)
    down, across = runs(dark.any(axis=1)), runs(dark.any(axis=0))
    assert (len(down), len(across)) == (rows, columns)
    cells = [canvas[y, x] for y in down for x in across]
    scale = cells[0].shape[0] // size
    assert size * scale >= 40, "small images are enlarged"
    for cell, image in zip(cells, images, strict=False):
        np.testing.assert_array_equal(cell, image.repeat(scale, axis=0).repeat(scale, axis=1))
    assert all(np.all(cell == 128) for cell in cells[count:]), "neither an image nor a glare"
