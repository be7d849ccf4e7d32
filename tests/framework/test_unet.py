"""The U-Net: its description, its first weights, and the PyTorch network against diffusers' `UNet2DModel`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.unets.unet_2d import UNet2DModel

from ddim_host.errors import UserError
from ddim_host.framework.interface import Batch
from ddim_host.framework.unet import UNet, UNetSpec, initial_weights, parameters, time_embedding_table
from ddim_torch.layers import TorchLayers
from ddim_torch.plugin import unet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ddim_host.framework.unet import Attention, Weights

CIFAR10 = UNetSpec(image_size=32, image_channels=3, num_train_timesteps=1000)
DIGITS = UNetSpec(
    image_size=8,
    image_channels=1,
    num_train_timesteps=1000,
    base_channels=32,
    channel_multipliers=(1, 2),
    attention_resolutions=(4,),
    num_groups=8,
)
# Each differs from the others in several ways: channels, levels, blocks, where attention is, heads, groups.
SMALL = {
    "digits": DIGITS,
    "one level": UNetSpec(
        8, 3, 100, base_channels=4, channel_multipliers=(1,), attention_resolutions=(8,), num_groups=2
    ),
    "heads": UNetSpec(
        8,
        3,
        1000,
        base_channels=8,
        channel_multipliers=(1, 2, 2),
        num_res_blocks=1,
        attention_resolutions=(8, 2),
        attention_head_dim=4,
        num_groups=4,
    ),
    "three blocks, attention in the middle only": UNetSpec(
        16,
        1,
        50,
        base_channels=12,
        channel_multipliers=(1, 3, 2, 1),
        num_res_blocks=3,
        attention_resolutions=(),
        attention_head_dim=3,
        num_groups=6,
    ),
    "attention everywhere": UNetSpec(
        12,
        3,
        10,
        base_channels=16,
        channel_multipliers=(1, 1, 4),
        attention_resolutions=(12, 6, 3),
        attention_head_dim=16,
        num_groups=1,
    ),
}
SMALL_SPECS = pytest.mark.parametrize("spec", SMALL.values(), ids=SMALL.keys())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks on a busy machine: threads that wait for each other take most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def diffusers_unet(spec: UNetSpec) -> UNet2DModel:
    levels = len(spec.channel_multipliers)
    attends = [spec.image_size >> level in spec.attention_resolutions for level in range(levels)]
    model: UNet2DModel = UNet2DModel(
        sample_size=spec.image_size,
        in_channels=spec.image_channels,
        out_channels=spec.image_channels,
        block_out_channels=tuple(spec.base_channels * m for m in spec.channel_multipliers),
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]),
        layers_per_block=spec.num_res_blocks,
        attention_head_dim=spec.attention_head_dim,
        norm_num_groups=spec.num_groups,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        dropout=spec.dropout,
    )
    model.eval()
    return model


def random_weights(spec: UNetSpec) -> Weights:
    """All parameters random, so that no part of the network is switched off; its output is about 1."""
    rng = np.random.default_rng(7)
    weights: Weights = {}
    for parameter in parameters(UNet.from_spec(spec)):
        values = rng.standard_normal(parameter.shape, dtype=np.float32)
        if len(parameter.shape) > 1:
            weights[parameter.name] = values / np.float32(math.sqrt(math.prod(parameter.shape[1:])))
        else:
            weights[parameter.name] = values * np.float32(0.2) + np.float32(parameter.init == "ones")
    return weights


def whole_prediction(prediction: Any, _: Any) -> Any:
    """Serves as a loss that hides nothing, to look at predictions with another timestep for each image."""
    return prediction


def largest_difference(spec: UNetSpec) -> tuple[float, float]:
    """Largest difference to diffusers over both ways to call the network, and the size of its output."""
    weights = random_weights(spec)
    theirs = diffusers_unet(spec)
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    ours = unet(spec, "cpu", "fp32")
    ours.load_weights(weights, "raw")
    rng = np.random.default_rng(0)
    shape = (2, spec.image_channels, spec.image_size, spec.image_size)
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
            predicted = ours.predict_noise(ours.to_device(x_t), shared, which="raw")
            differences.append(predicted - expected)
    return max(float(d.abs().max()) for d in differences), float(expected.std())


# --- Against diffusers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [CIFAR10, *SMALL.values()], ids=["cifar10", *SMALL])
def test_parameters_are_those_of_diffusers(spec: UNetSpec) -> None:
    with torch.device("meta"):
        theirs = {name: tuple(p.shape) for name, p in diffusers_unet(spec).named_parameters()}
    ours = parameters(UNet.from_spec(spec))
    assert {p.name: p.shape for p in ours} == theirs
    assert len(ours) == len(theirs), "no name twice"


def test_the_cifar10_network_has_the_published_size() -> None:
    """Multipliers that compound, as in the seed, give 257.6 million."""
    assert sum(math.prod(p.shape) for p in parameters(UNet.from_spec(CIFAR10))) == 35_746_307


@SMALL_SPECS
def test_small_networks_compute_what_diffusers_computes(spec: UNetSpec) -> None:
    difference, size = largest_difference(spec)
    assert 0.3 < size < 3
    assert difference < 1e-5


def test_the_cifar10_network_computes_what_diffusers_computes() -> None:
    difference, size = largest_difference(CIFAR10)
    assert 0.3 < size < 3
    assert difference < 1e-5


@pytest.mark.parametrize(("timesteps", "channels"), [(1000, 128), (1000, 32), (4000, 4)])
def test_the_time_embedding_is_that_of_diffusers(timesteps: int, channels: int) -> None:
    spec = UNetSpec(8, 1, timesteps, channels, attention_resolutions=(), num_groups=1)
    table = time_embedding_table(spec)
    theirs = get_timestep_embedding(
        torch.arange(timesteps), channels, flip_sin_to_cos=False, downscale_freq_shift=1
    )
    assert table.shape == (timesteps, channels)
    assert table.dtype == np.float32
    # Theirs is computed in float32, where an angle of t has an error of 1e-7 t.
    np.testing.assert_allclose(table, theirs.numpy(), rtol=0, atol=3e-7 * timesteps)


# --- Attention, by hand -------------------------------------------------------------------------------------


def numpy_attention(layer: Attention, weights: Weights, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax attention, one image, head and pixel at a time."""

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
    """The seed projected the block's input instead, so that its attention attended to nothing."""
    spec = UNetSpec(8, 1, 10, 16, attention_resolutions=(), attention_head_dim=head_dim, num_groups=4)
    layer = UNet.from_spec(spec).middle[1]
    weights = random_weights(spec)
    layers = TorchLayers({name: torch.from_numpy(value) for name, value in weights.items()})
    x = np.random.default_rng(1).standard_normal((2, 32, 3, 4))
    ours = layers.self_attention(layer, torch.from_numpy(x).float()).numpy()
    np.testing.assert_allclose(ours, numpy_attention(layer, weights, x), atol=1e-5)


