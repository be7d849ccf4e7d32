"""Checkpoints: written whole or not at all, and refused if damaged or from another network."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from ddim_host.errors import DivergedError, UserError
from ddim_host.framework.interface import TrainingState
from ddim_host.framework.unet import Parameter
from ddim_host.run import checkpoints
from ddim_host.run.checkpoints import (
    BestEpoch,
    Progress,
    latest_checkpoint,
    load_checkpoint,
    load_progress,
    load_weights,
    remove_others,
    save_checkpoint,
    save_weights,
)
from ddim_host.system import files

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ddim_host.framework.interface import Model

FILES = {"raw.safetensors", "ema.safetensors", "training.safetensors", "progress.json"}
PARAMETERS = (Parameter("conv.weight", (3, 2, 2), "uniform"), Parameter("conv.bias", (3,), "zeros"))
SAMPLER = {"history": np.arange(6, dtype=np.float64).reshape(2, 3)}


def arrays(seed: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return {p.name: rng.standard_normal(p.shape).astype(np.float32) for p in PARAMETERS}


class Weighty:
    """The part of a model that `save_checkpoint` uses."""

    raw, ema = arrays(1), arrays(2)
    state = TrainingState(5, arrays(3), arrays(4))

    def weights(self, which: str) -> dict[str, NDArray[np.float32]]:
        return self.raw if which == "raw" else self.ema

    def training_state(self) -> TrainingState:
        return self.state


MODEL = cast("Model", Weighty())


def save(folder: Path, step: int = 5) -> Path:
    return save_checkpoint(folder, MODEL, SAMPLER, Progress(step, 1.25, 3, 0.5, 16, 0.25))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a checkpoint that tests must not change."""
    return save(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def damaged(good: Path, tmp_path: Path) -> Path:
    """Copy the checkpoint for a test to damage."""
    return Path(shutil.copytree(good, tmp_path / good.name))


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one
    )


def test_checkpoint_survives_a_round_trip(good: Path) -> None:
    loaded = load_checkpoint(good, PARAMETERS)
    assert same(loaded.raw, Weighty.raw)
    assert same(loaded.ema, Weighty.ema)
    assert loaded.training is not None
    assert loaded.training.step == 5
    assert same(loaded.training.exp_avg, Weighty.state.exp_avg)
    assert same(loaded.training.exp_avg_sq, Weighty.state.exp_avg_sq)
    assert same(loaded.sampler, SAMPLER)
    assert loaded.progress == Progress(5, 1.25, 3, 0.5, 16, 0.25)


def test_checkpoint_is_four_files_with_canonical_names(good: Path) -> None:
    assert good.name == "step-00000005"
    assert {path.name for path in good.iterdir()} == FILES
    assert safetensors.numpy.load_file(good / "raw.safetensors").keys() == {"conv.weight", "conv.bias"}
    assert safetensors.numpy.load_file(good / "training.safetensors").keys() == {
        "exp_avg.conv.weight",
        "exp_avg.conv.bias",
        "exp_avg_sq.conv.weight",
        "exp_avg_sq.conv.bias",
        "timestep_sampler.history",
    }


def test_checkpoint_keeps_the_values_of_arrays_in_any_memory_layout(tmp_path: Path) -> None:
    transposed = Weighty()
    transposed.raw = {name: np.asfortranarray(array) for name, array in arrays(1).items()}
    history = np.arange(12.0)[::2].reshape(3, 2).T
    folder = save_checkpoint(tmp_path, cast("Model", transposed), {"history": history}, Progress(5))
    checkpoint = load_checkpoint(folder, PARAMETERS)
    np.testing.assert_array_equal(checkpoint.raw["conv.weight"], arrays(1)["conv.weight"])
    np.testing.assert_array_equal(checkpoint.sampler["history"], history)


# --- Whole or not at all ------------------------------------------------------------------------------------


