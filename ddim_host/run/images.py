"""Between stored images and the network's range, and from images to a picture."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.plugin.data import Images

_EMPTY = 128
"""The grey of a cell of a grid that holds no image."""

_LEGIBLE = 64
"""Height in pixels that a small image is enlarged to in a grid."""


def to_network(images: Images) -> NDArray[np.float32]:
    """uint8 `(N, H, W, C)` to float32 `(N, C, H, W)` in [-1, 1]."""
    scaled = images.astype(np.float32) / np.float32(127.5) - np.float32(1.0)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def to_uint8(x: NDArray[np.float32]) -> Images:
    """Float32 `(N, C, H, W)` to uint8 `(N, H, W, C)`: limited to [-1, 1] and rounded, so nothing wraps."""
    scaled = (np.clip(x, -1.0, 1.0) + 1.0) * 127.5
    return np.ascontiguousarray(np.rint(scaled).astype(np.uint8).transpose(0, 2, 3, 1))


def grid_png(images: Images, *, columns: int | None = None) -> bytes:
    """A PNG of all images in rows; small ones enlarged pixel by pixel.

    Args:
        images: uint8 `(N, H, W, C)`, N >= 1.
        columns: Images in a row; None makes the grid as square as their number allows.
    """
    count, height, width, channels = images.shape
    layout = _Layout(count, height, width, columns)
    canvas = np.full((*layout.size, channels), 255, dtype=np.uint8)
    scale = layout.scale
    for cell in range(layout.rows * layout.columns):
        # Where the last row is not full, its cells are no brighter than an image.
        content = images[cell].repeat(scale, axis=0).repeat(scale, axis=1) if cell < count else _EMPTY
        canvas[layout.cell(cell)] = content
    return image_png(canvas, optimize=True)


def grid_images(
    png: bytes, count: int, image_shape: tuple[int, int, int], *, columns: int | None = None
) -> Images:
    """The images of a grid, as they were before `grid_png`.

    Args:
        png: The grid.
        count: N.
        image_shape: `(H, W, C)`.
        columns: As it was given to `grid_png`.

    Returns:
        uint8 `(N, H, W, C)`.

    Raises:
        ValueError: It is no PNG, or no such grid; or there is none of so many images.
    """
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415

    if count < 1:
        raise ValueError(f"no grid has {count} images")
    height, width, channels = image_shape
    layout = _Layout(count, height, width, columns)
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            if picture.size != layout.size[::-1] or picture.mode != ("L" if channels == 1 else "RGB"):
                raise ValueError(f"it is no grid of {count} images of {height} x {width} x {channels}")
            canvas = np.asarray(picture).reshape(*layout.size, channels)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise ValueError(f"it is no PNG: {error}") from error
    scale = layout.scale
    return np.stack([canvas[layout.cell(cell)][::scale, ::scale] for cell in range(count)])


class _Layout:
    """Where the cells of a grid are."""

    def __init__(self, count: int, height: int, width: int, columns: int | None) -> None:
        self.columns = columns or math.ceil(math.sqrt(count))
        self.rows = math.ceil(count / self.columns)
        self.scale = max(1, _LEGIBLE // height)
        self._gap = max(1, self.scale // 4)
        self._height, self._width = height * self.scale, width * self.scale
        self.size = (
            self.rows * (self._height + self._gap) + self._gap,
            self.columns * (self._width + self._gap) + self._gap,
        )

    def cell(self, number: int) -> tuple[slice, slice]:
        """Rows and columns of pixels."""
        row, column = divmod(number, self.columns)
        top = self._gap + row * (self._height + self._gap)
        left = self._gap + column * (self._width + self._gap)
        return slice(top, top + self._height), slice(left, left + self._width)


def image_png(image: NDArray[np.uint8], *, optimize: bool = False) -> bytes:
    """A PNG of one image, uint8 `(H, W, C)`, as it is; `optimize` takes longer for a smaller file."""
    # Pillow takes a tenth of a second to import, which only those who draw should pay.
    from PIL import Image  # noqa: PLC0415

    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=optimize)
    return buffer.getvalue()
