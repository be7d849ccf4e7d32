"""Where sampled images go: a grid to look at, an array for programs, or a folder of pictures.

The name decides: `x.png` is a grid, `x.npz` an array `images`, uint8 `(N, H, W, C)`, and a name without a
suffix a folder of `000000.png`, `000001.png`, ... How the images were made is in a JSON file beside the grid
or the array (`x.json`), or in the folder (`images.json`). Each appears whole or not at all.
"""

from __future__ import annotations

import json
import shutil
import uuid
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from ddim_host.errors import UserError
from ddim_host.run.images import grid_png, image_png
from ddim_host.system.files import file_errors, replacing, write_bytes, write_text
from ddim_host.system.limits import MAX_GRID_IMAGES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from ddim_host.plugin.data import Images


class ImageExport(ABC):
    """Takes images as they are made; what it writes appears when it is finished.

    Args:
        path: The file or folder.

    Attributes:
        is_grid: Whether it writes one picture of all images.
    """

    is_grid = False

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(  # noqa: B027 - most have nothing to clear away
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clear away what is not finished."""

    @abstractmethod
    def add(self, images: Images) -> None:
        """Take the next images, uint8 `(B, H, W, C)`.

        Raises:
            UserError: They cannot be written.
        """

    @abstractmethod
    def finish(self, record: Mapping[str, Any]) -> None:
        """Write what is not written yet, and the record of how the images were made.

        Raises:
            UserError: It cannot be written.
        """


class _Collected(ImageExport):
    """Holds all images in memory until the end."""

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
            raise ValueError(f"{self._num_images} images were announced, {self._count} came")
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

    def __init__(self, path: Path, num_images: int, columns: int | None) -> None:
        super().__init__(path, num_images)
        self._columns = columns

    def _write(self, images: Images) -> None:
        write_bytes(self.path, grid_png(images, columns=self._columns))


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
            # Takes the place of an empty folder, and of nothing else.
            self._partial.rename(self.path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)


def export_images(path: Path, *, num_images: int, columns: int | None = None) -> ImageExport:
    """The export that a name asks for.

    Args:
        path: The file or folder to write.
        num_images: How many images there will be.
        columns: Images in a row of a grid; None makes it as square as their number allows.

    Raises:
        UserError: The suffix is not known, or there are too many images for a grid.
    """
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _Array(path, num_images)
    hidden = path.name.startswith(".")  # `.png` alone has no suffix, and was hardly meant as a folder
    if suffix == "" and not hidden:
        return _Folder(path)
    if suffix != ".png":
        raise UserError(
            f"cannot tell what to write from the name {path}",
            why="it has no known suffix, or nothing but one",
            fix="name it x.png for a grid, x.npz for an array, or without a suffix for a folder of pictures",
        )
    if num_images > MAX_GRID_IMAGES:
        raise UserError(
            f"{num_images:,} images are too many for one grid",
            why=f"a grid holds {MAX_GRID_IMAGES:,} at most",
            fix="sample fewer, or choose an array or a folder with `ddim-host sample RUN --out x.npz`",
        )
    return _Grid(path, num_images, columns)


def require_new(path: Path) -> None:
    """Make sure, before any work, that a name can be written and nothing is lost by it.

    Raises:
        UserError: Something is there already (an empty folder apart), or the place cannot be written to.
    """
    with file_errors(f"cannot write {path}"):
        for name in (path, path.with_suffix(".json")) if path.suffix else (path,):
            if _is_taken(name):
                raise UserError(
                    f"{name} exists already",
                    why="" if name == path else f"how {path} is made would be written there",
                    fix="choose another --out, or move it away",
                )
        parent = next(folder for folder in path.absolute().parents if folder.exists())
    # Asking for permission is not enough: the name may be too long, or the file system read-only.
    trial = parent / (path.name if parent == path.absolute().parent else f".{uuid.uuid4().hex}")
    if not path.exists():
        with file_errors(f"cannot write {path} into {parent}", fix="choose another --out"):
            trial.touch(exist_ok=False)
            trial.unlink()


def _is_taken(path: Path) -> bool:
    """Whether something is there; an empty folder is not, where another folder can take its place."""
    if path.is_symlink() or not path.is_dir():
        return path.is_symlink() or path.exists()
    replaceable = not path.suffix and path.name not in ("", "..") and not path.is_mount()
    return not replaceable or any(path.iterdir())


def _record_text(record: Mapping[str, Any]) -> str:
    return json.dumps(dict(record), indent=2) + "\n"
