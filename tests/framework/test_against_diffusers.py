"""The PyTorch network against diffusers' `UNet2DModel`, with the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ddim_host.framework.interface import Batch
from ddim_host.framework.unet import UNet, UNetSpec, diffusers_config, parameters, time_embedding_table
from ddim_torch.plugin import unet
from tests.support.networks import CIFAR10, DIGITS, SMALL, random_weights

SMALL_SPECS = pytest.mark.parametrize("spec", SMALL.values(), ids=SMALL.keys())


pytestmark = pytest.mark.usefixtures("one_thread")


def diffusers_unet(spec: UNetSpec) -> Any:
    from diffusers.models.unets.unet_2d import UNet2DModel  # noqa: PLC0415 - takes seconds

    model = UNet2DModel.from_config(diffusers_config(spec))
    model.eval()
    return model


def whole_prediction(prediction: Any, _: Any) -> Any:
    """Return the prediction itself, as a loss; `evaluate_loss` allows a different timestep per image."""
    return prediction


def largest_difference(spec: UNetSpec) -> tuple[float, float]:
    """Return the largest difference from diffusers over both call paths, and the output's deviation."""
    weights = random_weights(spec)
    theirs = diffusers_unet(spec)
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    ours = unet(spec, "cpu", "fp32")
    ours.load_weights(weights, "raw")
    rng = np.random.default_rng(0)
    shape = (2, spec.image_channels, *spec.image_size)
    x_t = rng.standard_normal(shape, dtype=np.float32)
    differences = []
    with torch.no_grad():
        t = rng.integers(0, spec.num_train_timesteps, 2)
        expected = theirs(torch.from_numpy(x_t), torch.from_numpy(t)).sample
        batch = Batch(
            x_t, t, x_t, np.ones(2, np.float32), np.ones(2, np.float32), dropout_seed=0, first=0, total=2
        )
        differences.append(ours.evaluate_loss(batch, whole_prediction) - expected)
        for shared in (0, spec.num_train_timesteps - 1):
            expected = theirs(torch.from_numpy(x_t), shared).sample
            predicted = ours.predict(ours.to_device(x_t), shared, which="raw")
            differences.append(predicted - expected)
    return max(float(d.abs().max()) for d in differences), float(expected.std())


@pytest.mark.parametrize("spec", [CIFAR10, *SMALL.values()], ids=["cifar10", *SMALL])
def test_parameters_equal_those_of_diffusers(spec: UNetSpec) -> None:
    diffusers_unet(DIGITS)  # imports diffusers, which must not happen on the meta device
    with torch.device("meta"):
        theirs = {name: tuple(p.shape) for name, p in diffusers_unet(spec).named_parameters()}
    ours = parameters(UNet.from_spec(spec))
    assert {p.name: p.shape for p in ours} == theirs
    assert len(ours) == len(theirs), "names must be unique"


@SMALL_SPECS
def test_small_networks_equal_diffusers(spec: UNetSpec) -> None:
    difference, size = largest_difference(spec)
    assert 0.3 < size < 3
    assert difference < 1e-5


def test_cifar10_network_equals_diffusers() -> None:
    difference, size = largest_difference(CIFAR10)
    assert 0.3 < size < 3
    assert difference < 1e-5


@pytest.mark.parametrize(("timesteps", "channels"), [(1000, 128), (1000, 32), (4000, 4)])
def test_time_embedding_equals_that_of_diffusers(timesteps: int, channels: int) -> None:
    from diffusers.models.embeddings import get_timestep_embedding  # noqa: PLC0415 - takes seconds

    spec = UNetSpec((8, 8), 1, timesteps, channels, attention_resolutions=(), num_groups=1)
    table = time_embedding_table(spec)
    theirs = get_timestep_embedding(
        torch.arange(timesteps), channels, flip_sin_to_cos=False, downscale_freq_shift=1
    )
    assert table.shape == (timesteps, channels)
    assert table.dtype == np.float32
    # Theirs is computed in float32, in which an angle of t has an error of 1e-7 t.
    np.testing.assert_allclose(table, theirs.numpy(), rtol=0, atol=3e-7 * timesteps)
