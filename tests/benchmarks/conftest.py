"""What the benchmarks measure: one framework's network, on digits or on CIFAR-10, ready to be called.

    pytest tests/benchmarks/bench_model.py --framework torch

One process measures one framework; `make bench` measures all of them, one after the other, and puts the
results side by side.
"""

from __future__ import annotations

import pytest

from tests.benchmarks.subjects import FRAMEWORKS, SIZES, Subject, subject


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--framework", choices=FRAMEWORKS, default="torch", help="whose network to measure (default: torch)"
    )


@pytest.fixture(scope="module", params=SIZES)
def measured(request: pytest.FixtureRequest) -> Subject:
    """The network of one size, warm: it has compiled and allocated whatever it needs."""
    return subject(request.config.getoption("--framework"), request.param)
