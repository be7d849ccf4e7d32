"""How good are the digits of a run? A Fréchet distance in the hidden layer of a small classifier.

    python digits_ruler.py RUN              1,000 samples as the run is configured, against the test digits
    python digits_ruler.py RUN SEEDS S...   the effect of eta: 4,000 samples against the training digits, for
                                            each S, eta 0 and 1, and as many seeds

The classifier is fitted on the 1,500 training digits. Held against the test digits real training digits are
at 4.3 and noise is at 131. It is no FID: the network is another one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sklearn.neural_network import MLPClassifier

from ddim_host.config import Request
from ddim_host.evaluation.distances import frechet_distance
from ddim_host.evaluation.moments import Moments
from ddim_host.parts.datasets import digits
from ddim_host.runs import RunDirectory
from ddim_host.sampling import Sampler
from ddim_host.trained import assemble_trained, load_denoiser

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.data import Images
    from ddim_host.parameters import Value


class Ruler:
    """Measures images uint8 `(N, 8, 8, 1)` against real digits."""

    def __init__(self) -> None:
        real = digits().load()
        labels = np.loadtxt(_labels_path(), delimiter=",", usecols=64, dtype=np.int64)
        self._network = MLPClassifier((128,), max_iter=400, random_state=0)
        self._network.fit(_flat(real.train), labels[: len(real.train)])
        self.train, self.test = real.train, real.test

    def distance(self, images: Images, reference: Images) -> float:
        return frechet_distance(self._moments(images), self._moments(reference))

    def _moments(self, images: Images) -> Moments:
        hidden = _flat(images) @ self._network.coefs_[0] + self._network.intercepts_[0]
        moments = Moments(hidden.shape[1])
        moments.add(np.maximum(hidden, 0.0))
        return moments


def sampled(run: RunDirectory, count: int, **settings: Value) -> Images:
    """Samples of a run with the averaged weights, as its configuration says besides these settings."""
    experiment = assemble_trained(run, Request(settings=settings))
    denoiser, _ = load_denoiser(experiment, run, "latest", "ema")
    config = experiment.config
    sampler = Sampler(
        denoiser,
        experiment.sampling_steps(),
        image_shape=experiment.source.image_shape,
        seed=config.seed,
        clip=config.clip,
    )
    return np.concatenate(list(sampler.images(count, batch_size=500)))


def _flat(images: Images) -> NDArray[np.float64]:
    return images.reshape(len(images), -1) / 127.5 - 1.0


def _labels_path() -> Path:
    import sklearn  # noqa: PLC0415 - only to know where it is

    return Path(sklearn.__file__).parent / "datasets" / "data" / "digits.csv.gz"


def main(path: str, seeds: int = 0, *numbers_of_steps: int) -> None:
    ruler, run = Ruler(), RunDirectory(Path(path))
    if not seeds:
        distance = ruler.distance(sampled(run, 1000), ruler.test)
        print(f"{distance:.4f} {ruler.distance(ruler.train, ruler.test):.4f}")
        return
    for seed in range(seeds):
        for steps in numbers_of_steps:
            distances = [
                ruler.distance(sampled(run, 4000, steps=steps, eta=eta, seed=seed), ruler.train)
                for eta in (0.0, 1.0)
            ]
            print(seed, steps, *(f"{distance:.4f}" for distance in distances), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
