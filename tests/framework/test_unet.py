"""The U-Net: its description, attention and initial weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ddim_host.errors import UserError
from ddim_host.framework.unet import UNet, UNetSpec, initial_weights, parameters
from ddim_torch.layers import TorchLayers
from tests.support.networks import CIFAR10, DIGITS, random_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.framework.unet import Attention, Weights


def test_cifar10_network_has_the_published_size() -> None:
    """Compounding multipliers, as in the original code (docs/seed.md), gave 257.6 million parameters."""
    assert sum(math.prod(p.shape) for p in parameters(UNet.from_spec(CIFAR10))) == 35_746_307


# --- Attention ----------------------------------------------------------------------------------------------


def numpy_attention(layer: Attention, weights: Weights, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute softmax attention one image, head and pixel at a time."""

    def project(name: str, tokens: NDArray[np.float64]) -> NDArray[np.float64]:
        return tokens @ weights[f"{name}.weight"].T.astype(np.float64) + weights[f"{name}.bias"]

    result = np.empty_like(x)
    for image, pixels in enumerate(x):
        tokens = pixels.reshape(len(pixels), -1).T
        q, k, v = (project(linear.name, tokens) for linear in (layer.to_q, layer.to_k, layer.to_v))
        attended = np.empty_like(q)
        for head in np.split(np.arange(q.shape[1]), layer.heads):
            for pixel in range(len(tokens)):
                scores = k[:, head] @ q[pixel, head] / math.sqrt(len(head))
                shares = np.exp(scores - scores.max())
                attended[pixel, head] = shares / shares.sum() @ v[:, head]
        result[image] = project(layer.to_out.name, attended).T.reshape(pixels.shape)
    return result


@pytest.mark.parametrize("head_dim", [None, 8, 2])
def test_attention_projects_the_attended_values(head_dim: int | None) -> None:
    """The original code (docs/seed.md) projected the block's input instead, so attention had no effect."""
    spec = UNetSpec((8, 8), 1, 10, 16, attention_resolutions=(), attention_head_dim=head_dim, num_groups=4)
    layer = UNet.from_spec(spec).middle[1]
    assert layer is not None
    weights = random_weights(spec)
    layers = TorchLayers({name: torch.from_numpy(value) for name, value in weights.items()})
    x: NDArray[np.float64] = np.random.default_rng(1).standard_normal((2, 32, 3, 4))
    ours = layers.self_attention(layer, torch.from_numpy(x).float()).numpy()
    np.testing.assert_allclose(ours, numpy_attention(layer, weights, x), atol=1e-5)


# --- Initial weights ----------------------------------------------------------------------------------------


def test_initial_weights_depend_only_on_the_seed() -> None:
    network = UNet.from_spec(DIGITS)
    first, again, other = (initial_weights(network, seed) for seed in (3, 3, 4))
    for parameter in parameters(network):
        np.testing.assert_array_equal(first[parameter.name], again[parameter.name])
        changes = parameter.init == "uniform"
        assert np.any(first[parameter.name] != other[parameter.name]) == changes


def test_initial_weights_of_a_seed_never_change() -> None:
    """Pinned values: a different order of the parameters would change every result of every seed."""
    weights = initial_weights(UNet.from_spec(DIGITS), seed=0)
    np.testing.assert_allclose(
        weights["conv_in.weight"][0, 0, 0], [0.08907641, 0.07144538, 0.04879427], rtol=1e-6
    )
    last = weights["up_blocks.1.resnets.2.conv1.weight"][0, 0, 0]
    np.testing.assert_allclose(last, [-0.03124378, -0.003178231, 0.05384228], rtol=1e-6)


def test_residual_branches_start_at_zero() -> None:
    """All biases, and the last layer of each branch and of the network, start at zero, as in DDPM."""
    weights = initial_weights(UNet.from_spec(DIGITS), seed=0)
    last = ("conv2.weight", "to_out.0.weight", "conv_out.weight")
    for name, values in weights.items():
        assert values.dtype == np.float32
        norm = "norm" in name and name.endswith("weight")
        zero = name.endswith(("bias", *last))
        if norm:
            assert np.all(values == 1), name
        else:
            assert np.all(values == 0) == zero, name


