"""Time of a training step, a network call, and sampling 64 images in 20 steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.benchmarks.subjects import Subject

pytestmark = pytest.mark.process  # Jittor starts compilers

# Shorter calls get more rounds, enough for a median. The first calls compile, allocate and fill caches.
_ROUNDS = {"training_step": 8, "network_call": 12, "sample": 3}
_WARMUP_ROUNDS = {"training_step": 3, "network_call": 2, "sample": 1}


def test_training_step(benchmark: Any, measured: Subject) -> None:
    _measure(benchmark, measured, measured.training_step, images=measured.batch_size)


def test_network_call(benchmark: Any, measured: Subject) -> None:
    _measure(benchmark, measured, measured.network_call, images=measured.batch_size)


def test_sample_64_images_in_20_steps(benchmark: Any, measured: Subject) -> None:
    _measure(benchmark, measured, measured.sample, images=64)


def _measure(benchmark: Any, measured: Subject, call: Callable[[], None], *, images: int) -> None:
    name = call.__name__
    benchmark.extra_info |= measured.description
    benchmark.pedantic(call, rounds=_ROUNDS[name], warmup_rounds=_WARMUP_ROUNDS[name])
    if benchmark.stats is not None:  # None if benchmarks are disabled
        benchmark.extra_info["images_per_second"] = images / benchmark.stats.stats.median
