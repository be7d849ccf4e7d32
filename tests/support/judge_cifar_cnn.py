"""Judge the features `cifar_cnn`: are real, damaged and incomplete sets of images in the right order?

python -m tests.support.judge_cifar_cnn CIFAR_FOLDER

prints a table in Markdown. The folder is that of `tests.support.fit_cifar_cnn`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from ddim_host.evaluation.statistics import MeasureSettings, StatisticsAccumulator, measure
from ddim_host.parts.feature_extractors import CifarCNN
from tests.support.cifar_folder import labelled

if TYPE_CHECKING:
    from ddim_host.evaluation.statistics import FeatureStatistics
    from ddim_host.plugin.data import Images

_KEPT_OF_TEN = 5


def noisy(images: Images, spread: float) -> Images:
    """Add normal noise of a standard deviation in steps of 1 / 255."""
    noise = np.random.default_rng(0).normal(0.0, spread, images.shape)
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


def blurred(images: Images, radius: float) -> Images:
    """Blur by a Gaussian of a standard deviation in pixels."""
    blur = ImageFilter.GaussianBlur(radius)
    return np.stack([np.asarray(Image.fromarray(image).filter(blur)) for image in images])


def statistics(extract: CifarCNN, images: Images) -> FeatureStatistics:
    settings = MeasureSettings()
    accumulator = StatisticsAccumulator(len(images), settings.max_kept)
    accumulator.add(extract(images))
    return accumulator.statistics()


def main(folder: str) -> None:
    extract = CifarCNN()
    (train, _), (test, labels) = (labelled(Path(folder) / half) for half in ("train", "test"))
    count = len(test) // 2
    mixed = np.random.default_rng(1).permutation(len(test))
    half, others = test[mixed[:count]], test[mixed[count:]]
    started = time.perf_counter()
    real = statistics(extract, train[::5])
    print(f"{len(train[::5]):,} images took {time.perf_counter() - started:.1f} s\n")
    classes = labels[mixed]
    sets = {
        "real test images": half,
        "other real test images": others,
        "one class missing": test[mixed][classes != 0][:count],
        "five classes missing": test[mixed][classes < _KEPT_OF_TEN][:count],
        **{f"noise of {spread} / 255": noisy(half, spread) for spread in (4, 8, 16, 32)},
        **{f"blurred by {radius} pixels": blurred(half, radius) for radius in (0.5, 1.0, 2.0)},
        "pixels of noise alone": np.random.default_rng(2).integers(0, 256, half.shape, np.uint8),
    }
    print("| images | Fréchet | kernel x 1000 | precision | recall |\n| --- | ---: | ---: | ---: | ---: |")
    for name, images in sets.items():
        m = measure(statistics(extract, images), real, MeasureSettings())
        print(
            f"| {name} | {m.frechet_distance:.3g} | {1000 * m.kernel_distance:.3g} | {m.precision:.2f} | "
            f"{m.recall:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
