"""Fixture of the benchmarks: one framework's network, for digits or CIFAR-10, ready to be called.

    pytest tests/benchmarks/bench_model.py --framework torch

One process measures one framework; `make bench` measures all in turn and prints the results side by side.
"""

from __future__ import annotations

import pytest

from tests.benchmarks.subjects import FRAMEWORKS, SIZES, Subject, subject


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--framework", choices=FRAMEWORKS, default="torch", help="framework to measure (default: torch)"
    )


@pytest.fixture(scope="module", params=SIZES)
def measured(request: pytest.FixtureRequest) -> Subject:
    """The network of one size, warm: compiled, and with its memory allocated."""
    return subject(request.config.getoption("--framework"), request.param)
