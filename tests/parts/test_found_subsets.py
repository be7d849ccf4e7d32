"""`subsets.json`, which stores the subsets and settings of a search, and the subset `optimized`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ddim_host.diffusion import NoiseSchedule
from ddim_host.errors import UserError
from ddim_host.parts.found_subsets import (
    FoundSubset,
    Search,
    SubsetsFile,
    WantedWeights,
    found_subset,
    schedule_hash,
)
from ddim_host.parts.timestep_subsets import optimized

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SCHEDULE = NoiseSchedule(np.linspace(1e-3, 0.2, 100))
SEARCH = Search(
    method="by hand",
    distribution="ddim-host",
    version="0.1.0",
    teacher_timesteps=(0, 1, 2, 20, 40, 60, 80, 99),
    num_images=8,
    seed=2**62,
    clip=1.0,
    checkpoint="latest",
    checkpoint_steps=(450,),
    weights="ema",
    weights_sha256="ab" * 32,
    noise_schedule="linear with 100 timesteps",
    schedule_sha256=schedule_hash(SCHEDULE),
    plugin="torch",
    device="cpu",
    precision="fp32",
    batch_size=8,
    refinement=None,
)
OURS = WantedWeights("ab" * 32, "some ema weights", "")


def found(*timesteps: int, **changes: Any) -> FoundSubset:
    search = replace(SEARCH, **changes)
    return FoundSubset(timesteps, 1e-3, 2e-3, (), (), search, 6, 1.5, {"ddim-host": "0.1.0"})


def test_subsets_survive_a_round_trip(tmp_path: Path) -> None:
    file = SubsetsFile(tmp_path)
    assert file.read() == ()
    file.add([found(20, 60), found(20, 60, 99)])
    file.add([found(0, 40)])
    assert file.read() == (found(20, 60, 99), found(0, 40))
    file.add([found(0, 60, seed=3)])
    assert file.read() == (found(20, 60, 99), found(0, 40), found(0, 60, seed=3))
    assert [path.name for path in tmp_path.iterdir()] == ["subsets.json"]


def test_newest_subset_for_the_weights_is_used(tmp_path: Path) -> None:
    others = found(1, 2, weights_sha256="cd" * 32)
    SubsetsFile(tmp_path).add([found(20, 60), found(0, 60, seed=3), others, found(20, 60, 99)])
    subset = found_subset(tmp_path, SCHEDULE, 2, OURS)
    assert subset.dtype == np.int64
    assert subset.tolist() == [0, 60]
    assert optimized(SCHEDULE, 2, from_=tmp_path).tolist() == [1, 2]
    assert optimized(SCHEDULE, 3, from_=tmp_path).tolist() == [20, 60, 99]


def message(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def test_missing_subset_is_one_error_with_the_command(tmp_path: Path) -> None:
    run = f"the run in {tmp_path}"
    raw = WantedWeights("cd" * 32, "some raw weights", " --weights raw")
    nothing = message(lambda: found_subset(tmp_path, SCHEDULE, 2, raw))
    assert nothing.startswith(f"{run} has no optimized timestep subsets")
    assert f"fix: ddim-host optimize {tmp_path} --steps 2 --weights raw" in nothing
    SubsetsFile(tmp_path).add([found(20, 60), found(20, 60, 99)])
    size = message(lambda: found_subset(tmp_path, SCHEDULE, 5, OURS))
    assert size.startswith(f"{run} has no optimized timestep subset of 5 steps")
    assert "it has subsets of 2, 3 steps" in size
    assert f"fix: ddim-host optimize {tmp_path} --steps 5" in size
    weights = message(lambda: found_subset(tmp_path, SCHEDULE, 2, raw))
    assert "were found for other weights" in weights
    assert f"for the ema weights of checkpoint 'latest' (step 450), not for {raw.words}" in weights
    assert "--weights raw" in weights
    other = NoiseSchedule(np.full(100, 0.1))
    schedule = message(lambda: found_subset(tmp_path, other, 2))
    assert "were found for a different noise schedule" in schedule
    assert "they were found for linear with 100 timesteps" in schedule
    assert "choose another --timestep-subset" in schedule
    assert "there is no run in" in message(lambda: optimized(SCHEDULE, 2, from_=tmp_path / "gone"))


def test_timesteps_outside_the_schedule_are_damage(tmp_path: Path) -> None:
    SubsetsFile(tmp_path).add([found(20, 100, teacher_timesteps=(20, 100))])
    assert "(20, 100) are not all in [0, 100)" in message(lambda: found_subset(tmp_path, SCHEDULE, 2))


def test_missing_run_is_an_error_with_the_command() -> None:
    text = message(lambda: optimized(SCHEDULE, 2))
    assert "needs a trained network" in text
    assert "ddim-host optimize RUN" in text
    assert "optimized:from=RUN" in text


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(format=2),
        lambda d: d.pop("subsets"),
        lambda d: d["subsets"].append(None),
        lambda d: d["subsets"][0].pop("search"),
        lambda d: d["subsets"][0].update(timesteps="0, 1"),
        lambda d: d["subsets"][0].update(timesteps=[]),
        lambda d: d["subsets"][0].update(timesteps=[60, 20]),
        lambda d: d["subsets"][0].update(timesteps=[20, 61]),
        lambda d: d["subsets"][0].update(expected_error="much"),
        lambda d: d["subsets"][0]["search"].update(seed=True),
    ],
)
def test_damaged_subsets_file_is_an_error_and_is_kept(
    tmp_path: Path, change: Callable[[Any], object]
) -> None:
    file = SubsetsFile(tmp_path)
    file.add([found(20, 60)])
    document = json.loads(file.path.read_text(encoding="utf-8"))
    change(document)
    file.path.write_text(json.dumps(document), encoding="utf-8")
    before = file.path.read_bytes()
    assert "subsets.json is damaged" in message(lambda: file.add([found(0, 2)]))
    assert "subsets.json is damaged" in message(lambda: found_subset(tmp_path, SCHEDULE, 2))
    assert file.path.read_bytes() == before
