"""CIFAR-10 from its official binary archive."""

from __future__ import annotations

import functools
import hashlib
import os
import stat
from pathlib import Path, PurePosixPath

import numpy as np

from ddim_host.errors import UserError, printable, reason
from ddim_host.parts.datasets.archives import tar_files, too_many_bytes
from ddim_host.parts.datasets.cache import new_train_test, open_train_test
from ddim_host.plugin.data import DataSource, Images, TrainTest
from ddim_host.system.cache import cache_folder
from ddim_host.system.download import download

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
MAX_ARCHIVE_BYTES = 256 << 20
"""Maximum accepted size of an archive; the official one is 170 million bytes."""

SHAPE = (32, 32, 3)
RECORD_BYTES = 1 + 32 * 32 * 3
NUM_LABELS = 10
TRAIN_MEMBERS = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST_MEMBER = "test_batch.bin"
MEMBERS = (*TRAIN_MEMBERS, TEST_MEMBER)
MAX_MEMBER_BYTES = 64 << 20
"""Maximum accepted file size; the official ones are 31 million bytes. All six are converted in memory."""

FORMAT_VERSION = 1
_FIX = (
    f"download cifar-10-binary.tar.gz (the binary version) from {URL} on any machine, "
    "and pass --data cifar10:path=FILE"
)


def cifar10(*, path: Path | None = None, flip: bool = True) -> DataSource:
    """CIFAR-10: 50,000 training and 10,000 test images of 32 x 32 RGB pixels.

    The decoded images, and a downloaded archive, are stored in the cache; see `cache.cache_folder`.

    Args:
        path: A local copy of `cifar-10-binary.tar.gz`, the folder of its files, or that folder's parent.
            Any number of images in this format is accepted. If omitted, the archive is downloaded.
        flip: Mirror images left to right at random in training.

    Returns:
        A source of memory-mapped uint8 images `(N, 32, 32, 3)`; `data_batch_1` to `data_batch_5` are for
        training, `test_batch` for testing.

    Raises:
        UserError: `path` does not exist.
    """
    if path is not None:
        _check_exists(path)
    origin = f"the official archive ({official_archive()})" if path is None else printable(path)
    return DataSource(
        image_shape=SHAPE,
        random_flip=flip,
        description=f"CIFAR-10, 32 x 32 RGB, from {origin}: data_batch_1 to 5 for training, "
        "test_batch for testing",
        load=functools.partial(_load, path),
    )


def _load(path: Path | None) -> TrainTest:
    if path is None:
        return _load_official()
    if path.is_dir():
        members = _read_folder(path)
        return _cached(_digest(members), members, path)
    digest = _digest_file(path)
    found = open_train_test(_key(digest), SHAPE)
    return _cached(digest, _read_archive(path), path) if found is None else found


def official_archive() -> str:
    """Describe the state of the official archive in the cache, without downloading it."""
    if open_train_test(_key(MD5), SHAPE) is not None:
        return "decoded in the cache"
    return "in the cache" if _archive().is_file() else "not in the cache yet; 170 MB, downloaded once"


def _archive() -> Path:
    return cache_folder() / "cifar-10-binary.tar.gz"


def _load_official() -> TrainTest:
    found = open_train_test(_key(MD5), SHAPE)
    if found is not None:
        return found
    archive = _archive()
    if not archive.is_file() or _digest_file(archive) != MD5:
        download(URL, archive, checksum=f"md5:{MD5}", max_bytes=MAX_ARCHIVE_BYTES, fix=_FIX)
    return _cached(MD5, _read_archive(archive), archive)


def _cached(digest: str, members: dict[str, bytes], path: Path) -> TrainTest:
    """Open the cached images of `members`, writing them first if needed."""
    key = _key(digest)
    found = open_train_test(key, SHAPE)
    if found is None:
        train = [_records(members[name], name, path) for name in TRAIN_MEMBERS]
        test = _records(members[TEST_MEMBER], TEST_MEMBER, path)
        with new_train_test(sum(map(len, train)), len(test), SHAPE) as new:
            new.key = key
            row = 0
            for batch in train:
                new.train.write(row, batch)
                row += len(batch)
            new.test.write(0, test)
        found = open_train_test(key, SHAPE)
    if found is None:
        raise UserError("the decoded images disappeared from the cache", fix="run the command again")
    return found


def _key(digest: str) -> str:
    return f"cifar10-v{FORMAT_VERSION}-{digest}"


def _records(data: bytes, name: str, path: Path) -> Images:
    """Check records, each a label and three colour planes, and view them as images `(N, 32, 32, 3)`."""
    if not data or len(data) % RECORD_BYTES:
        why = f"{name} has {len(data)} bytes, not a positive multiple of {RECORD_BYTES}"
        raise _wrong(path, why)
    records = np.frombuffer(data, dtype=np.uint8).reshape(-1, RECORD_BYTES)
    labels = records[:, 0]
    if (labels >= NUM_LABELS).any():
        first = int(np.argmax(labels >= NUM_LABELS))
        raise _wrong(path, f"record {first} of {name} has the label {labels[first]}, which is above 9")
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _read_archive(path: Path) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for label, data in tar_files(path, lambda label: PurePosixPath(label).name in MEMBERS, MAX_MEMBER_BYTES):
        name = PurePosixPath(label).name
        if name in members:
            raise _wrong(path, f"it contains {name} twice")
        members[name] = data
    return _complete(members, path)


def _read_folder(path: Path) -> dict[str, bytes]:
    inner = path / "cifar-10-batches-bin"
    folder = inner if inner.is_dir() else path
    members = {}
    for name in MEMBERS:
        file = folder / name
        try:
            status = file.stat()
            if stat.S_ISREG(status.st_mode):  # reading a pipe could block forever
                if status.st_size > MAX_MEMBER_BYTES:
                    raise too_many_bytes(folder, name, MAX_MEMBER_BYTES)
                members[name] = file.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _wrong(path, printable(error)) from error
    return _complete(members, path)


def _complete(members: dict[str, bytes], path: Path) -> dict[str, bytes]:
    missing = [name for name in MEMBERS if name not in members]
    if missing:
        raise _wrong(path, f"it does not contain {', '.join(missing)}")
    return members


def _digest(members: dict[str, bytes]) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for name in MEMBERS:
        digest.update(f"{name} {len(members[name])}\n".encode())
        digest.update(members[name])
    return digest.hexdigest()


def _digest_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _wrong(path, "it is neither a folder nor a file")
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise _wrong(path, reason(error)) from error


def _check_exists(path: Path) -> None:
    try:
        path.stat()
    except (OSError, ValueError) as error:  # a NUL in a name is a ValueError
        raise _wrong(path, reason(error)) from error


def _wrong(path: Path, why: str) -> UserError:
    return UserError(f"cannot read CIFAR-10 from {printable(path)}", why=why, fix=_FIX)
