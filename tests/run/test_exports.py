"""Image exports: a grid, an array or a folder, written whole or not at all, with a record of the sampling."""

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
from ddim_host.run.images import Enlargement, grid_canvas, grid_images
from ddim_host.system.limits import MAX_GRID_IMAGES

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

IMAGES = np.random.default_rng(0).integers(0, 255, (6, 64, 64, 3), dtype=np.uint8)  # none is white
SHAPE = (64, 64, 3)
RECORD = {"seed": 3, "timesteps": [0, 5], "seconds": 0.25}
NAMES = ["grid.png", "array.npz", "folder"]


def write(path: Path, columns: int | None = None, *, midway: Callable[[], object] = lambda: None) -> None:
    """Write the six images; `midway` is called between the fourth and the fifth."""
    with export_images(path, num_images=6, image_shape=SHAPE, columns=columns) as export:
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


# --- Written files ------------------------------------------------------------------------------------------


def test_array_contains_the_images(tmp_path: Path) -> None:
    write(tmp_path / "x.npz")
    assert everything(tmp_path) == {"x.npz", "x.json"}
    with np.load(tmp_path / "x.npz") as arrays:
        assert list(arrays) == ["images"]
        assert arrays["images"].dtype == np.uint8
        np.testing.assert_array_equal(arrays["images"], IMAGES)
    assert record(tmp_path / "x.json") == RECORD


@pytest.mark.parametrize("exists", [False, True])
def test_folder_contains_a_picture_per_image(tmp_path: Path, exists: bool) -> None:
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
    with export_images(tmp_path / "x", num_images=1, image_shape=SHAPE) as export:
        export.add(IMAGES[:1, :, :, :1])
        export.finish(RECORD)
    np.testing.assert_array_equal(pixels(tmp_path / "x" / "000000.png"), IMAGES[0, :, :, 0])


