"""One's own image files as a data set."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path  # noqa: TC003 - the host reads the types of the options at run time
from typing import TYPE_CHECKING, TypeVar

from ddim_host.errors import UserError, printable
from ddim_host.parts.datasets.cache import new_train_test, open_train_test
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
from ddim_host.system.cache import cache_folder
from ddim_host.system.files import read_json, write_text
from ddim_host.system.limits import MAX_IMAGE_SIZE
from ddim_host.system.progress import progress_bar
from ddim_host.system.records import read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ddim_host.parts.datasets.cache import ArrayWriter

_Record = TypeVar("_Record")

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
        skip_broken: Leave out image files that cannot be decoded or are damaged, and say which; otherwise the
            first of them is an error. Damage of an archive itself is always an error.

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
    """The options that decide the arrays, besides the contents of the files.

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
        """Return the name in the cache of what this recipe makes of `what`, a hash."""
        decisive = [FORMAT_VERSION, self.side, self.every, self.same_size_as is None, self.skip_broken, what]
        return "images-" + hashlib.sha256(json.dumps(decisive).encode("ascii")).hexdigest()[:32]


@dataclass(frozen=True)
class _Seen:
    """The contents of files that had some names and sizes; stored under these.

    Attributes:
        status: Their status when they were read, see `image_files.Listing`; empty if that was too soon after
            they had changed, or if it changed meanwhile, to tell them from others.
        content: The hash of their contents.
    """

    status: str
    content: str


@dataclass(frozen=True)
class _Split:
    """The split of decoded images; stored beside them.

    Attributes:
        split: See `TrainTest.split`.
        left_out: See `TrainTest.left_out`.
    """

    split: str
    left_out: tuple[str, ...]


def _first_image(path: Path, size: int | None, *, skip_broken: bool) -> tuple[str, int]:
    """Read as little as possible: the name of one image, and the width that all will have."""
    broken: list[BrokenImageError] = []
    found = None
    with contextlib.closing(open_image_files(path).contents()) as contents:
        for name, data in contents:
            try:
                if skip_broken:
                    decode_image(data, f"{name} in {path}")  # a header alone may be wrong
                found = name, read_size(data, f"{name} in {path}")
                break
            except BrokenImageError as error:
                if not skip_broken:
                    raise
                broken.append(error)
    if broken and found is None:
        raise UserError(
            f"all {len(broken):,} image files in {printable(path)} are broken",
            why=f"the first: {broken[0].what}: {broken[0].why}",
            fix="give path= of a folder, zip or tar with images",
        )
    if found is None:
        raise UserError(
            f"there are no images in {printable(path)}",
            why=f"no file there ends in {', '.join(EXTENSIONS)}; hidden ones and linked folders do not count",
            fix="give path= of a folder, zip or tar with images",
        )
    name, (width, height) = found
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
    had when they were read.
    """
    files = open_image_files(recipe.path)
    listing = files.listing()
    record = cache_folder() / f"{recipe.key(listing.names)}.json"
    seen = _read(_Seen, record)
    if seen is None or seen.status != listing.status:
        content = None if seen is None else _content_hash(files)
        if content is None or _open(recipe, content) is None:
            content = _decode_all(files, recipe)
        now = files.listing()
        if now.names != listing.names:
            raise _changed(recipe.path)
        known = now.status == listing.status and listing.is_old
        seen = _Seen(listing.status if known else "", content)
        # Without it the files are read again next time, which is no harm.
        with contextlib.suppress(OSError):
            write_text(record, json.dumps(asdict(seen)) + "\n")
    found = _open(recipe, seen.content) or _open(recipe, _decode_all(files, recipe))
    if found is None:
        raise UserError("the decoded images vanished from the cache", fix="run it again")
    return found


def _open(recipe: _Recipe, content: str) -> TrainTest | None:
    """Open the decoded images of some contents in the cache; None if they are not there."""
    key = recipe.key(content)
    split = _read(_Split, cache_folder() / f"{key}.json")
    found = open_train_test(key, recipe.shape)
    return None if found is None or split is None else replace(found, **vars(split))


def _read(kind: type[_Record], path: Path) -> _Record | None:
    """Read a record of the cache; None if it is missing or damaged."""
    try:
        return read_record(kind, read_json(path))
    except (OSError, KeyError, TypeError, ValueError):
        return None


def _changed(path: Path) -> UserError:
    return UserError(f"{printable(path)} changed while it was read", fix="run it again when it is at rest")


def _content_hash(files: ImageFiles) -> str:
    content = ContentHash()
    with progress_bar("looking for changes", None, unit="image") as bar:
        for name, data in files.contents():
            content.add(name, data)
            bar.update()
    return content.hexdigest()


def _decode_all(files: ImageFiles, recipe: _Recipe) -> str:
    """Decode all files into the cache, and return the hash of their contents, under which they are there."""
    names = []
    with progress_bar("finding images", None, unit="image") as bar:
        for name in files.names():
            names.append(name)
            bar.update()
    train, test = split_names(names, recipe.every)
    if not train or not test:
        raise UserError(
            f"there are too few images in {printable(recipe.path)}",
            why="at least one is for training and one for testing",
            fix="give path= of a folder, zip or tar with more images",
        )
    progress = progress_bar("decoding images", len(train) + len(test), unit="image")
    with progress, new_train_test(len(train), len(test), recipe.shape) as new:
        places = {position: (new.train, row) for row, position in enumerate(train)}
        places |= {position: (new.test, row) for row, position in enumerate(test)}
        content, broken = _decode_into(places, names, files, recipe, progress.update)
        # Which half an image belongs to does not depend on whether others are broken.
        for half, positions, what in ((new.train, train, "training"), (new.test, test, "test")):
            rows = {row for row, position in enumerate(positions) if position in broken}
            if len(rows) == len(positions):
                raise UserError(
                    f"all {len(rows):,} {what} images in {printable(recipe.path)} are broken",
                    why=f"the first is {printable(names[positions[0]])}",
                    fix="mend these files, or give path= of others",
                )
            if rows:
                half.leave_out(rows)
        new.key = recipe.key(content)
        split = "its folders train/ and test/" if has_halves(names) else f"1 in {recipe.every} for testing"
        left_out = tuple(names[position] for position in sorted(broken))
        record = json.dumps(asdict(_Split(split, left_out))) + "\n"
        write_text(cache_folder() / f"{new.key}.json", record)
    return content


def _decode_into(
    places: Mapping[int, tuple[ArrayWriter, int]],
    names: Sequence[str],
    files: ImageFiles,
    recipe: _Recipe,
    on_image: Callable[[], object],
) -> tuple[str, set[int]]:
    """Decode the images at some positions.

    Returns:
        The hash of the contents of all files; and the positions of those that cannot be decoded.
    """
    content, broken = ContentHash(), set()
    # Images come in the order of the archive, which may not be read back and forth, and go to their rows.
    for position, (expected, (name, data)) in enumerate(
        itertools.zip_longest(names, files.contents(), fillvalue=("", b""))
    ):
        if name != expected:
            raise _changed(recipe.path)
        content.add(name, data)
        if position in places:
            half, row = places[position]
            try:
                half.write(row, _decode(data, name, recipe))
            except BrokenImageError:
                if not recipe.skip_broken:
                    raise
                broken.add(position)
            on_image()
    return content.hexdigest(), broken


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
