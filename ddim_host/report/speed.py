"""How fast runs trained, as people read it."""

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
    "In steady state, from a clock that is read after the device has finished; compiling and warming up "
    "apart. The training loop is both together. It is not the whole process, which also starts, compiles "
    "the core of a framework that does that, tests, writes checkpoints and samples. Runs are made one after "
    "the other, on a machine that may have done other work meanwhile: for a ratio of speeds measure in "
    "turns (docs/comparing.md, \u201cTime in turns\u201d)."
)


def rate_text(speed: Throughput) -> str:
    """Images per second, with the range over whole epochs where there are any."""
    text = number(speed.images_per_second)
    if speed.range_over_epochs is None:
        return text
    low, high = speed.range_over_epochs
    return f"{text} ({number(low)} to {number(high)})"