@pytest.mark.parametrize(("columns", "wide"), [(None, 3), (2, 2), (6, 6), (1, 1), (4, 4)])
def test_grid_has_the_chosen_columns(tmp_path: Path, columns: int | None, wide: int) -> None:
    write(tmp_path / "x.png", columns)
    assert everything(tmp_path) == {"x.png", "x.json"}
    assert record(tmp_path / "x.json") == RECORD
    canvas = pixels(tmp_path / "x.png")
    # 64 pixels each, with margins of four.
    assert canvas.shape == (68 * -(-6 // wide) + 4, 68 * wide + 4, 3)
    for number, image in enumerate(IMAGES):
        top, left = 4 + 68 * (number // wide), 4 + 68 * (number % wide)
        np.testing.assert_array_equal(canvas[top : top + 64, left : left + 64], image)


@pytest.mark.parametrize("name", NAMES)
def test_parent_folders_are_created(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a" / "b" / name)
    assert (tmp_path / "a" / "b" / name).exists()


@pytest.mark.parametrize("name", NAMES)
def test_written_files_have_the_usual_permissions(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    (tmp_path / "usual").mkdir()
    usual = stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    for path in tmp_path.rglob("*"):
        expected = usual if path.is_dir() else usual & 0o666
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


# --- Whole or not at all ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_visible_before_the_end(tmp_path: Path, name: str) -> None:
    seen: list[str] = []
    write(tmp_path / name, midway=lambda: seen.extend(everything(tmp_path)))
    assert [path for path in seen if not path.startswith(".")] == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_nothing_is_left_after_an_exception(tmp_path: Path, name: str, error: BaseException) -> None:
    with pytest.raises(type(error)):
        write(tmp_path / name, midway=failing(error))
    assert everything(tmp_path) == set()


def test_empty_folder_is_kept_after_an_exception(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(MemoryError):
        write(tmp_path / "folder", midway=failing(MemoryError()))
    assert everything(tmp_path) == {"folder"}


@pytest.mark.parametrize(("name", "step"), [("grid.png", "grid_png"), ("array.npz", "replacing")])
def test_nothing_is_left_if_the_last_step_fails(
    tmp_path: Path, name: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, step, failing(OSError("no space left on device")))
    with pytest.raises(UserError, match="cannot write") as caught:
        write(tmp_path / name)
    assert caught.value.why == "no space left on device"
    assert everything(tmp_path) == set()


def test_folder_filled_during_the_export_is_not_replaced(tmp_path: Path) -> None:
    thesis = tmp_path / "folder" / "thesis.txt"
    thesis.parent.mkdir()
    with pytest.raises(UserError, match="not empty"):
        write(tmp_path / "folder", midway=thesis.touch)
    assert everything(tmp_path) == {"folder", "folder/thesis.txt"}


# --- Names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.jpg", "x.npz.gz", "x.json", "x.1", ".png", ".npz"])
def test_an_unknown_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"cannot infer the output format from the name .*{name}") as caught:
        export_images(tmp_path / name, num_images=1, image_shape=SHAPE)
    assert "x.png for a grid" in caught.value.fix


@pytest.mark.parametrize("name", ["x.PNG", "x.Npz"])
def test_suffix_may_be_upper_case(tmp_path: Path, name: str) -> None:
    export = export_images(tmp_path / name, num_images=1, image_shape=SHAPE)
    export.add(np.zeros((1, 8, 8, 1), np.uint8))
    export.finish({})
    assert everything(tmp_path) == {name, "x.json"}


def test_grid_with_too_many_images_is_refused(tmp_path: Path) -> None:
    export_images(tmp_path / "x.png", num_images=MAX_GRID_IMAGES, image_shape=SHAPE)
    with pytest.raises(UserError, match="10,001 images are too many for one grid"):
        export_images(tmp_path / "x.png", num_images=MAX_GRID_IMAGES + 1, image_shape=SHAPE)
    for name in ("x.npz", "x"):
        export_images(tmp_path / name, num_images=MAX_GRID_IMAGES + 1, image_shape=SHAPE)


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
    """Fill a folder with every kind of file and folder that can occupy a name."""
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
        # A folder cannot replace these, so the sampling would be in vain.
        ("link", "link"),
        ("dangling", "dangling"),
        ("dangling.png", "dangling.png"),
        ("empty/..", "empty/.."),
    ],
)
def test_existing_files_are_not_overwritten(occupied: Path, name: str, taken: str) -> None:
    before = everything(occupied)
    with pytest.raises(UserError) as caught:
        require_new(occupied / name)
    assert caught.value.what == f"{occupied / taken} already exists"
    assert everything(occupied) == before


def test_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="already exists"):
        require_new(Path())


@pytest.mark.parametrize("name", ["file/x.png", "file/x", "file/a/b/x.npz"])
def test_file_as_a_parent_folder_is_refused(tmp_path: Path, name: str) -> None:
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


# --- Animations ---------------------------------------------------------------------------------------------


def frames_of(path: Path, mode: str) -> tuple[list[NDArray[np.uint8]], list[float], object]:
    """Return the frames of an animated image, their durations in milliseconds, and the number of repeats."""
    with Image.open(path) as picture:
        frames, durations = [], []
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            picture.load()
            frames.append(np.asarray(picture.convert(mode)))
            durations.append(picture.info["duration"])
        return frames, durations, picture.info.get("loop")


def write_moving(path: Path, images: NDArray[np.uint8], num_frames: int) -> None:
    shape = images.shape[1:]
    export = export_images(path, num_images=len(images), image_shape=shape, columns=num_frames)
    with export:
        export.add(images)
        export.finish(RECORD)
    assert not export.is_grid, "observers receive still pictures only"


@pytest.mark.parametrize("suffix", [".gif", ".apng", ".webp", ".GIF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_animation_shows_the_columns_in_order(suffix: str, channels: int, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4 * 3, 8, 8, channels), dtype=np.uint8)
    path = tmp_path / f"x{suffix}"
    write_moving(path, images, num_frames=3)
    assert everything(tmp_path) == {path.name, "x.json"}
    assert record(tmp_path / "x.json") == RECORD
    frames, durations, loop = frames_of(path, "L" if channels == 1 else "RGB")
    assert len(frames) == 3
    assert loop == 0, "the picture must repeat forever"
    assert durations[0] == durations[1] < durations[2] == 2000
    for number, frame in enumerate(frames):
        expected = grid_canvas(images[number::3], enlargement=Enlargement(8)).astype(int)
        difference = np.abs(frame.reshape(expected.shape).astype(int) - expected)
        if suffix.lower() != ".gif":
            assert not difference.any()
        elif channels == 1:
            assert difference.max() <= 2
        else:
            assert difference.mean() < 16


def test_duration_of_many_frames_is_limited(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 1), dtype=np.uint8)
    write_moving(tmp_path / "x.apng", images, num_frames=100)
    _, durations, _ = frames_of(tmp_path / "x.apng", "L")
    assert sum(durations) == pytest.approx(6000, rel=0.02)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_animation_that_fails_leaves_nothing(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "animation", failing(error))
    with pytest.raises((UserError, KeyboardInterrupt)):
        write_moving(tmp_path / "x.gif", IMAGES, num_frames=3)
    assert not everything(tmp_path)


def test_animation_without_a_trajectory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=", an animated image") as caught:
        export_images(tmp_path / "x.gif", num_images=4, image_shape=SHAPE)
    assert "--show-trajectory" in caught.value.fix


# --- Enlargement --------------------------------------------------------------------------------------------


def test_grid_has_the_chosen_enlargement(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    path = tmp_path / "x.png"
    export = export_images(
        path, num_images=4, image_shape=(8, 8, 1), enlargement=Enlargement(5, nearest=True)
    )
    with export:
        export.add(images)
        export.finish(RECORD)
    expected = grid_canvas(images, enlargement=Enlargement(5, nearest=True))[:, :, 0]
    np.testing.assert_array_equal(pixels(path), expected)
    np.testing.assert_array_equal(grid_images(path.read_bytes(), 4, (8, 8, 1)), images)


@pytest.mark.parametrize("name", ["x.npz", "x"])
@pytest.mark.parametrize("enlargement", [Enlargement(2), Enlargement(nearest=True)])
def test_enlargement_of_images_outside_a_grid_is_refused(
    tmp_path: Path, name: str, enlargement: Enlargement
) -> None:
    with pytest.raises(UserError, match="no effect on an array or a folder of pictures"):
        export_images(tmp_path / name, num_images=4, image_shape=SHAPE, enlargement=enlargement)


def test_huge_grid_is_refused_before_sampling(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a grid of 64 images with --grid-scale 64 would have .* pixels"):
        export_images(tmp_path / "x.png", num_images=64, image_shape=SHAPE, enlargement=Enlargement(64))
    with pytest.raises(UserError, match="a grid of 10,000 images would have 13,608 x 13,608 pixels"):
        export_images(tmp_path / "x.png", num_images=10_000, image_shape=(128, 128, 1))
