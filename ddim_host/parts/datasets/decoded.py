"""Images of one size and colour mode, decoded once into the cache and split into train and test."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from ddim_host.errors import UserError, printable
from ddim_host.parts.datasets.cache import new_train_test, open_train_test
from ddim_host.parts.datasets.decoding import BrokenImageError, SixteenBits, decode_image, with_channels
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
"""Version in the names of cached files; increase it if the same files would decode to different pixels."""

_DARK = 1 << 14
"""16-bit images whose largest value is below this are rejected unless the number of bits is given."""

SAME_SIZE = "without size=, all images must be squares of the same size"
RESIZE = "pass size=N, such as size={}, to crop each image to its central square and resize it to N x N"


class ColourFoundError(UserError):
    """An image has colours, but all were expected to be grey.

    Attributes:
        name: The name of the image, printable.
    """

    name = ""


@dataclass(frozen=True)
class Recipe:
    """The options that, together with the contents of the files, determine the decoded arrays.

    Attributes:
        path: The folder or file.
        side: The width and height of the images.
        every: Without folders `train` and `test`, one in `every` images is for testing.
        channels: 1 for grey, 3 for RGB.
        all_grey: Raise `ColourFoundError` for an image with colours instead of converting it to grey.
        same_size_as: The name of the image that determined `side`; None to resize all images.
        skip_broken: Skip files that cannot be decoded.
        bits: The number of bits in use in 16-bit images, see `SixteenBits`; None for 16, which is an error if
            their largest value fits in 14 bits.
        find: Opens the images at `path`.
    """

    path: Path
    side: int
    every: int
    channels: int
    all_grey: bool
    same_size_as: str | None
    skip_broken: bool
    bits: int | None = None
    find: Callable[[Path], ImageFiles] = open_images

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of the images."""
        return self.side, self.side, self.channels

    def key(self, what: str) -> str:
        """Return the name under which the cache stores this recipe's result for `what`, a hash."""
        same_size = self.same_size_as is not None
        decisive = [FORMAT_VERSION, *self.shape, self.every, same_size, self.skip_broken, self.bits, what]
        return "images-" + hashlib.sha256(json.dumps(decisive).encode("ascii")).hexdigest()[:32]


@dataclass(frozen=True)
class _Seen:
    """The hash of the contents of files, stored under a hash of their names and sizes.

    Attributes:
        status: The files' status when they were read, see `image_files.Listing`; empty if a change just
            before or during reading could have gone unnoticed.
        content: The hash of their contents.
    """

    status: str
    content: str


@dataclass(frozen=True)
class _Split:
    """The split of decoded images, stored next to them.

    Attributes:
        split: See `TrainTest.split`.
        left_out: See `TrainTest.left_out`.
        coloured: The printable name of the first image converted from colour to grey; empty if none was.
    """

    split: str
    left_out: tuple[str, ...]
    coloured: str


@dataclass(frozen=True)
class _Colour:
    """The result of `first_coloured`, stored under a hash of the files' names and sizes.

    Attributes:
        status: See `_Seen`.
        coloured: The printable name of the image; empty if all are grey.
    """

    status: str
    coloured: str


def first_coloured(recipe: Recipe) -> tuple[str, TrainTest | None]:
    """Return the name of the first image with colours, or an empty name and the decoded images.

    Args:
        recipe: A recipe with one channel and `all_grey`.

    Raises:
        UserError: See `load_decoded`.
    """
    files = recipe.find(recipe.path)
    listing = look_at(recipe.path, files)
    record = cache_folder() / f"{recipe.key(f'channels {listing.names}')}.json"
    known = _read(_Colour, record)
    if known is not None and known.status == listing.status:
        return known.coloured, None if known.coloured else load_decoded(recipe)
    coloured, images = "", None
    try:
        images = load_decoded(recipe)
    except ColourFoundError as error:
        coloured = error.name
    if listing.is_old:
        # Without this record the images are merely checked again next time.
        with contextlib.suppress(OSError):
            write_text(record, json.dumps(asdict(_Colour(listing.status, coloured))) + "\n")
    return coloured, images


def open_decoded(recipe: Recipe) -> TrainTest | None:
    """Open the decoded images if they are cached and the status of the files is unchanged.

    Raises:
        UserError: The files cannot be listed.
        ColourFoundError: See `load_decoded`.
    """
    listing = look_at(recipe.path, recipe.find(recipe.path))
    seen = _read(_Seen, cache_folder() / f"{recipe.key(listing.names)}.json")
    return _open(recipe, seen.content) if seen is not None and seen.status == listing.status else None


