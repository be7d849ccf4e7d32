"""Check that the features `cifar_cnn` rank real, damaged and incomplete sets of images correctly.

python -m tests.support.judge_cifar_cnn CIFAR_FOLDER
python -m tests.support.judge_cifar_cnn CIFAR_FOLDER --grey --images 500 --reference 2000

Prints a table in Markdown. The folder is that of `tests.support.fit_cifar_cnn`.
"""

from __future__ import annotations

import argparse
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
    """Add normal noise; `spread` is its standard deviation in steps of 1 / 255."""
    noise = np.random.default_rng(0).normal(0.0, spread, images.shape)
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


def blurred(images: Images, radius: float) -> Images:
    """Blur with a Gaussian; `radius` is its standard deviation in pixels."""
    blur = ImageFilter.GaussianBlur(radius)
    blurs = [np.asarray(Image.fromarray(np.squeeze(image)).filter(blur)) for image in images]
    return np.stack(blurs).reshape(images.shape)


def statistics(extract: CifarCNN, images: Images) -> FeatureStatistics:
    settings = MeasureSettings()
    accumulator = StatisticsAccumulator(len(images), settings.max_kept)
    accumulator.add(extract(images))
    return accumulator.statistics()


def grey(images: Images) -> Images:
    """Return the luma of RGB images with one channel, as `images:channels=1` does."""
    return np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])[..., None]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--grey", action="store_true", help="convert all images to one channel")
    parser.add_argument("--images", type=int, default=5_000, help="images of each set, at most 5,000")
    parser.add_argument("--reference", type=int, default=10_000, help="training images of the reference")
    options = parser.parse_args()
    extract, count = CifarCNN(), options.images
    (train, _), (test, labels) = (labelled(options.folder / half) for half in ("train", "test"))
    if options.grey:
        train, test = grey(train), grey(test)
    train = train[:: len(train) // options.reference][: options.reference]
    mixed = np.random.default_rng(1).permutation(len(test))
    half, others = test[mixed[:count]], test[mixed[count : 2 * count]]
    started = time.perf_counter()
    real = statistics(extract, train)
    print(f"{len(train):,} images took {time.perf_counter() - started:.1f} s\n")
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
    main()
