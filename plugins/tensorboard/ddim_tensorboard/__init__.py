"""TensorBoard support for ddim-host: event files with the curves, grids and scores of a run."""

from __future__ import annotations

import json
import math
import re
import time
from typing import TYPE_CHECKING, Any

from ddim_host import Observer, hookimpl

if TYPE_CHECKING:
    from ddim_host import DrawnGrid, Ending, EpochMetrics, ObservedRun, ObservedScore, ObserverFactory

__all__ = ["TensorBoard"]


@hookimpl
def ddim_observers() -> dict[str, ObserverFactory]:
    """`tensorboard`: event files in the run's folder."""
    return {"tensorboard": TensorBoard}


class TensorBoard(Observer):
    """Event files for TensorBoard: losses, learning rate, images per second, memory, grids, scores, settings.

    The files are in the folder `tensorboard` of the run; `tensorboard --logdir runs` shows all runs side by
    side. A resumed run continues its curves: points after its checkpoint are discarded and measured again.
    """

    def __init__(self) -> None:
        self._writer: Any = None

    def on_begin(self, run: ObservedRun, /) -> None:
        """Open a new event file, and write the settings into it."""
        # Imported here because the import is slow and dry runs do not need it.
        from tensorboardX import SummaryWriter  # noqa: PLC0415

        self._writer = SummaryWriter(
            str(run.path / "tensorboard"),
            # File names contain only seconds; the suffix keeps files created in the same second distinct and
            # in order.
            filename_suffix=f".{time.time_ns()}",
            purge_step=run.step + 1 if run.command == "run" else None,
        )
        for name, facts in (("settings", run.config), ("made_with", run.made_with)):
            self._text(f"{run.command}/{name}", json.dumps(dict(facts), indent=2), run.step)
        self._writer.flush()

    def on_row(self, row: EpochMetrics, /) -> None:
        """Add a point to each curve."""
        curves = {
            "loss/train": row.train_loss,
            "loss/test": row.test_loss,
            "learning_rate": row.learning_rate,
            "speed/images_per_second": row.images_per_second,
            "memory/peak_bytes": float(row.peak_memory_bytes),
            "epoch": float(row.epoch),
        }
        for tag, value in curves.items():
            if math.isfinite(value):  # a row with only warm-up steps has no speed
                self._writer.add_scalar(tag, value, row.step)
        self._writer.flush()

    def on_grid(self, grid: DrawnGrid, /) -> None:
        """Add the grid as an image."""
        import numpy as np  # noqa: PLC0415
        from PIL import Image  # noqa: PLC0415

        with Image.open(grid.path) as image:
            pixels = np.asarray(image.convert("RGB"))
        made = grid.record
        # The grids drawn during training form one image that changes with the step.
        is_series = grid.path.stem == f"step-{grid.step:08d}"
        how = f"{made.get('kind', 'grid')}/{grid.path.parent.name if is_series else grid.path.stem}"
        self._writer.add_image(_tag(how), pixels, grid.step, dataformats="HWC")
        self._writer.flush()

    def on_score(self, score: ObservedScore, /) -> None:
        """Add a point to the curve of scores measured with exactly the same settings."""
        how = f"{score.features}-N{score.num_images}-{_protocol(score)}-seed{score.seed}"
        measures = {
            "frechet_distance": score.frechet_distance,
            "kernel_distance": score.kernel_distance,
            "precision": score.precision,
            "recall": score.recall,
        }
        for name, value in measures.items():
            tag = _tag(f"{name}/{how}-S{score.steps}-eta{score.eta:g}")
            self._writer.add_scalar(tag, value, score.step)
        self._writer.flush()

    def on_end(self, ending: Ending, /) -> None:
        """Write how the run ended, and close the file."""
        self._text("ending", f"{ending.status} {ending.reason}".strip(), None)
        self._writer.close()

    def _text(self, tag: str, text: str, step: int | None) -> None:
        """Add text verbatim: TensorBoard renders Markdown, in which indented lines are code."""
        self._writer.add_text(tag, "".join(f"    {line}\n" for line in text.splitlines()), step)


def _protocol(score: ObservedScore) -> str:
    """Return the protocol shared by all scores of a curve."""
    sampled = score.record.get("sampled", {})
    names = ("timestep_subset", "solver", "weights", "checkpoint")
    return "-".join(str(sampled[name]) for name in names if name in sampled)


def _tag(text: str) -> str:
    """Replace characters that are not allowed in tags."""
    return re.sub(r"[^\w./-]+", "_", text, flags=re.ASCII)
