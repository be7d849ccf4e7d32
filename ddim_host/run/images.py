"""Conversion of images to and from the network's range, and grids of many images."""

from __future__ import annotations

import io
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from ddim_host.plugin.data import Images

_EMPTY = 128
"""Grey level of empty cells in a grid."""

_LEGIBLE, _LIGHT = 96, 64
"""Target sizes of enlarged images in pixels; the second is for RGB and animations, to limit file sizes."""

_MOST_ENLARGED = 128
"""Maximum width in pixels of an image enlarged by the default scale."""

_MOST_WIDTH = 2000
"""Maximum width in pixels of a grid at the default scale; only grids at scale 1 may exceed it."""

MAX_CANVAS = 89_478_485
"""Maximum number of pixels in a grid; Pillow warns of a decompression bomb if a picture has more."""

MAX_GRID_BYTES = 3 * MAX_CANVAS + (1 << 20)
"""Maximum size of the PNG file of a grid."""

_REACH = 2
"""Number of pixels on either side that the bicubic filter uses."""


@dataclass(frozen=True)
class Enlargement:
    """Enlargement of small images in a grid; stored and compared images keep their original size.

    Attributes:
        scale: Grid pixels per image pixel, in each direction; None chooses a scale from the image size.
        nearest: Show pixels as squares; otherwise a bicubic filter smooths them.
    """

    scale: int | None = None
    nearest: bool = False


AUTOMATIC = Enlargement()
"""Smooth enlargement to a legible size."""


def to_network(images: Images) -> NDArray[np.float32]:
    """Convert uint8 `(N, H, W, C)` to float32 `(N, C, H, W)` in [-1, 1]."""
    scaled = images.astype(np.float32) / np.float32(127.5) - np.float32(1.0)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def to_uint8(x: NDArray[np.float32]) -> Images:
    """Clip float32 `(N, C, H, W)` to [-1, 1], and round to uint8 `(N, H, W, C)`."""
    scaled = (np.clip(x, -1.0, 1.0) + 1.0) * 127.5
    return np.ascontiguousarray(np.rint(scaled).astype(np.uint8).transpose(0, 2, 3, 1))


def grid_png(images: Images, *, columns: int | None = None, enlargement: Enlargement = AUTOMATIC) -> bytes:
    """Return a PNG with all images arranged in rows.

    Args:
        images: uint8 `(N, H, W, C)`, N >= 1.
        columns: Images per row; None for a nearly square grid.
        enlargement: Enlargement of small images.
    """
    return image_png(grid_canvas(images, columns=columns, enlargement=enlargement))


def grid_canvas(
    images: Images, *, columns: int | None = None, enlargement: Enlargement = AUTOMATIC
) -> NDArray[np.uint8]:
    """Return the pixels of a grid, uint8 `(height, width, C)`; see `grid_png`."""
    layout = grid_layout(len(images), images.shape[1:], columns, enlargement.scale)
    canvas = np.full((*layout.size, images.shape[3]), 255, dtype=np.uint8)
    for cell in range(layout.rows * layout.columns):
        # Empty cells of the last row are grey, so that they are no brighter than the images.
        filled = cell < len(images)
        canvas[layout.cell(cell)] = enlarged(images[cell], layout.scale, enlargement) if filled else _EMPTY
    return canvas


def enlarged(image: NDArray[np.uint8], scale: int, how: Enlargement = AUTOMATIC) -> NDArray[np.uint8]:
    """Enlarge one image.

    In each block of `scale` by `scale` pixels, the pixel at position `scale // 2` is the original pixel,
    unchanged, because all but one of the filter's weights are 0 there.

    Args:
        image: uint8 `(H, W, C)`.
        scale: Pixels of the result per original pixel, in each direction.
        how: The enlargement, smooth or with square pixels.

    Returns:
        uint8 `(H scale, W scale, C)`.
    """
    if scale == 1 or how.nearest:
        return image.repeat(scale, axis=0).repeat(scale, axis=1)
    # Importing Pillow takes a tenth of a second, so it is imported only for drawing.
    from PIL import Image  # noqa: PLC0415

    height, width, channels = image.shape
    padded = np.pad(image, ((_REACH, _REACH), (_REACH, _REACH), (0, 0)), mode="edge")
    # A block of even size has no middle pixel, so shift the image by half a pixel of the result.
    begin = _REACH - (0.5 / scale if scale % 2 == 0 else 0.0)
    resized = as_picture(padded).resize(
        (width * scale, height * scale),
        Image.Resampling.BICUBIC,
        box=(begin, begin, begin + width, begin + height),
    )
    return np.asarray(resized).reshape(height * scale, width * scale, channels)


