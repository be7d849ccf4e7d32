"""Exports of sampled images: a still or animated grid, an array, or a folder of pictures.

The format depends on the name: `x.png` is a still grid; `x.gif`, `x.apng` and `x.webp` are animated grids;
`x.npz` contains an array `images`, uint8 `(N, H, W, C)`; and a name without a suffix is a folder of pictures
`000000.png`, `000001.png`, ... A JSON file next to the file (`x.json`) or in the folder (`images.json`)
describes how the images were made. All files and folders are written atomically.
"""

from __future__ import annotations

import json
import shutil
import uuid
from abc import ABC, abstractmethod
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ddim_host.errors import UserError
from ddim_host.run.animations import ANIMATED, animation
from ddim_host.run.images import (
    AUTOMATIC,
    MAX_CANVAS,
    Enlargement,
    grid_canvas,
    grid_layout,
    grid_png,
    image_png,
)
from ddim_host.system.files import file_errors, replacing, write_bytes, write_text
from ddim_host.system.limits import MAX_GRID_IMAGES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from ddim_host.plugin.data import Images


class ImageExport(ABC):
    """Collects images as they are sampled, and writes a file or folder that appears only when complete.

    Args:
        path: The file or folder.

    Attributes:
        is_grid: True if the output is one still picture of all images.
    """

    is_grid = False

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(  # noqa: B027 - most exports have nothing to clean up
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove unfinished output."""

    @abstractmethod
    def add(self, images: Images) -> None:
        """Add the next images, uint8 `(B, H, W, C)`.

        Raises:
            UserError: The images cannot be written.
        """

    @property
    def details(self) -> dict[str, Any]:
        """Settings that determine the output besides the images, for the record."""
        return {}

    @abstractmethod
    def finish(self, record: Mapping[str, Any]) -> None:
        """Write all remaining output, and the record of how the images were made.

        Raises:
            UserError: The output cannot be written.
        """


class _Collected(ImageExport):
    """Export that keeps all images in memory until the end."""

    def __init__(self, path: Path, num_images: int) -> None:
        super().__init__(path)
        self._num_images = num_images
        self._images: Images | None = None
        self._count = 0

    def add(self, images: Images) -> None:
        if self._images is None:
            self._images = np.empty((self._num_images, *images.shape[1:]), dtype=np.uint8)
        self._images[self._count : self._count + len(images)] = images
        self._count += len(images)

    def finish(self, record: Mapping[str, Any]) -> None:
        images = self._images
        if images is None or self._count < self._num_images:
            raise ValueError(f"expected {self._num_images} images, got {self._count}")
        beside = self.path.with_suffix(".json")
        with file_errors(f"cannot write {self.path}"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(beside, _record_text(record))
            try:
                self._write(images)
            except BaseException:
                beside.unlink(missing_ok=True)
                raise

    @abstractmethod
    def _write(self, images: Images) -> None:
        """Write the file."""


class _Grid(_Collected):
    is_grid = True

    def __init__(self, path: Path, num_images: int, columns: int | None, enlargement: Enlargement) -> None:
        super().__init__(path, num_images)
        self._columns = columns
        self._enlargement = enlargement

    @property
    def details(self) -> dict[str, Any]:
        return {"enlargement": asdict(self._enlargement)}

    def _write(self, images: Images) -> None:
        write_bytes(self.path, grid_png(images, columns=self._columns, enlargement=self._enlargement))


class _Moving(_Collected):
    """An animated grid; each cell shows a row of images, one after the other."""

    def __init__(self, path: Path, num_images: int, num_frames: int, enlargement: Enlargement) -> None:
        super().__init__(path, num_images)
        self._num_frames = num_frames
        self._enlargement = enlargement

    def _write(self, images: Images) -> None:
        count = len(images) // self._num_frames
        layout = grid_layout(count, images.shape[1:], scale=self._enlargement.scale, light=True)
        enlargement = replace(self._enlargement, scale=layout.scale)
        frames = [
            grid_canvas(images[first :: self._num_frames], enlargement=enlargement)
            for first in range(self._num_frames)
        ]
        write_bytes(self.path, animation(frames, self.path.suffix.lower()))


class _Array(_Collected):
    def _write(self, images: Images) -> None:
        with replacing(self.path) as file:
            np.savez(file, images=images)


class _Folder(ImageExport):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._partial = path.with_name(f".{uuid.uuid4().hex}.partial")
        self._count = 0

    def add(self, images: Images) -> None:
        with file_errors(f"cannot write {self.path}"):
            self._partial.mkdir(parents=True, exist_ok=True)
            for image in images:
                (self._partial / f"{self._count:06}.png").write_bytes(image_png(image))
                self._count += 1

    def finish(self, record: Mapping[str, Any]) -> None:
        with file_errors(f"cannot write {self.path}"):
            (self._partial / "images.json").write_text(_record_text(record), encoding="utf-8")
            # A rename can replace an empty folder, but nothing else.
            self._partial.rename(self.path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)


def is_animated(path: Path) -> bool:
    """Return whether a file name has the suffix of an animated image."""
    return path.suffix.lower() in ANIMATED


def export_images(
    path: Path,
    *,
    num_images: int,
    image_shape: tuple[int, int, int],
    columns: int | None = None,
    enlargement: Enlargement = AUTOMATIC,
) -> ImageExport:
    """Return the export that matches a file name.

    Args:
        path: The file or folder to write.
        num_images: The number of images.
        image_shape: `(H, W, C)` of each.
        columns: Images per row of a grid, or frames of an animation; None for a nearly square grid.
        enlargement: Enlargement of small images in a grid.

    Raises:
        UserError: The suffix is unknown, an animation was requested without columns, an enlargement was
            requested for something other than a grid, or the grid would have too many images or pixels.
    """
    suffix = path.suffix.lower()
    hidden = path.name.startswith(".")  # `.png` has no suffix, but is unlikely to mean a folder
    is_folder = suffix == "" and not hidden
    if (is_folder or suffix == ".npz") and enlargement != AUTOMATIC:
        raise UserError(
            "--grid-scale and --nearest have no effect on an array or a folder of pictures",
            why="these contain the images in their original size",
            fix="remove these options, or write a grid: --out x.png",
        )
    if suffix == ".npz":
        return _Array(path, num_images)
    if is_folder:
        return _Folder(path)
    if suffix not in (".png", *ANIMATED):
        raise UserError(
            f"cannot infer the output format from the name {path}",
            why="its suffix is unknown, or the name is only a suffix",
            fix="use x.png for a grid, x.npz for an array, x.gif, x.apng or x.webp for an animated "
            "trajectory or interpolation, or a name without a suffix for a folder of pictures",
        )
    moves = suffix in ANIMATED
    if moves and columns is None:
        raise UserError(
            f"cannot write samples to {path}, an animated image",
            why="only a trajectory or an interpolation can be animated",
            fix="add --show-trajectory or --interpolate N, or name the file x.png",
        )
    shown = num_images // columns if moves and columns else num_images
    if shown > MAX_GRID_IMAGES:
        raise UserError(
            f"{shown:,} images are too many for one grid",
            why=f"a grid can have at most {MAX_GRID_IMAGES:,} images",
            fix="sample fewer images, or write an array or a folder: `ddim-host sample RUN --out x.npz`",
        )
    layout = grid_layout(shown, image_shape, None if moves else columns, enlargement.scale)
    height, width = layout.size
    if height * width > MAX_CANVAS:
        scaled = f" with --grid-scale {enlargement.scale}" if enlargement.scale is not None else ""
        raise UserError(
            f"a grid of {shown:,} images{scaled} would have {width:,} x {height:,} pixels",
            why=f"a grid can have at most {MAX_CANVAS:,} pixels",
            fix="use fewer images" + (", or a smaller --grid-scale" if scaled else ""),
        )
    if moves and columns:
        return _Moving(path, num_images, columns, enlargement)
    return _Grid(path, num_images, columns, enlargement)


def require_new(path: Path) -> None:
    """Check, before any work, that a path can be written and that nothing would be overwritten.

    Raises:
        UserError: The path exists (and is not an empty folder), or cannot be written.
    """
    with file_errors(f"cannot write {path}"):
        for name in (path, path.with_suffix(".json")) if path.suffix else (path,):
            if _is_taken(name):
                raise UserError(
                    f"{name} already exists",
                    why="" if name == path else f"the metadata of {path} would be written there",
                    fix="choose another --out, or move the existing file",
                )
        parent = next(folder for folder in path.absolute().parents if folder.exists())
    # Checking permissions is not enough: the name may be too long, or the file system read-only.
    trial = parent / (path.name if parent == path.absolute().parent else f".{uuid.uuid4().hex}")
    if not path.exists():
        with file_errors(f"cannot write {path} into {parent}", fix="choose another --out"):
            trial.touch(exist_ok=False)
            trial.unlink()


def _is_taken(path: Path) -> bool:
    """Return whether a path is taken; an empty folder that a rename can replace does not count."""
    if path.is_symlink() or not path.is_dir():
        return path.is_symlink() or path.exists()
    replaceable = not path.suffix and path.name not in ("", "..") and not path.is_mount()
    return not replaceable or any(path.iterdir())


def _record_text(record: Mapping[str, Any]) -> str:
    return json.dumps(dict(record), indent=2) + "\n"
