"""The handwritten digits that are installed with scikit-learn."""

from __future__ import annotations

import gzip
import importlib.util
import io
import zlib
from pathlib import Path

import numpy as np

from ddim_host.errors import UserError, printable
from ddim_host.plugin.data import DataSource, TrainTest

NUM_IMAGES = 1797
NUM_TRAIN = 1500
SIDE = 8
MAX_VALUE = 16


def digits() -> DataSource:
    """Handwritten digits of scikit-learn: 1,797 images of 8 x 8 grey pixels; no download is needed.

    Pixels from 0 to 16 are scaled to `round(x * 255 / 16)`. The first 1,500 images are for training, the last
    297, written by other people, for testing.

    Returns:
        A source of uint8 images `(N, 8, 8, 1)`, never mirrored.
    """
    return DataSource(
        image_shape=(SIDE, SIDE, 1),
        random_flip=False,
        description=(
            f"{NUM_IMAGES:,} handwritten digits, 8 x 8 grey, from scikit-learn: "
            f"the first {NUM_TRAIN:,} for training, the last {NUM_IMAGES - NUM_TRAIN} for testing"
        ),
        load=_load,
    )


def _load() -> TrainTest:
    path = _digits_file()
    try:
        text = gzip.decompress(path.read_bytes()).decode("ascii")
        if not text:  # NumPy would only warn
            raise ValueError("it is empty")
        table = np.loadtxt(io.StringIO(text), delimiter=",", ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    if table.shape != (NUM_IMAGES, SIDE * SIDE + 1):
        raise _damaged(
            path, f"it contains a table of shape {table.shape}, not {(NUM_IMAGES, SIDE * SIDE + 1)}"
        )
    pixels = table[:, :-1]  # the last column is the label
    if not ((pixels >= 0) & (pixels <= MAX_VALUE)).all():
        raise _damaged(path, f"it contains pixels outside 0 to {MAX_VALUE}")
    images = np.rint(pixels * 255 / MAX_VALUE).astype(np.uint8).reshape(-1, SIDE, SIDE, 1)
    return TrainTest(train=images[:NUM_TRAIN], test=images[NUM_TRAIN:])


def _digits_file() -> Path:
    # Only the file is needed; importing scikit-learn would take a second.
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "the digits are not installed",
            why="they are part of scikit-learn, which is not installed",
            fix="pip install scikit-learn",
        )
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"


def _damaged(path: Path, why: str) -> UserError:
    return UserError(
        f"cannot read scikit-learn's digits from {printable(path)}",
        why=printable(why),
        fix="pip install --force-reinstall scikit-learn",
    )