def grid_images(
    png: bytes, count: int, image_shape: tuple[int, int, int], *, columns: int | None = None
) -> Images:
    """Return the images of a grid at their original size: the inverse of `grid_png` for any enlargement.

    Args:
        png: The grid.
        count: The number of images N.
        image_shape: `(H, W, C)`.
        columns: The value passed to `grid_png`.

    Returns:
        uint8 `(N, H, W, C)`.

    Raises:
        ValueError: The data is not a PNG of a grid of these images, or `count` is not positive.
    """
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415

    if count < 1:
        raise ValueError(f"a grid cannot have {count} images")
    height, width, channels = image_shape
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            layout = _layout_of_size(picture.size[::-1], count, image_shape, columns)
            if layout is None or picture.mode != ("L" if channels == 1 else "RGB"):
                raise ValueError(f"it is not a grid of {count} images of {height} x {width} x {channels}")
            canvas = np.asarray(picture).reshape(*layout.size, channels)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise ValueError(f"it is not a PNG file: {error}") from error
    scale = layout.scale
    cells = [canvas[layout.cell(cell)] for cell in range(count)]
    return np.stack([cell[scale // 2 :: scale, scale // 2 :: scale] for cell in cells])


class GridLayout:
    """Layout of the cells of a grid.

    Attributes:
        rows: Number of rows.
        columns: Number of cells per row.
        scale: Grid pixels per image pixel, in each direction.
        size: Height and width of the grid in pixels.
    """

    def __init__(self, count: int, height: int, width: int, columns: int, scale: int) -> None:
        self.columns = columns
        self.rows = math.ceil(count / columns)
        self.scale = scale
        self._height, self._width = height * scale, width * scale
        self._gap = max(1, self._width // 16)
        self.size = (
            self.rows * (self._height + self._gap) + self._gap,
            self.columns * (self._width + self._gap) + self._gap,
        )

    def cell(self, number: int) -> tuple[slice, slice]:
        """Return the pixel rows and pixel columns that a cell covers."""
        row, column = divmod(number, self.columns)
        top = self._gap + row * (self._height + self._gap)
        left = self._gap + column * (self._width + self._gap)
        return slice(top, top + self._height), slice(left, left + self._width)


def grid_layout(
    count: int,
    image_shape: tuple[int, ...],
    columns: int | None = None,
    scale: int | None = None,
    *,
    light: bool = False,
) -> GridLayout:
    """Lay out a grid.

    Args:
        count: The number of images.
        image_shape: `(H, W, C)`.
        columns: Images per row; None for a nearly square grid.
        scale: Grid pixels per image pixel, in each direction; None chooses a scale from the image size.
        light: Choose a smaller scale, because the grid is one of many.
    """
    height, width, channels = image_shape
    columns = columns or math.ceil(math.sqrt(count))
    if scale is None:
        size = max(height, width)
        wanted = _LIGHT if light or channels == 3 else _LEGIBLE
        legible = min(math.ceil(wanted / size), _MOST_ENLARGED // size)
        scale = max(1, min(legible, _MOST_WIDTH // (columns * size)))
    return GridLayout(count, height, width, columns, scale)


def _layout_of_size(
    size: tuple[int, int], count: int, image_shape: tuple[int, int, int], columns: int | None
) -> GridLayout | None:
    """Return the layout with this height and width in pixels, or None if no scale results in them."""
    for scale in itertools.count(1):
        layout = grid_layout(count, image_shape, columns, scale)
        if layout.size == size:
            return layout
        if layout.size[0] > size[0]:
            return None
    raise AssertionError("unreachable")


def image_png(image: NDArray[np.uint8], *, optimize: bool = False) -> bytes:
    """Return a PNG of one image, uint8 `(H, W, C)`, unscaled; `optimize` is slower but saves space."""
    buffer = io.BytesIO()
    as_picture(image).save(buffer, format="PNG", optimize=optimize)
    return buffer.getvalue()


def as_picture(image: NDArray[np.uint8]) -> Image.Image:
    """Return one image, uint8 `(H, W, C)`, as a Pillow image."""
    from PIL import Image  # noqa: PLC0415

    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
