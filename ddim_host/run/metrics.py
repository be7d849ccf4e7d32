"""`metrics.csv`: its columns, a row for every epoch."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from ddim_host.system.files import read_text, write_text
from ddim_host.system.records import read_record, record_errors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ddim_host.run.checkpoints import Measure


@dataclass(frozen=True)
class EpochMetrics:
    """A row of `metrics.csv`.

    Attributes:
        epoch: Epochs complete at the end of the row; the last row of a run may end within one.
        step: Optimizer steps taken by then.
        train_loss: Mean loss over the images trained on since the last row, raw weights, times the timestep
            sampler's weights: every sampler estimates the loss at uniform timesteps. The loss weighting is
            not in it.
        test_loss: Mean loss over the test images, raw weights, fixed timesteps and noise.
        seconds: Time of the training steps since the last row, steady state, without tests and checkpoints.
        images_per_second: Training images per second in that time.
        warmup_seconds: Time of steps that also compiled or warmed up, not in `seconds`.
        peak_memory_bytes: Most memory used so far.
    """

    epoch: int
    step: int
    train_loss: float
    test_loss: float
    seconds: float
    images_per_second: float
    warmup_seconds: float
    peak_memory_bytes: int

    def measures(self) -> dict[Measure, float]:
        """The losses by which an epoch can be the best; lower is better."""
        average = (5.0 * self.train_loss + self.test_loss) / 6.0
        return {"train": self.train_loss, "test": self.test_loss, "avg": average}


_GROWN = 2.0
"""Far more than chance: the test loss has the same timesteps and noise in every row."""


def growth(rows: Sequence[EpochMetrics], untrained: float = math.inf) -> str:
    """Say that the loss has grown in a run, in words; empty if it has not.

    Args:
        rows: Those of a run.
        untrained: The loss of predicting 0, no noise at all, which any network can.
    """
    if not rows:
        return ""
    last, best = rows[-1], min(rows, key=lambda row: row.test_loss)
    for half, loss in (("train", last.train_loss), ("test", last.test_loss)):
        if loss > _GROWN * untrained:
            return (
                f"the {half} loss is {loss:.4g} in the end, and {untrained:.4g} for a network that predicts 0"
            )
    if last.test_loss > _GROWN * best.test_loss:
        return (
            f"the test loss is {last.test_loss:.4g} in the end, and was {best.test_loss:.4g} "
            f"after {best.step:,} steps"
        )
    return ""


def read_metrics(path: Path) -> list[EpochMetrics]:
    """Read the rows of a file; none if there is no file.

    Raises:
        UserError: The file is damaged.
    """
    with record_errors(path):
        try:
            records = list(csv.DictReader(io.StringIO(read_text(path)), strict=True))
        except FileNotFoundError:
            return []
        except csv.Error as error:
            raise ValueError(error) from None
        return [read_record(EpochMetrics, record) for record in records]


def write_metrics(path: Path, rows: list[EpochMetrics]) -> None:
    """Write all rows, replacing the file.

    Raises:
        OSError: It cannot be written.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [field.name for field in fields(EpochMetrics)]
    writer.writerow(names)
    # Not `astuple`, which copies every value: all rows are written again after every epoch.
    writer.writerows([getattr(row, name) for name in names] for row in rows)
    write_text(path, buffer.getvalue())
