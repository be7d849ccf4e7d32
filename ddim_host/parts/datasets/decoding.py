"""Decode image files to grey or RGB pixels."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageChops, TiffImagePlugin, UnidentifiedImageError

from ddim_host.errors import UserError, printable
from ddim_host.parts.datasets.integrity import damage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MAX_PIXELS = 64_000_000
"""Maximum size of an image, checked in its header: a file of a few kilobytes can expand to gigabytes."""


Content: TypeAlias = "bytes | NDArray[np.uint8]"
"""An image file, or the uint8 pixels `(H, W, C)` of an image stored in an array."""

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BrokenImageError(UserError):
    """A file is not an image, or is damaged."""


_DEEP = re.compile(";16[BLN]")
"""Suffix of Pillow's names for 16-bit colours. (`BGR;16`, in contrast, is 5-6-5 in two bytes per pixel.)"""


@dataclass
class SixteenBits:
    """The conversion of 16-bit images to 8 bits, with a record of their largest value.

    Grey values become `round(value * 255 / (2**bits - 1))`. Pillow reads only the high byte of 16-bit
    colours, so they cannot be scaled.

    Attributes:
        bits: The number of bits in use, 8 to 16. Larger values are an error.
        largest: The largest value so far (for colours an upper bound, from the high byte); None before the
            first 16-bit image.
    """

    bits: int = 16
    largest: int | None = None

    def grey(self, values: NDArray[np.int32], name: str) -> NDArray[np.uint8]:
        """Convert grey values `(H, W)` as described in the class; `name` is used in error messages."""
        white = (1 << self.bits) - 1
        fix = "convert all images to 8 bits"
        if self.bits < 16 and values.min() >= 0 and values.max() < 1 << 16:
            fix = f"pass bits={int(values.max()).bit_length()} or more, or {fix}"
        _require_within(values, white, "integers", name, fix)
        self._note(int(values.max()))
        return np.rint(values * 255.0 / white).astype(np.uint8)

    def colours(self, image: Image.Image, name: str) -> None:
        """Note the largest value of an image whose bands contain the high bytes of 16-bit colours.

        Raises:
            UserError: `bits` is not 16.
        """
        if self.bits != 16:
            raise UserError(
                f"{printable(name)} has 16-bit colours, to which bits={self.bits} cannot be applied",
                why="only the high byte of 16-bit colours is read",
                fix="convert all images to 8 bits per channel",
            )
        bands = [band for name, band in zip(image.getbands(), image.split(), strict=True) if name != "A"]
        self._note(max(int(np.asarray(band).max()) for band in bands) << 8 | 0xFF)

    def _note(self, value: int) -> None:
        self.largest = max(value, self.largest or 0)


def read_size(data: Content, name: str) -> tuple[int, int]:
    """Read the width and height of an image from its header.

    Args:
        data: The image.
        name: Name of the image in error messages.

    Returns:
        Width and height in pixels, as stored.

    Raises:
        UserError: The data is not an image, or has more than `MAX_PIXELS`.
    """
    if not isinstance(data, bytes):
        return data.shape[1], data.shape[0]
    with _opened(data, name) as image:
        return image.size