def test_initial_weights_have_the_variance_of_ddpm() -> None:
    """Weights are uniform with variance 2 / (fan_in + fan_out), where a convolution counts every tap."""
    network = UNet.from_spec(DIGITS)
    weights = initial_weights(network, seed=0)
    for parameter in parameters(network):
        if parameter.init == "uniform":
            values = weights[parameter.name]
            taps = math.prod(parameter.shape[2:])
            variance = 2 / (taps * (parameter.shape[0] + parameter.shape[1]))
            assert np.abs(values).max() <= math.sqrt(3 * variance), parameter.name
            # Five standard deviations of the estimate, for a uniform distribution.
            assert values.var() == pytest.approx(variance, rel=5 * math.sqrt(0.8 / values.size))
            assert abs(values.mean()) < 5 * math.sqrt(variance / values.size)


# --- Invalid networks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (32, 12)}, "not divisible by 8"),
        ({"image_size": (0, 32)}, "not divisible"),
        ({"num_groups": 48}, "num_groups = 48"),
        ({"num_groups": 0}, "num_groups = 0"),
        ({"attention_head_dim": 48}, "heads of 48"),
        ({"attention_head_dim": 0}, "heads of 0"),
        ({"base_channels": 33}, "even number"),
        ({"base_channels": 2}, "even number"),
        ({"channel_multipliers": ()}, "channel_multipliers"),
        ({"channel_multipliers": (1, 0)}, "channel_multipliers"),
        ({"channel_multipliers": (1,) * 20_000}, "channel_multipliers"),
        ({"channel_multipliers": (1, 1.3)}, "1.3 x 128 channels is not an integer"),
        ({"channel_multipliers": (1, 0.001)}, "0.001 x 128 channels is not an integer"),
        ({"channel_multipliers": (1, float("nan"))}, "channel_multipliers"),
        ({"channel_multipliers": (1, float("inf"))}, "more than 65,536 channels"),
        ({"channel_multipliers": (1, 10**4000)}, "more than 65,536 channels"),
        ({"base_channels": 2**62}, "more than 65,536 channels"),
        ({"num_res_blocks": 0}, "num_res_blocks"),
        ({"num_res_blocks": 2**63}, "num_res_blocks"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"attention_resolutions": (16, 15)}, "contains 15, but the levels are 32, 16, 8, 4 pixels high"),
        ({"attention_resolutions": (2,)}, "contains 2"),
        ({"up_attention_resolutions": (2,)}, "up_attention_resolutions contains 2"),
        ({"image_size": (48, 32)}, "attention_resolutions contains 16, but the levels are 48, 24, 12, 6"),
        ({"middle_attention_groups": 3}, "256 channels cannot be divided into middle_attention_groups = 3"),
        ({"middle_attention_groups": 0}, "middle_attention_groups = 0"),
        ({"middle_scale_factor": 0.0}, "middle_scale_factor must be a positive number"),
        ({"middle_scale_factor": float("nan")}, "middle_scale_factor must be a positive number"),
        ({"norm_eps": 0.0}, "norm_eps must be a positive number"),
        ({"norm_eps": float("inf")}, "norm_eps must be a positive number"),
        ({"downsample_padding": 2}, "downsample_padding must be 0 or 1"),
        ({"freq_shift": -1}, "freq_shift must be from 0 to 63"),
        ({"freq_shift": 64}, "freq_shift must be from 0 to 63"),
        ({"time_embedding_dim": 0}, "time_embedding_dim must be from 1"),
        ({"image_channels": 0}, "image_channels must be at least 1"),
        ({"channel_multipliers": (1,)}, "contains 16, but the levels are 32 pixels high"),
    ],
)
def test_invalid_network_is_refused(changes: dict[str, Any], message: str) -> None:
    valid: dict[str, Any] = {"image_size": (32, 32), "image_channels": 3, "num_train_timesteps": 1000}
    with pytest.raises(UserError, match=message):
        UNetSpec(**valid | changes)


@pytest.mark.parametrize(("channels", "groups"), [(16, 4), (30, 6), (36, 9), (4, 1), (6, 1), (130, 26)])
def test_error_suggests_a_valid_number_of_groups(channels: int, groups: int) -> None:
    """The suggestion is the largest number with at least four channels per group."""
    with pytest.raises(UserError) as caught:
        UNetSpec((32, 32), 3, 1000, base_channels=channels)
    assert caught.value.fix == f"set num_groups={groups} in the parameters of --model"
    UNetSpec((32, 32), 3, 1000, base_channels=channels, num_groups=groups)
