"""Image files in folders and archives as a data set."""

from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import sys
import tarfile
import tempfile
import threading
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ddim_host.errors import UserError
from ddim_host.parts.datasets import images
from ddim_host.parts.datasets.decoding import decode_image
from ddim_host.parts.datasets.image_files import is_image_name, split_names
from ddim_host.system.cache import cache_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

KINDS = ["folder", ".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "cache"
    monkeypatch.setenv("DDIM_HOST_CACHE", str(folder))
    return folder


def png(value: int, size: tuple[int, int] = (4, 4)) -> bytes:
    """Return a picture of a single colour; its red channel, `value`, identifies it."""
    return encode(Image.new("RGB", size, (value, 100, 200)))


def bmp(value: int) -> bytes:
    """Return the picture of `png` in a format whose files all have the same size."""
    return encode(Image.new("RGB", (4, 4), (value, 100, 200)), "BMP")


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:  # noqa: A002 - Pillow's name
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def reds(array: NDArray[np.uint8]) -> list[int]:
    return [int(image[0, 0, 0]) for image in array]


def pack(where: Path, kind: str, files: Mapping[str, bytes]) -> Path:
    """Write files into a folder or an archive, in the given order."""
    if kind == "folder":
        for name, data in files.items():
            (where / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            (where / "data" / name).write_bytes(data)
        return where / "data"
    path = where / f"data{kind}"
    if kind == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    with tarfile.open(path, f"w:{kind.removeprefix('.tar').removeprefix('.')}") as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


# --- location and split of images ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_train_and_test_folders_are_the_two_halves(kind: str, tmp_path: Path, cache: Path) -> None:
    files = {
        "cifar/train/dog/b.png": png(1),
        "cifar/test/dog/a.PNG": png(2),
        "cifar/train/cat/c.png": png(3),
        "cifar/test/z.png": png(4),
        "cifar/validation/v.png": png(5),
        "cifar/readme.txt": b"not an image",
    }
    path = pack(tmp_path, kind, files)
    source = images(path=path)
    assert source.image_shape == (4, 4, 3)
    assert source.random_flip
    assert str(path) in source.description
    assert not cache.exists()

    data = source.load()
    assert reds(data.train) == [3, 1]  # in the order of the names: cat, dog
    assert reds(data.test) == [2, 4]
    assert data.train.dtype == np.uint8
    assert isinstance(data.train, np.memmap)
    assert not data.train.flags.writeable
    np.testing.assert_array_equal(data.train[0, 2, 3], [3, 100, 200])


@pytest.mark.parametrize(("train", "test"), [("Train/", "TEST/"), ("x\\train\\", "x\\test\\")])
def test_other_spellings_of_train_and_test_folders(train: str, test: str, tmp_path: Path) -> None:
    files = {f"{test}{i}.png": png(i) for i in range(3)} | {f"{train}{i}.png": png(i) for i in range(3, 6)}
    data = images(path=pack(tmp_path, ".zip", files)).load()
    assert (reds(data.train), reds(data.test)) == ([3, 4, 5], [0, 1, 2])


@pytest.mark.parametrize("kind", KINDS)
def test_without_such_folders_every_tenth_name_is_for_testing(kind: str, tmp_path: Path) -> None:
    files = {f"wrapper/class{i % 3}/{i:03}.png": png(i) for i in reversed(range(30))}
    data = images(path=pack(tmp_path, kind, files), flip=False).load()
    by_name = [int(Path(name).stem) for name in sorted(files)]
    assert reds(data.test) == by_name[::10]
    assert reds(data.train) == [i for rank, i in enumerate(by_name) if rank % 10]


@pytest.mark.parametrize(("fraction", "num_test"), [(0.5, 6), (0.3, 4), (0.25, 3), (0.1, 2), (1e-320, 1)])
def test_the_test_fraction(fraction: float, num_test: int, tmp_path: Path) -> None:
    path = pack(tmp_path, "folder", {f"{i}.png": png(i) for i in range(12)})
    data = images(path=path, test_fraction=fraction).load()
    assert len(data.test) == num_test
    assert sorted(reds(data.train) + reds(data.test)) == list(range(12))


def test_hidden_files_and_macos_metadata_are_ignored(tmp_path: Path) -> None:
    files = {"a.png": png(1), "b.png": png(2)}
    noise = {"._a.png": b"x", "__MACOSX/._a.png": b"x", "__MACOSX/a.png": b"x", ".git/a.png": b"x"}
    for kind in KINDS:
        data = images(path=pack(tmp_path, kind, {**noise, **files})).load()
        assert (reds(data.test), reds(data.train)) == ([1], [2])


NAMES = st.lists(
    st.lists(st.sampled_from(["train", "test", "Test", "a", "b", "c"]), min_size=1, max_size=3).map("/".join),
    min_size=2,
    max_size=30,
)


@given(NAMES, st.integers(2, 12))
def test_halves_are_disjoint_not_empty_and_in_the_order_of_the_names(names: list[str], every: int) -> None:
    train, test = split_names(names, every)
    assert train
    assert test
    assert len({*train, *test}) == len(train) + len(test)
    for half in (train, test):
        assert [names[i] for i in half] == sorted(names[i] for i in half)


@given(NAMES, st.integers(2, 12), st.randoms())
def test_the_order_of_the_archive_does_not_matter(names: list[str], every: int, random: Any) -> None:
    shuffled = list(names)
    random.shuffle(shuffled)
    expected = [[names[i] for i in half] for half in split_names(names, every)]
    assert [[shuffled[i] for i in half] for half in split_names(shuffled, every)] == expected


@given(st.sets(st.text("abc", min_size=1), min_size=2), st.integers(2, 12))
def test_without_folders_all_images_are_used_and_one_in_every_n_tests(names: set[str], every: int) -> None:
    train, test = split_names(sorted(names), every)
    assert sorted([*train, *test]) == list(range(len(names)))
    assert len(test) == -(-len(names) // every)


@pytest.mark.parametrize("name", ["a.png", "A.JPG", "x/b.jpeg", "c.webp", "d.gif", "e.bmp", "ü \n.png"])
def test_names_of_images(name: str) -> None:
    assert is_image_name(name)


@pytest.mark.parametrize("name", ["a.txt", "png", ".png", "x/.b.png", ".x/b.png", "__MACOSX/b.png", "a.svg"])
def test_names_of_other_files(name: str) -> None:
    assert not is_image_name(name)


# --- options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1, 4097])
def test_sizes_out_of_range(size: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(size)):
        images(path=tmp_path, size=size)


def test_images_over_the_size_limit_are_refused_unless_resized(tmp_path: Path) -> None:
    large = encode(Image.new("RGB", (4097, 4097), "red"))
    path = pack(tmp_path, "folder", {"a.png": large, "b.png": large})
    with pytest.raises(UserError, match="is too large: it is 4097 x 4097 pixels") as caught:
        images(path=path)
    assert "pass size=N" in caught.value.fix
    assert images(path=path, size=8).image_shape == (8, 8, 3)


def test_origin_of_the_split_is_stored(tmp_path: Path) -> None:
    for kind in KINDS:
        folders = {f"around/{half}/{i}.png": png(i) for half in ("Train", "test") for i in range(3)}
        mine = images(path=pack(tmp_path, kind, folders))
        plain = images(path=pack(tmp_path / "plain", kind, {f"train/{i}.png": png(i) for i in range(6)}))
        for _ in range(2):  # the second time from the cache
            found = mine.load()
            assert (len(found.train), len(found.test)) == (3, 3)
            assert found.split == "its folders train/ and test/"
            assert plain.load().split == "1 in 10 for testing, by name, starting with the first"


@pytest.mark.parametrize("fraction", [0.0, -0.1, 0.51, float("nan"), float("inf")])
def test_fractions_out_of_range(fraction: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="test_fraction"):
        images(path=tmp_path, test_fraction=fraction)


def test_size_makes_all_images_square(tmp_path: Path) -> None:
    path = pack(tmp_path, "folder", {"a.png": png(1, (30, 20)), "b.png": png(2, (3, 9)), "c.png": png(3)})
    source = images(path=path, size=8)
    assert source.image_shape == (8, 8, 3)
    data = source.load()
    assert reds(data.test) == [1]
    assert reds(data.train) == [2, 3]
    assert images(path=path, size=6).load().train.shape == (2, 6, 6, 3)  # the cache distinguishes sizes


def test_without_a_size_the_first_image_must_be_a_square(tmp_path: Path) -> None:
    path = pack(tmp_path, "folder", {"a.png": png(1, (30, 20)), "b.png": png(2)})
    with pytest.raises(UserError, match=r"a\.png .* 30 x 20") as caught:
        images(path=path)
    assert "size=N" in caught.value.fix


def test_without_a_size_all_images_must_have_one_size(tmp_path: Path, cache: Path) -> None:
    path = pack(tmp_path, ".zip", {"a.png": png(1), "b.png": png(2), "c/odd.png": png(3, (4, 5))})
    with pytest.raises(UserError, match=r"c/odd\.png .* 4 x 5 .* a\.png is 4 x 4") as caught:
        images(path=path).load()
    assert "size=N" in caught.value.fix
    assert list(cache.iterdir()) == []
    assert len(images(path=path, size=4).load().train) == 2
    refused(path, r"c/odd\.png")  # even with resized images in the cache


# --- decoding -----------------------------------------------------------------------------------------------

GRADIENT = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOURS = np.stack([GRADIENT, GRADIENT[::-1], GRADIENT.T], axis=-1)


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_are_exact(format: str, options: dict[str, Any]) -> None:  # noqa: A002
    data = encode(Image.fromarray(COLOURS), format, **options)
    np.testing.assert_array_equal(decode_image(data, "x"), COLOURS)


def test_jpeg_is_close() -> None:
    smooth = np.broadcast_to(np.arange(16, dtype=np.uint8)[:, None, None] * 10, (16, 16, 3))
    decoded = decode_image(encode(Image.fromarray(smooth), "JPEG", quality=95), "x")
    assert np.abs(decoded.astype(int) - smooth).max() <= 4


def grey(array: NDArray[Any]) -> NDArray[np.uint8]:
    return np.repeat(array.astype(np.uint8)[..., None], 3, axis=-1)


def test_grey_black_and_white_and_palette() -> None:
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(GRADIENT)), "x"), grey(GRADIENT))
    bits = Image.fromarray(GRADIENT > 99)
    assert bits.mode == "1"
    np.testing.assert_array_equal(decode_image(encode(bits), "x"), grey((GRADIENT > 99) * 255))
    palette = Image.fromarray(COLOURS).quantize(64)
    np.testing.assert_array_equal(decode_image(encode(palette), "x"), np.asarray(palette.convert("RGB")))


