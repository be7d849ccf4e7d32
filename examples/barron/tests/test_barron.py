"""Check that the part honours its contract, and that its special cases are correct."""

from __future__ import annotations

import numpy as np
import pytest
from ddim_barron import barron

from ddim_host import UserError
from ddim_host.testing import LossContract


class TestBarron(LossContract):
    """The tests are inherited; add your own."""

    part = barron


class TestGemanMcClure(LossContract):
    """Run the inherited tests with other parameters."""

    part = barron
    parameters = {"alpha": -2.0, "scale": 0.5}  # noqa: RUF012 - nothing changes it


def test_special_cases() -> None:
    """Compare with the formulas of the squared, pseudo-Huber and Geman-McClure losses."""
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 3, 1, 8, 8))
    d = ((one - other) / 0.5).reshape(3, -1)
    for alpha, expected in (
        (2.0, d**2 / 2),
        (1.0, np.sqrt(d**2 + 1) - 1),
        (-2.0, 2 * d**2 / (d**2 + 4)),
    ):
        np.testing.assert_allclose(barron(one, other, alpha=alpha, scale=0.5), expected.mean(1), rtol=1e-12)


@pytest.mark.parametrize(
    "parameters", [{"alpha": 0.0}, {"alpha": 3.0}, {"alpha": float("nan")}, {"scale": 0.0}]
)
def test_parameters_out_of_range(parameters: dict[str, float]) -> None:
    """Check that the error is a UserError, raised before any training."""
    with pytest.raises(UserError):
        barron(np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2, 2)), **parameters)