def load_decoded(recipe: Recipe) -> TrainTest:
    """Open the decoded images in the cache, decoding them first if needed.

    Files are identified by their contents, which are not read again while the status of the files is
    unchanged.

    Raises:
        UserError: An image cannot be read or decoded, or there are too few.
        ColourFoundError: An image has colours, and `recipe.all_grey` is set.
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
        # Without this record the files are merely read again next time.
        with contextlib.suppress(OSError):
            write_text(record, json.dumps(asdict(seen)) + "\n")
    found = _open(recipe, seen.content) or _open(recipe, _decode_all(files, recipe))
    if found is None:
        raise UserError("the decoded images disappeared from the cache", fix="run the command again")
    return found


def _open(recipe: Recipe, content: str) -> TrainTest | None:
    """Open the cached images for a content hash, or None if they are not cached."""
    key = recipe.key(content)
    split = _read(_Split, cache_folder() / f"{key}.json")
    found = open_train_test(key, recipe.shape)
    if found is None or split is None:
        return None
    if split.coloured and recipe.all_grey:
        raise _colour_found(recipe, split.coloured)
    return replace(found, split=split.split, left_out=split.left_out)


def _read(kind: type[_Record], path: Path) -> _Record | None:
    """Read a record from the cache, or None if it is missing or damaged."""
    try:
        return read_record(kind, read_json(path))
    except (OSError, KeyError, TypeError, ValueError):
        return None


def _changed(path: Path) -> UserError:
    return UserError(
        f"{printable(path)} changed while it was being read",
        fix="run the command again once it no longer changes",
    )


def _content_hash(files: ImageFiles) -> str:
    content = ContentHash()
    with progress_bar("looking for changes", None, unit="image") as bar:
        for name, data in files.contents():
            content.add(name, data)
            bar.update()
    return content.hexdigest()


def _decode_all(files: ImageFiles, recipe: Recipe) -> str:
    """Decode all files into the cache, and return the hash of their contents, which is their key."""
    names = []
    with progress_bar("finding images", None, unit="image") as bar:
        for name in files.names():
            names.append(name)
            bar.update()
    train, test = split_names(names, recipe.every)
    if not train or not test:
        raise UserError(
            f"there are too few images in {printable(recipe.path)}",
            why="training and testing need at least one image each",
            fix="set path= to a folder, archive or file with more images",
        )
    progress = progress_bar("decoding images", len(train) + len(test), unit="image")
    with progress, new_train_test(len(train), len(test), recipe.shape) as new:
        places = {position: (new.train, row) for row, position in enumerate(train)}
        places |= {position: (new.test, row) for row, position in enumerate(test)}
        content, broken, coloured = _decode_into(places, names, files, recipe, progress.update)
        # Broken images are removed after the split, so they do not change the half of any other image.
        for half, positions, what in ((new.train, train, "training"), (new.test, test, "test")):
            rows = {row for row, position in enumerate(positions) if position in broken}
            if len(rows) == len(positions):
                raise UserError(
                    f"all {len(rows):,} {what} images in {printable(recipe.path)} are broken",
                    why=f"the first is {printable(names[positions[0]])}",
                    fix="repair these files, or set path= to other images",
                )
            if rows:
                half.leave_out(rows)
        new.key = recipe.key(content)
        split = (files.halves or FOLDERS) if has_halves(names) else by_name(recipe.every)
        left_out = tuple(printable(names[position]) for position in sorted(broken))
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
    """Decode the images at the given positions.

    Returns:
        The hash of the contents of all files; the positions of those that cannot be decoded; and the name of
        the first one converted from colour to grey.

    Raises:
        UserError: An image cannot be decoded, or 16-bit images seem to use fewer bits.
    """
    content, broken, coloured = ContentHash(), set(), ""
    sixteen = SixteenBits(recipe.bits or 16)
    # Archives can only be read forwards, so images are decoded in that order and written to their rows.
    for position, (expected, (name, data)) in enumerate(
        itertools.zip_longest(names, files.contents(), fillvalue=("", b""))
    ):
        if name != expected:
            raise _changed(recipe.path)
        content.add(name, data)
        if position in places:
            half, row = places[position]
            try:
                pixels = _decode(data, name, recipe, sixteen)
                if pixels.shape[2] > recipe.channels:
                    if recipe.all_grey:
                        raise _colour_found(recipe, name)
                    coloured = coloured or printable(name)
                half.write(row, with_channels(pixels, recipe.channels))
            except BrokenImageError:
                if not recipe.skip_broken:
                    raise
                broken.add(position)
            on_image()
    if recipe.bits is None and sixteen.largest is not None and sixteen.largest < _DARK:
        raise _too_dark(recipe, sixteen.largest)
    return content.hexdigest(), broken, coloured


def _decode(data: Content, name: str, recipe: Recipe, sixteen: SixteenBits) -> NDArray[np.uint8]:
    """Decode an image at the recipe's size; colours are preserved, so that the caller can detect them."""
    label = f"{name} in {recipe.path}"
    channels = None if recipe.channels == 1 else 3
    if recipe.same_size_as is None:
        return decode_image(data, label, resize_to=recipe.side, channels=channels, sixteen=sixteen)
    image = decode_image(data, label, channels=channels, sixteen=sixteen)
    height, width, _ = image.shape
    if (height, width) != recipe.shape[:2]:
        raise UserError(
            f"{printable(label)} is {width} x {height} pixels, "
            f"but {printable(recipe.same_size_as)} is {recipe.side} x {recipe.side}",
            why=SAME_SIZE,
            fix=RESIZE.format(recipe.side),
        )
    return image


def by_name(every: int) -> str:
    """Describe the split of images that are not in folders `train` and `test`."""
    return f"1 in {every} for testing, by name, starting with the first"


def _colour_found(recipe: Recipe, name: str) -> ColourFoundError:
    error = ColourFoundError(
        f"{printable(name)} in {printable(recipe.path)} has colours, but all images were grey before",
        fix="pass channels=3, or channels=1 to convert it to grey; or run the command again to scan all "
        "images",
    )
    error.name = printable(name)
    return error


def _too_dark(recipe: Recipe, largest: int) -> UserError:
    bits = next(bits for bits in (8, 10, 12, 14) if largest < 1 << bits)
    return UserError(
        f"the largest value of the 16-bit images in {printable(recipe.path)} is {largest:,}",
        why=f"this looks like {bits}-bit data, which would be almost black if read as 16-bit data",
        fix=f"pass bits={bits} to make {(1 << bits) - 1:,} white, or bits=16 if the images are that dark",
    )
