"""The features `cifar_cnn` equal those of the network whose weights are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import safetensors.numpy
import torch

from ddim_host.parts.feature_extractors import CifarCNN, cifar_cnn
from tests.support.fit_cifar_cnn import CifarNet, as_input, weights

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

IMAGES = np.random.default_rng(0).integers(0, 256, (256, 32, 32, 3), dtype=np.uint8)


def test_stored_weights_give_the_features_of_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = CifarNet().to(memory_format=torch.channels_last)
    with torch.no_grad():
        for _ in range(20):  # sets the statistics of the normalisation
            network(as_input(IMAGES))
    network.eval()
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(weights(network, IMAGES), path)
    monkeypatch.setattr(cifar_cnn, "_WEIGHTS", path)
    features = CifarCNN()(IMAGES)
    np.testing.assert_allclose(features.mean(0), 0.0, atol=0.05)
    np.testing.assert_allclose(features.std(0), 1.0, atol=0.05)
    with torch.inference_mode():
        means = torch.cat(network.means(as_input(IMAGES)), 1).numpy()
    wanted = (means - means.mean(0)) / means.std(0)
    np.testing.assert_allclose(features, wanted, atol=0.1)  # weights are stored in half precision
