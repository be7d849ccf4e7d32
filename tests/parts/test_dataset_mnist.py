"""MNIST and Fashion-MNIST from small files in the official format."""

from __future__ import annotations

import gzip
import hashlib
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ddim_host.errors import UserError
from ddim_host.parts.datasets import fashion_mnist, images, mnist
from ddim_host.parts.datasets.mnist import FASHION_MNIST, MNIST, TEST, TRAIN, Published, official_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddim_host.plugin.data import DataSource, Images
    from tests.support.commands import Outcome

    Factory = Callable[..., DataSource]

BOTH = pytest.mark.parametrize(
    ("published", "part"), [(MNIST, mnist), (FASHION_MNIST, fashion_mnist)], ids=["mnist", "fashion_mnist"]
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "cache"
    monkeypatch.setenv("DDIM_HOST_CACHE", str(folder))
    return folder


def random_images(count: int, seed: int = 0, side: int = 28) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side), dtype=np.uint8)


def idx(array: Images) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(folder: Path, side: int = 28) -> Path:
    folder.mkdir(parents=True)
    (folder / TRAIN).write_bytes(gzip.compress(idx(random_images(6, 0, side))))
    (folder / TEST).write_bytes(gzip.compress(idx(random_images(3, 1, side))))
    return folder


@BOTH
def test_the_source_is_known_before_anything_is_read(
    published: Published, part: Factory, cache: Path
) -> None:
    source = part()
    assert source.image_shape == (28, 28, 1)
    assert not source.random_flip
    assert f"{published.name}, 28 x 28 grey" in source.description
    assert f"not in the cache yet; {published.megabytes} MB, downloaded once" in source.description
    assert not cache.exists()


def test_fashion_mnist_can_be_flipped() -> None:
    assert fashion_mnist(flip=True).random_flip


@BOTH
def test_local_files_give_the_same_images_as_idx_files(
    published: Published, part: Factory, tmp_path: Path
) -> None:
    folder = write(tmp_path / "MNIST" / "raw")
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    for name in (TRAIN, TEST):
        (unpacked / name.removesuffix(".gz")).write_bytes(gzip.decompress((folder / name).read_bytes()))
    expected = images(path=folder).load()
    for path in (folder, tmp_path / "MNIST", unpacked):
        data = part(path=path).load()
        np.testing.assert_array_equal(data.train[:, :, :, 0], random_images(6, 0))
        np.testing.assert_array_equal(data.test[:, :, :, 0], random_images(3, 1))
        assert data.fingerprint == expected.fingerprint
        assert isinstance(data.train, np.memmap)


@BOTH
def test_missing_file_is_named(published: Published, part: Factory, tmp_path: Path) -> None:
    folder = write(tmp_path / "m")
    (folder / TEST).unlink()
    for path, why in (
        (folder, f"not contain {TEST}"),
        (tmp_path / "empty", f"not contain {TRAIN} or {TEST}"),
    ):
        path.mkdir(exist_ok=True)
        with pytest.raises(UserError, match=f"cannot read {published.name} from") as caught:
            part(path=path).load()
        assert why in caught.value.why
        assert f"--data {published.part}:path=FOLDER" in caught.value.fix
    for path in (tmp_path / "gone", Path("a\0b")):
        with pytest.raises(UserError, match=f"cannot read {published.name}"):
            part(path=path)


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read MNIST") as caught:
        mnist(path=write(tmp_path / "m", side=32)).load()
    assert "32 x 32 pixels" in caught.value.why


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "m")
    data = (folder / TRAIN).read_bytes()
    (folder / TRAIN).write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="cannot read"):
        mnist(path=folder).load()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace the official files of MNIST on the network with small ones in a folder."""
    folder = write(tmp_path / "server")
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (TRAIN, TEST)}
    small = replace(MNIST, url=folder.as_uri() + "/", sha256=sums)
    # The package has a function of the module's name.
    monkeypatch.setattr(sys.modules["ddim_host.parts.datasets.mnist"], "MNIST", small)
    return folder


def test_without_a_path_the_files_are_downloaded_once(
    server: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = mnist()
    np.testing.assert_array_equal(source.load().test[:, :, :, 0], random_images(3, 1))
    printed = capsys.readouterr().err
    assert f"downloading {TRAIN}: 100%" in printed
    assert f"downloading {TEST}: 100%" in printed
    assert "the official files (in the cache)" in mnist().description
    assert official_files(FASHION_MNIST).startswith("not in the cache yet")
    (cache / "mnist" / TRAIN).write_bytes(b"damaged")
    np.testing.assert_array_equal(source.load().train[:, :, :, 0], random_images(6, 0))
    for file in server.iterdir():
        file.unlink()
    np.testing.assert_array_equal(mnist().load().test[:, :, :, 0], random_images(3, 1))
    for file in cache.glob("*.npy"):  # the downloaded files are still there
        file.unlink()
    np.testing.assert_array_equal(mnist().load().test[:, :, :, 0], random_images(3, 1))


@pytest.mark.parametrize("reachable", [True, False])
def test_failed_download_explains_how_to_use_a_local_file(reachable: bool, server: Path, cache: Path) -> None:
    for name in (TRAIN, TEST):
        (server / name).write_bytes(b"another file than the official one") if reachable else (
            server / name
        ).unlink()
    with pytest.raises(UserError, match="cannot download") as caught:
        mnist().load()
    assert "--data mnist:path=FOLDER" in caught.value.fix
    assert not list((cache / "mnist").iterdir())


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_network_and_settings_follow_the_data_set(
    name: str, in_process: Callable[..., Outcome], tmp_path: Path
) -> None:
    path = write(tmp_path / "files")
    done = in_process("run", "--plugin", "torch", "--data", f"{name}:path={path}", "--dry-run")
    assert done.code == 0, done.err
    assert "channel_multipliers=1,2,2 " in done.out
    assert "attention_resolutions=14 " in done.out
    assert "800,000 steps of 128 images" in done.out
