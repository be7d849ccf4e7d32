"""Default features: those of FID, or a note that explains why not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ddim_host.errors import UserError
from ddim_host.evaluation.default_features import default_evaluator, offline_features
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
        """A stand-in, registered under Inception's name."""

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
def test_features_available_without_download(data: str, parts: Registry, name: str) -> None:
    assert offline_features(data, parts).name == name


def test_features_that_fail_are_named() -> None:
    extractor = type("Extractor", (), {"is_ready": staticmethod(lambda: 1 // 0)})
    broken = Registry([Part(Kind.FEATURES, "inception", extractor, "ddim-torch", "0.1.0")])
    with pytest.raises(UserError, match=r"'inception' of ddim-torch 0\.1\.0 does not work"):
        offline_features("images", broken)


@pytest.mark.process
def test_evaluator_without_fid_features_returns_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*next(iter(WITHOUT_FID.items())))
    evaluator, note = default_evaluator("images", (8, 8, 1), MeasureSettings())
    with evaluator:
        assert evaluator.space.name == "cifar_cnn"
        assert evaluator.space.fingerprint == CifarCNN().fingerprint
    assert note.startswith("the FID features are not available (there is no feature extractor named")
    assert "cifar_cnn and are not FIDs; grey images become RGB; " in note
    evaluator, note = default_evaluator("digits", (8, 8, 1), MeasureSettings())
    with evaluator:
        assert (evaluator.space.name, note) == ("digits_mlp", "")


def test_trial_passes_features_only_if_evaluate_needs_them(tmp_path: Path) -> None:
    (tmp_path / "trial.toml").write_text('[data]\nname = "images"\n', encoding="utf-8")
    requested: list[str] = []

    def features(data: str) -> str:
        requested.append(data)
        return "cifar_cnn"

    command = Trial(tmp_path, {"samples": "20"}, None, features).stages["evaluate"]
    assert command == ("evaluate", str(tmp_path), "--samples=20", "--features=cifar_cnn")
    assert Trial(tmp_path, {"samples": "20"}, None, lambda _: "").stages["evaluate"][2:] == ("--samples=20",)
    named = {"features": "inception"}
    assert Trial(tmp_path, named, None, features).stages["evaluate"][2:] == ("--features=inception",)
    assert requested == ["images"]


def test_colour_images_are_scored_offline(
    ddim_host: Command, tiny: list[str], pictures: Path, tmp_path: Path
) -> None:
    """Both `evaluate` and a sweep use the same offline features, so no score ends up in a separate table."""
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
    assert evaluated.err.count("note: the FID features are not available") == 1
    assert "Fréchet distance (not FID) in the features of cifar_cnn" in evaluated.out
    document: dict[str, Any] = json.loads((run / "evaluation.json").read_text("utf-8"))
    spaces = {score["ruler"]["features"]["fingerprint"] for score in document["scores"]}
    assert spaces == {CifarCNN().fingerprint}
    assert np.isfinite([score["measures"]["frechet_distance"] for score in document["scores"]]).all()
