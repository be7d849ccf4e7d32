"""`metrics.csv`: one row per epoch, one column per field of `EpochMetrics`."""

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
    """Return the losses by which the best epochs are chosen; lower is better."""
    average = (5.0 * row.train_loss + row.test_loss) / 6.0
    return {"train": row.train_loss, "test": row.test_loss, "avg": average}


_MAX_BYTES = 256 << 20
"""Maximum size of the file, enough for two million rows."""

_GROWN = 2.0
"""Factor beyond which growth cannot be chance, because all rows use the same test timesteps and noise."""


def growth(rows: Sequence[EpochMetrics], untrained: float = math.inf) -> str:
    """Describe the growth of a run's loss; return an empty string if it has not grown.

    Args:
        rows: The rows of the run.
        untrained: The loss of always predicting 0.
    """
    if not rows:
        return ""
    last, best = rows[-1], min(rows, key=lambda row: row.test_loss)
    for half, loss in (("train", last.train_loss), ("test", last.test_loss)):
        if loss > _GROWN * untrained:
            return f"the final {half} loss is {loss:.4g}, but predicting 0 would give {untrained:.4g}"
    if last.test_loss > _GROWN * best.test_loss:
        return (
            f"the final test loss is {last.test_loss:.4g}, but it was {best.test_loss:.4g} "
            f"after {best.step:,} steps"
        )
    return ""


def read_metrics(path: Path) -> list[EpochMetrics]:
    """Read the rows of a file; return an empty list if it does not exist.

    Raises:
        UserError: The file is damaged.
    """
    with record_errors(path):
        try:
            text = read_text(path, _MAX_BYTES)
            records = list(csv.DictReader(io.StringIO(text), strict=True))
        except FileNotFoundError:
            return []
        except csv.Error as error:
            raise ValueError(error) from None
        return [read_record(EpochMetrics, record) for record in records]


def write_metrics(path: Path, rows: list[EpochMetrics]) -> None:
    """Write all rows, replacing the file.

    Raises:
        OSError: The file cannot be written.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [field.name for field in fields(EpochMetrics)]
    writer.writerow(names)
    # `astuple` would copy every value, which adds up: all rows are rewritten after every epoch.
    writer.writerows([getattr(row, name) for name in names] for row in rows)
    write_text(path, buffer.getvalue())
