"""Measure seconds of training against the Fréchet distance on digits, as JSON.

    python -m tests.benchmarks.time_to_quality curves.json --picture curves.png

`torch` and `jittor` are this project's default run; `diffusers` is a plain loop over the same network, batch
size, learning rate and average (eager, fp32). They train in turn, an equal number of steps each; see
`tests.benchmarks.in_turn`. Only training is timed: batches, steps and averages, but neither the scores in
between nor compilation in the first steps. A score compares 1,000 samples (20 steps, eta 0, averaged weights)
with the 297 test digits.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from ddim_host.evaluation.distances import frechet_distance
from ddim_host.evaluation.moments import Moments
from ddim_host.experiment.assembly import assemble
from ddim_host.experiment.config import Request
from ddim_host.framework.unet import initial_weights
from ddim_host.parts.feature_extractors.digits_mlp import DigitsMLP
from ddim_host.run.batches import training_batches
from ddim_host.run.images import to_uint8
from ddim_host.run.sampling import Denoiser, Sampler
from ddim_host.run.training import ema_decay_at, learning_rate_at
from tests.benchmarks.in_turn import waiting
from tests.benchmarks.subjects import Diffusers

if TYPE_CHECKING:
    from ddim_host.plugin.data import Images

NUM_SAMPLES, NUM_STEPS = 1000, 20
LR, EMA_DECAY = 1e-3, 0.995


class Scored:
    """A digits model that can be scored by the distance of its samples from real digits."""

    test_images: Images

    def samples(self) -> Images:
        """Return 1,000 digits sampled with the averaged weights."""
        raise NotImplementedError

    def frechet_distance(self) -> float:
        """Return the distance between samples and test digits, measured with the features `digits_mlp`."""
        extractor = DigitsMLP()
        gathered = []
        for images in (self.samples(), self.test_images):
            features = extractor(images)
            moments = Moments(features.shape[1])
            moments.add(features)
            gathered.append(moments)
        return frechet_distance(*gathered)


class Host(Scored):
    """The default run on digits on one framework, trained in steps."""

    def __init__(self, framework: str) -> None:
        self._experiment = assemble(Request(framework))
        images = self._experiment.images
        self.test_images = images.test
        self._batches = training_batches(self._experiment, images.train)
        self._model = self._experiment.build_model()
        weights = initial_weights(self._experiment.unet, self._experiment.config.seed)
        self._model.load_weights(weights, "raw")
        self._model.load_weights(weights, "ema")
        self._step = 0

    def train(self, steps: int) -> None:
        config = self._experiment.config
        for step in range(self._step, self._step + steps):
            self._model.train_step(
                self._batches.batch(step),
                self._experiment.loss,
                lr=learning_rate_at(step, lr=config.lr, warmup_steps=config.lr_warmup_steps),
                ema_decay=ema_decay_at(step, ema_decay=config.ema_decay),
                max_grad_norm=config.max_grad_norm,
            )
        self._step += steps
        self._model.synchronize()

    def samples(self) -> Images:
        sampler = Sampler(
            Denoiser(((self._model, 1.0),), "ema"),
            self._experiment.sampling_plan().steps,
            image_shape=self._experiment.image_shape,
            seed=0,
            limit=1.0,
        )
        return np.concatenate(list(sampler.images(NUM_SAMPLES, batch_size=250)))


class Plain(Diffusers, Scored):
    """Training and sampling with diffusers' network, optimizer, average and pipeline, as in its examples."""

    def __init__(self) -> None:
        images = assemble(Request("torch")).images
        self.test_images = images.test
        super().__init__("digits", images=images.train, lr=LR, ema_decay=EMA_DECAY)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.training_step()

    def samples(self) -> Images:
        self.load_average()
        pictures = self.draw(NUM_SAMPLES, NUM_STEPS)
        self.load_raw()
        return to_uint8(pictures.transpose(0, 3, 1, 2) * np.float32(2) - 1)


def scored(framework: str) -> Host | Plain:
    """Return a new model; training another one for two steps first compiles everything."""

    def begin() -> Host | Plain:
        return Plain() if framework == "diffusers" else Host(framework)

    begin().train(2)
    return begin()


def curves(
    frameworks: list[str], *, every: int, steps: int, enough: float
) -> dict[str, list[dict[str, Any]]]:
    """Train in turn and score every `every` steps, each framework until its distance is below `enough`."""
    points: dict[str, list[dict[str, Any]]] = {name: [] for name in frameworks}
    with ExitStack() as stack:
        subjects = {name: stack.enter_context(waiting(scored, name)) for name in frameworks}
        for step in range(every, steps + 1, every):
            for name in list(subjects):
                seconds, _ = subjects[name].call("train", every)
                _, distance = subjects[name].call("frechet_distance")
                before = points[name][-1]["seconds"] if points[name] else 0.0
                points[name].append({"step": step, "seconds": before + seconds, "frechet_distance": distance})
                print(name, points[name][-1], flush=True)
                if distance < enough:
                    del subjects[name]
    return points


def draw(points: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Plot the curves to a file."""
    figure = Figure(figsize=(7.0, 3.6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for name, of_one in points.items():
        x, y = ([point[key] for point in of_one] for key in ("seconds", "frechet_distance"))
        axes.plot(x, y, label=name, marker=".")
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("Fréchet distance to the test digits")
    axes.set_yscale("log")
    axes.grid(visible=True, alpha=0.2)
    axes.legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    names = ["torch", "jittor", "diffusers"]
    parser.add_argument("--frameworks", nargs="+", choices=names, default=names)
    parser.add_argument("--every", type=int, default=50, help="steps between scores (default: 50)")
    parser.add_argument("--steps", type=int, default=800, help="total number of steps (default: 800)")
    parser.add_argument("--enough", type=float, default=6.5, help="stop below this distance (default: 6.5)")
    parser.add_argument("--picture", type=Path, help="file for a plot of the curves")
    options = parser.parse_args()
    points = curves(options.frameworks, every=options.every, steps=options.steps, enough=options.enough)
    options.out.write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")
    if options.picture is not None:
        draw(points, options.picture)


if __name__ == "__main__":
    main()
