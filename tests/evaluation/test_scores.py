"""`evaluation.json`: scores are read back unchanged, none is lost, and invalid content is an error."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.errors import UserError
from ddim_host.evaluation.scores import EvaluationFile, Scores
from tests.support.evaluation_samples import FLOOR, RULER, SAMPLED, TEST, TRAIN, scored
from tests.support.repository import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> EvaluationFile:
    return EvaluationFile(tmp_path / "evaluation.json")


def test_scores_are_read_back_unchanged(file: EvaluationFile) -> None:
    assert file.read() == Scores()
    first = scored(warnings=("too few",))
    second = scored(replace(SAMPLED, seed=2**62, eta=0.1 + 0.2), frechet=1e-7)
    for result in (first, FLOOR, second):
        written = file.add(result)
    assert written == file.read() == Scores((first, second), (FLOOR,))
    assert file.read().scores[1].sampled.eta == 0.1 + 0.2
    assert file.read().scores[0].ruler.reference.data == "digits"


def test_scores_without_a_solver_are_those_of_ddim(file: EvaluationFile) -> None:
    file.add(scored())
    document = json.loads(file.path.read_text(encoding="utf-8"))
    document["format"] = 1
    del document["scores"][0]["calls"], document["scores"][0]["sampled"]["solver"]
    file.path.write_text(json.dumps(document), encoding="utf-8")
    assert file.read() == Scores((scored(),))


def test_every_score_has_its_complete_protocol(file: EvaluationFile) -> None:
    file.add(scored())
    [entry] = json.loads(file.path.read_text(encoding="utf-8"))["scores"]
    assert entry["sampled"] == {
        "num_images": 4000,
        "seed": 0,
        "eta": 0.0,
        "timesteps": [0, 499, 999],
        "timestep_subset": "linear",
        "solver": "ddim",
        "clip": 1.0,
        "checkpoint": "latest",
        "checkpoint_steps": [1500],
        "weights": "ema",
        "plugin": "torch",
        "device": "cpu",
        "precision": "fp32",
    }
    assert entry["ruler"]["features"]["fingerprint"] == "ab" * 32
    assert entry["ruler"]["reference"] == {
        "data": "digits",
        "half": "train",
        "num_images": 1500,
        "sha256": "cd" * 32,
    }
    assert entry["ruler"]["settings"]["neighbours"] == 3
    assert entry["seconds"] == {"sampling": 12.5, "warmup": 0.5, "features": 6.25}


def test_score_is_found_only_by_its_exact_protocol() -> None:
    known = Scores((scored(),), (FLOOR,))
    assert known.score_of(SAMPLED, RULER) == scored()
    for name, value in {"num_images": 4001, "seed": 1, "eta": 0.5, "clip": None, "weights": "raw"}.items():
        other: dict[str, Any] = {name: value}
        assert known.score_of(replace(SAMPLED, **other), RULER) is None
    for ruler in (
        replace(RULER, reference=TEST),
        replace(RULER, features=replace(RULER.features, fingerprint="00" * 32)),
        replace(RULER, settings=replace(RULER.settings, neighbours=5)),
    ):
        assert known.score_of(SAMPLED, ruler) is None
        assert known.floor_of(TEST, ruler) is None
    moved = replace(RULER, reference=replace(TRAIN, data="images:path=elsewhere"))
    assert known.score_of(SAMPLED, moved) is not None, "equal pixels match at any path"


def test_equal_scores_are_stored_once(file: EvaluationFile) -> None:
    for frechet in (1.0, 2.0):
        file.add(scored(frechet=frechet))
        file.add(FLOOR)
    assert file.read() == Scores((scored(),), (FLOOR,))


_ADDS_TWENTY = """
import sys
from dataclasses import replace
from pathlib import Path
from ddim_host.evaluation.scores import EvaluationFile
from tests.support.evaluation_samples import SAMPLED, scored
for seed in range(20):
    EvaluationFile(Path(sys.argv[1])).add(scored(replace(SAMPLED, seed=seed, plugin=sys.argv[2])))
"""


@pytest.mark.process
def test_two_processes_can_add_to_one_file(file: EvaluationFile, tmp_path: Path) -> None:
    """Two frameworks may score the same run at the same time."""
    processes = [
        subprocess.Popen([sys.executable, "-c", _ADDS_TWENTY, str(file.path), plugin], cwd=ROOT)
        for plugin in ("torch", "jittor")
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    names = {(score.sampled.plugin, score.sampled.seed) for score in file.read().scores}
    assert names == {(plugin, seed) for plugin in ("torch", "jittor") for seed in range(20)}
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(format=3),
        lambda d: d.pop("format"),
        lambda d: d.pop("noise_floors"),
        lambda d: d.update(scores=3),
        lambda d: d["scores"].append(None),
        lambda d: d["scores"][0].pop("ruler"),
        lambda d: d["scores"][0]["sampled"].update(weights="best"),
        lambda d: d["scores"][0]["sampled"].update(timesteps=[0, "x"]),
        lambda d: d["scores"][0]["sampled"].update(clip="no"),
        lambda d: d["scores"][0]["sampled"].update(seed=True),
        lambda d: d["scores"][0]["measures"].update(recall=None),
        lambda d: d["scores"][0]["measures"].update(recall=float("nan")),
        lambda d: d["scores"][0]["ruler"]["features"].update(name=7),
        lambda d: d["scores"][0].update(made_with=[1]),
    ],
)
def test_damaged_file_is_an_error_and_stays_unchanged(
    file: EvaluationFile, change: Callable[[dict[str, Any]], object]
) -> None:
    file.add(scored())
    document = json.loads(file.path.read_text(encoding="utf-8"))
    change(document)
    text = json.dumps(document)
    file.path.write_text(text, encoding="utf-8")
    for use in (file.read, lambda: file.add(scored())):
        with pytest.raises(UserError, match="is damaged") as caught:
            use()
        assert "move the file elsewhere" in caught.value.fix
    assert file.path.read_text(encoding="utf-8") == text


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["format", "scores", "noise_floors", "sampled", "ruler"]), inner
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_arbitrary_content_is_a_user_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "evaluation.json"
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        assert EvaluationFile(path).read() == Scores(), "the content has no valid score"


def test_deep_nesting_is_an_error(file: EvaluationFile) -> None:
    file.path.write_text('{"format": 1, "scores": ' + "[" * 100_000, encoding="utf-8")
    with pytest.raises(UserError, match="is damaged"):
        file.read()


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        EvaluationFile(tmp_path / "gone" / "evaluation.json").add(scored())
