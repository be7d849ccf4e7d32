"""Damaged image files: found as far as their format can tell, and left out where the user asks for that."""

from __future__ import annotations

import io
import os
import tomllib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ddim_host.parts.datasets import images
from ddim_host.parts.datasets.decoding import BrokenImageError, decode_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.commands import Outcome


def picture() -> Image.Image:
    rng = np.random.default_rng(0)
    slope = np.linspace(0, 255, 64)[None, :, None] * np.ones((64, 1, 3))
    return Image.fromarray((slope + rng.normal(0, 20, (64, 64, 3))).clip(0, 255).astype(np.uint8))


def encoded(image_format: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture().convert(mode).save(buffer, image_format, **options)
    return buffer.getvalue()


FILES = {
    "png": encoded("PNG"),
    "jpeg": encoded("JPEG"),
    "progressive-jpeg": encoded("JPEG", progressive=True),
    "cmyk-jpeg": encoded("JPEG", "CMYK"),
    "grey-jpeg": encoded("JPEG", "L"),
    "gif": encoded("GIF"),
    "webp": encoded("WEBP"),
    "lossless-webp": encoded("WEBP", lossless=True),
    "bmp": encoded("BMP"),
}
PLACES = {"header": 0.0, "middle": 0.5, "end": 0.9}


def cut(data: bytes, at: int) -> bytes:
    return data[:at]


def zeros(data: bytes, at: int) -> bytes:
    """The rest is zeros, as after a copy that was interrupted; in the header, 24 bytes are."""
    length = 24 if at < 40 else len(data) - at
    return data[:at] + bytes(length) + data[at + length :]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0b0001_0000]) + data[at + 1 :]


DAMAGES = {"cut": cut, "zeros": zeros, "flipped": flipped}

# No format but PNG has a checksum. Where other bits are another picture, nobody can tell.
UNKNOWABLE = {
    ("jpeg", "flipped"),
    ("progressive-jpeg", "flipped"),
    ("cmyk-jpeg", "flipped"),
    ("grey-jpeg", "flipped"),
    ("gif", "flipped"),
    ("webp", "flipped"),
    ("webp", "zeros"),
    ("lossless-webp", "flipped"),
    ("lossless-webp", "zeros"),
    ("bmp", "flipped"),
    ("bmp", "zeros"),
}


@pytest.mark.parametrize("name", FILES)
def test_whole_files_are_decoded(name: str) -> None:
    assert decode_image(FILES[name], "whole").std() > 30


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_found_as_far_as_the_format_can_tell(name: str, how: str, place: str) -> None:
    data = FILES[name]
    at = 8 if place == "header" else int(len(data) * PLACES[place])
    damaged = DAMAGES[how](data, at)
    assert damaged != data
    if (name, how) in UNKNOWABLE and (place != "header" or how == "flipped"):
        try:
            decode_image(damaged, "some file")
        except BrokenImageError as error:
            assert "some file" in str(error)  # noqa: PT017 - most damage of these is found, too
        return
    with pytest.raises(BrokenImageError, match="cannot decode some file"):
        decode_image(damaged, "some file")


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(64, 64), (333, 217), (17, 9)])
def test_jpegs_are_decoded_as_pillow_decodes_them(mode: str, subsampling: str, size: tuple[int, int]) -> None:
    """Bit for bit, also where they are decoded at a part of their size."""
    for progressive in (False, True):
        buffer = io.BytesIO()
        image = picture().resize(size).convert(mode)
        image.save(buffer, "JPEG", subsampling=subsampling, progressive=progressive)
        with Image.open(buffer) as expected:
            np.testing.assert_array_equal(decode_image(buffer.getvalue(), "x"), expected.convert("RGB"))
        side = min(size) // 7
        with Image.open(buffer) as expected:
            expected.draft(None, (3 * side, 3 * side))
            square = min(expected.size)
            left, top = (expected.width - square) // 2, (expected.height - square) // 2
            box = (left, top, left + square, top + square)
            small = expected.convert("RGB").resize(
                (side, side), Image.Resampling.LANCZOS, box, reducing_gap=3.0
            )
        np.testing.assert_array_equal(decode_image(buffer.getvalue(), "x", resize_to=side), small)


