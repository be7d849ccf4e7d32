"""From the bytes of an image file to grey or RGB pixels."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageChops, TiffImagePlugin, UnidentifiedImageError

from ddim_host.errors import UserError, printable
from ddim_host.parts.datasets.integrity import damage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MAX_PIXELS = 64_000_000
"""Images with more pixels are refused by their header: a file of kilobytes may claim gigabytes."""


Content: TypeAlias = "bytes | NDArray[np.uint8]"
"""An image file, or the pixels uint8 `(H, W, C)` of an image that is stored as such."""

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
    """A file is no image, or not a whole one."""


def read_size(data: Content, name: str) -> tuple[int, int]:
    """Reads the width and height of an image from its header.

    Args:
        data: The image.
        name: What errors call it.

    Returns:
        Width and height in pixels, as stored.

    Raises:
        UserError: It is no image, or has more than `MAX_PIXELS`.
    """
    if not isinstance(data, bytes):
        return data.shape[1], data.shape[0]
    with _opened(data, name) as image:
        return image.size


def decode_image(
    data: Content, name: str, *, resize_to: int | None = None, channels: int | None = 3
) -> NDArray[np.uint8]:
    """Decodes an image file.

    16 bits become 8, floats from 0 to 1 become 0 to 255 (others are an error), what is transparent lies on
    white, CMYK is converted without colour profiles, and the orientation that a camera noted is applied. Of
    several pictures in a file, it is the first. Damage is an error as far as the format can tell; see
    `integrity`.

    Args:
        data: The bytes of a PNG, JPEG, BMP, GIF, WebP or TIFF file; or pixels, which are only resized.
        name: What errors call it.
        resize_to: Cut the largest square from the middle and resize it to this width and height.
        channels: See `with_channels`.

    Returns:
        uint8 `(H, W, C)`.

    Raises:
        UserError: It is no image, damaged, cut short, or has more than `MAX_PIXELS`.
    """
    if not isinstance(data, bytes):
        if resize_to is None:
            return with_channels(data, channels)
        return _pixels(Image.fromarray(data[:, :, 0] if data.shape[2] == 1 else data), resize_to, channels)
    with _opened(data, name) as image:
        upright = _turn_upright(_whole(image, data, resize_to), image)
        grey_or_rgb = _to_grey_or_rgb(upright, name)
        if _is_white_at_zero(image):
            grey_or_rgb = ImageChops.invert(grey_or_rgb)
        return _pixels(grey_or_rgb, resize_to, channels)


def with_channels(pixels: NDArray[np.uint8], channels: int | None) -> NDArray[np.uint8]:
    """Bring an image to a number of channels.

    Args:
        pixels: uint8 `(H, W, 1)` or `(H, W, 3)`.
        channels: 3 for RGB, in which grey is R = G = B; 1 for grey, which of colours is their luminance
            (ITU-R 601); None for 1 if all pixels are grey, otherwise 3.

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
    """Opens an image by its header; whatever Pillow raises in the block becomes a `UserError`."""
    if not data:
        raise _unreadable(name, "the file is empty")
    try:
        # Pillow warns of large images, which are refused below, and of oddities that it copes with.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                yield image
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise _unreadable(
            name, "it is not a PNG, JPEG, BMP, GIF, WebP or TIFF image that can be read"
        ) from error
    except Image.DecompressionBombError as error:
        raise _unreadable(name, f"it has more than {MAX_PIXELS // 1_000_000} million pixels") from error
    except Exception as error:  # damaged bytes make Pillow raise nearly every kind of error there is
        raise _unreadable(name, printable(error) or type(error).__name__) from error


def _whole(image: Image.Image, data: bytes, resize_to: int | None) -> Image.Image:
    """Decode an image that was opened by its header.

    JPEG can be decoded at 1/2, 1/4 or 1/8 of its size, which is several times faster for photos; three times
    the final size leaves the rest to a better filter.

    Raises:
        ValueError: It is damaged.
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
    """Decode a JPEG as Pillow does, bit for bit, but heed the decoder's warnings, which Pillow drops.

    Args:
        image: The image, opened by its header.
        data: The bytes of the file.
        factor: 1, 2, 4 or 8, by which width and height are divided.

    Returns:
        uint8 `(H, W, C)`; the colours of a CMYK image are not Pillow's. None if the decoder does not know
        this kind of JPEG.

    Raises:
        ValueError: It is damaged.
    """
    import simplejpeg  # noqa: PLC0415 - only those who decode should pay for it

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
    """Tell warnings of files that some cameras and programs write from those of damage."""
    if warning.startswith("Invalid SOS parameters"):
        return True
    padding = re.search(r"(\d+) extraneous bytes before marker 0xd9", warning)
    if padding is None:
        return False
    end = data.rfind(b"\xff\xd9")
    return not data[end - int(padding[1]) : end].strip(b"\x00\xff")


def _turn_upright(image: Image.Image, noted: Image.Image) -> Image.Image:
    """Turn an image as the camera noted it in the file."""
    if noted.format == "TIFF":  # Pillow has turned it
        return image
    try:
        orientation = noted.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged notes of the camera say nothing about the pixels
        return image
    transpose = _TRANSPOSE.get(orientation) if isinstance(orientation, int) else None
    return image if transpose is None else image.transpose(transpose)


def _to_grey_or_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey, which Pillow's own conversion would cut off at 255.
        grey = np.asarray(image.convert("I"))
        _require_within(grey, 65535, "integers", name)
        return Image.fromarray(np.rint(grey / 257).astype(np.uint8))
    if image.mode == "F":
        values = np.asarray(image)
        _require_within(values, 1, "floats", name)
        return Image.fromarray(np.rint(values * 255.0).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _require_within(values: NDArray[np.generic], most: int, kind: str, name: str) -> None:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= most):
        raise UserError(
            f"{printable(name)} has pixels that are {kind} from {low:g} to {high:g}",
            why=f"{kind} are read if they are from 0 (black) to {most:,} (white)",
            fix=f"bring the pixels of all images to 0 to {most:,}, or to 8 bits",
        )


def _is_white_at_zero(image: Image.Image) -> bool:
    """Tell whether a TIFF stores white as 0; Pillow inverts such images of 8 bits, and of these no others."""
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
        fix="mend or remove this file, or leave out all such files with skip_broken=true",
    )
