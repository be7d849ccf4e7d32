"""Array, IDX, Parquet, tar and TIFF data sets give the same pixels as a folder of PNGs."""

from __future__ import annotations

import builtins
import gzip
import io
import pickle
import shutil
import struct
import sys
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ddim_host.errors import UserError
from ddim_host.parts.datasets import images
from ddim_host.parts.datasets.decoding import decode_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ddim_host.plugin.data import TrainTest

    Write = Callable[[Path, "NDArray[np.uint8]"], Path]

needs_pyarrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")

_RNG = np.random.default_rng(0)
GREY = _RNG.integers(0, 256, (23, 8, 8), dtype=np.uint8)
COLOUR = _RNG.integers(0, 256, (23, 8, 8, 3), dtype=np.uint8)
NUM_TEST = 5
"""Number of test images, which are the last ones, in data sets with halves."""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "cache"
    monkeypatch.setenv("DDIM_HOST_CACHE", str(folder))
    return folder


def encode(pixels: NDArray[Any], form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def pngs(folder: Path, pixels: NDArray[np.uint8], prefix: str = "") -> Path:
    for index, image in enumerate(pixels):
        path = folder / prefix / f"{index:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image))
    return folder


def idx(array: NDArray[np.uint8]) -> bytes:
    """Write the format of http://yann.lecun.com/exdb/mnist."""
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def as_npy(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    np.save(folder / "x.npy", pixels)
    return folder / "x.npy"


def as_npy_with_channels(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    return as_npy(folder, pixels if pixels.ndim == 4 else pixels[:, :, :, None])


def as_npz(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    np.savez(folder / "x.npz", images=pixels, labels=np.arange(len(pixels)))
    return folder / "x.npz"


def as_compressed_npz(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    np.savez_compressed(folder / "x.npz", whatever=pixels)
    return folder / "x.npz"


def as_npy_shards(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    np.save(folder / "a.npy", pixels[:10])
    np.save(folder / "b.npy", pixels[10:])
    return folder


def as_idx(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    (folder / "some-ubyte").write_bytes(idx(pixels))
    return folder / "some-ubyte"


def as_idx_gz(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    (folder / "some.gz").write_bytes(gzip.compress(idx(pixels)))
    return folder / "some.gz"


def write_parquet(path: Path, pixels: NDArray[np.uint8], column: str = "image", **options: Any) -> None:
    """Write Parquet as the `datasets` library does: structs of the bytes and the name of an image file."""
    import pyarrow as pa  # noqa: PLC0415 - not installed everywhere
    import pyarrow.parquet as pq  # noqa: PLC0415

    values = [{"bytes": encode(image), "path": f"{i}.png"} for i, image in enumerate(pixels)]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({column: pa.array(values, kind), "label": pa.array([7] * len(pixels))})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)


def as_parquet(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    write_parquet(folder / "x.parquet", pixels, row_group_size=7)
    return folder / "x.parquet"


def as_parquet_shards(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    write_parquet(folder / "data" / "train-00000-of-00002.parquet", pixels[:10], "img")
    write_parquet(folder / "data" / "train-00001-of-00002.parquet", pixels[10:], "img")
    return folder


def as_binary_parquet(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    pq.write_table(pa.table({"png": [encode(image) for image in pixels]}), folder / "x.parquet")
    return folder / "x.parquet"


def write_tar(path: Path, pixels: NDArray[np.uint8], first: int = 0) -> None:
    """Write a tar as the `webdataset` library does: files of a sample share the name up to the first dot."""
    with tarfile.open(path, "w") as tar:
        for index, image in enumerate(pixels):
            for suffix, data in (("cls", b"7"), ("json", b"{}"), ("png", encode(image))):
                info = tarfile.TarInfo(f"{first + index:06}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def as_webdataset(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    write_tar(folder / "000000.tar", pixels[:10])
    write_tar(folder / "000001.tar", pixels[10:])
    return folder


def as_tiff(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    for index, image in enumerate(pixels):
        options = {"compression": "tiff_lzw"} if index % 2 else {}
        suffix = ("tif", "TIFF")[index % 2]
        (folder / f"{index:04}.{suffix}").write_bytes(encode(image, "TIFF", **options))
    return folder


ONE = [
    *(as_npy, as_npy_with_channels, as_npy_shards, as_npz, as_compressed_npz),
    *(as_idx, as_idx_gz, as_webdataset, as_tiff),
    *(pytest.param(f, marks=needs_pyarrow) for f in (as_parquet, as_parquet_shards, as_binary_parquet)),
]


def same(found: TrainTest, expected: TrainTest) -> None:
    np.testing.assert_array_equal(found.train, expected.train)
    np.testing.assert_array_equal(found.test, expected.test)
    assert found.fingerprint == expected.fingerprint
    assert isinstance(found.train, np.memmap)


@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("write", ONE)
def test_every_format_gives_the_pixels_of_a_folder_of_pngs(
    write: Write, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    path = write(tmp_path / "other", pixels)
    expected = images(path=pngs(tmp_path / "pngs", pixels))
    found = images(path=path)
    assert found.image_shape == expected.image_shape == (8, 8, 1 if pixels is GREY else 3)
    same(found.load(), expected.load())
    assert "1 in 10 for testing, by name" in found.load().split
    half = images(path=path, size=4, channels="3")
    same(half.load(), images(path=tmp_path / "pngs", size=4, channels="3").load())


def halves_npz(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    train, test = pixels[:-NUM_TEST], pixels[-NUM_TEST:]
    np.savez(folder / "x.npz", x_test=test, y_test=[1], x_train=train, y_train=[1])
    return folder / "x.npz"


def halves_medmnist(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    train, test = pixels[:-NUM_TEST], pixels[-NUM_TEST:]
    np.savez(folder / "x.npz", train_images=train, val_images=test[:1], test_images=test, train_labels=[1])
    return folder / "x.npz"


def halves_idx(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    (folder / "train-images-idx3-ubyte").write_bytes(idx(pixels[:-NUM_TEST]))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels[-NUM_TEST:])))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(18, np.uint8)))
    return folder


def halves_idx_with_dots(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    (folder / "raw").mkdir()
    (folder / "raw" / "train-images.idx3-ubyte").write_bytes(idx(pixels[:-NUM_TEST]))
    (folder / "raw" / "t10k-images.idx3-ubyte").write_bytes(idx(pixels[-NUM_TEST:]))
    return folder


def halves_parquet(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    write_parquet(folder / "data" / "train-00000-of-00002.parquet", pixels[:10])
    write_parquet(folder / "data" / "train-00001-of-00002.parquet", pixels[10:-NUM_TEST])
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", pixels[-NUM_TEST:])
    write_parquet(folder / "data" / "validation-00000-of-00001.parquet", pixels[:3])
    return folder


def halves_tar(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    write_tar(folder / "train-0.tar", pixels[:10])
    write_tar(folder / "train-1.tar", pixels[10:-NUM_TEST])
    write_tar(folder / "test-0.tar", pixels[-NUM_TEST:])
    return folder


def halves_npy(folder: Path, pixels: NDArray[np.uint8]) -> Path:
    np.save(folder / "train.npy", pixels[:-NUM_TEST])
    np.save(folder / "test.npy", pixels[-NUM_TEST:])
    return folder


@pytest.mark.parametrize(
    ("write", "split"),
    [
        (halves_npz, "its arrays x_train and x_test"),
        (halves_medmnist, "its arrays train_images and test_images; not used: val_images (1)"),
        (halves_idx, "train-images-idx3-ubyte and t10k-images-idx3-ubyte.gz"),
        (halves_idx_with_dots, "train-images.idx3-ubyte and t10k-images.idx3-ubyte"),
        pytest.param(halves_parquet, "Parquet files whose names begin", marks=needs_pyarrow),
        (halves_tar, "tar files whose names begin"),
        (halves_npy, "npy files whose names begin"),
    ],
)
def test_halves_are_those_of_folders_train_and_test(write: Write, split: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    path = write(tmp_path / "other", GREY)
    pngs(tmp_path / "pngs", GREY[:-NUM_TEST], "train")
    pngs(tmp_path / "pngs", GREY[-NUM_TEST:], "test")
    found = images(path=path).load()
    same(found, images(path=tmp_path / "pngs").load())
    assert split in found.split


def test_image_files_take_precedence_in_a_folder(tmp_path: Path) -> None:
    as_npy(tmp_path, COLOUR)
    pngs(tmp_path, GREY)
    assert images(path=tmp_path).image_shape == (8, 8, 1)


def test_plain_idx_files_take_precedence_over_compressed_ones(tmp_path: Path) -> None:
    halves_idx(tmp_path, GREY)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"another one")
    assert len(images(path=tmp_path).load().train) == 18


# --- refused input ------------------------------------------------------------------------------------------


def refused(path: Path, match: str, **options: Any) -> UserError:
    with pytest.raises(UserError, match=match) as caught:
        images(path=path, **options).load()
    assert caught.value.fix
    return caught.value


UNIT = _RNG.random((5, 8, 8))


@pytest.mark.parametrize(
    ("array", "found", "fix"),
    [
        (
            UNIT.astype(np.float32),
            "float32 of shape (5, 8, 8), with values from 0.0",
            "(255 * array).round()",
        ),
        (UNIT * 2 - 1, "float64 of shape", "(127.5 * array + 127.5)"),
        (GREY.astype(np.int64), "int64 of shape (23, 8, 8), with values from 0 to 255", "save array.round()"),
        (
            GREY.astype(np.int32) - 5,
            "values from -5 to 250",
            "scale all images to 0 to 255 with the same window",
        ),
        (GREY > 99, "bool of shape", "(255 * array)"),
        (GREY.reshape(23, 64), "uint8 of shape (23, 64)", "array.reshape(-1, 8, 8)"),
        (GREY[0], "uint8 of shape (8, 8)", "save array[None] if it is a single image"),
        (np.zeros((64, 64), np.uint8), "uint8 of shape (64, 64)", "save array[None]"),
        (COLOUR.transpose(0, 3, 1, 2), "uint8 of shape (23, 3, 8, 8)", "transpose(0, 2, 3, 1)"),
        (np.zeros((3, 8, 8, 4), np.uint8), "(3, 8, 8, 4)", "array[:, :, :, :3]"),
        (np.zeros((3, 8, 8, 2), np.uint8), "(3, 8, 8, 2)", "such an array"),
        (np.asfortranarray(GREY), "Fortran order", "ascontiguousarray"),
        (np.array(["a", "b"]), "of shape (2,)", "such an array"),
        (np.zeros((0, 8, 8), np.uint8), "shape (0, 8, 8)", "such an array"),
    ],
)
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_unsupported_arrays_are_refused_with_their_description(
    kind: str, array: NDArray[Any], found: str, fix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "npy":
        np.save(path, array)
    else:
        np.savez_compressed(path, images=array)
    error = refused(path, "is not an array of images")
    assert found in error.what
    assert "must be uint8 arrays" in error.why
    assert fix in error.fix


class Evil:
    """An object that creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (builtins.open, (str(self.path), "w"))


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_pickles_are_never_loaded(kind: str, tmp_path: Path) -> None:
    array = np.empty(2, object)
    array[:] = [Evil(tmp_path / "evil"), None]
    path = tmp_path / f"x.{kind}"
    np.save(path, array, allow_pickle=True) if kind == "npy" else np.savez(path, images=array)
    assert "never loaded" in refused(path, "is not an array of images").what
    assert not (tmp_path / "evil").exists()
    path.write_bytes(pickle.dumps(array.tolist()))
    refused(path, "neither a folder nor a supported archive")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("write", [as_npy, as_npz, as_compressed_npz, as_idx, as_idx_gz])
@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_truncated_arrays_are_refused(write: Write, part: float, tmp_path: Path) -> None:
    path = write(tmp_path, GREY)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    refused(path, "cannot read|neither")


@pytest.mark.parametrize("write", [as_npy, as_idx])
def test_arrays_with_trailing_bytes_are_refused(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path, GREY)
    path.write_bytes(path.read_bytes() + b"x")
    assert "data after its" in refused(path, "cannot read").why


@pytest.mark.parametrize("write", [as_compressed_npz, as_idx_gz, as_npz])
def test_checksums_of_compressed_arrays_are_verified(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path, GREY)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused(path, "cannot read")


@pytest.mark.parametrize("packed", [False, True])
def test_an_array_that_claims_to_be_huge_is_refused_at_once(packed: bool, tmp_path: Path) -> None:
    header = struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 28, 28) + bytes(100)
    (tmp_path / "x").write_bytes(gzip.compress(header) if packed else header)
    assert "too short for an array" in refused(tmp_path / "x", "cannot read").why


def test_several_arrays_of_unknown_names_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", left=GREY, right=GREY)
    error = refused(tmp_path / "x.npz", "cannot tell which arrays")
    assert "left, right" in error.why
    with zipfile.ZipFile(tmp_path / "y.npz", "w") as archive:
        archive.writestr("readme.txt", "")
    assert "none" in refused(tmp_path / "y.npz", "cannot tell which arrays").why


def test_idx_files_of_several_sets_are_refused(tmp_path: Path) -> None:
    for name in ("emnist-letters-", "emnist-digits-"):
        (tmp_path / f"{name}train-images-idx3-ubyte").write_bytes(idx(GREY))
    assert "emnist-digits-" in refused(tmp_path, "several data sets").why


def test_labels_are_refused_as_images(tmp_path: Path) -> None:
    (tmp_path / "labels").write_bytes(idx(np.zeros(9, np.uint8)))
    assert "uint8 of shape (9,)" in refused(tmp_path / "labels", "is not an array of images").what


def test_shards_of_several_kinds_are_refused(tmp_path: Path) -> None:
    as_webdataset(tmp_path, GREY)
    np.save(tmp_path / "labels.npy", np.arange(9))
    assert "tar and npy" in refused(tmp_path, "cannot tell which files").why


@needs_pyarrow
def test_parquet_without_a_column_of_images_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), path)
    assert "text (string), label (int64)" in refused(path, "no image column").why
    pq.write_table(pa.table({"a": [b"x"], "b": [b"x"]}), path)
    assert "a (binary), b (binary)" in refused(path, "cannot tell which column").why
    pq.write_table(pa.table({"image": [{"bytes": None, "path": "a.png"}] * 2}), path)
    refused(path, "no image column")
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pq.write_table(pa.table({"image": pa.array([{"bytes": None, "path": "a.png"}] * 2, kind)}), path)
    assert "a.png" in refused(path, "contains the names of images, but not the images").why


@needs_pyarrow
def test_rows_without_an_image_are_broken_images(tmp_path: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    rows = [encode(image) for image in GREY]
    pq.write_table(pa.table({"image": [*rows[:3], None, b"x", *rows[3:]]}), tmp_path / "x.parquet")
    refused(tmp_path / "x.parquet", "cannot decode 000000003")
    data = images(path=tmp_path / "x.parquet", skip_broken=True).load()
    assert data.left_out == ("000000003", "000000004")


@needs_pyarrow
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_truncated_parquet_is_refused(part: float, tmp_path: Path) -> None:
    path = as_parquet(tmp_path, GREY)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    refused(path, "cannot read")


def test_parquet_without_pyarrow_is_an_error_with_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and more")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert "pyarrow>=18,<26" in refused(tmp_path / "x.parquet", "needs pyarrow").fix


# --- TIFF ---------------------------------------------------------------------------------------------------


def tiff(array: NDArray[Any], photometric: int) -> bytes:
    """Write an uncompressed little-endian TIFF: one strip, with the channels of a pixel together."""
    height, width = array.shape[:2]
    channels = array.shape[2] if array.ndim == 3 else 1
    bits = array.dtype.itemsize * 8
    tags = {
        256: (3, [width]), 257: (3, [height]), 258: (3, [bits] * channels), 259: (3, [1]),
        262: (3, [photometric]), 273: (4, [0]), 277: (3, [channels]), 278: (3, [height]),
        279: (4, [array.nbytes]), 339: (3, [{"u": 1, "i": 2, "f": 3}[array.dtype.kind]] * channels),
    }  # fmt: skip
    after = 8 + 2 + 12 * len(tags) + 4
    extra, entries = b"", b""
    for tag, (kind, values) in tags.items():
        packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            offset = after + len(extra)
            extra += packed
            packed = struct.pack("<I", offset)
        entries += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    start = struct.pack("<I", after + len(extra))
    entries = entries.replace(
        struct.pack("<HHI", 273, 4, 1) + bytes(4), struct.pack("<HHI", 273, 4, 1) + start
    )
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + extra + array.tobytes()


SIXTEEN = _RNG.integers(0, 65536, (8, 8), dtype=np.uint16)
FLOATS = _RNG.random((8, 8), dtype=np.float32)
BLACK_IS_ZERO, WHITE_IS_ZERO, RGB = 1, 0, 2


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (GREY[0], GREY[0]),
        (SIXTEEN, np.rint(SIXTEEN / 257)),
        (FLOATS, np.rint(FLOATS * 255)),
        (np.array([[0, 1], [0.5, 0.25]], np.float32), np.array([[0, 255], [128, 64]])),
    ],
    ids=["8", "16", "float", "limits"],
)
@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
def test_grey_tiffs(array: NDArray[Any], expected: NDArray[Any], photometric: int) -> None:
    found = decode_image(tiff(array, photometric), "x", channels=None)[:, :, 0]
    np.testing.assert_array_equal(found, expected if photometric else 255 - expected)


def test_colour_tiffs() -> None:
    np.testing.assert_array_equal(decode_image(tiff(COLOUR[0], RGB), "x"), COLOUR[0])
    sixteen = _RNG.integers(0, 65536, (8, 8, 3), dtype=np.uint16)
    found = decode_image(tiff(sixteen, RGB), "x").astype(int)
    assert np.abs(found - sixteen / 257).max() <= 1


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (FLOATS * 255, "floats from"),
        (FLOATS - 0.5, "floats from -0."),
        (np.full((8, 8), np.nan, np.float32), "floats from nan to nan"),
        (np.full((8, 8), np.inf, np.float32), "floats from inf to inf"),
        (np.full((8, 8), -3, np.int32), "integers from -3 to -3"),
        (np.full((8, 8), 70_000, np.int32), "integers from 70000 to 70000"),
    ],
)
def test_tiffs_with_other_values_are_refused(array: NDArray[Any], found: str, tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(array, BLACK_IS_ZERO))
    (tmp_path / "b.tif").write_bytes(tiff(array, BLACK_IS_ZERO))
    error = refused(tmp_path, found)
    assert "from 0 (black) to" in error.why


def test_first_page_of_a_tiff_is_used() -> None:
    pages = io.BytesIO()
    others = [Image.fromarray(image) for image in GREY[1:3]]
    Image.fromarray(GREY[0]).save(pages, "TIFF", save_all=True, append_images=others)
    np.testing.assert_array_equal(decode_image(pages.getvalue(), "x", channels=1)[:, :, 0], GREY[0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiffs_are_turned_upright_once(orientation: int) -> None:
    wide = GREY[0, :5]
    exif = Image.Exif()
    exif[274] = orientation
    expected = decode_image(encode(wide, exif=exif), "x")
    for compression in ("raw", "tiff_lzw"):
        data = encode(wide, "TIFF", tiffinfo={274: orientation}, compression=compression)
        np.testing.assert_array_equal(decode_image(data, "x"), expected)


# --- DICOM and NIfTI ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.dcm", "B.DCM", "a.dicom", "a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", ["file", "folder", "zip", "tar"])
def test_scans_are_refused_with_how_to_convert_them(kind: str, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "patients"
    (folder / "1").mkdir(parents=True)
    scan = folder / "1" / name
    scan.write_bytes(bytes(128) + b"DICM")
    path = {"file": scan, "folder": folder}.get(kind) or Path(
        shutil.make_archive(str(tmp_path / "all"), kind, folder)
    )
    error = refused(path, f"{name} .*is a DICOM or NIfTI file")
    assert "convert all files to PNG with the same window" in error.fix


def test_scans_beside_images_are_ignored(tmp_path: Path) -> None:
    for index, pixels in enumerate(GREY):
        Image.fromarray(pixels).save(tmp_path / f"{index:02}.png")
    (tmp_path / "scan.dcm").write_bytes(b"")
    data = images(path=tmp_path).load()
    assert len(data.train) + len(data.test) == len(GREY)
