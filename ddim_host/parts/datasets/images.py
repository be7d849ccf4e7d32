"""One's own image files as a data set."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, replace
from pathlib import Path  # noqa: TC003 - the host reads the types of the options at run time

from ddim_host.errors import UserError, printable
from ddim_host.parts.datasets.decoded import RESIZE, SAME_SIZE, Recipe, channels_of, load_decoded
from ddim_host.parts.datasets.decoding import BrokenImageError, Content, decode_image, read_size
from ddim_host.parts.datasets.forms import open_images
from ddim_host.parts.datasets.image_files import EXTENSIONS
from ddim_host.plugin.data import DataSource
from ddim_host.system.limits import MAX_IMAGE_SIZE

_CHANNELS = {"auto": None, "1": 1, "3": 3}


def images(
    *,
    path: Path,
    size: int | None = None,
    channels: str = "auto",
    flip: bool = True,
    test_fraction: float = 0.1,
    skip_broken: bool = False,
) -> DataSource:
    """One's own images: files in a folder or an archive, or arrays.

    PNG, JPEG, BMP, GIF (first picture), WebP and TIFF (first page) are read; class folders, hidden files and
    all else are ignored. Links to files are followed; links to folders, and links in archives, are not. Other
    forms are NumPy's arrays, MNIST's idx files, Parquet and WebDataset; see `forms.open_images`. How images
    are decoded says `decoding.decode_image`. A single folder around everything is passed over; where there
    are folders `train` and `test` then, those are used. Otherwise, in the order of the names, the first image
    and every `round(1 / test_fraction)`-th after it is for testing.

    The decoded images are cached, under a hash of the files' contents; see `cache.cache_folder`.

    Args:
        path: The folder, archive (.zip, .tar, .tar.gz, .tar.bz2, .tar.xz) or file (.npy, .npz, .parquet,
            idx).
        size: Cut the largest square from the middle of each image and resize it to this width and height, 1
            to 4096. Without it, all images have to be squares of one size.
        channels: 1 makes all images grey, 3 makes all RGB; auto is 1 if all are grey and 3 if not. If the
            first image is grey, auto decodes images until one has colours, before they are loaded.
        flip: Mirror images left to right at random in training.
        test_fraction: About this part of the images is for testing if they do not come in two halves; above
            0, at most 0.5.
        skip_broken: Leave out image files that cannot be decoded or are damaged, and say which; otherwise the
            first of them is an error. Damage of an archive itself is always an error.

    Returns:
        A source of uint8 images `(N, H, W, C)`, memory-mapped.

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
    if channels not in _CHANNELS:
        raise UserError(
            f"images cannot have channels={channels}",
            why="channels= is 1 (grey), 3 (RGB), or auto: grey if all images are",
        )
    every = round(min(1 / test_fraction, 2.0**53))
    first = _first_image(path, size, skip_broken=skip_broken)
    side = first.side
    wanted = _CHANNELS[channels]
    recipe = Recipe(
        path,
        side,
        every,
        channels=wanted or 1,
        all_grey=wanted is None,
        same_size_as=first.name if size is None else None,
        skip_broken=skip_broken,
    )
    if wanted is None and not (_is_grey(first, recipe) and channels_of(recipe) == 1):
        recipe = replace(recipe, channels=3, all_grey=False)
    colour = "RGB" if recipe.channels == 3 else "grey, as all of them are" if recipe.all_grey else "grey"
    return DataSource(
        image_shape=recipe.shape,
        random_flip=flip,
        description=(
            f"images in {printable(path)}, {side} x {side} {colour}: its halves for training and testing "
            f"where it has both, otherwise 1 in {every}, in the order of their names, for testing"
        ),
        load=functools.partial(load_decoded, recipe),
        resolved={"channels": str(recipe.channels)},
    )


@dataclass(frozen=True)
class _First:
    """The first image.

    Attributes:
        name: What errors call it.
        data: Its file.
        side: The width and height that all images will have.
    """

    name: str
    data: Content
    side: int


def _first_image(path: Path, size: int | None, *, skip_broken: bool) -> _First:
    """Read as little as possible to know the size of all images."""
    broken: list[BrokenImageError] = []
    found = None
    with contextlib.closing(open_images(path).contents()) as contents:
        for name, data in contents:
            try:
                if skip_broken:
                    decode_image(data, f"{name} in {path}")  # a header alone may be wrong
                found = name, data, read_size(data, f"{name} in {path}")
                break
            except BrokenImageError as error:
                if not skip_broken:
                    raise
                broken.append(error)
    if broken and found is None:
        raise UserError(
            f"all {len(broken):,} image files in {printable(path)} are broken",
            why=f"the first: {broken[0].what}: {broken[0].why}",
            fix="give path= of a folder, archive or file with images",
        )
    if found is None:
        raise UserError(
            f"there are no images in {printable(path)}",
            why=f"no file there ends in {', '.join(EXTENSIONS)}; hidden ones and linked folders do not count",
            fix="give path= of a folder, archive or file with images",
        )
    name, data, (width, height) = found
    if size is not None:
        return _First(name, data, size)
    if width != height:
        raise UserError(
            f"{printable(name)} in {printable(path)} is not a square: it is {width} x {height} pixels",
            why=SAME_SIZE,
            fix=RESIZE.format(32),
        )
    if width > MAX_IMAGE_SIZE:
        raise UserError(
            f"{printable(name)} in {printable(path)} is too large: it is {width} x {height} pixels",
            why=f"images have at most {MAX_IMAGE_SIZE} x {MAX_IMAGE_SIZE}",
            fix=RESIZE.format(32),
        )
    return _First(name, data, width)


def _is_grey(first: _First, recipe: Recipe) -> bool:
    label = f"{first.name} in {recipe.path}"
    pixels = decode_image(first.data, label, resize_to=recipe.side, channels=None)
    return bool(pixels.shape[2] == 1)
