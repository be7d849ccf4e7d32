"""`metrics.csv`: a row for every epoch, with a column for each field of `EpochMetrics`."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import fields
from typing import TYPE_CHECKING

from ddim_host.plugin.observation import EpochMetrics
from ddim_host.system.files import read_text, write_text
from ddim_host.system.records import read_record, record_errors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ddim_host.run.checkpoints import Measure


def measures(row: EpochMetrics) -> dict[Measure, float]:
    """Return the losses by which an epoch can be the best; lower is better."""
    average = (5.0 * row.train_loss + row.test_loss) / 6.0
    return {"train": row.train_loss, "test": row.test_loss, "avg": average}


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
