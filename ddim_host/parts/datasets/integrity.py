"""Whether the bytes of an image file are what its writer wrote, as far as the format can tell.

PNG has a checksum for every chunk, so any damage shows. Other formats have none. A JPEG must have its
end, and `decoding` heeds its decoder's warnings. A GIF must consist of whole blocks up to its trailer.
WebP and BMP say how long they are. Damage that leaves all of this intact, such as other pixels in a BMP,
cannot be known.
"""

from __future__ import annotations

import struct
import zlib

__all__ = ["damage"]

_PNG_SIGNATURE_BYTES = 8
_GIF_HEADER_BYTES = 13
_JPEG_TRAILING_BYTES = 1 << 16
"""Notes that programs add behind the end of an image."""
_GIF_EXTENSION, _GIF_IMAGE, _GIF_TRAILER = 0x21, 0x2C, 0x3B


def damage(data: bytes, image_format: str) -> str:
    """Say what is wrong with an image file.

    Args:
        data: The bytes of the file.
        image_format: Pillow's name of its format.

    Returns:
        The evidence of damage, for people; empty if there is none.
    """
    try:
        if image_format == "PNG":
            return _png_damage(data)
        if image_format in ("JPEG", "MPO"):
            return _jpeg_damage(data)
        if image_format == "GIF":
            return _gif_damage(data)
        if image_format == "WEBP":
            return _webp_damage(data)
        return _bmp_damage(data) if image_format == "BMP" else ""
    except (struct.error, IndexError):
        return "it ends too early"


def _png_damage(data: bytes) -> str:
    """Compare the CRC of every chunk (PNG specification, section 5.4)."""
    view, position, kind = memoryview(data), _PNG_SIGNATURE_BYTES, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        (checksum,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(view[position + 4 : end]) != checksum:
            return f"the checksum of its chunk {kind.decode('ascii', 'backslashreplace')} is wrong"
        position = end + 4
    return ""


def _jpeg_damage(data: bytes) -> str:
    """Look for the marker that ends it."""
    return "" if b"\xff\xd9" in data[-_JPEG_TRAILING_BYTES:] else "it ends too early"


def _gif_damage(data: bytes) -> str:
    """Go from block to block up to the trailer (GIF89a specification)."""
    position = _GIF_HEADER_BYTES + _gif_palette_bytes(data[10])
    while data[position] != _GIF_TRAILER:
        if data[position] == _GIF_EXTENSION:
            position += 2
        elif data[position] == _GIF_IMAGE:
            position += 10 + _gif_palette_bytes(data[position + 9]) + 1
        else:
            return f"there is no block at byte {position}"
        while data[position]:  # sub-blocks, each after its length
            position += 1 + data[position]
        position += 1
    return ""


def _gif_palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _webp_damage(data: bytes) -> str:
    """Go from chunk to chunk (RIFF)."""
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    position = 12
    while position < end:
        position += 8 + struct.unpack_from("<I", data, position + 4)[0]
        position += position % 2
    return "" if position == end <= len(data) else "its length is not the one that it says"


def _bmp_damage(data: bytes) -> str:
    stated = struct.unpack_from("<I", data, 2)[0]
    return f"it has {len(data):,} of {stated:,} bytes" if stated > len(data) else ""
