"""CIFAR-10 from small archives in the official format."""

from __future__ import annotations

import hashlib
import importlib
import io
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ddim_host.errors import UserError
from ddim_host.parts.datasets import cifar10
from ddim_host.parts.datasets.cifar10 import official_archive

if TYPE_CHECKING:
    from ddim_host.plugin.data import Images

TRAIN = [f"data_batch_{i}.bin" for i in range(1, 6)]
NAMES = [*TRAIN, "test_batch.bin"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "cache"
    monkeypatch.setenv("DDIM_HOST_CACHE", str(folder))
    return folder


def random_images(count: int, seed: int = 0) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def records(images: Images, label: int = 3) -> bytes:
    """Write the official format byte by byte: a label, then the red, green and blue planes."""
    out = bytearray()
    for image in images:
        out.append(label)
        for channel in range(3):
            out += image[:, :, channel].tobytes()
    return bytes(out)


def small_members() -> dict[str, bytes]:
    return {name: records(random_images(2 + i, seed=i)) for i, name in enumerate(NAMES)}


def write_tar(path: Path, members: dict[str, bytes], folder: str = "cifar-10-batches-bin/") -> Path:
    compression = {".gz": "w:gz", ".tar": "w"}[path.suffix]
    with tarfile.open(path, compression, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(folder + name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_folder(folder: Path, members: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, data in members.items():
        (folder / name).write_bytes(data)
    return folder


def test_the_source_is_known_before_anything_is_read(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "x.tar.gz"
    path.write_bytes(b"not read yet")
    source = cifar10(path=path)
    assert source.image_shape == (32, 32, 3)
    assert source.random_flip
    assert not cifar10(path=path, flip=False).random_flip
    assert str(path) in source.description
    assert cifar10().image_shape == (32, 32, 3)
    assert not cache.exists()


@settings(max_examples=10, deadline=None)
@given(npst.arrays(np.uint8, st.tuples(st.integers(6, 9), st.just(32), st.just(32), st.just(3))))
def test_images_survive_the_record_format(images: Images) -> None:
    parts = [images[0:1], images[1:2], images[2:3], images[3:4], images[4:5], images[5:]]
    members = {name: records(part) for name, part in zip(NAMES, parts, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        data = cifar10(path=write_tar(Path(folder) / "c.tar.gz", members)).load()
    np.testing.assert_array_equal(data.train, images[:5])
    np.testing.assert_array_equal(data.test, images[5:])


def test_batch_order_does_not_depend_on_the_archive(tmp_path: Path) -> None:
    members = small_members()
    backwards = dict(reversed(members.items()))
    data = cifar10(path=write_tar(tmp_path / "c.tar", {"readme.html": b"<html>", **backwards})).load()
    expected = np.concatenate([random_images(2 + i, seed=i) for i in range(5)])
    np.testing.assert_array_equal(data.train, expected)
    np.testing.assert_array_equal(data.test, random_images(7, seed=5))
    assert isinstance(data.train, np.memmap)
    assert not data.train.flags.writeable


def test_archive_folder_and_parent_folder_give_the_same_images(tmp_path: Path) -> None:
    members = small_members()
    inner = write_folder(tmp_path / "around" / "cifar-10-batches-bin", members)
    archive = write_tar(tmp_path / "c.tar.gz", members, folder="./somewhere/else/")
    expected = cifar10(path=archive).load()
    for path in (inner, inner.parent):
        data = cifar10(path=path).load()
        np.testing.assert_array_equal(data.train, expected.train)
        np.testing.assert_array_equal(data.test, expected.test)


def test_the_second_load_comes_from_the_cache_and_a_changed_archive_does_not(
    tmp_path: Path, cache: Path
) -> None:
    members = small_members()
    path = write_tar(tmp_path / "c.tar.gz", members)
    cifar10(path=path).load()
    written = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    assert len(written) == 2
    cifar10(path=path).load()
    assert {file: file.stat().st_mtime_ns for file in cache.iterdir()} == written

    members["test_batch.bin"] = records(random_images(1, seed=99))
    data = cifar10(path=write_tar(path, members)).load()
    np.testing.assert_array_equal(data.test, random_images(1, seed=99))


def without(name: str) -> dict[str, bytes]:
    return {key: data for key, data in small_members().items() if key != name}


@pytest.mark.parametrize("as_folder", [True, False])
@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({}, "not contain data_batch_1.bin"),
        (without("data_batch_4.bin"), "not contain data_batch_4.bin"),
        (without("test_batch.bin"), "not contain test_batch.bin"),
        ({**small_members(), "data_batch_2.bin": b""}, "data_batch_2.bin has 0 bytes"),
        ({**small_members(), "data_batch_2.bin": b"\0" * 3072}, "multiple of 3073"),
        ({**small_members(), "test_batch.bin": records(random_images(2), label=10)}, "label 10"),
    ],
    ids=["nothing", "no-train", "no-test", "empty", "odd-size", "label"],
)
def test_files_that_are_not_cifar10_are_refused(
    members: dict[str, bytes], why: str, as_folder: bool, tmp_path: Path
) -> None:
    path = write_folder(tmp_path / "c", members) if as_folder else write_tar(tmp_path / "c.tar.gz", members)
    with pytest.raises(UserError, match="CIFAR-10") as caught:
        cifar10(path=path).load()
    assert why in caught.value.why
    assert "--data cifar10:path=FILE" in caught.value.fix


def test_missing_path_is_refused_immediately(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="CIFAR-10"):
        cifar10(path=tmp_path / "missing")
    with pytest.raises(UserError, match="CIFAR-10"):
        cifar10(path=Path("a\0b"))


def test_a_member_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.tar"
    write_tar(path, small_members())
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo("other/test_batch.bin"))
    with pytest.raises(UserError) as caught:
        cifar10(path=path).load()
    assert "twice" in caught.value.why


def test_members_with_paths_outside_the_archive_write_nothing(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "deep" / "deeper"
    folder.mkdir(parents=True)
    path = write_tar(folder / "c.tar.gz", small_members(), folder="../../")
    before = sorted(tmp_path.rglob("*"))
    data = cifar10(path=path).load()  # members are read, never extracted, so their folders do not matter
    assert len(data.train) == 2 + 3 + 4 + 5 + 6
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_in_place_of_a_member_is_not_followed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "c.tar", without("test_batch.bin"))
    (tmp_path / "secret").write_bytes(records(random_images(1)))
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        tar.addfile(link)
    with pytest.raises(UserError) as caught:
        cifar10(path=path).load()
    assert "not contain test_batch.bin" in caught.value.why


def test_a_member_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.tar"
    info = tarfile.TarInfo("data_batch_1.bin")
    info.size = 1 << 40
    path.write_bytes(info.tobuf() + b"\0" * 4096)
    with pytest.raises(UserError, match="too large"):
        cifar10(path=path).load()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_archive_is_a_user_error_or_still_readable(data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from([".tar", ".tar.gz"]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"c{suffix}"
        write_tar(path, {name: records(random_images(1)) for name in NAMES})
        content = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            del content[data.draw(st.integers(0, len(content) - 1)) :]
        for _ in range(data.draw(st.integers(0, 4)) if content else 0):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        try:
            found = cifar10(path=path).load()
        except UserError as error:
            assert error.why  # noqa: PT017 - either outcome is right
        else:
            assert found.train.shape == (5, 32, 32, 3)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.9])
def test_a_truncated_archive_is_a_user_error(suffix: str, part: float, tmp_path: Path) -> None:
    path = write_tar(tmp_path / f"c{suffix}", small_members())
    content = path.read_bytes()
    used = len(content.rstrip(b"\0"))  # a plain archive ends with zeros, which may be missing
    path.write_bytes(content[: int(used * part)])
    with pytest.raises(UserError):
        cifar10(path=path).load()


@pytest.mark.parametrize("damage", ["truncate", "overwrite", "delete", "extend", "other"])
def test_damaged_cache_is_rebuilt(damage: str, tmp_path: Path, cache: Path) -> None:
    path = write_tar(tmp_path / "c.tar.gz", small_members())
    cifar10(path=path).load()
    expected = {file: file.read_bytes() for file in cache.iterdir()}
    for file, content in expected.items():
        if damage == "other":
            np.save(file, np.zeros((5, 4, 4, 3), np.uint8))
        elif damage == "delete":
            file.unlink()
        else:
            damaged = {"truncate": content[:-1], "overwrite": b"x" * len(content), "extend": content + b"x"}
            file.write_bytes(damaged[damage])
    assert cifar10(path=path).load().train.shape == (20, 32, 32, 3)
    assert {file: file.read_bytes() for file in cache.iterdir()} == expected


def test_a_cache_that_cannot_be_written_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain").write_text("")
    monkeypatch.setenv("DDIM_HOST_CACHE", str(tmp_path / "plain" / "cache"))
    with pytest.raises(UserError, match="cache folder") as caught:
        cifar10(path=write_tar(tmp_path / "c.tar.gz", small_members())).load()
    assert "DDIM_HOST_CACHE" in caught.value.fix


def test_without_a_path_the_archive_is_downloaded_once(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_tar(tmp_path / "cifar-10-binary.tar.gz", small_members())
    module = importlib.import_module("ddim_host.parts.datasets.cifar10")
    monkeypatch.setattr(module, "URL", archive.as_uri())
    monkeypatch.setattr(module, "MD5", hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest())
    assert "official archive (not in the cache yet; 170 MB, downloaded once)" in cifar10().description
    np.testing.assert_array_equal(cifar10().load().test, random_images(7, seed=5))
    assert official_archive() == "decoded in the cache"

    monkeypatch.setattr(module, "URL", (tmp_path / "gone").as_uri())
    np.testing.assert_array_equal(cifar10().load().test, random_images(7, seed=5))
    for file in cache.glob("*.npy"):  # the archive is still there
        file.unlink()
    assert official_archive() == "in the cache"
    np.testing.assert_array_equal(cifar10().load().test, random_images(7, seed=5))


@pytest.mark.parametrize("reachable", [True, False])
def test_failed_download_explains_how_to_use_a_local_file(
    reachable: bool, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "cifar-10-binary.tar.gz"
    if reachable:
        archive.write_bytes(b"another file than the official one")
    module = importlib.import_module("ddim_host.parts.datasets.cifar10")
    monkeypatch.setattr(module, "URL", archive.as_uri())
    with pytest.raises(UserError, match="cannot download") as caught:
        cifar10().load()
    assert "--data cifar10:path=FILE" in caught.value.fix
    assert list(cache.iterdir()) == []