def test_sixteen_bits_are_converted_to_eight() -> None:
    deep = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    decoded = decode_image(encode(Image.fromarray(deep)), "x")
    np.testing.assert_array_equal(decoded, grey(np.rint(deep / 257)))
    assert decoded.max() == 255


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparent_pixels_are_composited_on_white(mode: str) -> None:
    options: dict[str, Any] = {}
    if mode in ("RGBA", "LA"):
        picture = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
        picture.putpixel((1, 0), (0, 0, 0, 51))
        picture = picture.convert(mode)
        expected = [[0, 0, 0], [204, 204, 204]]  # 51 / 255 of black, the rest white
    else:
        picture = Image.new(mode, (2, 1), 0)
        picture.putpixel((1, 0), 1 if mode == "P" else (9, 9, 9))
        if mode == "P":
            picture.putpalette([0, 0, 0, 9, 9, 9])
        options = {"transparency": 1 if mode == "P" else (9, 9, 9)}
        expected = [[0, 0, 0], [255, 255, 255]]
    np.testing.assert_array_equal(decode_image(encode(picture, **options), "x")[0], expected)


def test_cmyk() -> None:
    data = encode(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=95)  # cyan
    np.testing.assert_allclose(decode_image(data, "x")[0, 0].astype(int), [0, 255, 255], atol=3)


