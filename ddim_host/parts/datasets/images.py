"""Your own image files as a data set."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, replace
from pathlib import Path  # noqa: TC003 - the host reads the types of the options at run time

from ddim_host.errors import UserError, printable
from ddim_host.parts.datasets.decoded import (
    RESIZE,
    SAME_SIZE,
    Recipe,
    by_name,
    first_coloured,
    load_decoded,
    open_decoded,
)
from ddim_host.parts.datasets.decoding import BrokenImageError, Content, decode_image, read_size
from ddim_host.parts.datasets.forms import open_images, scan_in, unsupported_scan
from ddim_host.parts.datasets.image_files import EXTENSIONS
from ddim_host.plugin.data import DataSource
from ddim_host.system.limits import MAX_IMAGE_SIZE

_CHANNELS = {"auto": None, "1": 1, "3": 3}
_BITS = {"auto": None, **{str(bits): bits for bits in range(8, 17)}}


def images(
    *,
    path: Path,
    size: int | None = None,
    channels: str = "auto",
    flip: bool = True,
    test_fraction: float = 0.1,
    skip_broken: bool = False,
    bits: str = "auto",
) -> DataSource:
    """Your own images: files in a folder or an archive, or arrays.

    PNG, JPEG, BMP, GIF (first picture), WebP and TIFF (first page) are read; class folders, hidden files and
    other files are ignored. Links to files are followed; links to folders, and links in archives, are not.
    NumPy arrays, MNIST's idx files, Parquet and WebDataset are also supported; see `forms.open_images`. For
    details of decoding, see `decoding.decode_image`. A single enclosing folder is ignored; if there are then
    folders `train` and `test`, they are the two halves. Otherwise, the images are sorted by name, and the
    first and every `round(1 / test_fraction)`-th after it are for testing.

    The decoded images are cached under a hash of the files' contents; see `cache.cache_folder`.

    Args:
        path: The folder, archive (.zip, .tar, .tar.gz, .tar.bz2, .tar.xz) or file (.npy, .npz, .parquet,
            idx).
        size: Crop each image to its central square, and resize that to this width and height, from 1 to 4096.
            If omitted, all images must be squares of the same size.
        channels: 1 converts all images to grey, 3 to RGB; auto is 1 if all are grey, otherwise 3. If the
            first image is grey, auto decodes the images in advance until it finds one with colours.
        flip: Mirror images left to right at random in training.
        test_fraction: The approximate fraction of images for testing, unless they come in two halves; above
            0, at most 0.5.
        skip_broken: Skip and list image files that cannot be decoded or are damaged; otherwise the first of
            them is an error. Damage to an archive itself is always an error.
        bits: The number of bits in use in 16-bit grey images, 8 to 16: `2**bits - 1` becomes white, and
            larger values are an error. auto means 16, but is an error if the largest value of all 16-bit
            images is below 16,384.

    Returns:
        A source of memory-mapped uint8 images `(N, H, W, C)`.

    Raises:
        UserError: An option is out of range, `path` contains no readable images, or `size` is not given and
            the first image is too large or not a square.
    """
    if size is not None and not 1 <= size <= MAX_IMAGE_SIZE:
        raise UserError(
            f"parameter 'size' of data set 'images' must be an integer from 1 to {MAX_IMAGE_SIZE}, not {size}"
        )
    if not 0 < test_fraction <= 0.5:
        raise UserError(
            f"parameter 'test_fraction' of data set 'images' must be a number in (0, 0.5], "
            f"not {test_fraction}",
            fix="remove it to use one in ten images for testing",
        )
    if channels not in _CHANNELS:
        raise UserError(
            f"parameter 'channels' of data set 'images' must be 1, 3 or auto, not {channels!r:.40}",
            why="1 is grey, 3 is RGB, and auto is grey if all images are",
        )
    if bits not in _BITS:
        raise UserError(
            f"parameter 'bits' of data set 'images' must be an integer from 8 to 16 or auto, not {bits!r:.40}"
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
        bits=_BITS[bits],
    )
    known, reason = None, ""
    if wanted is None and _is_grey(first, recipe):
        coloured, known = first_coloured(recipe)
        if coloured:
            reason = f", because {printable(coloured)} has colours; channels=1 converts all to grey"
    if known is not None:
        reason = f" (all {len(known.train) + len(known.test):,} are)"
    else:
        if wanted is None:
            recipe = replace(recipe, channels=3, all_grey=False)
        known = open_decoded(recipe)
    colour = "RGB" if recipe.channels == 3 else "grey"
    split = "" if known else f"; split: folders train/ and test/ if present, otherwise {by_name(every)}"
    return DataSource(
        image_shape=recipe.shape,
        random_flip=flip,
        description=f"images in {printable(path)}, {side} x {side}, {colour}{reason}{split}",
        load=functools.partial(load_decoded, recipe),
        resolved={"channels": str(recipe.channels)},
        known=known,
    )


@dataclass(frozen=True)
class _First:
    """The first image.

    Attributes:
        name: Name of the image in error messages.
        data: Contents of its file.
        side: Width and height of all images.
    """

    name: str
    data: Content
    side: int


def _first_image(path: Path, size: int | None, *, skip_broken: bool) -> _First:
    """Read as little as possible to determine the size of all images."""
    broken: list[BrokenImageError] = []
    found = None
    files = open_images(path)
    with contextlib.closing(files.contents()) as contents:
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
            fix="set path= to a folder, archive or file with images",
        )
    if found is None and (scan := scan_in(files)):
        raise unsupported_scan(f"{scan} in {path}")
    if found is None:
        raise UserError(
            f"there are no images in {printable(path)}",
            why=f"no file there ends in {', '.join(EXTENSIONS)}; hidden files and linked folders are ignored",
            fix="set path= to a folder, archive or file with images",
        )
    name, data, (width, height) = found
    if size is not None:
        return _First(name, data, size)
    if width != height:
        raise UserError(
            f"{printable(name)} in {printable(path)} is not square: it is {width} x {height} pixels",
            why=SAME_SIZE,
            fix=RESIZE.format(32),
        )
    if width > MAX_IMAGE_SIZE:
        raise UserError(
            f"{printable(name)} in {printable(path)} is too large: it is {width} x {height} pixels",
            why=f"images may have at most {MAX_IMAGE_SIZE} x {MAX_IMAGE_SIZE} pixels",
            fix=RESIZE.format(32),
        )
    return _First(name, data, width)


def _is_grey(first: _First, recipe: Recipe) -> bool:
    label = f"{first.name} in {recipe.path}"
    pixels = decode_image(first.data, label, resize_to=recipe.side, channels=None)
    return bool(pixels.shape[2] == 1)