def test_older_checkpoints_are_removed_after_the_new_one_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = save(tmp_path, 5)
    removed = []

    def remove(path: Path, **_: object) -> None:
        newest = latest_checkpoint(tmp_path)
        if path.name == f".{old.name}.removed":
            assert newest is not None
            assert newest.name == "step-00000006"
            assert {file.name for file in newest.iterdir()} == FILES
            removed.append(path)

    monkeypatch.setattr(shutil, "rmtree", remove)
    save(tmp_path, 6)
    assert len(removed) == 1


def test_only_the_newest_checkpoint_is_kept(tmp_path: Path) -> None:
    for step in (5, 6, 100_000_000):
        save(tmp_path, step)
    assert [path.name for path in tmp_path.iterdir()] == ["step-100000000"]


@pytest.mark.parametrize("writes", range(4))
def test_failed_write_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    old = save(tmp_path, 5)
    done: list[Path] = []

    def failing(write: Callable[..., None]) -> Callable[..., None]:
        def write_or_fail(path: Path, data: Any) -> None:
            if len(done) == writes:
                raise OSError("no space left on device")
            done.append(path)
            write(path, data)

        return write_or_fail

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_bytes", failing(files.write_bytes))
        patch.setattr(checkpoints, "write_text", failing(files.write_text))
        with pytest.raises(UserError, match="cannot write a checkpoint"):
            save(tmp_path, 6)
    assert latest_checkpoint(tmp_path) == old
    load_checkpoint(old, PARAMETERS)
    new = save(tmp_path, 6)  # leftovers of the first attempt do no harm
    assert list(tmp_path.iterdir()) == [new]
    load_checkpoint(new, PARAMETERS)


def test_interruption_before_the_rename_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = save(tmp_path, 5)

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 6)
    assert latest_checkpoint(tmp_path) == old
    load_checkpoint(old, PARAMETERS)


