"""MNIST and Fashion-MNIST from their official idx files."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - the host reads the types of the options at run time
from typing import TYPE_CHECKING

from ddim_host.errors import UserError, printable, reason
from ddim_host.parts.datasets.decoded import Recipe, load_decoded
from ddim_host.parts.datasets.decoding import read_size
from ddim_host.parts.datasets.forms import idx_halves
from ddim_host.parts.datasets.image_files import files_below, is_hidden
from ddim_host.plugin.data import DataSource
from ddim_host.system.cache import cache_errors, cache_folder
from ddim_host.system.download import download

if TYPE_CHECKING:
    from ddim_host.parts.datasets.image_files import Joined
    from ddim_host.plugin.data import TrainTest

SHAPE = (28, 28, 1)
MAX_FILE_BYTES = 64 << 20
"""Maximum accepted size of a file; the largest official one is 26 million bytes."""

TRAIN, TEST = "train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"


@dataclass(frozen=True)
class Published:
    """A published data set in MNIST's format.

    Attributes:
        name: Display name.
        part: The name of the part, and of the folder in the cache.
        url: Base URL of the files.
        sha256: Hashes of the files, by name.
        megabytes: Total size of both files, in MB.
    """

    name: str
    part: str
    url: str
    sha256: dict[str, str]
    megabytes: int


MNIST = Published(
    name="MNIST",
    part="mnist",
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    sha256={
        TRAIN: "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        TEST: "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    },
    megabytes=12,
)
FASHION_MNIST = Published(
    name="Fashion-MNIST",
    part="fashion_mnist",
    url="https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    sha256={
        TRAIN: "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        TEST: "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    },
    megabytes=31,
)


def mnist(*, path: Path | None = None) -> DataSource:
    """MNIST: 60,000 training and 10,000 test images of handwritten digits, 28 x 28 grey pixels.

    The decoded images, and downloaded files, are stored in the cache; see `cache.cache_folder`.

    Args:
        path: A folder with local copies of `train-images-idx3-ubyte.gz` and `t10k-images-idx3-ubyte.gz`,
            compressed or not. Any number of images of this size is accepted. If omitted, the files are
            downloaded.

    Returns:
        A source of memory-mapped uint8 images `(N, 28, 28, 1)`, never mirrored.

    Raises:
        UserError: `path` does not exist.
    """
    return _source(MNIST, path, flip=False)


def fashion_mnist(*, path: Path | None = None, flip: bool = False) -> DataSource:
    """Fashion-MNIST: 60,000 training and 10,000 test images of clothes, 28 x 28 grey pixels.

    Args:
        path: See `mnist`.
        flip: Mirror images left to right at random in training. All shoes in the data set point left.

    Returns:
        A source of memory-mapped uint8 images `(N, 28, 28, 1)`.

    Raises:
        UserError: `path` does not exist.
    """
    return _source(FASHION_MNIST, path, flip=flip)


def official_files(published: Published) -> str:
    """Describe the state of the official files in the cache, without downloading them."""
    if all(_path(published, name).is_file() for name in published.sha256):
        return "in the cache"
    return f"not in the cache yet; {published.megabytes} MB, downloaded once"


def _source(published: Published, path: Path | None, *, flip: bool) -> DataSource:
    if path is not None:
        try:
            path.stat()
        except (OSError, ValueError) as error:  # a NUL in a name is a ValueError
            raise _wrong(published, path, reason(error)) from error
    origin = f"the official files ({official_files(published)})" if path is None else printable(path)
    return DataSource(
        image_shape=SHAPE,
        random_flip=flip,
        description=f"{published.name}, 28 x 28 grey, from {origin}: train-images for training, "
        "t10k-images for testing",
        load=functools.partial(_load, published, path),
    )


def _load(published: Published, path: Path | None) -> TrainTest:
    if path is None:
        _fetch(published)
        path = cache_folder() / published.part
    recipe = Recipe(
        path,
        SHAPE[0],
        every=10,
        channels=1,
        all_grey=False,
        same_size_as=published.name,
        skip_broken=False,
        find=functools.partial(_open, published),
    )
    return load_decoded(recipe)


def _open(published: Published, path: Path) -> Joined:
    """Open the two files in a folder.

    Raises:
        UserError: A file is missing, or its images are not 28 x 28 pixels.
    """
    files = {name: found for name, found, _ in files_below(path, lambda name: not is_hidden(name))}
    halves = idx_halves(files)
    found = [half for half, _ in halves.members] if halves else []
    missing = [name for half, name in (("train", TRAIN), ("test", TEST)) if half not in found]
    if halves is None or missing:
        raise _wrong(published, path, f"it does not contain {' or '.join(missing)}, compressed or not")
    for half, array in halves.members:
        with contextlib.closing(array.contents()) as contents:
            _, image = next(contents)
        width, height = read_size(image, half)
        if (height, width) != SHAPE[:2]:
            raise _wrong(published, path, f"its {half} images are {width} x {height} pixels, not 28 x 28")
    return halves


def _fetch(published: Published) -> None:
    """Download the official files that are not in the cache."""
    for name, sha256 in published.sha256.items():
        path = _path(published, name)
        if _sha256(path) != sha256:
            url = published.url + name
            download(url, path, checksum=f"sha256:{sha256}", max_bytes=MAX_FILE_BYTES, fix=_fix(published))


def _path(published: Published, name: str) -> Path:
    return cache_folder() / published.part / name


def _sha256(path: Path) -> str:
    """Return the hash of a file, or an empty string if the file does not exist."""
    if not path.is_file():
        return ""
    with cache_errors(), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wrong(published: Published, path: Path, why: str) -> UserError:
    return UserError(f"cannot read {published.name} from {printable(path)}", why=why, fix=_fix(published))


def _fix(published: Published) -> str:
    return (
        f"download {TRAIN} and {TEST} from {published.url} on any machine, "
        f"and pass --data {published.part}:path=FOLDER"
    )
