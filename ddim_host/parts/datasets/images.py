"""One's own image files as a data set."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path  # noqa: TC003 - the host reads the types of the options at run time
from typing import TYPE_CHECKING

from ddim_host.errors import UserError, printable
from ddim_host.parts.datasets.cache import new_train_test, open_train_test
from ddim_host.parts.datasets.decoding import decode_image, read_size
from ddim_host.parts.datasets.image_files import (
    EXTENSIONS,
    ImageFiles,
    has_halves,
    open_image_files,
    split_names,
)
from ddim_host.plugin.data import DataSource, TrainTest
from ddim_host.system.limits import MAX_IMAGE_SIZE
from ddim_host.system.progress import progress_bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["images"]

FORMAT_VERSION = 2
"""Part of the name of what is cached: raise it where the same files would be decoded to other pixels."""

_BY_FOLDERS = "-folders"
"""Ends the name of what is cached where folders are the halves: no archive is read again to tell that."""

_SAME_SIZE = "without size= all images have to be squares of one size"
_RESIZE = "pass size=N, such as size={}: the middle of each image is cut out and resized to N x N"


def images(
    *, path: Path, size: int | None = None, flip: bool = True, test_fraction: float = 0.1
) -> DataSource:
    """Image files in a folder, a zip or a tar archive.

    PNG, JPEG, BMP, GIF (first picture) and WebP are read; class folders, hidden files and all else are
    ignored. Links to files are followed; links to folders, and links in archives, are not. Images are always
    made RGB, grey ones too; see `decoding.decode_image`. A single folder around everything is passed over;
    where there are folders `train` and `test` then, those are used. Otherwise, in the order of the names,
    the first image and every `round(1 / test_fraction)`-th after it is for testing.

    The decoded images are cached; see `cache.cache_folder`.

    Args:
        path: The folder or archive (.zip, .tar, .tar.gz, .tar.bz2, .tar.xz).
        size: Cut the largest square from the middle of each image and resize it to this width and height, 1
            to 4096. Without it, all images have to be squares of one size.
        flip: Mirror images left to right at random in training.
        test_fraction: About this part of the images is for testing where there are no folders `train` and
            `test`; above 0, at most 0.5.

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
    name, side = _first_image(path, size)
    recipe = _Recipe(path, side, every, same_size_as=name if size is None else None)
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
    """What decides the arrays.

    Attributes:
        path: The folder or archive.
        side: The width and height of the images.
        every: One in how many is for testing, where the folders do not say.
        same_size_as: The name of the image that gave `side`; None where images are to be resized.
    """

    path: Path
    side: int
    every: int
    same_size_as: str | None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.side, self.side, 3

    def key(self, files: ImageFiles) -> str:
        """The name in the cache, or what it begins with; see `_BY_FOLDERS`."""
        decisive = [FORMAT_VERSION, self.side, self.every, self.same_size_as is None, files.identity()]
        # Names that are not UTF-8 hold lone surrogates, which JSON escapes.
        return "images-" + hashlib.sha256(json.dumps(decisive).encode("ascii")).hexdigest()[:32]


def _first_image(path: Path, size: int | None) -> tuple[str, int]:
    """Reads as little as possible: the name of one image, and the width that all will have."""
    with contextlib.closing(open_image_files(path).contents()) as contents:
        first = next(contents, None)
    if first is None:
        raise UserError(
            f"there are no images in {printable(path)}",
            why=f"no file there ends in {', '.join(EXTENSIONS)}; hidden ones and linked folders do not count",
            fix="give path= of a folder, zip or tar with images",
        )
    name, data = first
    if size is not None:
        return name, size
    width, height = read_size(data, f"{name} in {path}")
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
    """Opens the decoded images in the cache, after decoding them if need be."""
    files = open_image_files(recipe.path)
    key = recipe.key(files)
    found = _open(key, recipe)
    if found is None:
        _decode_all(files, recipe, key)
        found = _open(key, recipe)
    if found is None:
        raise UserError("the decoded images vanished from the cache", fix="run it again")
    return found


def _open(key: str, recipe: _Recipe) -> TrainTest | None:
    """The decoded images in the cache, split in either way; None where they are not there."""
    splits = {_BY_FOLDERS: "its folders train/ and test/", "": f"1 in {recipe.every} for testing"}
    for suffix, split in splits.items():
        found = open_train_test(key + suffix, recipe.shape)
        if found is not None:
            return replace(found, split=split)
    return None


def _decode_all(files: ImageFiles, recipe: _Recipe, key: str) -> None:
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
    if has_halves(names):
        key += _BY_FOLDERS
    progress = progress_bar("decoding images", len(train) + len(test), unit="image")
    with progress, new_train_test(key, len(train), len(test), recipe.shape) as (train_images, test_images):
        places = {position: (train_images, row) for row, position in enumerate(train)}
        places |= {position: (test_images, row) for row, position in enumerate(test)}
        # Images come in the order of the archive, which may not be read back and forth, and go to their rows.
        for position, (expected, (name, data)) in enumerate(
            itertools.zip_longest(names, files.contents(), fillvalue=("", b""))
        ):
            if name != expected:
                raise UserError(
                    f"{printable(recipe.path)} changed while it was read",
                    fix="run it again when it is at rest",
                )
            if position in places:
                images_of_half, row = places[position]
                images_of_half.write(row, _decode(data, name, recipe))
                progress.update()


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
