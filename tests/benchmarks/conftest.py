"""What the benchmarks measure: one framework's network, on digits or on CIFAR-10, ready to be called.

    pytest tests/benchmarks/bench_model.py --framework torch

One process measures one framework; `make bench` measures all of them, one after the other, and puts the results
side by side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.benchmarks.subjects import FRAMEWORKS, SIZES, Subject, subject

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--framework", choices=FRAMEWORKS, default="torch", help="whose network to measure (default: torch)"
    )


@pytest.fixture(scope="module", params=SIZES)
def measured(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """The network of one size, warm: it has compiled and allocated whatever it needs."""
    made = subject(request.config.getoption("--framework"), request.param)
    yield made
