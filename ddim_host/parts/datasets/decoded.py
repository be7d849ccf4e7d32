"""Images of one size and colour, decoded once into the cache and split into train and test."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from ddim_host.errors import UserError, printable
from ddim_host.parts.datasets.cache import new_train_test, open_train_test
from ddim_host.parts.datasets.decoding import BrokenImageError, decode_image, with_channels
from ddim_host.parts.datasets.forms import open_images
from ddim_host.parts.datasets.image_files import (
    FOLDERS,
    ContentHash,
    ImageFiles,
    has_halves,
    look_at,
    split_names,
)
from ddim_host.system.cache import cache_folder
from ddim_host.system.files import read_json, write_text
from ddim_host.system.progress import progress_bar
from ddim_host.system.records import read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from ddim_host.parts.datasets.cache import ArrayWriter
    from ddim_host.parts.datasets.decoding import Content
    from ddim_host.plugin.data import TrainTest

_Record = TypeVar("_Record")

FORMAT_VERSION = 4
"""Part of the name of what is cached: raise it where the same files would be decoded to other pixels."""

SAME_SIZE = "without size= all images have to be squares of one size"
RESIZE = "pass size=N, such as size={}: the middle of each image is cut out and resized to N x N"


class ColourFoundError(UserError):
    """An image has colours, but all should be grey."""


@dataclass(frozen=True)
class Recipe:
    """The options that decide the arrays, besides the contents of the files.

    Attributes:
        path: The folder or file.
        side: The width and height of the images.
        every: One in how many is for testing, where the folders do not say.
        channels: 1 for grey, 3 for RGB.
        all_grey: Raise `ColourFoundError` at an image with colours, which otherwise is made grey.
        same_size_as: The name of the image that gave `side`; None where images are to be resized.
        skip_broken: Whether files that cannot be decoded are left out.
        find: Opens the images at `path`.
    """

    path: Path
    side: int
    every: int
    channels: int
    all_grey: bool
    same_size_as: str | None
    skip_broken: bool
    find: Callable[[Path], ImageFiles] = open_images

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of the images."""
        return self.side, self.side, self.channels

    def key(self, what: str) -> str:
        """Return the name in the cache of what this recipe makes of `what`, a hash."""
        same_size = self.same_size_as is not None
        decisive = [FORMAT_VERSION, *self.shape, self.every, same_size, self.skip_broken, what]
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
        coloured: The name of the first image that had colours and was made grey; empty if there was none.
    """

    split: str
    left_out: tuple[str, ...]
    coloured: str


@dataclass(frozen=True)
class _Channels:
    """The channels that the images in files need; stored under the names and sizes of these.

    Attributes:
        status: As in `_Seen`.
        channels: 1 or 3.
    """

    status: str
    channels: int


def channels_of(recipe: Recipe) -> int:
    """Return 1 if all images are grey, and 3 if not; grey ones are in the cache then.

    Args:
        recipe: With one channel, and `all_grey`.

    Raises:
        UserError: As `load_decoded`.
    """
    files = recipe.find(recipe.path)
    listing = look_at(recipe.path, files)
    record = cache_folder() / f"{recipe.key(f'channels {listing.names}')}.json"
    known = _read(_Channels, record)
    if known is not None and known.status == listing.status:
        return known.channels
    try:
        load_decoded(recipe)
        channels = 1
    except ColourFoundError:
        channels = 3
    if listing.is_old:
        # Without it the images are looked at again next time, which is no harm.
        with contextlib.suppress(OSError):
            write_text(record, json.dumps(asdict(_Channels(listing.status, channels))) + "\n")
    return channels


def load_decoded(recipe: Recipe) -> TrainTest:
    """Open the decoded images in the cache, after decoding them if need be.

    Files are known by their contents. These are not read again while the files have the status that they
    had when they were read.

    Raises:
        UserError: Some cannot be read or decoded, or there are too few.
        ColourFoundError: One has colours, and `recipe.all_grey`.
    """
    files = recipe.find(recipe.path)
    listing = look_at(recipe.path, files)
    record = cache_folder() / f"{recipe.key(listing.names)}.json"
    seen = _read(_Seen, record)
    if seen is None or seen.status != listing.status:
        content = None if seen is None else _content_hash(files)
        if content is None or _open(recipe, content) is None:
            content = _decode_all(files, recipe)
        now = look_at(recipe.path, files)
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


def _open(recipe: Recipe, content: str) -> TrainTest | None:
    """Open the decoded images of some contents in the cache; None if they are not there."""
    key = recipe.key(content)
    split = _read(_Split, cache_folder() / f"{key}.json")
    found = open_train_test(key, recipe.shape)
    if found is None or split is None:
        return None
    if split.coloured and recipe.all_grey:
        raise _colour_found(recipe, split.coloured)
    return replace(found, split=split.split, left_out=split.left_out)


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


def _decode_all(files: ImageFiles, recipe: Recipe) -> str:
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
            fix="give path= of a folder, archive or file with more images",
        )
    progress = progress_bar("decoding images", len(train) + len(test), unit="image")
    with progress, new_train_test(len(train), len(test), recipe.shape) as new:
        places = {position: (new.train, row) for row, position in enumerate(train)}
        places |= {position: (new.test, row) for row, position in enumerate(test)}
        content, broken, coloured = _decode_into(places, names, files, recipe, progress.update)
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
        split = (files.halves or FOLDERS) if has_halves(names) else f"1 in {recipe.every} for testing"
        left_out = tuple(names[position] for position in sorted(broken))
        record = json.dumps(asdict(_Split(split, left_out, coloured))) + "\n"
        write_text(cache_folder() / f"{new.key}.json", record)
    return content


def _decode_into(
    places: Mapping[int, tuple[ArrayWriter, int]],
    names: Sequence[str],
    files: ImageFiles,
    recipe: Recipe,
    on_image: Callable[[], object],
) -> tuple[str, set[int], str]:
    """Decode the images at some positions.

    Returns:
        The hash of the contents of all files; the positions of those that cannot be decoded; and the name of
        the first with colours that was made grey.
    """
    content, broken, coloured = ContentHash(), set(), ""
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
                pixels = _decode(data, name, recipe)
                if pixels.shape[2] > recipe.channels:
                    if recipe.all_grey:
                        raise _colour_found(recipe, name)
                    coloured = coloured or name
                half.write(row, with_channels(pixels, recipe.channels))
            except BrokenImageError:
                if not recipe.skip_broken:
                    raise
                broken.add(position)
            on_image()
    return content.hexdigest(), broken, coloured


def _decode(data: Content, name: str, recipe: Recipe) -> NDArray[np.uint8]:
    """Decode an image to the size of the recipe, and to grey only if it is grey or one channel is wanted."""
    label = f"{name} in {recipe.path}"
    channels = None if recipe.channels == 1 else 3
    if recipe.same_size_as is None:
        return decode_image(data, label, resize_to=recipe.side, channels=channels)
    image = decode_image(data, label, channels=channels)
    height, width, _ = image.shape
    if (height, width) != recipe.shape[:2]:
        raise UserError(
            f"{printable(label)} is {width} x {height} pixels, "
            f"but {printable(recipe.same_size_as)} is {recipe.side} x {recipe.side}",
            why=SAME_SIZE,
            fix=RESIZE.format(recipe.side),
        )
    return image


def _colour_found(recipe: Recipe, name: str) -> ColourFoundError:
    return ColourFoundError(
        f"{printable(name)} in {printable(recipe.path)} has colours, but all images were grey before",
        fix="pass channels=3, or channels=1 to make it grey; or run it again to begin with what is there now",
    )
