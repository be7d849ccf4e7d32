"""Damaged image files are detected as far as the format allows, and left out if the user asks for it."""

from __future__ import annotations

import io
import json
import os
import tomllib
import warnings
import zipfile
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ddim_host.errors import UserError
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
    "tiff": encoded("TIFF"),
    "lzw-tiff": encoded("TIFF", compression="tiff_lzw"),
    "deflated-tiff": encoded("TIFF", compression="tiff_adobe_deflate"),
}
PLACES = {"header": 0.0, "middle": 0.5, "end": 0.9}


def cut(data: bytes, at: int) -> bytes:
    return data[:at]


def zeros(data: bytes, at: int) -> bytes:
    """Replace the rest with zeros, as after an interrupted copy; within the header, only 24 bytes."""
    length = 24 if at < 40 else len(data) - at
    return data[:at] + bytes(length) + data[at + length :]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0b0001_0000]) + data[at + 1 :]


def hole(data: bytes, at: int) -> bytes:
    """Replace a block in the middle with zeros."""
    return data[:at] + bytes(400) + data[at + 400 :]


DAMAGES = {"cut": cut, "zeros": zeros, "hole": hole, "flipped": flipped}

# Only PNG and deflated TIFF have checksums: in other formats, changed bits can be just another picture. The
# data here are fixed, so the results are reproducible.
UNCHECKED = ("webp", "lossless-webp", "bmp", "tiff")
JPEGS = ("jpeg", "progressive-jpeg", "grey-jpeg")
NOT_FOUND = {
    *product(UNCHECKED, ("zeros", "hole", "flipped"), ("middle", "end")),
    *product((*JPEGS, "gif"), ("flipped",), PLACES),
    *product(("cmyk-jpeg",), ("flipped",), ("header", "end")),
    *product(("lzw-tiff",), ("flipped",), ("middle", "end")),
    *product(("deflated-tiff",), ("hole",), ("middle", "end")),
    *product(("bmp", "tiff"), ("flipped",), ("header",)),
}


@pytest.mark.parametrize("name", FILES)
def test_whole_files_are_decoded(name: str) -> None:
    assert decode_image(FILES[name], "whole").std() > 30


def is_found(name: str, how: str, place: str) -> bool:
    data = FILES[name]
    damaged = DAMAGES[how](data, 8 if place == "header" else int(len(data) * PLACES[place]))
    assert damaged != data
    try:
        decode_image(damaged, "some file")
    except BrokenImageError as error:
        assert "cannot decode some file" in str(error)  # noqa: PT017 - not finding it is no error
        return True
    return False


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_found_as_far_as_the_format_allows(name: str, how: str, place: str) -> None:
    assert is_found(name, how, place) == ((name, how, place) not in NOT_FOUND)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(64, 64), (333, 217), (17, 9)])
def test_jpegs_are_decoded_as_pillow_decodes_them(mode: str, subsampling: str, size: tuple[int, int]) -> None:
    """The pixels are identical, even if the JPEG is decoded at a fraction of its size."""
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


def test_a_flipped_bit_in_any_byte_of_a_png_is_found() -> None:
    data = encoded("PNG", "1")
    for at in range(8, len(data)):
        with pytest.raises(BrokenImageError):
            decode_image(flipped(data, at), "some file")


def test_trailing_bytes_after_an_image_are_not_damage() -> None:
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
    """Write twelve files; three of them, including the first, are broken."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(12):
        data = FILES["png"]
        if index in (0, 5, 7):
            data = b"" if index == 0 else zeros(data, len(data) // 2)
        (folder / f"{index:02}.png").write_bytes(data)
    return folder


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDIM_HOST_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_broken_files_are_left_out_on_request(some_broken: Path) -> None:
    source = images(path=some_broken, skip_broken=True)
    for _ in range(2):  # decoded, then from the cache
        data = source.load()
        assert (len(data.train), len(data.test)) == (8, 1)
        assert data.left_out == ("00.png", "05.png", "07.png")
        assert data.train.std((1, 2, 3)).min() > 30, "an image is empty"


@pytest.mark.parametrize("half", ["train", "test"])
def test_half_with_only_broken_files_is_an_error(half: str, tmp_path: Path) -> None:
    """Images of the other half must not be used instead."""
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        for index in range(3):
            content = b"" if name == half else FILES["png"]
            (tmp_path / name / f"{index}.png").write_bytes(content)
    with pytest.raises(UserError, match=r"all 3 (training|test) images in .* are broken"):
        images(path=tmp_path, skip_broken=True).load()


def test_folder_with_only_broken_files_is_an_error(tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"all 3 image files in .* are broken"):
        images(path=tmp_path, skip_broken=True)


def test_size_comes_from_an_intact_image(tmp_path: Path) -> None:
    small = io.BytesIO()
    picture().resize((32, 32)).save(small, "PNG")
    (tmp_path / "0.png").write_bytes(small.getvalue()[:-40])
    for index in range(1, 12):
        (tmp_path / f"{index}.png").write_bytes(FILES["png"])
    source = images(path=tmp_path, skip_broken=True)
    assert source.image_shape == (64, 64, 3)
    assert source.load().left_out == ("0.png",)


def test_left_out_files_follow_the_contents(some_broken: Path) -> None:
    """One file is repaired and broken again, with both states in the cache."""
    broken = (some_broken / "05.png").read_bytes()
    found = []
    for content in (broken, FILES["png"], broken):
        (some_broken / "05.png").write_bytes(content)
        found.append(images(path=some_broken, skip_broken=True).load().left_out)
    assert found == [("00.png", "05.png", "07.png"), ("00.png", "07.png"), ("00.png", "05.png", "07.png")]


def test_duplicate_names_in_an_archive_are_two_files(tmp_path: Path) -> None:
    archive = tmp_path / "twice.zip"
    with zipfile.ZipFile(archive, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of the duplicate
        for index in range(12):
            file.writestr(f"{index:02}.png", FILES["png"])
        file.writestr("05.png", b"broken")
    data = images(path=archive, skip_broken=True).load()
    assert (len(data.train) + len(data.test), data.left_out) == (12, ("05.png",))


def test_run_prints_and_stores_the_left_out_files(
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
    assert stored["num_left_out"] == 3
    names = json.loads((tmp_path / "run" / "left_out.json").read_text(encoding="utf-8"))
    assert names == ["00.png", "05.png", "07.png"]
    again = ddim_host("reconstruct", tmp_path / "run", "--steps", "2", "--out", tmp_path / "r.png")
    assert "left out          3 broken files: 00.png, 05.png, 07.png\n" in again.out, again.err


def test_long_unusual_names_of_broken_files_are_accepted(
    ddim_host: Callable[..., Outcome], tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(4):
        (folder / f"{index}.png").write_bytes(FILES["png"])
    for index in range(200):
        (folder / f"{'.'.join('abcdefgh' * 5)}.{'图' * 50}{index}.png").write_bytes(b"")
    data = f"images:path={folder},size=8,skip_broken=true"
    done = ddim_host(*RUN, "--data", data, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert ddim_host("sample", tmp_path / "run", "--out", tmp_path / "x.png").code == 0


def test_silently_replaced_files_are_another_data_set(
    ddim_host: Callable[..., Outcome], tmp_path: Path
) -> None:
    """Names, sizes and times are equal: the run must train on the new files, with a new fingerprint."""
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
