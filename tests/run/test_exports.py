"""Where images go: a grid, an array or a folder, each whole or not at all, with how it was made."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ddim_host.errors import UserError
from ddim_host.run import exports
from ddim_host.run.exports import export_images, require_new
from ddim_host.system.limits import MAX_GRID_IMAGES

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

IMAGES = np.random.default_rng(0).integers(0, 255, (6, 64, 64, 3), dtype=np.uint8)  # none is white
RECORD = {"seed": 3, "timesteps": [0, 5], "seconds": 0.25}
NAMES = ["grid.png", "array.npz", "folder"]


def write(path: Path, columns: int | None = None, *, midway: Callable[[], object] = lambda: None) -> None:
    """The six images; `midway` is called between the fourth and the fifth."""
    with export_images(path, num_images=6, columns=columns) as export:
        export.add(IMAGES[:4])
        midway()
        export.add(IMAGES[4:])
        export.finish(RECORD)


def failing(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture)


def record(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# --- What is written ----------------------------------------------------------------------------------------


def test_an_array_holds_the_images(tmp_path: Path) -> None:
    write(tmp_path / "x.npz")
    assert everything(tmp_path) == {"x.npz", "x.json"}
    with np.load(tmp_path / "x.npz") as arrays:
        assert list(arrays) == ["images"]
        assert arrays["images"].dtype == np.uint8
        np.testing.assert_array_equal(arrays["images"], IMAGES)
    assert record(tmp_path / "x.json") == RECORD


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_holds_a_picture_for_each(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "x"
    if exists:
        folder.mkdir()
    write(folder)
    names = [f"{number:06}.png" for number in range(6)]
    assert everything(tmp_path) == {"x", "x/images.json", *(f"x/{name}" for name in names)}
    for name, image in zip(names, IMAGES, strict=True):
        np.testing.assert_array_equal(pixels(folder / name), image)
    assert record(folder / "images.json") == RECORD


def test_grey_pictures_are_grey(tmp_path: Path) -> None:
    with export_images(tmp_path / "x", num_images=1) as export:
        export.add(IMAGES[:1, :, :, :1])
        export.finish(RECORD)
    np.testing.assert_array_equal(pixels(tmp_path / "x" / "000000.png"), IMAGES[0, :, :, 0])


@pytest.mark.parametrize(("columns", "wide"), [(None, 3), (2, 2), (6, 6), (1, 1), (4, 4)])
def test_a_grid_has_its_columns(tmp_path: Path, columns: int | None, wide: int) -> None:
    write(tmp_path / "x.png", columns)
    assert everything(tmp_path) == {"x.png", "x.json"}
    assert record(tmp_path / "x.json") == RECORD
    canvas = pixels(tmp_path / "x.png")
    # 64 pixels each, one between them and around.
    assert canvas.shape == (65 * -(-6 // wide) + 1, 65 * wide + 1, 3)
    for number, image in enumerate(IMAGES):
        top, left = 1 + 65 * (number // wide), 1 + 65 * (number % wide)
        np.testing.assert_array_equal(canvas[top : top + 64, left : left + 64], image)


@pytest.mark.parametrize("name", NAMES)
def test_folders_on_the_way_are_made(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a" / "b" / name)
    assert (tmp_path / "a" / "b" / name).exists()


@pytest.mark.parametrize("name", NAMES)
def test_others_may_read_what_was_written(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    (tmp_path / "usual").mkdir()
    usual = stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    for path in tmp_path.rglob("*"):
        expected = usual if path.is_dir() else usual & 0o666
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


# --- Whole or not at all ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_there_before_the_end(tmp_path: Path, name: str) -> None:
    seen: list[str] = []
    write(tmp_path / name, midway=lambda: seen.extend(everything(tmp_path)))
    assert [path for path in seen if not path.startswith(".")] == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_nothing_is_left_after_an_exception(tmp_path: Path, name: str, error: BaseException) -> None:
    with pytest.raises(type(error)):
        write(tmp_path / name, midway=failing(error))
    assert everything(tmp_path) == set()


def test_an_empty_folder_is_still_there_after_an_exception(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(MemoryError):
        write(tmp_path / "folder", midway=failing(MemoryError()))
    assert everything(tmp_path) == {"folder"}


@pytest.mark.parametrize(("name", "step"), [("grid.png", "grid_png"), ("array.npz", "replacing")])
def test_nothing_is_left_when_the_end_fails(
    tmp_path: Path, name: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, step, failing(OSError("no space left on device")))
    with pytest.raises(UserError, match="cannot write") as caught:
        write(tmp_path / name)
    assert caught.value.why == "no space left on device"
    assert everything(tmp_path) == set()


def test_a_folder_that_was_filled_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    thesis = tmp_path / "folder" / "thesis.txt"
    thesis.parent.mkdir()
    with pytest.raises(UserError, match="not empty"):
        write(tmp_path / "folder", midway=thesis.touch)
    assert everything(tmp_path) == {"folder", "folder/thesis.txt"}


# --- Names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.jpg", "x.npz.gz", "x.json", "x.1", ".png", ".npz"])
def test_an_unknown_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"cannot tell what to write from the name .*{name}") as caught:
        export_images(tmp_path / name, num_images=1)
    assert "x.png for a grid" in caught.value.fix


@pytest.mark.parametrize("name", ["x.PNG", "x.Npz"])
def test_a_suffix_may_be_written_large(tmp_path: Path, name: str) -> None:
    export = export_images(tmp_path / name, num_images=1)
    export.add(np.zeros((1, 8, 8, 1), np.uint8))
    export.finish({})
    assert everything(tmp_path) == {name, "x.json"}


def test_a_grid_that_nobody_would_look_at_is_refused(tmp_path: Path) -> None:
    export_images(tmp_path / "x.png", num_images=MAX_GRID_IMAGES)
    with pytest.raises(UserError, match="10,001 images are too many for one grid"):
        export_images(tmp_path / "x.png", num_images=MAX_GRID_IMAGES + 1)
    for name in ("x.npz", "x"):
        export_images(tmp_path / name, num_images=MAX_GRID_IMAGES + 1)


@pytest.mark.parametrize("name", [*NAMES, "a/b/c.png", "a/b/c"])
def test_a_new_name_is_allowed_and_not_touched(tmp_path: Path, name: str) -> None:
    require_new(tmp_path / name)
    assert everything(tmp_path) == set()


def test_an_empty_folder_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    require_new(tmp_path / "folder")
    assert everything(tmp_path) == {"folder"}


@pytest.fixture
def occupied(tmp_path: Path) -> Path:
    """A folder where every kind of name is taken."""
    for name in ("x.png", "x.npz", "file", "beside-grid.json", "beside-array.json"):
        (tmp_path / name).write_text("mine", encoding="utf-8")
    for name in ("full", "folder.png", "empty", "folder.npz"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "dangling.png").symlink_to("nowhere")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("x.png", "x.png"),
        ("x.npz", "x.npz"),
        ("beside-grid.png", "beside-grid.json"),
        ("beside-array.npz", "beside-array.json"),
        ("folder.png", "folder.png"),
        ("folder.npz", "folder.npz"),
        ("file", "file"),
        ("full", "full"),
        # A folder cannot take the place of these, so the sampling would have been for nothing.
        ("link", "link"),
        ("dangling", "dangling"),
        ("dangling.png", "dangling.png"),
        ("empty/..", "empty/.."),
    ],
)
def test_what_is_there_is_not_overwritten(occupied: Path, name: str, taken: str) -> None:
    before = everything(occupied)
    with pytest.raises(UserError) as caught:
        require_new(occupied / name)
    assert caught.value.what == f"{occupied / taken} exists already"
    assert everything(occupied) == before


def test_the_folder_that_one_is_in_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="exists already"):
        require_new(Path())


@pytest.mark.parametrize("name", ["file/x.png", "file/x", "file/a/b/x.npz"])
def test_a_file_is_no_folder_to_write_to(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write") as caught:
        require_new(tmp_path / name)
    assert caught.value.what.endswith(f"into {tmp_path / 'file'}")
    assert caught.value.why == "Not a directory"


@pytest.mark.parametrize("name", [f"{'a' * 300}.png", f"{'a' * 300}/x.png", "a" * 300])
def test_a_name_that_is_too_long_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot write") as caught:
        require_new(tmp_path / name)
    assert "too long" in caught.value.why


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("name", ["x.png", "x.npz", "x", "a/x"])
def test_a_folder_that_is_not_writable_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o555)
    with pytest.raises(UserError, match="cannot write") as caught:
        require_new(folder / name)
    assert caught.value.why == f"{folder}: Permission denied"
