"""Measuring the real images that samples are compared with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ddim_host.errors import UserError
from ddim_host.evaluation.scoring import measure_real_images
from ddim_host.plugin.data import TrainTest


@pytest.mark.parametrize(
    ("data", "name"),
    [("images:path=scans,a,size=none,channels=1", "scans,a"), ("digits", "digits")],
)
def test_too_few_images_name_the_folder_only(data: str, name: str) -> None:
    evaluator: Any = SimpleNamespace(settings=SimpleNamespace(neighbours=3))
    file: Any = None
    images = TrainTest(np.zeros((3, 8, 8, 1), np.uint8), np.zeros((2, 8, 8, 1), np.uint8))
    with pytest.raises(UserError) as caught:
        measure_real_images(evaluator, file, data, images, "train")
    assert caught.value.what == f"{name} has too few training images to compare with"
    with pytest.raises(UserError) as caught:
        measure_real_images(evaluator, file, data, images, "test")
    assert caught.value.what == f"{name} has too few test images to compare with"
