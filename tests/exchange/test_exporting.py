"""`ddim-host export`: complete or not at all, with a model card."""

from __future__ import annotations

import ast
import json
import shlex
from typing import TYPE_CHECKING

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from ddim_host.exchange.card import Card

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.commands import Outcome, Run


_NAMES = ("height", "width", "colours", "made", "steps", "timesteps", "clipped", "facts", "scores")
_FIELDS: dict[str, object] = dict.fromkeys(_NAMES, 20)


def test_card_describes_the_pipeline_and_its_training(
    in_process: Callable[..., Outcome], tiny_run: Run, tmp_path: Path
) -> None:
    outcome = in_process("export", tiny_run.path, "--out", tmp_path / "digits")
    assert (outcome.code, outcome.err) == (0, "")
    card = (tmp_path / "digits" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: diffusers\n")
    for text in (
        "# digits\n",
        "grey images of 8 x 8 pixels",
        'DDIMPipeline.from_pretrained("digits")',
        "num_inference_steps=20, use_clipped_model_output=True",
        "ddim-host import digits --plugin torch --out run",
        "- weights: averaged (EMA), after 3 steps",
        "- images: digits: 1,500 train",
        "- loss: mse, weighting none",
        "![Samples](samples.png)",
    ):
        assert text in card
    grid = next(tiny_run.path.glob("samples/*.png"))
    assert (tmp_path / "digits" / "samples.png").read_bytes() == grid.read_bytes()
    index = json.loads((tmp_path / "digits" / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == "DDIMPipeline"


@pytest.mark.parametrize("name", ["my digits", "it's $HOME", 'a"b', "数字"])
def test_commands_of_the_card_quote_the_folder(name: str) -> None:
    text = Card(_FIELDS, None).text(name)
    [command] = [line for line in text.splitlines() if line.startswith("ddim-host import ")]
    assert shlex.split(command)[2] == name
    [call] = [line for line in text.splitlines() if "from_pretrained(" in line]
    assert ast.literal_eval(call.partition("from_pretrained")[2]) == name


def test_card_of_a_folder_with_an_unprintable_name_is_valid_utf_8() -> None:
    text = Card(_FIELDS, None).text("a\udcff\n")
    assert "# a\\udcff\\n\n" in text.encode("utf-8").decode("utf-8")


def test_card_names_no_folders(
    in_process: Callable[..., Outcome], ddim_host: Callable[..., Outcome], tiny: list[str], tmp_path: Path
) -> None:
    photos = tmp_path / "Jane Doe" / "clinic" / "scans"
    photos.mkdir(parents=True)
    for index, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)):
        Image.fromarray(pixels).save(photos / f"{index}.png")
    run = tmp_path / "of Jane" / "run"
    data = ["--data", f"images:path={photos}", "--real-images", "false"]
    done = ddim_host(*tiny, *data, "--out", run)
    assert done.code == 0, done.err
    assert not (run / "samples" / "real").exists()
    assert "nearest training images" not in (run / "report.html").read_text(encoding="utf-8")
    scored = ddim_host("evaluate", run, "--samples=10", "--steps=2", "--eta=0", "--features=digits_mlp")
    assert scored.code == 0, scored.err
    assert in_process("export", run, "--out", tmp_path / "exported").code == 0
    card = (tmp_path / "exported" / "README.md").read_text(encoding="utf-8")
    assert "- images: images:path=scans," in card
    assert "images:path=scans --real-images false --out run`" in card
    for name in ("Jane", "clinic", str(tmp_path), tmp_path.parent.name):
        assert name not in card


def test_weights_option_selects_the_exported_weights(
    in_process: Callable[..., Outcome], tiny_run: Run, tmp_path: Path
) -> None:
    weights = {}
    for which in ("ema", "raw"):
        assert in_process("export", tiny_run.path, "--out", tmp_path / which, "--weights", which).code == 0
        exported = tmp_path / which / "unet" / "diffusion_pytorch_model.safetensors"
        weights[which] = safetensors.numpy.load_file(exported)
        stored = tiny_run.path / "checkpoints" / "step-00000003" / f"{which}.safetensors"
        expected = safetensors.numpy.load_file(stored)
        assert weights[which].keys() == expected.keys()
        assert all((expected[name] == array).all() for name, array in weights[which].items())
    assert any((weights["ema"][name] != array).any() for name, array in weights["raw"].items())
    # The run has no samples of the raw weights.
    assert not (tmp_path / "raw" / "samples.png").exists()
    assert "Samples" not in (tmp_path / "raw" / "README.md").read_text(encoding="utf-8")


def test_existing_folder_is_not_overwritten(
    in_process: Callable[..., Outcome], tiny_run: Run, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine", encoding="utf-8")
    outcome = in_process("export", tiny_run.path, "--out", tmp_path / "mine")
    assert outcome.code == 2
    assert "already exists" in outcome.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


def test_failed_write_leaves_no_files(
    in_process: Callable[..., Outcome], tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(*_: object, **__: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ddim_host.exchange.exporting.safetensors.numpy.save", disk_full)
    outcome = in_process("export", tiny_run.path, "--out", tmp_path / "out" / "digits")
    assert outcome.code == 2
    assert "No space left on device" in outcome.err
    assert not list((tmp_path / "out").iterdir())


def test_ensemble_is_refused(in_process: Callable[..., Outcome], tiny_run: Run, tmp_path: Path) -> None:
    outcome = in_process("export", tiny_run.path, "--out", tmp_path / "x", "--checkpoint", "ensemble")
    assert outcome.code == 2
    assert "ensemble" in outcome.err


def test_network_without_equivalent_in_diffusers_is_refused(
    in_process: Callable[..., Outcome], ddim_host: Callable[..., Outcome], tiny: list[str], tmp_path: Path
) -> None:
    network = ["--model", "unet:base_channels=8,num_groups=4,channel_multipliers=2,2"]
    assert ddim_host(*tiny, *network, "--out", tmp_path / "run").code == 0
    outcome = in_process("export", tmp_path / "run", "--out", tmp_path / "x")
    assert outcome.code == 2
    assert "diffusers has no equivalent of this network" in outcome.err
    assert not (tmp_path / "x").exists()
