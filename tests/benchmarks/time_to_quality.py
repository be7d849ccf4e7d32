"""How long digits take to become good: seconds of training against the Fréchet distance, as JSON.

    python -m tests.benchmarks.time_to_quality torch curve-torch.json
    python -m tests.benchmarks.time_to_quality diffusers curve-diffusers.json

`torch` and `jittor` are this project's default run; `diffusers` is a plain loop over the same network, batch
size, learning rate and average (eager, fp32). Only training is timed: drawing batches, steps and averages,
not the scores in between. A score is that of 1,000 samples (20 steps, eta 0, averaged weights) against the
297 test digits.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddim_host.assembly import assemble
from ddim_host.config import Request
from ddim_host.evaluation.distances import frechet_distance
from ddim_host.evaluation.moments import Moments
from ddim_host.images import to_uint8
from ddim_host.parts.feature_extractors.digits_mlp import DigitsMLP
from ddim_host.sampling import Denoiser, Sampler
from ddim_host.training import ema_decay_at, learning_rate_at
from ddim_host.unet import initial_weights
from tests.benchmarks.subjects import Diffusers

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddim_host.data import Images

NUM_SAMPLES, NUM_STEPS = 1000, 20
LR, EMA_DECAY = 1e-3, 0.995


class Host:
    """The default run on digits in one framework, a step at a time."""

    def __init__(self, framework: str) -> None:
        self._experiment = assemble(Request(framework))
        images = self._experiment.load_images()
        self.test_images = images.test
        self._batches = self._experiment.training_batches(images.train)
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
            self._experiment.sampling_steps(),
            image_shape=self._experiment.source.image_shape,
            seed=0,
            clip=True,
        )
        return np.concatenate(list(sampler.images(NUM_SAMPLES, batch_size=250)))


class Plain(Diffusers):
    """The same with diffusers' network, optimizer, average and pipeline, as its examples have it."""

    def __init__(self) -> None:
        images = assemble(Request("torch")).load_images()
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


def curve(
    subject: Host | Plain, *, every: int, steps: int, say: Callable[[dict[str, Any]], object]
) -> list[dict[str, Any]]:
    """Train, and score every so many steps."""
    extractor = DigitsMLP()

    def moments(images: Images) -> Moments:
        features = extractor(images)
        gathered = Moments(features.shape[1])
        gathered.add(features)
        return gathered

    real = moments(subject.test_images)
    points: list[dict[str, Any]] = []
    seconds = 0.0
    for step in range(every, steps + 1, every):
        started = time.perf_counter()
        subject.train(every)
        seconds += time.perf_counter() - started
        distance = frechet_distance(moments(subject.samples()), real)
        points.append({"step": step, "seconds": seconds, "frechet_distance": distance})
        say(points[-1])
    return points


def main() -> None:
    """Measure one framework."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("framework", choices=["torch", "jittor", "diffusers"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--every", type=int, default=50, help="steps between two scores (default: 50)")
    parser.add_argument("--steps", type=int, default=600, help="steps altogether (default: 600)")
    options = parser.parse_args()
    subject = Plain() if options.framework == "diffusers" else Host(options.framework)
    subject.train(0)  # imports and compiles what it will
    points = curve(subject, every=options.every, steps=options.steps, say=print)
    options.out.write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
