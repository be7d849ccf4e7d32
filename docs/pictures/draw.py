"""Draws the pictures of the documentation that are not the tool's own output, from what it wrote.

ddim-host run --plugin torch --out runs/torch
ddim-host run --plugin jittor --out runs/jittor
for S in 1 2 5 10 20 50; do ddim-host sample runs/torch --num-images 10 --steps $S --out S-$S.npz; done
for E in 0 0.2 0.5 1; do ddim-host sample runs/torch --num-images 10 --eta $E --out eta-$E.npz; done
python docs/pictures/draw.py .
"""

from __future__ import annotations

import sys
from itertools import accumulate
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ddim_host.run.directory import RunDirectory
from ddim_host.run.images import grid_png

HERE = Path(__file__).parent
COLOURS = {"torch": "#0072b2", "jittor": "#d55e00"}


def draw_comparison(runs: Path) -> None:
    """Test loss against steps and against seconds of training, of both frameworks."""
    figure = Figure(figsize=(8.4, 3.2), layout="constrained", dpi=110)
    by_steps, by_seconds = figure.subplots(1, 2, sharey=True)
    for name, colour in COLOURS.items():
        rows = RunDirectory(runs / name).read_metrics()
        seconds = list(accumulate(row.seconds + row.warmup_seconds for row in rows))
        losses = [row.test_loss for row in rows]
        dash = "-" if name == "torch" else "--"
        by_steps.plot([row.step for row in rows], losses, dash, color=colour, label=name)
        by_seconds.plot(seconds, losses, dash, color=colour, label=name)
    by_steps.set(xlabel="steps", ylabel="test loss (mse)", yscale="log")
    by_seconds.set(xlabel="seconds of training, warm-up included")
    for axes in (by_steps, by_seconds):
        axes.grid(visible=True, alpha=0.2)
        axes.legend(frameon=False)
    figure.savefig(HERE / "comparison.png")


def draw_rows(arrays: list[Path], name: str) -> None:
    """The same ten samples in a row for each array."""
    images = np.concatenate([np.load(path, allow_pickle=False)["images"] for path in arrays])
    (HERE / name).write_bytes(grid_png(images, columns=10))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    draw_comparison(folder / "runs")
    draw_rows([folder / f"S-{steps}.npz" for steps in (1, 2, 5, 10, 20, 50)], "steps.png")
    draw_rows([folder / f"eta-{eta}.npz" for eta in ("0", "0.2", "0.5", "1")], "eta.png")