def test_first_frame_of_an_animation_is_used() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for format_ in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if format_ == "WEBP" else {}
        data = encode(frames[0], format_, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(decode_image(data, "x")[0, 0], [255, 0, 0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    stored = np.zeros((2, 3, 3), np.uint8)
    stored[0, 0], stored[0, 2], stored[1, 0] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    # The EXIF standard defines the place of the stored row 0 and column 0 in the upright picture.
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: stored.transpose(1, 0, 2)[:, ::-1],
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: stored.transpose(1, 0, 2)[::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(stored), exif=exif), "x"), upright)


def test_damaged_exif_data_are_ignored() -> None:
    data = encode(Image.fromarray(COLOURS), exif=b"Exif\0\0no TIFF at all")
    np.testing.assert_array_equal(decode_image(data, "x"), COLOURS)


def test_resizing_crops_the_centre_and_averages() -> None:
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = np.indices((32, 32)).sum(0)[..., None] % 2 * 255  # a chequerboard in the middle
    small = decode_image(encode(Image.fromarray(wide)), "x", resize_to=4)
    assert small.shape == (4, 4, 3)
    assert np.abs(small.astype(int) - 127).max() <= 12  # nearest-neighbour would give 0 or 255


def test_large_jpegs_are_resized_nearly_as_by_a_plain_filter() -> None:
    rows, columns = np.mgrid[0:640, 0:640]
    photo = Image.fromarray(
        np.stack([rows * 255 // 639, columns * 255 // 639, 128 + 100 * np.sin(rows / 40)], -1).astype(
            np.uint8
        )
    )
    data = encode(photo, "JPEG", quality=95)
    plain = np.asarray(Image.open(io.BytesIO(data)).resize((32, 32), Image.Resampling.LANCZOS))
    assert np.abs(decode_image(data, "x", resize_to=32).astype(int) - plain).max() <= 4


# --- wrong and hostile input --------------------------------------------------------------------------------


def refused(path: Path, match: str, **options: Any) -> UserError:
    """Load images that cannot be loaded and return the single error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=match) as caught:
            images(path=path, **options).load()
    assert str(caught.value).count("\n") <= 2
    assert caught.value.fix
    return caught.value


def bomb(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that claims to be huge."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT", b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def test_paths_without_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "zero.tar").write_bytes(b"")
    (tmp_path / "text.zip").write_text("no zip, whatever its name says")
    (tmp_path / "a.png").write_bytes(png(1))
    refused(tmp_path / "missing", "cannot open")
    refused(Path("a\0b"), "cannot open")
    refused(tmp_path / ("n" * 300), "cannot open")
    refused(tmp_path / "empty", "no images")
    assert "empty" in refused(tmp_path / "zero.tar", "neither a folder nor a supported archive").why
    refused(tmp_path / "text.zip", "neither a folder nor a supported archive")
    refused(tmp_path / "a.png", "neither a folder nor a supported archive")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "neither a folder nor a file")
    for kind in KINDS:
        refused(pack(tmp_path, kind, {"readme.txt": b"x"}), "no images")
        refused(pack(tmp_path, kind, {"readme.txt": b"x", "one.png": png(1)}), "too few images")


@pytest.mark.parametrize("kind", ["folder", ".zip", ".tar.xz"])
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"no image", "not a readable PNG"),
        (encode(Image.effect_noise((4, 4), 50))[:-32], "is truncated"),
        (bomb(8001, 8000), "64 million"),
        (bomb(12_000, 12_000), "64 million"),  # Pillow warns about it
        (bomb(60_000, 60_000), "64 million"),  # Pillow raises its own error
    ],
    ids=["zero-byte", "text", "truncated", "bomb", "large-bomb", "huge-bomb"],
)
def test_an_image_that_cannot_be_decoded_is_named(
    kind: str, content: bytes, why: str, tmp_path: Path, cache: Path
) -> None:
    path = pack(tmp_path, kind, {"a.png": png(1), "b.png": png(2), "dir/bad.png": content})
    for size in (None, 4):
        assert why in refused(path, r"dir/bad\.png", size=size).why
    assert list(cache.iterdir()) == []
    refused(pack(tmp_path / "first", kind, {"bad.png": content, "c.png": png(1)}), r"bad\.png")


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9])
def test_truncated_archives(kind: str, part: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    path = pack(tmp_path, kind, {f"{i}.png": encode(Image.fromarray(x)) for i, x in enumerate(noise)})
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content[: int(len(content) * part)])
    refused(path, str(path))


def test_tar_cut_between_two_files_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path, ".tar", {f"{i}.png": png(i) for i in range(9)})
    with tarfile.open(path) as tar:
        offset = tar.getmember("6.png").offset
    content = path.read_bytes()
    path.write_bytes(content[:offset])
    assert "truncated" in refused(path, "cannot read").why
    path.write_bytes(content[:offset] + b"garbage!" * 64 + content[offset + 512 :])
    assert "damaged" in refused(path, "cannot read").why


@pytest.mark.parametrize("kind", KINDS[1:])
def test_names_that_leave_the_archive_write_nothing_outside(kind: str, tmp_path: Path, cache: Path) -> None:
    files = {"/absolute/a.png": png(1), "../../b.png": png(2), "./c.png": png(3), "d//e.png": png(4)}
    path = pack(tmp_path, kind, files)
    before = sorted(tmp_path.rglob("*"))
    data = images(path=path).load()
    assert sorted(reds(data.train) + reds(data.test)) == [1, 2, 3, 4]
    assert sorted(tmp_path.rglob("*")) == before
    assert sorted(file.suffix for file in cache.iterdir()) == [".json", ".json", ".npy", ".npy"]


def test_links_and_devices_in_archives_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(99))
    path = pack(tmp_path, ".tar", {"a.png": png(1), "b.png": png(2)})
    with tarfile.open(path, "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"x{kind.decode()}.png")
            info.type, info.linkname = kind, str(tmp_path / "secret.png")
            tar.addfile(info)
    zipped = pack(tmp_path, ".zip", {"a.png": png(1), "b.png": png(2)})
    with zipfile.ZipFile(zipped, "a") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, str(tmp_path / "secret.png"))
    for archive_path in (path, zipped):
        data = images(path=archive_path).load()
        assert (reds(data.test), reds(data.train)) == ([1], [2])


def test_a_member_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.tar"
    info = tarfile.TarInfo("a.png")
    info.size = 1 << 40
    path.write_bytes(info.tobuf() + b"\0" * 4096)
    refused(path, r"a\.png .* too large")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.REGTYPE])
@pytest.mark.parametrize("size", [1 << 40, -512, -1024, -(1 << 40)])
def test_a_header_that_claims_to_be_huge_or_negative_is_refused(
    size: int, kind: bytes, tmp_path: Path
) -> None:
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, size
    path = tmp_path / "huge.tar"
    first = tarfile.TarInfo("readme")
    path.write_bytes(first.tobuf() + info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 4096)
    refused(path, "cannot read")


def test_size_of_a_header_in_memory_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "long.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        for name in ("a.png", "b.png"):
            info = tarfile.TarInfo(name)
            info.size = len(png(1))
            info.pax_headers = {"comment": "x" * 5000} if name == "b.png" else {}
            tar.addfile(info, io.BytesIO(png(1)))
    assert len(images(path=path).load().train) == 1
    monkeypatch.setattr(sys.modules["ddim_host.parts.datasets.archives"], "_MAX_HEADER_BYTES", 4096)
    assert "header claims" in refused(path, "cannot read", size=8).why


def test_total_size_of_headers_in_memory_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million short headers before a file take as much memory as a long one."""
    comments = []
    for number in range(30):
        comment = b"100 %04d=" % number + b"x" * 90 + b"\n"
        header = tarfile.TarInfo("comment")
        header.type, header.size = tarfile.XGLTYPE, len(comment)
        comments.append(header.tobuf(tarfile.USTAR_FORMAT) + comment.ljust(512, b"\0"))
    path = pack(tmp_path, ".tar", {"a.png": png(1), "b.png": png(2)})
    archive = path.read_bytes()
    path.write_bytes(archive[:1024] + b"".join(comments) + archive[1024:])  # before the second file
    assert len(images(path=path).load().train) == 1
    monkeypatch.setattr(sys.modules["ddim_host.parts.datasets.archives"], "_MAX_HEADER_BYTES", 20_000)
    assert "header claims" in refused(path, "cannot read", size=8).why


@pytest.mark.parametrize("kind", [".tar.gz", ".tar.bz2", ".tar.xz"])
def test_archive_that_expands_too_much_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Skipped members must be decompressed too: a few kilobytes could take hours."""
    path = pack(tmp_path, kind, {"a.png": png(1), "b.png": png(2), "large.txt": b"0" * 5_000_000})
    assert len(images(path=path).load().train) == 1
    monkeypatch.setattr(sys.modules["ddim_host.parts.datasets.archives"], "MAX_FILE_BYTES", 100_000)
    assert "expands to more than 200 times" in refused(path, "cannot read", size=8).why


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_methods_without_a_memory_limit_are_refused(method: int, tmp_path: Path) -> None:
    """The standard library decompresses these methods without limit: 1.2 kB became 3 GB of zeros."""
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in ("a.png", "b.png"):
            archive.writestr(name, png(1))
    assert "neither stored nor deflated" in refused(path, "cannot read", size=8).why


def test_sparse_files_in_archives_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("a.png", "b.png", "sparse.png"):
            info = tarfile.TarInfo(name)
            info.size = len(png(1))
            if name == "sparse.png":
                info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 40)}
            tar.addfile(info, io.BytesIO(png(1)))
    assert len(images(path=path).load().train) == 1


@pytest.mark.parametrize("kind", [".tar.gz", ".tar.bz2", ".tar.xz"])
def test_checksum_at_the_end_of_a_compressed_archive_is_verified(kind: str, tmp_path: Path) -> None:
    path = pack(tmp_path, kind, {"a.png": png(1), "b.png": png(2)})
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    refused(path, "cannot read")


def test_zip_member_larger_than_declared_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path, ".zip", {"a.png": png(1), "b.png": png(2)})
    size = struct.pack("<I", len(png(2)))
    content = path.read_bytes()
    path.write_bytes(content.replace(size, struct.pack("<I", 0xFFFFFFF0)))
    refused(path, "cannot|neither")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path, ".zip", {"a.png": png(1), "b.png": png(2)})
    content = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(magic) + offset] |= 1
    path.write_bytes(content)
    assert "encrypted" in refused(path, "cannot read").why


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_archive_is_a_user_error_or_still_readable(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([".zip", ".tar", ".tar.gz", ".tar.xz"]))
    files = {f"{i}.png": encode(Image.fromarray(COLOURS + i)) for i in range(3)}
    files["3.jpg"] = encode(Image.fromarray(COLOURS), "JPEG")
    files["4.gif"] = encode(Image.fromarray(COLOURS), "GIF")
    with tempfile.TemporaryDirectory() as folder:
        path = pack(Path(folder), kind, files)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            del content[data.draw(st.integers(0, len(content) - 1)) :]
        path.write_bytes(content)
        try:
            found = images(path=path, size=data.draw(st.sampled_from([None, 8]))).load()
        except UserError as error:
            str(error).encode("utf-8")
        else:
            assert found.train.ndim == 4


def test_links_in_folders(tmp_path: Path) -> None:
    path = pack(tmp_path, "folder", {"a.png": png(1), "b.png": png(2)})
    (tmp_path / "outside.png").write_bytes(png(3))
    (path / "c.png").symlink_to(tmp_path / "outside.png")
    (path / "loop").symlink_to(path, target_is_directory=True)
    data = images(path=path).load()
    assert sorted(reds(data.train) + reds(data.test)) == [1, 2, 3]

    (path / "broken.png").symlink_to(path / "broken.png")
    assert "broken.png" in refused(path, "cannot read the images").why


def test_pipes_in_folders_are_ignored(tmp_path: Path) -> None:
    path = pack(tmp_path, "folder", {"a.png": png(1), "b.png": png(2)})
    os.mkfifo(path / "c.png")
    assert len(images(path=path).load().train) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_named(tmp_path: Path) -> None:
    path = pack(tmp_path, "folder", {"a.png": png(1), "sub/b.png": png(2)})
    for closed, mode in ((path / "sub", 0o755), (path / "a.png", 0o644)):
        closed.chmod(0)
        try:
            assert str(closed) in refused(path, "cannot read").why
        finally:
            closed.chmod(mode)


def test_unusual_names_are_printed_safely(tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    name = os.fsdecode(b"\xff \x1b[2J\n.png")
    (folder / name).write_bytes(png(1))
    (folder / "z.png").write_bytes(png(2))
    assert reds(images(path=folder).load().test) == [2]  # "z" sorts before the lone surrogate
    (folder / name).write_bytes(b"")
    text = str(refused(folder, "cannot decode", size=4))
    assert r"\udcff \x1b[2J\n.png" in text
    text.encode("utf-8")


def test_names_that_are_not_unicode_survive_in_the_cache(tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encode(Image.new("L", (4, 4), number)))
    (folder / os.fsdecode(b"broken\xe9.png")).write_bytes(b"")
    (folder / os.fsdecode(b"coloured\xe9.png")).write_bytes(png(1))
    for _ in range(2):
        found = images(path=folder, skip_broken=True, channels="1", size=4).load()
        assert found.left_out == (r"broken\udce9.png",)
        assert len(found.train) + len(found.test) == 4
    both = images(path=folder, skip_broken=True, size=4)
    assert (both.image_shape, r"coloured\udce9.png has colours" in both.description) == ((4, 4, 3), True)


# --- the cache ----------------------------------------------------------------------------------------------


@pytest.fixture
def long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat files that were just written as old, so that no change to them can go unnoticed."""
    monkeypatch.setattr("ddim_host.parts.datasets.image_files._CLOCK_NANOSECONDS", -(10**12))


def test_the_second_load_reads_nothing(
    tmp_path: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    long_ago: None,
) -> None:
    for kind in KINDS:
        source = images(path=pack(tmp_path, kind, {f"{i}.png": png(i) for i in range(3)}))
        expected = source.load()
        printed = capsys.readouterr()
        assert "decoding images: 100%" in printed.err
        assert printed.out == ""
        written = sorted(cache.iterdir())
        with monkeypatch.context() as patch:
            patch.setattr(Image, "open", None)
            found = source.load()
        assert capsys.readouterr().err == ""
        np.testing.assert_array_equal(found.train, expected.train)
        assert sorted(cache.iterdir()) == written


def test_recently_changed_files_are_read_again_but_not_decoded(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within one tick of the clock, another change would leave no trace in the times of a file."""
    source = images(path=pack(tmp_path, "folder", {f"{i}.png": png(i) for i in range(3)}))
    expected = source.load()
    monkeypatch.setattr(Image, "open", None)
    np.testing.assert_array_equal(source.load().train, expected.train)


@pytest.mark.parametrize("kind", ["folder", ".zip", ".tar"])
def test_files_replaced_by_others_of_the_same_name_size_and_time_are_noticed(
    kind: str, tmp_path: Path, long_ago: None
) -> None:
    """`rsync -a`, `tar` and `cp -p` replace files this way."""
    contents = [{"a.bmp": bmp(1), "b.bmp": bmp(red)} for red in (2, 3)]
    found = []
    for files in contents:
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        path = pack(tmp_path, kind, files)
        for file in (path, *path.rglob("*")):
            os.utime(file, ns=(10**18, 10**18))
        data = images(path=path).load()
        found.append((reds(data.train), data.fingerprint.train_sha256))
    assert [red for red, _ in found] == [[2], [3]]
    assert found[0][1] != found[1][1]


def test_files_that_were_only_copied_are_not_decoded_again(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, long_ago: None
) -> None:
    path = pack(tmp_path, "folder", {f"{i}.png": png(i) for i in range(3)})
    expected = images(path=path).load()
    path.rename(tmp_path / "before")
    shutil.copytree(tmp_path / "before", path)
    source = images(path=path)
    monkeypatch.setattr(Image, "open", None)
    np.testing.assert_array_equal(source.load().train, expected.train)


@pytest.mark.parametrize("kind", ["folder", ".zip", ".tar"])
def test_changed_files_are_decoded_again(kind: str, tmp_path: Path) -> None:
    files = {"a.png": png(1), "b.png": png(2)}
    path = pack(tmp_path, kind, files)
    assert reds(images(path=path).load().train) == [2]
    status = path.stat()
    changed = pack(tmp_path, kind, {"a.png": png(1), "b.png": png(3)})
    assert changed == path
    touched = path / "b.png" if kind == "folder" else path
    os.utime(touched, ns=(0, status.st_mtime_ns + 1_000_000))
    assert reds(images(path=path).load().train) == [3]


def test_changes_during_reading_are_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(tmp_path, "folder", {f"{i}.png": png(i) for i in range(4)})
    module = sys.modules["ddim_host.parts.datasets.decoded"]

    def split_and_remove(names: list[str], every: int) -> tuple[list[int], list[int]]:
        (path / "3.png").unlink()
        return split_names(names, every)

    monkeypatch.setattr(module, "split_names", split_and_remove)
    refused(path, "changed while it was being read")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("damage", ["truncate", "overwrite", "delete"])
def test_damaged_cache_is_rebuilt(damage: str, tmp_path: Path, cache: Path) -> None:
    source = images(path=pack(tmp_path, ".tar.gz", {f"{i}.png": png(i) for i in range(5)}))
    source.load()
    for file in cache.iterdir():
        content = file.read_bytes()
        if damage == "delete":
            file.unlink()
        else:
            file.write_bytes(content[:-1] if damage == "truncate" else b"\x93NUMPY" + b"x" * len(content))
    assert reds(source.load().train) == [1, 2, 3, 4]


def test_concurrent_builds_of_the_cache_agree(tmp_path: Path, cache: Path) -> None:
    # Threads stand in for processes: the files are the same for both.
    source = images(path=pack(tmp_path, "folder", {f"{i:03}.png": png(i) for i in range(100)}))
    results: list[list[int]] = []
    threads = [threading.Thread(target=lambda: results.append(reds(source.load().train))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[i for i in range(100) if i % 10]] * 3
    assert sorted(file.suffix for file in cache.iterdir()) == [".json", ".json", ".npy", ".npy"]


def test_a_cache_that_cannot_be_written_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(tmp_path, "folder", {"a.png": png(1), "b.png": png(2)})
    (tmp_path / "plain").write_text("")
    monkeypatch.setenv("DDIM_HOST_CACHE", str(tmp_path / "plain" / "cache"))
    assert "DDIM_HOST_CACHE" in refused(path, "cache folder").fix


def test_too_little_disk_space_is_reported_before_decoding(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(tmp_path, "folder", {"a.png": png(1), "b.png": png(2)})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 95})())
    assert "DDIM_HOST_CACHE" in refused(path, "do not fit").fix
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 96})())
    assert len(images(path=path).load().train) == 1


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("DDIM_HOST_CACHE", "~/own")
    assert cache_folder() == tmp_path / "own"
    monkeypatch.setenv("DDIM_HOST_CACHE", "")
    assert cache_folder() == tmp_path / "xdg" / "ddim-host"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache" / "ddim-host"
    assert list(tmp_path.iterdir()) == [tmp_path / "first"]
