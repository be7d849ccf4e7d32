"""Contracts of the parts used for evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ddim_host.plugin import validation
from ddim_host.plugin.registry import Kind
from ddim_host.testing.part import PartContract

if TYPE_CHECKING:
    from ddim_host.plugin.contracts import FeatureExtractor


class FeatureExtractorContract(PartContract):
    """Tests of a feature extractor: finite features float32 `(N, D)`, each computed from its image alone.

    Attributes:
        image_shape: `(H, W, C)` of images that the extractor supports.
    """

    kind = Kind.FEATURES
    image_shape: ClassVar[tuple[int, int, int]] = (8, 8, 1)

    def extractor(self) -> FeatureExtractor:
        """Return a new extractor, after the host's checks."""
        return validation.checked_extractor(self.whole_part(), self.values())

    def test_its_framework_is_known(self) -> None:
        """Check that the declared framework is a known one, if any is declared."""
        validation.framework_of(self.whole_part())

    def test_features_are_valid_and_independent_of_the_batch(self) -> None:
        """Check the dtype, shape and finiteness of features.

        An image must have the same features alone, in a batch and from a second extractor.
        """
        images = np.random.default_rng(0).integers(0, 256, (5, *self.image_shape), dtype=np.uint8)
        part, extractor, other = self.whole_part(), self.extractor(), self.extractor()
        together = validation.checked_features(part, extractor, images)
        alone = [validation.checked_features(part, extractor, images[i : i + 1]) for i in range(len(images))]
        scale = float(np.abs(together).max())
        np.testing.assert_allclose(np.concatenate(alone), together, rtol=1e-4, atol=1e-5 * scale)
        np.testing.assert_allclose(validation.checked_features(part, other, images), together, rtol=1e-5)

    def test_black_and_white_images_have_features(self) -> None:
        """Check images with extreme pixel values."""
        images = np.stack([np.full(self.image_shape, value, dtype=np.uint8) for value in (0, 255)])
        validation.checked_features(self.whole_part(), self.extractor(), images)

    def test_its_fingerprint_is_deterministic(self) -> None:
        """Check that equal parameters give equal fingerprints."""
        assert self.extractor().fingerprint == self.extractor().fingerprint
