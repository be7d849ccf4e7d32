"""The rows of metrics, written and taken back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from ddim_host.errors import UserError
from ddim_host.run.directory import RunDirectory
from ddim_host.run.metrics import EpochMetrics

if TYPE_CHECKING:
    from pathlib import Path

ROW = EpochMetrics(1, 12, 0.5, 0.6, 1.5, 850.25, 0.25, 1 << 20)


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_metrics([ROW, ROW])
    assert run.read_metrics() == [ROW, ROW]


def test_a_rate_before_any_time_has_passed_is_no_number_and_no_damage(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_metrics([EpochMetrics(0, 1, 0.9, 1.0, 0.0, math.nan, 0.5, 1 << 20)])
    [row] = run.read_metrics()
    assert math.isnan(row.images_per_second)


@pytest.mark.parametrize("step", ["12.5", "inf", "9" * 30, ""])
def test_a_step_that_is_no_count_is_damage(tmp_path: Path, step: str) -> None:
    run = RunDirectory(tmp_path)
    run.write_metrics([ROW])
    text = run.metrics_path.read_text(encoding="utf-8").replace("1,12,", f"1,{step},")
    run.metrics_path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="is damaged"):
        run.read_metrics()
