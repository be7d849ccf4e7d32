"""The data set `one_digit`: images from another library's arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ddim_host import DataSource, TrainTest, UserError, hookimpl

if TYPE_CHECKING:
    from ddim_host import DatasetFactory


@hookimpl
def ddim_datasets() -> dict[str, DatasetFactory]:
    """Register the data set."""
    return {"one_digit": one_digit}


def one_digit(*, digit: int = 3) -> DataSource:
    """Load the images of one digit, 8 x 8 grey, from scikit-learn; every fifth is a test image."""
    if not 0 <= digit <= 9:
        raise UserError(f"parameter 'digit' of data set 'one_digit' must be in [0, 9], not {digit}")

    def load() -> TrainTest:
        from sklearn.datasets import load_digits  # noqa: PLC0415 - slow to import, and not needed for a dry run

        everything = load_digits()
        pixels = everything.images[everything.target == digit]  # from 0 to 16
        images = np.rint(pixels * (255 / 16)).astype(np.uint8)[..., np.newaxis]
        is_test = np.arange(len(images)) % 5 == 4
        return TrainTest(train=images[~is_test], test=images[is_test])

    return DataSource((8, 8, 1), random_flip=False, description=f"the digit {digit}, 8 x 8 grey", load=load)
