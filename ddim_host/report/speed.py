"""Training speeds as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_host.evaluation.tables import number

if TYPE_CHECKING:
    from ddim_host.report.comparison import Throughput

SPEED_COLUMNS = (
    "images per second (range over epochs)",
    "seconds per epoch",
    "warm-up seconds",
    "training loop, seconds",
    "peak memory, MB",
)

HOW_SPEED_WAS_MEASURED = (
    "Rates are measured in steady state, with a clock that is read after the device has finished its work. "
    "Compilation and warm-up are counted separately; the training loop includes both. Program start-up, "
    "tests, checkpoints and sampling are not included. The runs took place at different times, and other "
    "work may have slowed down the machine during some of them. To compare the speeds of two runs, "
    "alternate short runs (A, B, A, B, ...) and compare the medians."
)


def speed_cells(speed: Throughput) -> list[str]:
    """Return the cells under `SPEED_COLUMNS`."""
    return [
        rate_text(speed),
        number(speed.seconds_per_epoch),
        number(speed.warmup_seconds),
        number(speed.total_seconds),
        number(speed.peak_memory_bytes / 1e6),
    ]


def rate_text(speed: Throughput) -> str:
    """Return images per second, with the range over complete epochs if there are any."""
    text = number(speed.images_per_second)
    if speed.range_over_epochs is None:
        return text
    low, high = speed.range_over_epochs
    return f"{text} ({number(low)} to {number(high)})"