# --- First weights ------------------------------------------------------------------------------------------


def test_first_weights_are_a_function_of_the_seed() -> None:
    network = UNet.from_spec(DIGITS)
    first, again, other = (initial_weights(network, seed) for seed in (3, 3, 4))
    for parameter in parameters(network):
        np.testing.assert_array_equal(first[parameter.name], again[parameter.name])
        changes = parameter.init == "uniform"
        assert np.any(first[parameter.name] != other[parameter.name]) == changes


def test_first_weights_of_a_seed_never_change() -> None:
    """A pinned value: another order of the parameters would change every result of every seed."""
    weights = initial_weights(UNet.from_spec(DIGITS), seed=0)
    np.testing.assert_allclose(
        weights["conv_in.weight"][0, 0, 0], [0.08907641, 0.07144538, 0.04879427], rtol=1e-6
    )
    last = weights["up_blocks.1.resnets.2.conv1.weight"][0, 0, 0]
    np.testing.assert_allclose(last, [-0.03124378, -0.003178231, 0.05384228], rtol=1e-6)


def test_the_network_starts_as_the_identity_of_its_residual_branches() -> None:
    """DDPM's choice: the last layer of every branch and of the network is zero, and so are all biases."""
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


def test_first_weights_have_ddpms_variance() -> None:
    """Uniform with variance 2 / (fan_in + fan_out), counting every tap of a convolution."""
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


# --- What cannot be built -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 12}, "not divisible by 8"),
        ({"image_size": 0}, "not divisible"),
        ({"num_groups": 48}, "num_groups = 48"),
        ({"num_groups": 0}, "num_groups = 0"),
        ({"attention_head_dim": 48}, "heads of 48"),
        ({"attention_head_dim": 0}, "heads of 0"),
        ({"base_channels": 33}, "even number"),
        ({"base_channels": 2}, "even number"),
        ({"channel_multipliers": ()}, "channel_multipliers"),
        ({"channel_multipliers": (1, 0)}, "channel_multipliers"),
        ({"channel_multipliers": (1,) * 20_000}, "channel_multipliers"),
        ({"channel_multipliers": (1, 10**4000)}, "more than 65,536 channels"),
        ({"base_channels": 2**62}, "more than 65,536 channels"),
        ({"num_res_blocks": 0}, "num_res_blocks"),
        ({"num_res_blocks": 2**63}, "num_res_blocks"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"attention_resolutions": (16, 15)}, "holds 15, but the levels have 32, 16, 8, 4 pixels"),
        ({"attention_resolutions": (2,)}, "holds 2"),
        ({"channel_multipliers": (1,)}, "holds 16, but the levels have 32 pixels"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(changes: dict[str, Any], message: str) -> None:
    valid: dict[str, Any] = {"image_size": 32, "image_channels": 3, "num_train_timesteps": 1000}
    with pytest.raises(UserError, match=message):
        UNetSpec(**valid | changes)


@pytest.mark.parametrize(("channels", "groups"), [(16, 4), (30, 6), (36, 9), (4, 1), (6, 1), (130, 26)])
def test_groups_that_fit_are_proposed(channels: int, groups: int) -> None:
    """As many as there can be with four channels or more in each: one alone would be normalised away."""
    with pytest.raises(UserError) as caught:
        UNetSpec(32, 3, 1000, base_channels=channels)
    assert caught.value.fix == f"set num_groups={groups} in the parameters of --model"
    UNetSpec(32, 3, 1000, base_channels=channels, num_groups=groups)
