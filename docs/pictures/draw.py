"""Draw the pictures of the documentation from one default run of each framework.

Run these commands in an empty folder, where `$CLONE` is the folder of this repository:

ddim-host run --plugin torch --out runs/torch
ddim-host run --plugin jittor --out runs/jittor
ddim-host sample runs/torch --out digits.png
ddim-host sample runs/torch --show-trajectory --num-images 3 --seed 64 --out trajectory.png
for S in 1 2 5 10 20 50; do ddim-host sample runs/torch --num-images 10 --steps $S --out steps-$S.npz; done
for E in 0 0.2 0.5 1; do ddim-host sample runs/torch --num-images 10 --eta $E --out eta-$E.npz; done
ddim-host reconstruct runs/torch --steps 10,20,50,100,200 --out reconstruction.png
ddim-host sample runs/torch --interpolate 9 --out interpolation.png
python $CLONE/docs/pictures/draw.py .

docs/speed.md says how `time-to-quality.png` is measured and drawn.
"""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ddim_host.run.directory import RunDirectory
from ddim_host.run.images import grid_png

HERE = Path(__file__).resolve().parent

COLOURS = {"torch": "#0072b2", "jittor": "#d55e00"}

GREYS = 64
"""Shades of grey in a picture. They look like all 256, and the file is a third smaller."""


def draw_comparison(runs: Path) -> None:
    """Draw the test losses of both frameworks and their relative difference."""
    figure = Figure(figsize=(8.4, 3.2), layout="constrained", dpi=110)
    both, difference = figure.subplots(1, 2)
    rows = {name: RunDirectory(runs / name).read_metrics() for name in COLOURS}
    steps = [row.step for row in rows["torch"]]
    losses = {name: np.array([row.test_loss for row in rows[name]]) for name in COLOURS}
    for (name, colour), dash in zip(COLOURS.items(), ("-", "--"), strict=True):
        both.plot(steps, losses[name], dash, color=colour, label=name)
    both.set(xlabel="steps", ylabel="test loss (mse)", yscale="log")
    both.legend(frameon=False)
    relative = np.abs(losses["jittor"] / losses["torch"] - 1)
    difference.plot(steps, relative, color="0.2")
    difference.set(xlabel="steps", ylabel="relative difference", yscale="log", ylim=(1e-9, 1))
    for axes in (both, difference):
        axes.grid(visible=True, alpha=0.2)
    figure.savefig(HERE / "comparison.png", pil_kwargs={"optimize": True})


def draw_rows(arrays: list[Path], picture: Path) -> None:
    """Draw the samples of each array in a row."""
    images = [np.load(path, allow_pickle=False)["images"] for path in arrays]
    picture.write_bytes(grid_png(np.concatenate(images), columns=len(images[0])))


def draw_forward(folder: Path) -> None:
    """Run the tutorial's code as far as `forward.png`."""
    tutorial = (HERE.parent / "tutorial.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", tutorial, re.DOTALL)
    with contextlib.chdir(folder), contextlib.redirect_stdout(None):
        exec("".join(snippets[:2]), {})


def store(picture: Path) -> None:
    """Write a grey picture beside this script, in few shades."""
    shades = np.rint(np.rint(np.arange(256) / 255 * (GREYS - 1)) / (GREYS - 1) * 255)
    with Image.open(picture) as grid:
        grid.point([int(shade) for shade in shades]).save(HERE / picture.name, optimize=True)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    draw_comparison(folder / "runs")
    draw_forward(folder)
    draw_rows([folder / f"steps-{steps}.npz" for steps in (1, 2, 5, 10, 20, 50)], folder / "steps.png")
    draw_rows([folder / f"eta-{eta}.npz" for eta in ("0", "0.2", "0.5", "1")], folder / "eta.png")
    for name in ("forward", "digits", "trajectory", "steps", "eta", "reconstruction", "interpolation"):
        store(folder / f"{name}.png")
