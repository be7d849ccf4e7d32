"""The features that are used if the user names none: those of FID, or it is said why not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ddim_host.evaluation.default_features import default_evaluator, features_at_hand
from ddim_host.evaluation.statistics import MeasureSettings
from ddim_host.parts.feature_extractors import CifarCNN
from ddim_host.plugin.discovery import DISABLED
from ddim_host.plugin.registry import Kind, Part, Registry
from ddim_host.sweep.trial import Trial

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.commands import Command

WITHOUT_FID = {DISABLED: "torch-features"}


def registry(*, ready: bool | None = None, installed: bool = True) -> Registry:
    class Extractor:
        """Of Inception's name."""

    if ready is not None:
        Extractor.is_ready = staticmethod(lambda: ready)  # type: ignore[attr-defined]
    part = Part(Kind.FEATURES, "inception", Extractor, "ddim-torch", "0.1.0")
    return Registry([part] if installed else [])


@pytest.mark.parametrize(
    ("data", "parts", "name"),
    [
        ("digits", registry(installed=False), "digits_mlp"),
        ("images", registry(ready=True), "inception"),
        ("images", registry(), "inception"),
        ("cifar10", registry(ready=False), "cifar_cnn"),
        ("mnist", registry(installed=False), "cifar_cnn"),
    ],
)
def test_features_that_need_no_download(data: str, parts: Registry, name: str) -> None:
    assert features_at_hand(data, parts).name == name


@pytest.mark.process
def test_an_evaluator_without_the_features_of_fid_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*next(iter(WITHOUT_FID.items())))
    evaluator, said = default_evaluator("images", (8, 8, 1), MeasureSettings())
    with evaluator:
        assert evaluator.space.name == "cifar_cnn"
        assert evaluator.space.fingerprint == CifarCNN().fingerprint
    assert said.startswith("the features of FID are not available (there is no feature extractor named")
    assert "cifar_cnn, and no FID" in said
    evaluator, said = default_evaluator("digits", (8, 8, 1), MeasureSettings())
    with evaluator:
        assert (evaluator.space.name, said) == ("digits_mlp", "")


def test_a_trial_names_features_only_if_evaluate_has_to_be_told(tmp_path: Path) -> None:
    (tmp_path / "trial.toml").write_text('[data]\nname = "images"\n', encoding="utf-8")
    asked: list[str] = []

    def features(data: str) -> str:
        asked.append(data)
        return "cifar_cnn"

    command = Trial(tmp_path, {"samples": "20"}, None, features).stages["evaluate"]
    assert command == ("evaluate", str(tmp_path), "--samples=20", "--features=cifar_cnn")
    assert Trial(tmp_path, {"samples": "20"}, None, lambda _: "").stages["evaluate"][2:] == ("--samples=20",)
    named = {"features": "inception"}
    assert Trial(tmp_path, named, None, features).stages["evaluate"][2:] == ("--features=inception",)
    assert asked == ["images"]


def test_colour_images_are_scored_offline(
    ddim_host: Command, tiny: list[str], pictures: Path, tmp_path: Path
) -> None:
    """By `evaluate` and by a sweep; a score in other features comes into a table of its own."""
    folder = tmp_path / "sweep"
    options = [option for option in tiny if option != "run"]
    data = f"--data=images:path={pictures}"
    sweep = ["sweep", *options, data, f"--out={folder}", "--evaluate-samples=20", "--evaluate-steps=2"]
    swept = ddim_host(*sweep, "--evaluate-eta=0", env=WITHOUT_FID)
    assert swept.code == 0, swept.err
    [run] = [path.parent for path in folder.glob("*/trial.toml")]
    assert (
        "--features=cifar_cnn" in json.loads((run / "trial.json").read_text("utf-8"))["evaluate"]["command"]
    )
    evaluate: tuple[str | Path, ...] = ("evaluate", run, "--samples", "20", "--steps", "3", "--eta", "0")
    evaluated = ddim_host(*evaluate, env=WITHOUT_FID)
    assert evaluated.code == 0, evaluated.err
    assert evaluated.err.count("note: the features of FID are not available") == 1
    assert "Fréchet distance (no FID) in the features of cifar_cnn" in evaluated.out
    document: dict[str, Any] = json.loads((run / "evaluation.json").read_text("utf-8"))
    spaces = {score["ruler"]["features"]["fingerprint"] for score in document["scores"]}
    assert spaces == {CifarCNN().fingerprint}
    assert np.isfinite([score["measures"]["frechet_distance"] for score in document["scores"]]).all()
