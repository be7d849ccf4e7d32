"""One's own image files as a data set."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path  # noqa: TC003 - the host reads the types of the options at run time
from typing import TYPE_CHECKING

from ddim_host.errors import UserError, printable
from ddim_host.parts.datasets.cache import new_train_test, open_train_test, rename_train_test
from ddim_host.parts.datasets.decoding import BrokenImageError, decode_image, read_size
from ddim_host.parts.datasets.image_files import (
    EXTENSIONS,
    ContentHash,
    ImageFiles,
    has_halves,
    open_image_files,
    split_names,
)
from ddim_host.plugin.data import DataSource, TrainTest
from ddim_host.system.cache import cache_errors, cache_folder
from ddim_host.system.files import read_json, write_text
from ddim_host.system.limits import MAX_IMAGE_SIZE
from ddim_host.system.progress import progress_bar
from ddim_host.system.records import read_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["images"]

FORMAT_VERSION = 3
"""Part of the name of what is cached: raise it where the same files would be decoded to other pixels."""

_SAME_SIZE = "without size= all images have to be squares of one size"
_RESIZE = "pass size=N, such as size={}: the middle of each image is cut out and resized to N x N"


def images(
    *,
    path: Path,
    size: int | None = None,
    flip: bool = True,
    test_fraction: float = 0.1,
    skip_broken: bool = False,
) -> DataSource:
    """Image files in a folder, a zip or a tar archive.

    PNG, JPEG, BMP, GIF (first picture) and WebP are read; class folders, hidden files and all else are
    ignored. Links to files are followed; links to folders, and links in archives, are not. Images are always
    made RGB, grey ones too; see `decoding.decode_image`. A single folder around everything is passed over;
    where there are folders `train` and `test` then, those are used. Otherwise, in the order of the names,
    the first image and every `round(1 / test_fraction)`-th after it is for testing.

    The decoded images are cached, under a hash of the files' contents; see `cache.cache_folder`.

    Args:
        path: The folder or archive (.zip, .tar, .tar.gz, .tar.bz2, .tar.xz).
        size: Cut the largest square from the middle of each image and resize it to this width and height, 1
            to 4096. Without it, all images have to be squares of one size.
        flip: Mirror images left to right at random in training.
        test_fraction: About this part of the images is for testing where there are no folders `train` and
            `test`; above 0, at most 0.5.
        skip_broken: Leave out files that cannot be decoded or are damaged, and say which; otherwise the first
            of them is an error.

    Returns:
        A source of uint8 images `(N, H, W, 3)`, memory-mapped.

    Raises:
        UserError: An option is out of range, or there are no images to be read at `path`, or the first one
            is not a square, or too large, and `size` is not given.
    """
    if size is not None and not 1 <= size <= MAX_IMAGE_SIZE:
        raise UserError(f"images cannot have the size {size}", why=f"size= is from 1 to {MAX_IMAGE_SIZE}")
    if not 0 < test_fraction <= 0.5:
        raise UserError(
            f"test_fraction cannot be {test_fraction}",
            why="it is above 0 and at most 0.5",
            fix="leave it out: one in ten images is then for testing",
        )
    every = round(min(1 / test_fraction, 2.0**53))
    name, side = _first_image(path, size, skip_broken=skip_broken)
    recipe = _Recipe(path, side, every, name if size is None else None, skip_broken=skip_broken)
    return DataSource(
        image_shape=recipe.shape,
        random_flip=flip,
        description=(
            f"images in {printable(path)}, {side} x {side} RGB: its folders train/ and test/ where it has "
            f"both, otherwise 1 in {every}, in the order of their names, for testing"
        ),
        load=functools.partial(_load, recipe),
    )


@dataclass(frozen=True)
class _Recipe:
    """What decides the arrays, besides the contents of the files.

    Attributes:
        path: The folder or archive.
        side: The width and height of the images.
        every: One in how many is for testing, where the folders do not say.
        same_size_as: The name of the image that gave `side`; None where images are to be resized.
        skip_broken: Whether files that cannot be decoded are left out.
    """

    path: Path
    side: int
    every: int
    same_size_as: str | None
    skip_broken: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.side, self.side, 3

    def key(self, what: str) -> str:
        """A name in the cache, for what was made by this recipe of `what`, a hash."""
        decisive = [FORMAT_VERSION, self.side, self.every, self.same_size_as is None, self.skip_broken, what]
        return "images-" + hashlib.sha256(json.dumps(decisive).encode("ascii")).hexdigest()[:32]


@dataclass(frozen=True)
class _Decoded:
    """What is known of files that were decoded once; stored under their names and sizes.

    Attributes:
        status: Of the files when they were read, see `image_files.Listing`; empty if that was too soon after
            they had changed to tell them from others.
        content: The hash of their contents.
        split: How train and test were told apart.
        left_out: The names of files that were left out.
    """

    status: str
    content: str
    split: str
    left_out: tuple[str, ...]


def _first_readable(
    contents: Iterator[tuple[str, bytes]], path: Path, *, skip_broken: bool
) -> tuple[str, tuple[int, int]] | None:
    """The name of an image, with its width and height."""
    for name, data in contents:
        try:
            return name, read_size(data, f"{name} in {path}")
        except BrokenImageError:
            if not skip_broken:
                raise
    return None


def _first_image(path: Path, size: int | None, *, skip_broken: bool) -> tuple[str, int]:
    """Reads as little as possible: the name of one image, and the width that all will have."""
    with contextlib.closing(open_image_files(path).contents()) as contents:
        first = _first_readable(contents, path, skip_broken=skip_broken)
    if first is None:
        raise UserError(
            f"there are no images in {printable(path)}",
            why=f"no file there ends in {', '.join(EXTENSIONS)}; hidden ones and linked folders do not count",
            fix="give path= of a folder, zip or tar with images",
        )
    name, (width, height) = first
    if size is not None:
        return name, size
    if width != height:
        raise UserError(
            f"{printable(name)} in {printable(path)} is not a square: it is {width} x {height} pixels",
            why=_SAME_SIZE,
            fix=_RESIZE.format(32),
        )
    if width > MAX_IMAGE_SIZE:
        raise UserError(
            f"{printable(name)} in {printable(path)} is too large: it is {width} x {height} pixels",
            why=f"images have at most {MAX_IMAGE_SIZE} x {MAX_IMAGE_SIZE}",
            fix=_RESIZE.format(32),
        )
    return name, width


def _load(recipe: _Recipe) -> TrainTest:
    """Open the decoded images in the cache, after decoding them if need be.

    Files are known by their contents. These are not read again while the files have the status that they
    had when they were decoded.
    """
    files = open_image_files(recipe.path)
    listing = files.listing()
    record = cache_folder() / f"{recipe.key(listing.names)}.json"
    known = _read(record)
    if known is not None and known.status != listing.status:
        known = replace(known, status=listing.status, content=_content_hash(files))
    found = None if known is None else _open(recipe, known)
    if known is None or found is None:
        known = _decode_all(files, recipe, listing.status)
        found = _open(recipe, known)
    if files.listing().status != listing.status:
        raise _changed(recipe.path)
    _write(record, known if listing.is_old else replace(known, status=""))
    if found is None:
        raise UserError("the decoded images vanished from the cache", fix="run it again")
    return found


def _open(recipe: _Recipe, known: _Decoded) -> TrainTest | None:
    """The decoded images in the cache; None where they are not there."""
    found = open_train_test(recipe.key(known.content), recipe.shape)
    return None if found is None else replace(found, split=known.split, left_out=known.left_out)


def _read(path: Path) -> _Decoded | None:
    """The record in a file of the cache; None where it is missing or damaged."""
    try:
        return read_record(_Decoded, read_json(path))
    except (OSError, KeyError, TypeError, ValueError):
        return None


def _write(path: Path, record: _Decoded) -> None:
    """Write a record, where it is not there yet.

    Raises:
        UserError: The cache cannot be written.
    """
    if _read(path) != record:
        with cache_errors():
            write_text(path, json.dumps(asdict(record)) + "\n")


def _changed(path: Path) -> UserError:
    return UserError(f"{printable(path)} changed while it was read", fix="run it again when it is at rest")


def _content_hash(files: ImageFiles) -> str:
    content = ContentHash()
    with progress_bar("looking for changes", None, unit="image") as bar:
        for name, data in files.contents():
            content.add(name, data)
            bar.update()
    return content.hexdigest()


def _decode_all(files: ImageFiles, recipe: _Recipe, status: str) -> _Decoded:
    """Decode all files into the cache, under the hash of their contents."""
    names = []
    with progress_bar("finding images", None, unit="image") as bar:
        for name in files.names():
            names.append(name)
            bar.update()
    key, broken = f"new-{uuid.uuid4().hex}", frozenset[str]()
    while True:
        whole = [name for name in names if name not in broken]
        try:
            content = _decode_into(key, whole, files, recipe)
            break
        except _BrokenFilesError as error:
            broken |= error.names  # where every image goes changes with that
    rename_train_test(key, recipe.key(content))
    split = "its folders train/ and test/" if has_halves(whole) else f"1 in {recipe.every} for testing"
    return _Decoded(status, content, split, tuple(sorted(broken)))


class _BrokenFilesError(Exception):
    """Some files are to be left out.

    Args:
        names: Their names.
    """

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self.names = names


def _decode_into(key: str, names: list[str], files: ImageFiles, recipe: _Recipe) -> str:
    """Decode files into the cache.

    Args:
        key: The name of the arrays in the cache.
        names: Those to decode, in the order in which they come.
        files: All of them.
        recipe: How to decode them.

    Returns:
        The hash of the contents of all files.

    Raises:
        UserError: There are too few; or they have changed, or cannot be decoded, or the cache cannot be
            written.
        _BrokenFilesError: Some cannot be decoded, and are to be left out; nothing was written.
    """
    train, test = split_names(names, recipe.every)
    if not train or not test:
        raise UserError(
            f"there are too few images in {printable(recipe.path)}",
            why="at least one is for training and one for testing",
            fix="give path= of a folder, zip or tar with more images",
        )
    content, wanted, broken, position = ContentHash(), set(names), set(), 0
    progress = progress_bar("decoding images", len(names), unit="image")
    with progress, new_train_test(key, len(train), len(test), recipe.shape) as halves:
        places = {
            position: (half, row)
            for half, positions in zip(halves, (train, test), strict=True)
            for row, position in enumerate(positions)
        }
        # Images come in the order of the archive, which may not be read back and forth, and go to their rows.
        for name, data in files.contents():
            content.add(name, data)
            if name not in wanted:
                continue
            if position == len(names) or name != names[position]:
                raise _changed(recipe.path)
            if position in places:
                try:
                    half, row = places[position]
                    half.write(row, _decode(data, name, recipe))
                except BrokenImageError:
                    if not recipe.skip_broken:
                        raise
                    broken.add(name)
            position += 1
            progress.update()
        if position != len(names):
            raise _changed(recipe.path)
        if broken:
            raise _BrokenFilesError(frozenset(broken))
    return content.hexdigest()


def _decode(data: bytes, name: str, recipe: _Recipe) -> NDArray[np.uint8]:
    label = f"{name} in {recipe.path}"
    if recipe.same_size_as is None:
        return decode_image(data, label, resize_to=recipe.side)
    image = decode_image(data, label)
    if image.shape != recipe.shape:
        height, width, _ = image.shape
        raise UserError(
            f"{printable(label)} is {width} x {height} pixels, "
            f"but {printable(recipe.same_size_as)} is {recipe.side} x {recipe.side}",
            why=_SAME_SIZE,
            fix=_RESIZE.format(recipe.side),
        )
    return image
