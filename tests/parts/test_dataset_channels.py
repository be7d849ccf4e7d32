"""The number of channels of user images: grey images stay grey."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ddim_host.errors import UserError
from ddim_host.parts.datasets import decoded, images

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tests.support.commands import Outcome, Run

GREY = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "cache"
    monkeypatch.setenv("DDIM_HOST_CACHE", str(folder))
    return folder


def folder_of(path: Path, pixels: NDArray[np.uint8], mode: str = "L", suffix: str = ".png") -> Path:
    path.mkdir(parents=True)
    for index, image in enumerate(pixels):
        picture = Image.fromarray(image)
        options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
        (picture if picture.mode == mode else picture.convert(mode)).save(
            path / f"{index:02}{suffix}", **options
        )
    return path


def mode_of(path: Path) -> str:
    with Image.open(path) as picture:
        return picture.mode


def add_colour(folder: Path, name: str) -> None:
    pixels = np.repeat(GREY[0][:, :, None], 3, axis=2)
    pixels[3, 4] = (255, 0, 0)
    Image.fromarray(pixels).save(folder / name)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", ".png"), ("RGB", ".png"), ("P", ".png"), ("RGBA", ".png"), ("RGB", ".webp"), ("P", ".gif")],
)
def test_images_are_grey_by_their_pixels_however_they_are_stored(
    mode: str, suffix: str, tmp_path: Path
) -> None:
    source = images(path=folder_of(tmp_path / "grey", GREY, mode, suffix))
    assert source.image_shape == (8, 8, 1)
    assert source.resolved == {"channels": "1"}
    assert "8 x 8, grey (all 12 are)" in source.description
    data = source.load()
    np.testing.assert_array_equal(data.test[:, :, :, 0], GREY[::10])
    np.testing.assert_array_equal(data.train[:, :, :, 0], [GREY[i] for i in range(12) if i % 10])


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_grey_jpegs_are_grey(mode: str, tmp_path: Path) -> None:
    path = folder_of(tmp_path / "grey", GREY, mode, ".jpg")
    assert images(path=path).image_shape == (8, 8, 1)
    assert images(path=path, size=4).image_shape == (4, 4, 1)


@pytest.mark.parametrize("name", ["00.png", "11.png", "05.png"])
def test_one_coloured_pixel_makes_all_images_rgb(name: str, tmp_path: Path, cache: Path) -> None:
    path = folder_of(tmp_path / "mixed", GREY)
    add_colour(path, name)
    source = images(path=path)
    assert source.image_shape == (8, 8, 3)
    assert source.resolved == {"channels": "3"}
    reason = f"8 x 8, RGB, because {name} has colours; channels=1 converts all to grey"
    assert (reason in source.description) == (
        name != "00.png"
    )  # if the first is grey, all were expected to be
    assert not list(cache.glob("*.npy"))
    data = source.load()
    assert data.train.shape[1:] == data.test.shape[1:] == (8, 8, 3)
    np.testing.assert_array_equal(data.train[1], np.repeat(GREY[2][:, :, None], 3, axis=2))


def test_first_image_with_colours_decides_without_reading_others(tmp_path: Path, cache: Path) -> None:
    path = folder_of(tmp_path / "mixed", GREY)
    add_colour(path, "00.png")
    (path / "01.png").write_bytes(b"not read")
    source = images(path=path)
    assert source.image_shape == (8, 8, 3)
    assert "because" not in source.description
    assert source.known is None
    assert not cache.exists()


def test_channels_can_be_set(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "mixed", GREY)
    add_colour(path, "03.png")
    for channels in (1, 3):
        source = images(path=path, channels=str(channels))
        assert source.image_shape == (8, 8, channels)
        assert source.load().train.shape == (10, 8, 8, channels)
    luminance = images(path=path, channels="1").load().train[2, 3, 4, 0]
    assert luminance == round(0.299 * 255)
    # Images converted to grey in the cache do not count as grey.
    assert images(path=path).image_shape == (8, 8, 3)


def test_description_has_the_split_until_the_images_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ddim_host.parts.datasets.image_files._CLOCK_NANOSECONDS", -(10**12))
    path = folder_of(tmp_path / "coloured", np.stack([GREY, GREY // 2, GREY // 3], axis=3), "RGB")
    source = images(path=path)
    rule = "1 in 10 for testing, by name, starting with the first"
    split = f"folders train/ and test/ if present, otherwise {rule}"
    assert source.description == f"images in {path}, 8 x 8, RGB; split: {split}"
    source.load()
    source = images(path=path)
    assert source.description == f"images in {path}, 8 x 8, RGB"
    assert source.known is not None
    assert (len(source.known.train), len(source.known.test)) == (10, 2)


@pytest.mark.parametrize("channels", ["2", "", "grey", "none"])
def test_other_numbers_of_channels_are_refused(channels: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="channels") as caught:
        images(path=folder_of(tmp_path / "grey", GREY), channels=channels)
    assert "auto" in caught.value.why


@pytest.mark.parametrize("colour", [False, True])
def test_result_is_cached_until_files_change(
    colour: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ddim_host.parts.datasets.image_files._CLOCK_NANOSECONDS", -(10**12))
    path = folder_of(tmp_path / "images", GREY)
    if colour:
        add_colour(path, "11.png")
    shape = images(path=path).image_shape
    with monkeypatch.context() as patch:
        patch.setattr(decoded, "decode_image", None)
        assert images(path=path).image_shape == shape == (8, 8, 3 if colour else 1)
    if colour:
        Image.fromarray(GREY[11]).save(path / "11.png")
    else:
        add_colour(path, "11.png")
    assert images(path=path).image_shape == (8, 8, 1 if colour else 3)


def test_colours_added_later_are_not_silently_made_grey(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "images", GREY)
    source = images(path=path)
    add_colour(path, "05.png")
    with pytest.raises(UserError, match=r"05\.png .* has colours") as caught:
        source.load()
    assert "channels=3" in caught.value.fix


def test_broken_images_have_no_colour(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "images", GREY)
    (path / "03.png").write_bytes(b"")
    source = images(path=path, skip_broken=True)
    assert source.image_shape == (8, 8, 1)
    assert source.load().left_out == ("03.png",)
    with pytest.raises(UserError, match=r"cannot decode 03\.png"):
        images(path=path)


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("grey") / "photos", GREY)


@pytest.fixture(scope="module")
def commands(
    several_runs: Callable[..., dict[str, Run]],
    tiny: list[str],
    grey: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Run]:
    """Run `run` on grey images, then the other commands on the result."""
    folder = tmp_path_factory.mktemp("run")
    run, data = str(folder / "run"), ["--data", f"images:path={grey},flip=false"]
    features = ["--features", "digits_mlp"]
    return several_runs(
        {
            "run": [*tiny, *data, "--out", run],
            "resume": ["run", "--resume", *data, "--out", run],
            "resume as RGB": ["run", "--resume", "--data", f"{data[1]},channels=3", "--out", run],
            "npz": ["sample", run, "--num-images", "4", "--out", str(folder / "x.npz")],
            "folder": ["sample", run, "--num-images", "4", "--out", str(folder / "pictures")],
            "reconstruct": ["reconstruct", run, "--steps", "2", *data, "--out", str(folder / "r.png")],
            "evaluate": ["evaluate", run, "--samples", "10", "--steps", "2", "--eta", "0", *features],
            "evaluate as RGB": ["evaluate", run, "--data", f"{data[1]},channels=3", *features],
        }
    )


def test_a_run_trains_on_one_channel_and_stores_it(commands: dict[str, Run]) -> None:
    outcome = commands["run"].outcome
    assert outcome.code == 0, outcome.err
    assert "8 x 8, grey (all 12 are)" in outcome.out
    run = Path(outcome.out.rpartition("wrote ")[2].strip()).parent
    config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    assert config["data"]["parameters"]["channels"] == "1"
    assert config["provenance"]["image_shape"] == [8, 8, 1]
    [grid] = (run / "samples").glob("*.png")
    assert mode_of(grid) == "L"


def test_other_commands_agree_with_the_run(commands: dict[str, Run]) -> None:
    for name in ("resume", "npz", "folder", "reconstruct", "evaluate"):
        assert commands[name].outcome.code == 0, commands[name].outcome.err
    assert "already complete" in commands["resume"].outcome.out
    for name in ("resume as RGB", "evaluate as RGB"):
        assert commands[name].outcome.code == 2
    assert "these differ: data" in commands["resume as RGB"].outcome.err
    assert "add channels=1 to --data" in commands["evaluate as RGB"].outcome.err
    run = Path(commands["run"].outcome.out.rpartition("wrote ")[2].strip()).parent
    with np.load(run.parent / "x.npz") as file:
        assert file["images"].shape == (4, 8, 8, 1)
    assert {mode_of(path) for path in (run.parent / "pictures").glob("*.png")} == {"L"}
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert "channels=1" in json.dumps(evaluation)


def test_channels_may_be_an_integer_in_a_file(
    in_process: Callable[..., Outcome], grey: Path, tmp_path: Path
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        f'plugin = "torch"\n[data]\nname = "images"\n[data.parameters]\npath = "{grey}"\nchannels = 3\n',
        encoding="utf-8",
    )
    done = in_process("run", "--config", config, "--dry-run")
    assert done.code == 0, done.err
    assert "8 x 8, RGB" in done.out


def test_resuming_a_complete_run_refuses_other_images(
    commands: dict[str, Run], in_process: Callable[..., Outcome], grey: Path, tmp_path: Path
) -> None:
    finished = Path(commands["run"].outcome.out.rpartition("wrote ")[2].strip()).parent
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    photos = Path(shutil.copytree(grey, tmp_path / "photos"))
    config = run / "config.toml"
    text = config.read_text(encoding="utf-8").replace(f'"{grey}"', f'"{photos}"')
    assert str(photos) in text
    config.write_text(text, encoding="utf-8")
    done = in_process("run", "--resume", "--out", run)
    assert done.code == 0, done.err
    assert "already complete" in done.out
    Image.fromarray(GREY[0]).save(photos / "20.png")
    done = in_process("run", "--resume", "--out", run)
    assert done.code == 2
    assert f"these are not the images that the run in {run} started with" in done.err
    assert "already complete" not in done.out


def test_dry_run_prints_the_split_and_what_training_does(
    in_process: Callable[..., Outcome], grey: Path, tmp_path: Path
) -> None:
    data = f"images:path={grey}"
    done = in_process("run", "--plugin", "torch", "--data", data, "--dry-run")
    assert done.code == 0, done.err
    images_line = f"images            images in {grey}, 8 x 8, grey (all 12 are)\n"
    assert images_line + " " * 18 + "mirrored at random in training; flip=false prevents this" in done.out
    assert done.out.endswith(
        "split             10 train, 2 test (1 in 10 for testing, by name, starting with the first)\n"
        "                  fewer than 100 training images: the network will memorise them\n"
    )
    done = in_process("run", "--plugin", "torch", "--data", f"{data},flip=false", "--dry-run")
    assert "mirrored" not in done.out
    many = folder_of(tmp_path / "many", np.repeat(GREY, 10, axis=0)[:112])
    done = in_process("run", "--plugin", "torch", "--data", f"images:path={many}", "--dry-run")
    assert "100 train, 12 test" in done.out
    assert "memorise" not in done.out
