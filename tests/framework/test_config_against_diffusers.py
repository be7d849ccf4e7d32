"""Diffusers' configurations: reading, writing, and the networks they describe against diffusers' own."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.errors import UserError
from ddim_host.framework import cpu_kernels
from ddim_host.framework.unet import (
    UNet,
    diffusers_config,
    parameters,
    run_unet,
    spec_from_diffusers,
    time_embedding_table,
    with_canonical_names,
)
from ddim_host.framework.unet.diffusers_config import DEFAULTS
from ddim_torch.kernel_layers import KernelLayers
from ddim_torch.layers import TorchLayers
from ddim_torch.plugin import unet
from tests.support.family import CIFAR10, FAMILY, UNUSUAL
from tests.support.networks import SMALL, random_weights

if TYPE_CHECKING:
    from ddim_host.framework.unet import UNetSpec

T = 1000
EVERY_CONFIG = pytest.mark.parametrize("config", FAMILY.values(), ids=FAMILY.keys())


pytestmark = pytest.mark.usefixtures("one_thread")


def diffusers_unet(config: dict[str, Any]) -> Any:
    from diffusers.models.unets.unet_2d import UNet2DModel  # noqa: PLC0415 - takes seconds

    model = UNet2DModel.from_config(config)
    model.eval()
    return model


# --- Results of the networks --------------------------------------------------------------------------------


@EVERY_CONFIG
def test_every_network_of_the_family_equals_diffusers(config: dict[str, Any]) -> None:
    theirs = diffusers_unet(config)
    spec = spec_from_diffusers(config, T)
    names = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    assert {p.name: p.shape for p in parameters(UNet.from_spec(spec))} == names
    weights = random_weights(spec)
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    ours = unet(spec, "cpu", "fp32")
    ours.load_weights(weights, "raw")
    shape = (2, spec.image_channels, *spec.image_size)
    x_t = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    for t in (0, 17, 500):
        with torch.no_grad():
            expected = theirs(torch.from_numpy(x_t), t).sample
        found = ours.predict(ours.to_device(x_t), t, which="raw")
        size = float(expected.std())
        assert 0.1 < size < 10
        assert float((found - expected).abs().max()) < 1e-5 * max(1.0, size)


@pytest.mark.parametrize("which", ["PyTorch's operations", "the host's kernels"])
def test_unusual_network_has_the_gradients_of_diffusers(which: str) -> None:
    theirs = diffusers_unet(UNUSUAL)
    spec = spec_from_diffusers(UNUSUAL, T)
    weights = random_weights(spec)
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    ours = {name: torch.from_numpy(value.copy()).requires_grad_() for name, value in weights.items()}
    kernels = cpu_kernels()
    if which == "the host's kernels" and kernels is None:
        pytest.skip("the kernels cannot be compiled for this processor")
    layers = TorchLayers(ours) if kernels is None or "PyTorch" in which else KernelLayers(kernels, ours)
    x_t, target = torch.randn((2, 3, 2, *spec.image_size), generator=torch.Generator().manual_seed(0))
    t = torch.tensor([3, 400, 999])
    expected = theirs(x_t, t).sample
    found = run_unet(UNet.from_spec(spec), layers, x_t, torch.from_numpy(time_embedding_table(spec))[t])
    for predicted in (expected, found):
        ((predicted - target) ** 2).mean().backward()
    for name, parameter in theirs.named_parameters():
        difference = float((ours[name].grad - parameter.grad).norm())
        assert difference < 1e-4 * float(parameter.grad.norm()) + 1e-7, name


@pytest.mark.parametrize("key", [key for key in UNUSUAL if key not in ("in_channels", "out_channels")])
def test_no_key_is_ignored(key: str) -> None:
    """The unusual configuration sets every key, and resetting any one of them changes the network."""
    ordinary = DEFAULTS | {
        "sample_size": [8, 8],
        "down_block_types": ["DownBlock2D"] * 2,
        "up_block_types": ["UpBlock2D"] * 2,
        "block_out_channels": [16, 48],
        "downsample_padding": 0,
        "norm_num_groups": 8,
        "flip_sin_to_cos": False,
        "add_attention": False,
    }
    assert spec_from_diffusers({**UNUSUAL, key: ordinary[key]}, T) != spec_from_diffusers(UNUSUAL, T)


# --- Reading and writing ------------------------------------------------------------------------------------


def test_missing_keys_have_the_defaults_of_diffusers() -> None:
    from diffusers.models.unets.unet_2d import UNet2DModel  # noqa: PLC0415 - takes seconds

    signature = inspect.signature(UNet2DModel.__init__).parameters
    theirs = {name: p.default for name, p in signature.items() if p.default is not p.empty}
    assert theirs == DEFAULTS
    with pytest.raises(UserError, match="sample_size = None"):
        spec_from_diffusers({}, T)
    spec = spec_from_diffusers({"sample_size": 32}, T)
    assert spec.widths == (224, 448, 672, 896)
    assert spec.attention_head_dim == 8


@EVERY_CONFIG
def test_written_config_is_read_as_the_same_network(config: dict[str, Any]) -> None:
    spec = spec_from_diffusers(config, T)
    written = diffusers_config(spec)
    assert spec_from_diffusers(json.loads(json.dumps(written)), T) == spec
    assert diffusers_config(spec_from_diffusers(written, T)) == written


@pytest.mark.parametrize("spec", SMALL.values(), ids=SMALL.keys())
def test_networks_of_this_project_can_be_written(spec: UNetSpec) -> None:
    assert spec_from_diffusers(diffusers_config(spec), spec.num_train_timesteps) == spec


def test_network_without_equivalent_in_diffusers_cannot_be_written() -> None:
    spec = replace(SMALL["digits"], channel_multipliers=(2, 2))
    with pytest.raises(UserError, match="diffusers has no equivalent of this network"):
        diffusers_config(spec)


def test_block_names_from_before_diffusers_0_1_are_read() -> None:
    old = {
        **CIFAR10,
        "down_block_types": [f"UNetRes{name}" for name in CIFAR10["down_block_types"]],
        "up_block_types": [f"UNetRes{name}" for name in CIFAR10["up_block_types"]],
    }
    assert spec_from_diffusers(old, T) == spec_from_diffusers(CIFAR10, T)


def test_keys_that_do_not_change_the_computation_are_ignored() -> None:
    more = {"_name_or_path": "x", "num_train_timesteps": 5, "act_fn": "swish", "decay": 0.9999, "power": 0.75}
    assert spec_from_diffusers(CIFAR10 | more, T) == spec_from_diffusers(CIFAR10, T)


# --- Unsupported configurations -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "_class_name = 'UNet2DConditionModel'"),
        ({"class_embed_type": "timestep"}, "class_embed_type = 'timestep'"),
        ({"num_class_embeds": 10}, "num_class_embeds = 10"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type = 'fourier'"),
        ({"time_embedding_type": "learned"}, "time_embedding_type = 'learned'"),
        ({"mid_block_type": None}, "mid_block_type = None"),
        ({"downsample_type": "resnet"}, "downsample_type = 'resnet'"),
        ({"upsample_type": "resnet"}, "upsample_type = 'resnet'"),
        ({"act_fn": "gelu"}, "act_fn = 'gelu'.*silu or swish"),
        ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift = 'spatial'"),
        ({"out_channels": 6}, "out_channels = 6"),
        ({"down_block_types": ["SkipDownBlock2D"] * 4}, "down_block_types = 'SkipDownBlock2D'"),
        ({"up_block_types": ["DownBlock2D"] * 4}, "up_block_types = 'DownBlock2D'"),
        ({"up_block_types": [["UpBlock2D"]] * 4}, "up_block_types = "),
        ({"down_block_types": ["DownBlock2D"] * 3}, "down_block_types = .*list of 4 types"),
        ({"down_block_types": "DownBlock2D"}, "down_block_types = "),
        ({"block_out_channels": []}, "block_out_channels = "),
        ({"block_out_channels": [16, 32, 32, 0]}, "block_out_channels = "),
        ({"block_out_channels": [16, 32, 32, 32.0]}, "block_out_channels = "),
        ({"block_out_channels": [15, 30, 30, 30], "norm_num_groups": 5}, "the first of block_out_channels"),
        ({"block_out_channels": [16, 32, 32, 1 << 20]}, r"block_out_channels\) can have more than 65,536"),
        ({"sample_size": None}, "sample_size = None"),
        ({"sample_size": [32, 32, 32]}, "sample_size = "),
        ({"sample_size": True}, "sample_size = True"),
        ({"sample_size": 28}, "its sample_size 28 is not divisible by 8"),
        ({"layers_per_block": "2"}, "layers_per_block = '2'"),
        ({"layers_per_block": 0}, "layers_per_block must be from 1"),
        ({"layers_per_block": 1 << 40}, "layers_per_block = "),
        ({"norm_num_groups": None}, "norm_num_groups = None"),
        ({"norm_num_groups": 5}, "cannot be divided into norm_num_groups = 5"),
        ({"attn_norm_num_groups": 5}, "cannot be divided into attn_norm_num_groups = 5"),
        ({"attention_head_dim": 5}, r"cannot be divided into heads of 5 channels \(attention_head_dim\)"),
        ({"attention_head_dim": 8.0}, "attention_head_dim = 8.0"),
        ({"mid_block_scale_factor": 0}, "mid_block_scale_factor must be a positive number"),
        ({"mid_block_scale_factor": float("nan")}, "mid_block_scale_factor = nan"),
        ({"norm_eps": "1e-5"}, "norm_eps = '1e-5'"),
        ({"norm_eps": True}, "norm_eps = True"),
        ({"dropout": 1.5}, "dropout must be a number in"),
        ({"downsample_padding": 2}, "downsample_padding must be 0 or 1"),
        ({"downsample_padding": False}, "downsample_padding = False"),
        ({"freq_shift": 0.5}, "freq_shift = 0.5"),
        ({"center_input_sample": 1}, "center_input_sample = 1"),
        ({"flip_sin_to_cos": None}, "flip_sin_to_cos = None"),
        ({"add_attention": "yes"}, "add_attention = 'yes'"),
        ({"time_embedding_dim": -1}, "time_embedding_dim must be from 1"),
        ({"encoder_hid_dim": None}, "encoder_hid_dim = None.*no key 'encoder_hid_dim'"),
        ({"x" * 500: "y" * 500}, "no key 'xxx"),
    ],
)
def test_unsupported_config_is_refused_by_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}") as caught:
        spec_from_diffusers(CIFAR10 | changes, T)
    assert len(str(caught.value)) < 900


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from([0, 1, 8, 32]),
    lambda values: st.lists(values, max_size=5) | st.dictionaries(st.text(max_size=3), values, max_size=2),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(DEFAULTS)), JSON, min_size=1, max_size=4))
def test_any_config_is_a_network_or_one_error(changes: dict[str, Any]) -> None:
    try:
        spec = spec_from_diffusers(CIFAR10 | changes, T)
    except UserError:
        return
    assert spec_from_diffusers(diffusers_config(spec), T) == spec


# --- Names of weights ---------------------------------------------------------------------------------------


def test_legacy_attention_names_are_converted() -> None:
    weights = random_weights(spec_from_diffusers(CIFAR10, T))
    legacy = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, array in weights.items():
        for new, was in legacy.items():
            name = name.replace(f".{new}.", f".{was}.")  # noqa: PLW2901
        old[name] = array
    assert "mid_block.attentions.0.proj_attn.bias" in old
    found = with_canonical_names(old)
    assert found.keys() == weights.keys()
    assert all(found[name] is array for name, array in weights.items())
    assert with_canonical_names(weights) == weights


def test_layer_with_both_names_is_refused() -> None:
    names = ["mid_block.attentions.0.query.weight", "mid_block.attentions.0.to_q.weight"]
    for order in (names, names[::-1]):
        with pytest.raises(UserError, match="twice"):
            with_canonical_names(dict.fromkeys(order, 0))