def decode_image(
    data: Content,
    name: str,
    *,
    resize_to: int | None = None,
    channels: int | None = 3,
    sixteen: SixteenBits | None = None,
) -> NDArray[np.uint8]:
    """Decode an image file.

    16-bit pixels are reduced to 8 bits (see `SixteenBits`), floats in [0, 1] are scaled to 0 to 255 (others
    are an error), transparent images are composed over white, CMYK is converted without colour profiles, and
    the camera's orientation is applied. If a file contains several pictures, the first is used. Damage is an
    error if the format makes it detectable; see `integrity`.

    Args:
        data: The bytes of a PNG, JPEG, BMP, GIF, WebP or TIFF file; or pixels, which are only resized.
        name: Name of the image in error messages.
        resize_to: Crop the image to its central square, and resize that to this width and height.
        channels: See `with_channels`.
        sixteen: Converts 16-bit pixels; by default, all 16 bits are in use.

    Returns:
        uint8 `(H, W, C)`.

    Raises:
        UserError: The data is not an image, is damaged or truncated, or has more than `MAX_PIXELS`; or pixels
            are outside the range of their type.
    """
    if not isinstance(data, bytes):
        if resize_to is None:
            return with_channels(data, channels)
        return _pixels(Image.fromarray(data[:, :, 0] if data.shape[2] == 1 else data), resize_to, channels)
    sixteen = sixteen or SixteenBits()
    with _opened(data, name) as image:
        has_deep_colours = (
            any(_DEEP.search(str(tile)) for tile in getattr(image, "tile", ())) and len(image.getbands()) > 1
        )
        upright = _turn_upright(_whole(image, data, resize_to), image)
        if has_deep_colours:
            sixteen.colours(upright, name)
        is_inverted = _is_white_at_zero(image)
        # In an inverted image small values are bright, so they say nothing about unused bits.
        grey_or_rgb = _to_grey_or_rgb(upright, name, replace(sixteen) if is_inverted else sixteen)
        if is_inverted:
            grey_or_rgb = ImageChops.invert(grey_or_rgb)
        return _pixels(grey_or_rgb, resize_to, channels)


def with_channels(pixels: NDArray[np.uint8], channels: int | None) -> NDArray[np.uint8]:
    """Convert an image to a number of channels.

    Args:
        pixels: uint8 `(H, W, 1)` or `(H, W, 3)`.
        channels: 3 for RGB (grey becomes R = G = B), 1 for grey (colours become their luminance, ITU-R 601),
            None for grey if all pixels are grey and RGB otherwise.

    Returns:
        uint8 `(H, W, C)`.
    """
    if channels == 3:
        return pixels if pixels.shape[2] == 3 else pixels.repeat(3, axis=2)
    if pixels.shape[2] == 1:
        return pixels
    if (pixels[:, :, :2] == pixels[:, :, 1:]).all():
        return pixels[:, :, :1]
    if channels is None:
        return pixels
    return np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]


def _pixels(image: Image.Image, resize_to: int | None, channels: int | None) -> NDArray[np.uint8]:
    """Return the pixels of an image of mode L or RGB."""
    if resize_to is not None and image.size != (resize_to, resize_to):
        image = _crop_and_resize(image, resize_to)
    pixels = np.asarray(image, dtype=np.uint8)
    return with_channels(pixels[:, :, None] if image.mode == "L" else pixels, channels)


@contextlib.contextmanager
def _opened(data: bytes, name: str) -> Iterator[Image.Image]:
    """Open an image and read its header; convert any exception in the block to a `UserError`."""
    if not data:
        raise _unreadable(name, "the file is empty")
    try:
        # Pillow warns about large images, which are rejected below, and about oddities that it can handle.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                yield image
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise _unreadable(name, "it is not a readable PNG, JPEG, BMP, GIF, WebP or TIFF image") from error
    except Image.DecompressionBombError as error:
        raise _unreadable(name, f"it has more than {MAX_PIXELS // 1_000_000} million pixels") from error
    except Exception as error:  # damaged bytes make Pillow raise almost any exception
        raise _unreadable(name, printable(error) or type(error).__name__) from error


def _whole(image: Image.Image, data: bytes, resize_to: int | None) -> Image.Image:
    """Decode an image whose header has been read.

    JPEG can be decoded at 1/2, 1/4 or 1/8 of its size, which is several times faster for photos; at least
    three times the final size is left for a better filter to reduce.

    Raises:
        ValueError: The image is damaged.
    """
    evidence = damage(data, image.format or "")
    if evidence:
        raise ValueError(f"it is damaged: {evidence}")
    if image.format in ("JPEG", "MPO"):
        shrink = 1 if resize_to is None else min(image.size) // (3 * resize_to)
        pixels = _decode_jpeg(image, data, next((factor for factor in (8, 4, 2) if shrink >= factor), 1))
        if pixels is not None and image.mode in ("L", "RGB"):
            return Image.fromarray(pixels[:, :, 0] if image.mode == "L" else pixels)
    if resize_to is not None:
        image.draft(None, (3 * resize_to, 3 * resize_to))  # for JPEG; other formats ignore it
    return image