def test_newest_complete_checkpoint_is_found(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "missing") is None
    for name in ("step-00000009", "step-100000000", "step-00000010", ".step-200000000.partial", "step-x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "progress.json").touch()
    (tmp_path / "step-200000001").mkdir()  # contains only weights
    assert latest_checkpoint(tmp_path) == tmp_path / "step-100000000"


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    old = save(tmp_path, 5)
    broken = Weighty()
    broken.ema = arrays(2) | {"conv.bias": np.array([0, np.inf, 0], np.float32)}
    with pytest.raises(DivergedError):
        save_checkpoint(tmp_path, cast("Model", broken), SAMPLER, Progress(6))
    assert list(tmp_path.iterdir()) == [old]
    load_checkpoint(old, PARAMETERS)


@pytest.mark.parametrize("moment", ["exp_avg", "exp_avg_sq"])
def test_invalid_checkpoint_does_not_replace_a_valid_one(tmp_path: Path, moment: str) -> None:
    old = save(tmp_path, 5)
    broken = Weighty()
    moments = {"exp_avg": arrays(3), "exp_avg_sq": arrays(4)}
    moments[moment]["conv.bias"] = np.full(3, np.inf, np.float32)
    broken.state = TrainingState(6, **moments)
    with pytest.raises(DivergedError):
        save_checkpoint(tmp_path, cast("Model", broken), SAMPLER, Progress(6))
    assert latest_checkpoint(tmp_path) == old
    load_checkpoint(old, PARAMETERS)


# --- The best epochs ----------------------------------------------------------------------------------------

WEIGHTS = {"raw.safetensors", "ema.safetensors"}


def contents(folder: Path) -> dict[int, set[str]]:
    return {int(path.name[5:]): {file.name for file in path.iterdir()} for path in folder.iterdir()}


def test_the_best_epochs_keep_their_weights_only(tmp_path: Path) -> None:
    progress = Progress(
        4, best={"train": BestEpoch(4, 0.5), "test": BestEpoch(4, 0.6), "avg": BestEpoch(4, 0.5)}
    )
    save_checkpoint(tmp_path, MODEL, SAMPLER, progress)
    progress = Progress(9, best={**progress.best, "test": BestEpoch(7, 0.4)})
    save_weights(tmp_path, MODEL, 7)
    save_checkpoint(tmp_path, MODEL, SAMPLER, progress)
    assert contents(tmp_path) == {4: WEIGHTS, 7: WEIGHTS, 9: FILES}
    assert load_progress(tmp_path / "step-00000009") == progress
    assert same(load_weights(tmp_path / "step-00000004", "ema", PARAMETERS), Weighty.ema)


def test_files_for_a_resume_are_kept_until_the_next_checkpoint(tmp_path: Path) -> None:
    """Better epochs follow the checkpoint, but a run that is interrupted then still needs the old ones."""
    save_weights(tmp_path, MODEL, 3)
    save_checkpoint(tmp_path, MODEL, SAMPLER, Progress(5, best={"train": BestEpoch(3, 0.5)}))
    for step in (6, 7):
        save_weights(tmp_path, MODEL, step)
        remove_others(tmp_path, Progress(step, best={"train": BestEpoch(step, 0.1)}))
    assert contents(tmp_path) == {3: WEIGHTS, 5: FILES, 7: WEIGHTS}
    remove_others(tmp_path, load_progress(tmp_path / "step-00000005"))  # the run resumes there
    assert contents(tmp_path) == {3: WEIGHTS, 5: FILES}


def test_a_best_epoch_can_become_the_newest_checkpoint(tmp_path: Path) -> None:
    progress = Progress(5, best={"avg": BestEpoch(5, 0.5)})
    save_weights(tmp_path, MODEL, 5)
    save_checkpoint(tmp_path, MODEL, SAMPLER, progress)
    assert contents(tmp_path) == {5: FILES}
    assert load_checkpoint(tmp_path / "step-00000005", PARAMETERS).progress == progress


# --- Damaged files ------------------------------------------------------------------------------------------


def replaced(name: str, value: NDArray[Any] | None) -> dict[str, NDArray[Any]]:
    changed: dict[str, NDArray[Any]] = {**arrays(1)}
    changed.pop(name, None)
    return changed if value is None else {**changed, name: value}


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        (replaced("conv.bias", None), "it does not contain conv.bias"),
        (replaced("more", np.ones(1, np.float32)), "it contains more, which the network does not have"),
        (
            replaced("conv.bias", np.ones(4, np.float32)),
            "conv.bias is float32 (4,), but must be float32 (3,)",
        ),
        (replaced("conv.bias", np.ones((3, 1), np.float32)), "conv.bias is float32 (3, 1)"),
        (replaced("conv.bias", np.ones(3)), "conv.bias is float64 (3,), but must be float32 (3,)"),
        (replaced("conv.bias", np.ones(3, np.float16)), "conv.bias is float16 (3,)"),
        (
            replaced("conv.bias", np.array([0, np.nan, 0], np.float32)),
            "conv.bias has values that are not finite",
        ),
        (
            replaced("conv.bias", np.array([0, np.inf, 0], np.float32)),
            "conv.bias has values that are not finite",
        ),
        ({}, "it does not contain conv.weight"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, weights: dict[str, NDArray[Any]], why: str
) -> None:
    path = tmp_path / "raw.safetensors"
    safetensors.numpy.save_file(weights, path)
    with pytest.raises(UserError) as caught:
        load_weights(path.parent, "raw", PARAMETERS)
    assert caught.value.what == f"{path} does not fit the network"
    assert why in caught.value.why


def test_weights_have_the_order_of_the_network(good: Path) -> None:
    assert list(load_weights(good, "raw", PARAMETERS)) == ["conv.weight", "conv.bias"]


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_named(damaged: Path, name: str) -> None:
    (damaged / name).unlink()
    with pytest.raises(UserError, match=f"cannot read .*{name}"):
        load_checkpoint(damaged, PARAMETERS)


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("data", [b"", b"\0", b"garbage" * 100, b"\xff" * 1000, b"[]", b"{}", b"{" * 100_000])
def test_file_with_garbage_is_named(damaged: Path, name: str, data: bytes) -> None:
    (damaged / name).write_bytes(data)
    with pytest.raises(UserError, match=name):
        load_checkpoint(damaged, PARAMETERS)


def test_deeply_nested_progress_is_named(damaged: Path) -> None:
    (damaged / "progress.json").write_bytes(b"[" * 100_000)
    with pytest.raises(UserError, match=r"progress\.json"):
        load_checkpoint(damaged, PARAMETERS)


def with_header(header: object, size: int | None = None, data: bytes = b"\0" * 60) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"conv.bias": {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}}


