"""Plots are laid out properly."""

from __future__ import annotations

import warnings

import pytest

from ddim_host.report.svg import Curve, curves_svg


@pytest.mark.parametrize("length", [10, 80, 200])
def test_long_legends_leave_room_for_the_axes(length: int) -> None:
    label = ("timesteps of a run, " * 10)[:length]
    curves = [Curve(label, [1, 2], [1, 2], colour) for colour in range(8)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawings = curves_svg("plot", curves, x="network calls", y="distance")
    for drawn in drawings:
        across = [point[0] for curve in drawn.curves for point in curve["points"]]
        assert max(across) - min(across) > 150.0, "the curves must use the width of the plot"


def test_whole_numbers_have_no_ticks_between_them() -> None:
    whole, others = (
        curves_svg("plot", [Curve("a", x, [1.0, 2.0], 0)], x="epoch", y="seconds")[0].svg
        for x in ([2, 4], [2.0, 4.0])
    )
    assert ">2.50<" not in whole
    assert ">2.50<" in others
