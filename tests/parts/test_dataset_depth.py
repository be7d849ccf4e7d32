"""16-bit images that use fewer bits, such as the 12 bits of medical scanners."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ddim_host.errors import UserError
from ddim_host.parts.datasets import images

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TWELVE = np.random.default_rng(0).integers(0, 4081, (12, 8, 8), dtype=np.uint16)
TWELVE[7, 0, 0] = 4080


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "cache"
    monkeypatch.setenv("DDIM_HOST_CACHE", str(folder))
    return folder


def folder_of(path: Path, pixels: NDArray[Any], suffix: str = ".png") -> Path:
    path.mkdir(parents=True)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(path / f"{index:02}{suffix}")
    return path


def deep_colours(pixels: NDArray[np.uint16]) -> bytes:
    """Return an RGB PNG with 16 bits per channel, which Pillow cannot write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", ["auto", "1", "3"])
def test_twelve_bits_in_sixteen_are_refused(channels: str, suffix: str, tmp_path: Path) -> None:
    path = folder_of(tmp_path / "scans", TWELVE, suffix)
    with pytest.raises(UserError, match=r"largest value of the 16-bit images in .* is 4,080\b") as caught:
        images(path=path, channels=channels).load()
    assert "looks like 12-bit data" in caught.value.why
    assert caught.value.fix.startswith("pass bits=12 ")


@pytest.mark.parametrize(
    ("largest", "bits"), [(200, 8), (256, 10), (1023, 10), (1024, 12), (4096, 14), (16383, 14)]
)
def test_error_suggests_the_usual_number_of_bits(largest: int, bits: int, tmp_path: Path) -> None:
    path = folder_of(tmp_path / "scans", np.minimum(TWELVE, 0) + np.uint16(largest))
    with pytest.raises(UserError, match=rf"is {largest:,}\b") as caught:
        images(path=path)
    assert caught.value.fix.startswith(f"pass bits={bits} ")


def test_one_bright_image_is_enough_for_sixteen_bits(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "scans", TWELVE)
    Image.fromarray(np.full((8, 8), 16384, np.uint16)).save(path / "99.png")
    data = images(path=path).load()
    np.testing.assert_array_equal(data.test[0, :, :, 0], np.rint(TWELVE[0] / 257))


@pytest.mark.parametrize("bits", ["12", "14", "16"])
def test_number_of_bits_scales_the_pixels(bits: str, tmp_path: Path) -> None:
    path = folder_of(tmp_path / "scans", TWELVE)
    data = images(path=path, bits=bits).load()
    white = 2 ** int(bits) - 1
    np.testing.assert_array_equal(data.test[:, :, :, 0], np.rint(TWELVE[::10] * 255.0 / white))
    with pytest.raises(UserError, match="4,080"):  # the cached images do not hide the error
        images(path=path)


def test_eight_bit_images_ignore_the_number_of_bits(tmp_path: Path) -> None:
    dark = (TWELVE % 7).astype(np.uint8)
    path = folder_of(tmp_path / "dark", dark)
    for bits in ("auto", "12"):
        np.testing.assert_array_equal(images(path=path, bits=bits).load().test[0, :, :, 0], dark[0])


def test_larger_values_than_the_bits_allow_are_refused(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "scans", TWELVE)
    with pytest.raises(UserError, match="integers from") as caught:
        images(path=path, bits="11")
    assert "to 2,047 (white)" in caught.value.why
    assert "bits=12 or more" in caught.value.fix


def test_dark_sixteen_bit_colours_are_refused(tmp_path: Path) -> None:
    colours = np.stack([TWELVE, TWELVE // 2, TWELVE // 3], axis=3)
    tmp_path.joinpath("scans").mkdir()
    for index, pixels in enumerate(colours):
        (tmp_path / "scans" / f"{index:02}.png").write_bytes(deep_colours(pixels))
    with pytest.raises(UserError, match=r"is 4,095\b"):  # the high byte of 4,080 is 15
        images(path=tmp_path / "scans").load()
    with pytest.raises(UserError, match="16-bit colours, to which bits=12 cannot be applied"):
        images(path=tmp_path / "scans", bits="12").load()
    data = images(path=tmp_path / "scans", bits="16").load()
    np.testing.assert_array_equal(data.test[0], colours[0] >> 8)


@pytest.mark.parametrize("bits", ["7", "17", "12.0", "none", ""])
def test_other_numbers_of_bits_are_refused(bits: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'bits' of .* must be an integer from 8 to 16 or auto"):
        images(path=folder_of(tmp_path / "scans", TWELVE), bits=bits)
