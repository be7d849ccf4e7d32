"""Between stored images and the network's range, and from images to a picture."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.data import Images

__all__ = ["grid_png", "image_png", "to_network", "to_uint8"]

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
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    scale = max(1, _LEGIBLE // height)
    gap = max(1, scale // 4)
    cell_height, cell_width = height * scale + gap, width * scale + gap
    canvas = np.full((rows * cell_height + gap, columns * cell_width + gap, channels), 255, dtype=np.uint8)
    for cell in range(rows * columns):
        row, column = divmod(cell, columns)
        top, left = gap + row * cell_height, gap + column * cell_width
        # Where the last row is not full, its cells are no brighter than an image.
        content = images[cell].repeat(scale, axis=0).repeat(scale, axis=1) if cell < count else _EMPTY
        canvas[top : top + height * scale, left : left + width * scale] = content
    return image_png(canvas, optimize=True)


def image_png(image: NDArray[np.uint8], *, optimize: bool = False) -> bytes:
    """A PNG of one image, uint8 `(H, W, C)`, as it is; `optimize` takes longer for a smaller file."""
    # Pillow takes a tenth of a second to import, which only those who draw should pay.
    from PIL import Image  # noqa: PLC0415

    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=optimize)
    return buffer.getvalue()