def _decode_jpeg(image: Image.Image, data: bytes, factor: int) -> NDArray[np.uint8] | None:
    """Decode a JPEG bit for bit like Pillow, but check the decoder's warnings, which Pillow discards.

    Args:
        image: The image; only its header has been read.
        data: The bytes of the file.
        factor: Divisor of width and height: 1, 2, 4 or 8.

    Returns:
        uint8 `(H, W, C)`; the colours of a CMYK image differ from Pillow's. None if the decoder does not
        support this kind of JPEG.

    Raises:
        ValueError: The image is damaged.
    """
    import simplejpeg  # noqa: PLC0415 - imported only when decoding

    try:
        simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None

    def decode(*, strict: bool) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data,
            {"L": "GRAY", "CMYK": "CMYK"}.get(image.mode, "RGB"),
            min_height=-(-image.height // factor),
            min_width=-(-image.width // factor),
            min_factor=factor,
            strict=strict,
        )
        return pixels

    try:
        return decode(strict=True)
    except ValueError as error:
        if not _is_harmless(str(error), data):
            raise ValueError(f"it is damaged: {error}") from None
    return decode(strict=False)


def _is_harmless(warning: str, data: bytes) -> bool:
    """Return whether a warning is caused by a quirk of a camera or program rather than by damage."""
    if warning.startswith("Invalid SOS parameters"):
        return True
    padding = re.search(r"(\d+) extraneous bytes before marker 0xd9", warning)
    if padding is None:
        return False
    end = data.rfind(b"\xff\xd9")
    return not data[end - int(padding[1]) : end].strip(b"\x00\xff")


def _turn_upright(image: Image.Image, noted: Image.Image) -> Image.Image:
    """Rotate an image according to the orientation in its EXIF data."""
    if noted.format == "TIFF":  # Pillow has already rotated it
        return image
    try:
        orientation = noted.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF data does not affect the pixels
        return image
    transpose = _TRANSPOSE.get(orientation) if isinstance(orientation, int) else None
    return image if transpose is None else image.transpose(transpose)


def _to_grey_or_rgb(image: Image.Image, name: str, sixteen: SixteenBits) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey, which Pillow's own conversion would clip at 255.
        return Image.fromarray(sixteen.grey(np.asarray(image.convert("I")), name))
    if image.mode == "F":
        values = np.asarray(image)
        _require_within(values, 1, "floats", name, "scale all images to 0 to 1, or convert them to 8 bits")
        return Image.fromarray(np.rint(values * 255.0).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _require_within(values: NDArray[np.generic], most: int, kind: str, name: str, fix: str) -> None:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= most):
        raise UserError(
            f"{printable(name)} has pixels that are {kind} from {low:g} to {high:g}",
            why=f"{kind} must be from 0 (black) to {most:,} (white)",
            fix=fix,
        )


def _is_white_at_zero(image: Image.Image) -> bool:
    """Return whether a TIFF stores white as 0 and Pillow does not invert it; it inverts only 8-bit images."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or not image.mode.startswith(("I", "F")):
        return False
    return bool(image.tag_v2.get(ExifTags.Base.PhotometricInterpretation) == 0)


def _crop_and_resize(image: Image.Image, side: int) -> Image.Image:
    square = min(image.size)
    left, top = (image.width - square) // 2, (image.height - square) // 2
    return image.resize(
        (side, side),
        Image.Resampling.LANCZOS,
        box=(left, top, left + square, top + square),
        reducing_gap=3.0,
    )


def _unreadable(name: str, why: str) -> BrokenImageError:
    return BrokenImageError(
        f"cannot decode {printable(name)}",
        why=why,
        fix="repair or remove this file, or skip all broken files with skip_broken=true",
    )
