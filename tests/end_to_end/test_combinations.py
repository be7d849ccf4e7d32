"""Every pair of parts of different kinds, in a short run on each framework."""

from __future__ import annotations

import itertools
import json
import math
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeAlias

import pytest
from PIL import Image

from ddim_host.plugin.registry import Kind
from ddim_host.run.directory import RunDirectory
from ddim_host.system.cache import CACHE_VARIABLE, cache_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.support.commands import Command, Run

Combination: TypeAlias = "tuple[str, ...]"
Pair: TypeAlias = "tuple[tuple[int, str], tuple[int, str]]"

KINDS = (
    Kind.NOISE_SCHEDULE,
    Kind.TIMESTEP_SAMPLER,
    Kind.LOSS,
    Kind.LOSS_WEIGHTING,
    Kind.TIMESTEP_SUBSET,
    Kind.SOLVER,
)
NEEDS_A_TRAINED_RUN = {"optimized"}

# With few timesteps and a short history, importance sampling sees all timesteps in the first step.
SETTINGS = (
    "--num-train-timesteps 25 --steps 3 --num-images 4 --train-steps 3 --batch-size 128 --test-images 8"
)
NETWORK = "--model unet:base_channels=8,num_groups=4,num_res_blocks=1 --device cpu --lr-warmup-steps 0"
BETAS = ",".join(f"{0.01 * number:.2f}" for number in range(1, 26))
PARAMETERS = {
    (Kind.NOISE_SCHEDULE, "explicit"): f"explicit:betas={BETAS}",
    (Kind.TIMESTEP_SUBSET, "explicit"): "explicit:t=0,10,20",
    (Kind.TIMESTEP_SAMPLER, "importance"): "importance:history=1",
}


def pairs(combination: Combination) -> set[Pair]:
    """Return all pairs of choices of different kinds, each choice with the index of its kind."""
    first_and_second = itertools.combinations(enumerate(combination), 2)
    return set(first_and_second)


def covering_array(choices: Sequence[Sequence[str]]) -> list[Combination]:
    """Return combinations that cover all pairs of choices, each chosen to cover the most missing pairs."""
    candidates = list(itertools.product(*choices))
    missing = set().union(*map(pairs, candidates))
    chosen = []
    while missing:
        chosen.append(max(candidates, key=lambda candidate: len(pairs(candidate) & missing)))
        missing -= pairs(chosen[-1])
    return chosen


@pytest.fixture(scope="module")
def combinations(ddim_host: Command) -> list[Combination]:
    """Combinations of all installed parts."""
    rows = json.loads(ddim_host("plugins", "--json").out)
    names = [
        sorted({name for row in rows for name in row["provides"].get(kind.value, ())} - NEEDS_A_TRAINED_RUN)
        for kind in KINDS
    ]
    assert all(names)
    found = covering_array(names)
    for (first, left), (second, right) in itertools.combinations(enumerate(names), 2):
        for one, other in itertools.product(left, right):
            assert any((c[first], c[second]) == (one, other) for c in found), f"{one} with {other}"
    return found


def commands(combinations: Sequence[Combination], framework: str) -> dict[str, list[str]]:
    return {
        "-".join(combination): [
            "run", "--plugin", framework, *NETWORK.split(), *SETTINGS.split(),
            *itertools.chain.from_iterable(
                (f"--{kind.option.replace('_', '-')}", PARAMETERS.get((kind, name), name))
                for kind, name in zip(KINDS, combination, strict=True)
            ),
        ]
        for combination in combinations
    }  # fmt: skip


def assert_trained_and_sampled(runs: Mapping[str, Run]) -> None:
    for name, run in runs.items():
        assert run.outcome.code == 0, f"{name}: {run.outcome.err}"
        metrics = RunDirectory(run.path).read_metrics()
        assert metrics[-1].step == 3
        assert all(math.isfinite(row.train_loss) and math.isfinite(row.test_loss) for row in metrics), name
        with Image.open(run.grid) as grid:
            # Two rows of two digits, each enlarged from 8 to 96 pixels, with gaps.
            assert grid.mode == "L"
            assert grid.size == (2 * 96 + 3 * 6, 2 * 96 + 3 * 6), name


def test_covering_array_is_much_smaller_than_all_combinations() -> None:
    choices = [[f"{kind}{number}" for number in range(4)] for kind in "abcd"]
    found = covering_array(choices)
    assert 16 <= len(found) < 32
    assert set().union(*map(pairs, found)) == set().union(*map(pairs, itertools.product(*choices)))


def test_every_pair_of_parts_runs_in_pytorch(
    several_runs: Callable[..., dict[str, Run]], combinations: list[Combination]
) -> None:
    assert_trained_and_sampled(several_runs(commands(combinations, "torch")))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("jittor") is None, reason="Jittor is not installed")
def test_every_pair_of_parts_runs_in_jittor(
    several_runs: Callable[..., dict[str, Run]], combinations: list[Combination]
) -> None:
    # Use the user's own cache, and allow time to compile some hundred kernels if it is empty.
    cache = {CACHE_VARIABLE: str(cache_folder())}
    assert_trained_and_sampled(several_runs(commands(combinations, "jittor"), env=cache, timeout=3600.0))
