"""Detection of damaged image files.

Every chunk of a PNG has a checksum, which reveals any damage. A GIF must consist of complete blocks up to the
end of its first picture. For JPEG, `decoding` checks the warnings of the decoder. Pillow rejects truncated
WebP and BMP files. Other damage, such as changed pixels in a BMP, cannot be detected.
"""

from __future__ import annotations

import struct
import zlib

_PNG_SIGNATURE_BYTES = 8
_GIF_HEADER_BYTES = 13
_GIF_EXTENSION, _GIF_IMAGE, _GIF_TRAILER = 0x21, 0x2C, 0x3B


def damage(data: bytes, image_format: str) -> str:
    """Describe the damage to an image file.

    Args:
        data: The bytes of the file.
        image_format: Pillow's name for its format.

    Returns:
        A description for error messages; empty if no damage was found.
    """
    try:
        if image_format == "PNG":
            return _png_damage(data)
        return _gif_damage(data) if image_format == "GIF" else ""
    except (struct.error, IndexError):
        return "it is truncated"


def _png_damage(data: bytes) -> str:
    """Check the CRC of every chunk (PNG specification, section 5.4)."""
    view, position, kind = memoryview(data), _PNG_SIGNATURE_BYTES, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        (checksum,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(view[position + 4 : end]) != checksum:
            return f"the checksum of its chunk {kind.decode('ascii', 'backslashreplace')} is wrong"
        position = end + 4
    return ""


def _gif_damage(data: bytes) -> str:
    """Check all blocks up to the end of the first picture (GIF89a specification)."""
    position, block = _GIF_HEADER_BYTES + _gif_palette_bytes(data[10]), 0
    while block != _GIF_IMAGE:
        block = data[position]
        if block == _GIF_EXTENSION:
            position += 2
        elif block == _GIF_IMAGE:
            position += 10 + _gif_palette_bytes(data[position + 9]) + 1
        elif block == 0:  # some programs write a stray zero between blocks
            position += 1
            continue
        else:
            return "it has no picture" if block == _GIF_TRAILER else f"there is no block at byte {position}"
        while data[position]:  # sub-blocks, each after its length
            position += 1 + data[position]
        position += 1
    return ""


def _gif_palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
