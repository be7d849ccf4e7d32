"""Embedded pictures: enlarged smoothly, compressed, and limited in total size."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

    from ddim_host.plugin.data import Images

_CELL = 64
"""Size in pixels to which each image in a sheet is enlarged, about its size on the page."""

_GAP = 4
_MOST_WIDTH = 800
_QUALITY = 85


@dataclass(frozen=True)
class Picture:
    """A picture embedded in the page.

    Attributes:
        address: The picture as a `data:` URL.
        alt: Alternative text.
        width: Width in pixels.
        height: Height in pixels.
    """

    address: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class Captioned:
    """A picture with its caption."""

    picture: Picture
    caption: str


class PictureBudget:
    """Embeds pictures up to a limit on their total size.

    Args:
        most_bytes: Limit on the total size of the `data:` URLs.
    """

    def __init__(self, most_bytes: int) -> None:
        self._left = most_bytes
        self.num_refused = 0

    def sheet(self, images: Images, alt: str, *, columns: int | None = None) -> Picture | None:
        """Embed images in rows.

        Args:
            images: uint8 `(N, H, W, C)`, N >= 1.
            alt: Alternative text.
            columns: Images per row; None for a nearly square sheet.

        Returns:
            The picture; None if it exceeds the limit.
        """
        return self._embedded(_sheet(images, columns or math.ceil(math.sqrt(len(images)))), alt)

    def file(self, png: bytes, alt: str) -> Picture | None:
        """Embed a picture, reduced to the maximum size on a page.

        Args:
            png: The file.
            alt: Alternative text.

        Returns:
            The picture; None if it exceeds the limit, or if the file is not a PNG.
        """
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415

        try:
            with Image.open(io.BytesIO(png), formats=["PNG"]) as opened:
                opened.thumbnail((_MOST_WIDTH, 4 * _MOST_WIDTH), Image.Resampling.LANCZOS)
                picture = opened.convert("RGB")
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError):
            self.num_refused += 1
            return None
        return self._embedded(picture, alt)

    def _embedded(self, picture: Image.Image, alt: str) -> Picture | None:
        buffer = io.BytesIO()
        picture.save(buffer, format="WEBP", quality=_QUALITY, method=4)
        address = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
        if len(address) > self._left:
            self.num_refused += 1
            return None
        self._left -= len(address)
        return Picture(address, alt, *picture.size)


def _sheet(images: Images, columns: int) -> Image.Image:
    """Arrange images in rows on a transparent background."""
    from PIL import Image  # noqa: PLC0415

    count, height, width, channels = images.shape
    scale = max(1, _CELL // max(height, width))
    across, down = width * scale, height * scale
    rows = math.ceil(count / columns)
    size = (columns * (across + _GAP) - _GAP, rows * (down + _GAP) - _GAP)
    whole = Image.new("RGBA", size)
    for cell, image in enumerate(images):
        row, column = divmod(cell, columns)
        shown = Image.fromarray(np.ascontiguousarray(image[:, :, 0] if channels == 1 else image))
        shown = shown.resize((across, down), Image.Resampling.BICUBIC)
        whole.paste(shown.convert("RGB"), (column * (across + _GAP), row * (down + _GAP)))
    whole.thumbnail((_MOST_WIDTH, 4 * _MOST_WIDTH), Image.Resampling.LANCZOS)
    return whole
