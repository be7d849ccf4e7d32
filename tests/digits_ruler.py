"""How good are the digits of a run? A Fréchet distance in the hidden layer of a small classifier.

    python digits_ruler.py RUN

The classifier is fitted on the 1,500 training digits; 1,000 samples of the run are held against the 297 test
digits. Real training digits are at 4.3, noise is at 131. It is no FID: the network is another one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sklearn.neural_network import MLPClassifier

from ddim_host.assembly import assemble
from ddim_host.checkpoints import load_checkpoint
from ddim_host.config import read_request
from ddim_host.parts.datasets import digits
from ddim_host.runs import RunDirectory
from ddim_host.sampling import sample
from ddim_host.unet import parameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.data import Images


class Ruler:
    """Measures images uint8 `(N, 8, 8, 1)` against the test digits."""

    def __init__(self) -> None:
        real = digits().load()
        labels = np.loadtxt(_labels_path(), delimiter=",", usecols=64, dtype=np.int64)
        self._network = MLPClassifier((128,), max_iter=400, random_state=0)
        self._network.fit(_flat(real.train), labels[: len(real.train)])
        self._test = self._features(real.test)
        self.real_distance = self.distance(real.train)

    def distance(self, images: Images) -> float:
        """Squared Fréchet distance of two Gaussians (arXiv 1706.08500, equation 6)."""
        ours, theirs = self._features(images), self._test
        cov_ours, cov_theirs = np.cov(ours.T), np.cov(theirs.T)
        # The trace of the root of a product of covariances, from a symmetric matrix: no imaginary parts.
        values, vectors = np.linalg.eigh(cov_ours)
        root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
        cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_theirs @ root), 0.0)).sum()
        means = ((ours.mean(0) - theirs.mean(0)) ** 2).sum()
        return float(means + np.trace(cov_ours) + np.trace(cov_theirs) - 2.0 * cross)

    def _features(self, images: Images) -> NDArray[np.float64]:
        hidden = _flat(images) @ self._network.coefs_[0] + self._network.intercepts_[0]
        features: NDArray[np.float64] = np.maximum(hidden, 0.0)
        return features


def sampled(run: RunDirectory, count: int) -> Images:
    """Samples of a run, as its configuration says, with the averaged weights."""
    experiment = assemble(read_request(run.config_path))
    model = experiment.build_model()
    latest = run.latest_checkpoint()
    assert latest is not None
    model.load_weights(load_checkpoint(latest, parameters(experiment.unet)).ema, "ema")
    return sample(
        model,
        experiment.sampling_steps(),
        num_images=count,
        image_shape=experiment.source.image_shape,
        batch_size=250,
        seed=experiment.config.seed,
        clip=True,
        which="ema",
    ).images


def _flat(images: Images) -> NDArray[np.float64]:
    return images.reshape(len(images), -1) / 127.5 - 1.0


def _labels_path() -> Path:
    import sklearn  # noqa: PLC0415 - only to know where it is

    return Path(sklearn.__file__).parent / "datasets" / "data" / "digits.csv.gz"


if __name__ == "__main__":
    ruler = Ruler()
    distance = ruler.distance(sampled(RunDirectory(Path(sys.argv[1])), 1000))
    print(f"{distance:.4f} {ruler.real_distance:.4f}")