def test_every_flipped_bit_of_a_png_is_found() -> None:
    data = FILES["png"]
    for at in range(8, len(data), 97):
        with pytest.raises(BrokenImageError):
            decode_image(flipped(data, at), "some file")


def test_what_follows_the_end_of_an_image_is_no_damage() -> None:
    for name in ("png", "jpeg", "gif", "bmp", "webp"):
        expected = decode_image(FILES[name], "whole")
        np.testing.assert_array_equal(
            decode_image(FILES[name] + b"notes of some program", "longer"), expected
        )


def test_a_png_whose_second_half_is_zeros_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(FILES["png"])
    (tmp_path / "b.png").write_bytes(zeros(FILES["png"], len(FILES["png"]) // 2))
    with pytest.raises(BrokenImageError, match=r"cannot decode b\.png") as caught:
        images(path=tmp_path).load()
    assert "the checksum of its chunk IDAT is wrong" in caught.value.why
    assert "skip_broken=true" in caught.value.fix


RUN = [
    *[
        "run",
        "--plugin",
        "torch",
        "--device",
        "cpu",
        "--train-steps",
        "1",
        "--batch-size",
        "4",
        "--test-images",
        "4",
        "--num-images",
        "1",
    ],
    *["--steps", "1", "--model", "unet:base_channels=8,num_groups=4"],
]


# --- Left out -----------------------------------------------------------------------------------------------


@pytest.fixture
def some_broken(tmp_path: Path) -> Path:
    """Twelve files, of which the first and two others are broken."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(12):
        data = FILES["png"]
        if index in (0, 5, 7):
            data = b"" if index == 0 else zeros(data, len(data) // 2)
        (folder / f"{index:02}.png").write_bytes(data)
    return folder


def test_broken_files_are_left_out_where_that_is_asked_for(
    some_broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDIM_HOST_CACHE", str(tmp_path / "cache"))
    source = images(path=some_broken, skip_broken=True)
    for _ in range(2):  # decoded, then from the cache
        data = source.load()
        assert (len(data.train), len(data.test)) == (8, 1)
        assert data.left_out == ("00.png", "05.png", "07.png")
        assert data.train.std((1, 2, 3)).min() > 30, "a row was left empty"


def test_too_few_whole_files_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(FILES["png"])
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(Exception, match="too few images"):
        images(path=tmp_path, skip_broken=True).load()


def test_a_run_says_and_stores_what_was_left_out(
    ddim_host: Callable[..., Outcome], some_broken: Path, tmp_path: Path
) -> None:
    data = f"images:path={some_broken},size=8"
    refused = ddim_host(*RUN, "--data", data, "--out", tmp_path / "refused")
    assert refused.code == 2
    assert "cannot decode 00.png" in refused.err
    done = ddim_host(*RUN, "--data", f"{data},skip_broken=true", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "left out          3 broken files: 00.png, 05.png, 07.png\n" in done.out
    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text(encoding="utf-8"))
    stored = config["provenance"]["images"]
    assert (stored["num_left_out"], stored["left_out"]) == (3, ["00.png", "05.png", "07.png"])


def test_files_replaced_in_secret_are_another_data_set(
    ddim_host: Callable[..., Outcome], tmp_path: Path
) -> None:
    """The same names, sizes and times: the run trains on what is there, and says so."""
    hashes = []
    for number, value in enumerate((255, 0)):
        folder = tmp_path / "photos"
        folder.mkdir(exist_ok=True)
        for index in range(6):
            file = folder / f"{index}.bmp"
            file.unlink(missing_ok=True)
            Image.new("RGB", (8, 8), (value,) * 3).save(file)
            os.utime(file, (10**9, 10**9))
        out = tmp_path / f"r{number}"
        done = ddim_host(*RUN, "--data", f"images:path={folder}", "--out", out)
        assert done.code == 0, done.err
        config = tomllib.loads((out / "config.toml").read_text(encoding="utf-8"))
        hashes.append(config["provenance"]["images"]["train_sha256"])
    assert hashes[0] != hashes[1]
