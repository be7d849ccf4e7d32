"""`tensorboard`: the event files of runs, read with TensorBoard's own reader."""

from __future__ import annotations

import importlib.metadata
import io
import json
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ddim_host.plugin.observation import Ending
from ddim_host.run.directory import RunDirectory
from ddim_host.testing import ObserverContract
from ddim_tensorboard import TensorBoard

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.commands import Command

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations in its dependencies
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


class TestTensorBoard(ObserverContract):
    part = TensorBoard


def read(run: Path) -> Any:
    """Return TensorBoard's view of a run, without discarding points."""
    events = EventAccumulator(
        str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "tensors": 0}
    )
    return events.Reload()


def texts(events: Any, tag: str) -> str:
    [*_, last] = events.Tensors(f"{tag}/text_summary")
    text: str = last.tensor_proto.string_val[0].decode()
    assert all(line.startswith("    ") for line in text.splitlines()), "the text must be a code block"
    return "\n".join(line[4:] for line in text.splitlines())


def test_tensorboard_shows_curves_grids_and_scores_of_a_run(
    ddim_host: Command, tiny: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "run"
    options = ("--train-steps", "40", "--batch-size", "100", "--observer", "tensorboard")
    outcome = ddim_host(*tiny, *options, "--sample-every", "20", "--out", path)
    assert outcome.code == 0, outcome.err
    assert "warning" not in outcome.err
    assert ddim_host("sample", path, "--eta", "1").code == 0
    evaluated = ddim_host("evaluate", path, "--samples", "20", "--steps", "2", "--eta", "0")
    assert evaluated.code == 0, evaluated.err
    events = read(path)
    rows = RunDirectory(path).read_metrics()
    for tag, name in {
        "loss/train": "train_loss",
        "loss/test": "test_loss",
        "learning_rate": "learning_rate",
        "speed/images_per_second": "images_per_second",
        "memory/peak_bytes": "peak_memory_bytes",
    }.items():
        points = events.Scalars(tag)
        assert [point.step for point in points] == [15, 30, 40]
        np.testing.assert_allclose([p.value for p in points], [getattr(row, name) for row in rows], rtol=1e-6)
    grids = {"samples/linear-3-eta-0": "linear-3-eta-0.png", "samples/samples-1": "samples-1.png"}
    along = "samples/during-training"
    assert set(events.Tags()["images"]) == {*grids, along}
    assert [image.step for image in events.Images(along)] == [20, 40]
    for tag, name in grids.items():
        [image] = events.Images(tag)
        shown = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)).convert("RGB"))
        drawn = np.asarray(Image.open(path / "samples" / name).convert("RGB"))
        np.testing.assert_array_equal(shown, drawn)
        assert image.step == 40
    [score] = json.loads((path / "evaluation.json").read_text(encoding="utf-8"))["scores"]
    tag = "frechet_distance/digits_mlp-N20-linear-ddim-ema-latest-seed0-S2-eta0"
    [point] = events.Scalars(tag)
    assert point.value == pytest.approx(score["measures"]["frechet_distance"], rel=1e-6)
    settings = json.loads(texts(events, "run/settings"))
    assert settings["loss"]["name"] == "mse"
    assert "--observer tensorboard" in json.loads(texts(events, "run/made_with"))["command"]
    assert texts(events, "ending") == "finished"


def test_resumed_run_continues_its_curves(tmp_path: Path) -> None:
    """Rows after the checkpoint are measured again, and must not appear twice."""
    contract = TestTensorBoard()
    contract.tell_a_run(tmp_path, ending=Ending("interrupted", "killed"))  # rows at 12 and 24
    contract.tell_a_run(tmp_path, step=12)  # rows at 24 and 36
    events = read(tmp_path)
    assert [point.step for point in events.Scalars("loss/train")] == [12, 24, 36]
    assert texts(events, "ending") == "finished"


def test_run_resumed_before_its_first_checkpoint_has_no_point_twice(tmp_path: Path) -> None:
    contract = TestTensorBoard()
    contract.tell_a_run(tmp_path, ending=Ending("interrupted", "killed"))  # rows at 12 and 24
    contract.tell_a_run(tmp_path)
    assert [point.step for point in read(tmp_path).Scalars("loss/train")] == [12, 24]


def test_distribution_declares_its_requirements() -> None:
    needs = importlib.metadata.requires("ddim-tensorboard") or []
    assert any(need.lower().startswith("tensorboardx") for need in needs)
