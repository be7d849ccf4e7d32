"""The images of data sources, and the fingerprint that identifies them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ddim_host.plugin.data import TrainTest, image_hash

if TYPE_CHECKING:
    import pytest

    from ddim_host.plugin.data import Images

IMAGES = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4, 1)
REAL = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), np.uint8)


def test_fingerprints_of_different_images_differ() -> None:
    one = TrainTest(IMAGES, IMAGES[:1]).fingerprint
    assert one == TrainTest(IMAGES.copy(), IMAGES[:1].copy()).fingerprint
    others = (
        TrainTest(IMAGES[:1], IMAGES),
        TrainTest(IMAGES[::-1], IMAGES[:1]),
        TrainTest(IMAGES, IMAGES[1:]),
        TrainTest(IMAGES, IMAGES),
        TrainTest(IMAGES.reshape(2, 16, 1, 1), IMAGES[:1]),
    )
    assert one not in {other.fingerprint for other in others}
    numbers = [one.number, *(other.fingerprint.number for other in others)]
    assert len({*numbers}) == len(numbers)
    assert all(0 <= number < 2**48 for number in numbers)
    same_halves = [TrainTest(IMAGES[i:][:1], IMAGES[i:][:1]).fingerprint.number for i in range(2)]
    assert same_halves[0] != same_halves[1]
    assert str(one) == (
        f"2 train (SHA-256 {image_hash(IMAGES)[:12]}...), 1 test ({image_hash(IMAGES[:1])[:12]}...)"
    )


def test_images_are_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []

    def count(images: Images) -> str:
        hashed.append(len(images))
        return "0" * 64

    monkeypatch.setattr("ddim_host.plugin.data.image_hash", count)
    images = TrainTest(IMAGES, IMAGES[:1])
    assert images.fingerprint is images.fingerprint
    assert hashed == [2, 1]


def test_images_of_another_shape_or_order_have_another_hash() -> None:
    hashes = {image_hash(images) for images in (REAL, REAL[::-1], REAL.reshape(60, 16, 4, 1), REAL[:59])}
    assert len(hashes) == 4
    assert image_hash(REAL.copy(order="F")) == image_hash(REAL)
