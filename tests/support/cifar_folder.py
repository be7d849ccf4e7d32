"""Read CIFAR-10 from folders, one for each class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def labelled(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the images, uint8 `(N, 32, 32, 3)`, and class numbers, sorted by class and file name."""
    images, labels = [], []
    for label, name in enumerate(sorted(path.name for path in folder.iterdir() if path.is_dir())):
        for path in sorted((folder / name).iterdir()):
            with Image.open(path) as image:
                images.append(np.asarray(image.convert("RGB")))
            labels.append(label)
    return np.stack(images), np.array(labels)
