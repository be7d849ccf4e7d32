"""The same images in a different format define the same experiment."""

from __future__ import annotations

import struct
import tomllib
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.commands import Run

FRAMEWORKS = [
    pytest.param(name, marks=pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed"))
    for name in ("torch", "jittor")
]


def idx(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_grey_pngs_train_like_the_same_images_in_idx_files(
    framework: str, several_runs: Callable[..., dict[str, Run]], tiny: list[str], tmp_path: Path
) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
    formats = {"pngs": tmp_path / "pngs", "idx": tmp_path / "idx"}
    formats["idx"].mkdir()
    for half, name, pixels in (("train", "train", grey[:16]), ("test", "t10k", grey[16:])):
        (formats["pngs"] / half).mkdir(parents=True)
        for index, image in enumerate(pixels):
            Image.fromarray(image).save(formats["pngs"] / half / f"{index:02}.png")
        (formats["idx"] / f"{name}-images-idx3-ubyte").write_bytes(idx(pixels))
    command = [framework if option == "torch" else option for option in tiny]
    runs = several_runs(
        {name: [*command, "--data", f"images:path={path}"] for name, path in formats.items()}, timeout=900
    )
    found = {}
    for name, run in runs.items():
        assert run.outcome.code == 0, run.outcome.err
        config = tomllib.loads((run.path / "config.toml").read_text(encoding="utf-8"))
        assert config["data"]["parameters"]["channels"] == "1"
        weights = safetensors.numpy.load_file(run.checkpoint / "raw.safetensors")
        assert weights["conv_in.weight"].shape[1] == weights["conv_out.weight"].shape[0] == 1
        found[name] = config["provenance"]["images"], weights
    assert found["pngs"][0] == found["idx"][0]
    for name, weight in found["pngs"][1].items():
        np.testing.assert_array_equal(weight, found["idx"][1][name])


def test_array_of_sampled_digits_is_a_data_set(
    several_runs: Callable[..., dict[str, Run]], tiny: list[str], tmp_path: Path
) -> None:
    first, array = tmp_path / "first", tmp_path / "x.npz"
    runs = several_runs(
        {
            "first": [*tiny, "--out", str(first)],
            "samples": ["sample", str(first), "--num-images", "20", "--out", str(array)],
            "again": [*tiny, "--data", f"images:path={array}"],
        }
    )
    for run in runs.values():
        assert run.outcome.code == 0, run.outcome.err
    assert "8 x 8, grey (all 20 are)" in runs["again"].outcome.out
    config = tomllib.loads((runs["again"].path / "config.toml").read_text(encoding="utf-8"))
    images = config["provenance"]["images"]
    assert (images["num_train"], images["num_test"]) == (18, 2)
