"""`ddim-host export`: whole or not at all, with a card."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import safetensors.numpy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from tests.support.commands import Outcome, Run


def test_the_card_says_what_it_is_and_how_it_was_made(
    in_process: Callable[..., Outcome], tiny_run: Run, tmp_path: Path
) -> None:
    outcome = in_process("export", tiny_run.path, "--out", tmp_path / "digits")
    assert (outcome.code, outcome.err) == (0, "")
    card = (tmp_path / "digits" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: diffusers\n")
    for text in (
        "# digits\n",
        "images of 8 x 8 pixels, grey",
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


def test_weights_are_chosen_as_for_sampling(
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
    # No picture shows what these weights draw.
    assert not (tmp_path / "raw" / "samples.png").exists()
    assert "Samples" not in (tmp_path / "raw" / "README.md").read_text(encoding="utf-8")


def test_what_is_there_stays(in_process: Callable[..., Outcome], tiny_run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine", encoding="utf-8")
    outcome = in_process("export", tiny_run.path, "--out", tmp_path / "mine")
    assert outcome.code == 2
    assert "exists already" in outcome.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


def test_a_write_that_fails_leaves_nothing(
    in_process: Callable[..., Outcome], tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ddim_host.exchange.exporting.safetensors.numpy.save", full)
    outcome = in_process("export", tiny_run.path, "--out", tmp_path / "out" / "digits")
    assert outcome.code == 2
    assert "No space left on device" in outcome.err
    assert not list((tmp_path / "out").iterdir())


def test_an_ensemble_is_no_single_network(
    in_process: Callable[..., Outcome], tiny_run: Run, tmp_path: Path
) -> None:
    outcome = in_process("export", tiny_run.path, "--out", tmp_path / "x", "--checkpoint", "ensemble")
    assert outcome.code == 2
    assert "ensemble" in outcome.err


def test_a_network_that_diffusers_does_not_have(
    in_process: Callable[..., Outcome], ddim_host: Callable[..., Outcome], tiny: list[str], tmp_path: Path
) -> None:
    network = ["--model", "unet:base_channels=8,num_groups=4,channel_multipliers=2,2"]
    assert ddim_host(*tiny, *network, "--out", tmp_path / "run").code == 0
    outcome = in_process("export", tmp_path / "run", "--out", tmp_path / "x")
    assert outcome.code == 2
    assert "diffusers has no such network" in outcome.err
    assert not (tmp_path / "x").exists()