@pytest.mark.parametrize(
    "data",
    [
        with_header({}, size=2**63),
        with_header({}, size=0),
        with_header({}, size=10_000),
        with_header([]),
        with_header({"conv.bias": 3}),
        with_header(entry("F32", [3], 0, 1_000_000)),
        with_header(entry("F32", [3], 8, 20)),
        with_header(entry("F32", [3], 12, 0)),
        with_header(entry("F32", [2**62, 2**62], 0, 60)),
        with_header(entry("F32", [15], 0, 60)),
        with_header(entry("F99", [3], 0, 12)),
        with_header(entry("BF16", [30], 0, 60)),
        with_header(entry("F8_E4M3", [60], 0, 60)),
        with_header(entry("F32", [-3], 0, 60)),
        with_header({**entry("F32", [15], 0, 60), "conv.weight": entry("F32", [15], 0, 60)["conv.bias"]}),
    ],
)
def test_false_header_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "raw.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        load_weights(path.parent, "raw", PARAMETERS)
    assert str(path) in caught.value.what


@given(st.data())
@settings(max_examples=200)
def test_damaged_weights_are_refused_or_still_fit(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(safetensors.numpy.save(arrays(1)))
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "raw.safetensors"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))])
    try:
        weights = load_weights(path.parent, "raw", PARAMETERS)
    except UserError as error:
        assert str(path) in error.what  # noqa: PT017 - either outcome is right
    else:
        assert [(name, array.shape) for name, array in weights.items()] == [
            (p.name, p.shape) for p in PARAMETERS
        ]


@pytest.mark.parametrize("moment", ["exp_avg", "exp_avg_sq"])
def test_moments_are_checked_too(damaged: Path, moment: str) -> None:
    path = damaged / "training.safetensors"
    content = safetensors.numpy.load_file(path)
    content[f"{moment}.conv.bias"] = np.full(3, np.nan, dtype=np.float32)
    safetensors.numpy.save_file(content, path)
    with pytest.raises(UserError, match=r"training\.safetensors"):
        load_checkpoint(damaged, PARAMETERS)


PROGRESS = {
    "step": 5,
    "loss_sum": 1.0,
    "loss_count": 3,
    "seconds": 0.5,
    "steady_images": 8,
    "warmup_seconds": 0.1,
    "best": {"train": {"step": 5, "loss": 0.5}},
}


@pytest.mark.parametrize(
    "document",
    [
        {**PROGRESS, "step": "many"},
        {**PROGRESS, "step": None},
        {**PROGRESS, "step": [5]},
        {**PROGRESS, "step": float("inf")},
        {**PROGRESS, "step": float("nan")},
        {name: value for name, value in PROGRESS.items() if name != "seconds"},
        {name: value for name, value in PROGRESS.items() if name != "best"},
        {**PROGRESS, "step": 4},  # its folder has another step
        {**PROGRESS, "loss_count": 10**400},
        {**PROGRESS, "loss_sum": float("inf")},
        {**PROGRESS, "loss_sum": "nan"},
        {**PROGRESS, "best": 3},
        {**PROGRESS, "best": {"train": {"step": 5}}},
        {**PROGRESS, "best": {"train": {"step": 6, "loss": 0.5}}},
        {**PROGRESS, "best": {"train": {"step": -1, "loss": 0.5}}},
        3,
        None,
        "text",
    ],
)
def test_invalid_progress_is_named(damaged: Path, document: object) -> None:
    (damaged / "progress.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(UserError, match=r"progress\.json is damaged"):
        load_checkpoint(damaged, PARAMETERS)


@pytest.mark.parametrize("step", [-1, 5.5])
def test_invalid_steps_are_refused(damaged: Path, step: float) -> None:
    (damaged / "progress.json").write_text(json.dumps({**PROGRESS, "step": step}), encoding="utf-8")
    with pytest.raises(UserError, match=r"progress\.json"):
        load_checkpoint(damaged, PARAMETERS)
