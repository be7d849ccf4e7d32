"""The GPU model compared with the CPU model; without a GPU, Triton interprets and no graph is captured."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import torch

from ddim_host.framework.unet import UNet, UNetSpec, parameters
from ddim_losses import mse
from ddim_torch.graphs import Captured
from ddim_torch.plugin import unet
from ddim_torch.static_tensors import FlatTensors, StagedInputs
from tests.support.networks import TINY
from tests.torch.test_model import batch

if TYPE_CHECKING:
    from ddim_host.framework.interface import Batch, Model
    from ddim_host.framework.unet import Weights

pytest.importorskip("triton", reason="Triton is not installed")
CPU = torch.device("cpu")
SPEC = replace(TINY, dropout=0.3)


UNUSUAL = replace(
    SPEC,
    channel_multipliers=(1, 1.5),
    up_attention_resolutions=(8,),
    attention_head_dim=4,
    middle_scale_factor=1.5,
    scale_shift=True,
    norm_eps=1e-3,
    downsample_padding=1,
    center_input=True,
)


pytestmark = pytest.mark.usefixtures("one_thread")


def weights(seed: int = 0, spec: UNetSpec = SPEC) -> Weights:
    """Return weights that are random everywhere; initial weights disable most of the network."""
    rng = np.random.default_rng(seed)
    found: Weights = {}
    for parameter in parameters(UNet.from_spec(spec)):
        scale = math.sqrt(math.prod(parameter.shape[1:])) if len(parameter.shape) > 1 else 5.0
        values = rng.standard_normal(parameter.shape) / scale + (parameter.init == "ones")
        found[parameter.name] = values.astype(np.float32)
    return found


def loaded(model: Model, spec: UNetSpec = SPEC) -> Model:
    for which in ("raw", "ema"):
        model.load_weights(weights(spec=spec), which)
    return model


def gpu_model(precision: Literal["fp32", "bf16"] = "fp32", spec: UNetSpec = SPEC) -> Model:
    from ddim_torch.cuda_model import CudaModel  # noqa: PLC0415 - imports Triton

    return loaded(CudaModel(spec, CPU, precision, graphs=True), spec)


def step(model: Model, number: int = 0) -> np.ndarray[Any, Any]:
    data = batch(number, size=2, dropout_seed=2**62 + number)
    return model.to_host(model.train_step(data, mse, lr=1e-3, ema_decay=0.9, max_grad_norm=0.5))


@pytest.mark.parametrize("spec", [SPEC, UNUSUAL], ids=["usual", "unusual"])
def test_training_equals_that_of_the_cpu_with_dropout(spec: UNetSpec) -> None:
    cpu, gpu = loaded(unet(spec, "cpu", "fp32"), spec), gpu_model(spec=spec)
    for number in range(3):
        np.testing.assert_allclose(step(gpu, number), step(cpu, number), rtol=1e-5)
    for which in ("raw", "ema"):
        expected = cpu.weights(which)
        for name, array in gpu.weights(which).items():
            np.testing.assert_allclose(array, expected[name], atol=1e-3, err_msg=name)
    state, expected_state = gpu.training_state(), cpu.training_state()
    assert state.step == expected_state.step
    for name, array in state.exp_avg.items():
        np.testing.assert_allclose(array, expected_state.exp_avg[name], atol=1e-5, err_msg=name)


def test_every_share_of_a_batch_has_its_own_dropout_mask() -> None:
    data = batch(0, size=2, dropout_seed=2**62)
    shares = [data, replace(data, first=2)]

    def losses(model: Model, share: Batch) -> np.ndarray[Any, Any]:
        return model.to_host(model.train_step(share, mse, lr=0.0, ema_decay=0.9, max_grad_norm=0.5))

    model = gpu_model()
    together = [losses(model, share) for share in shares]
    for share, found in zip(shares, together, strict=True):
        np.testing.assert_array_equal(found, losses(gpu_model(), share))
    assert not np.array_equal(together[0], together[1])


def test_predictions_and_test_losses_equal_those_of_the_cpu() -> None:
    cpu, gpu = loaded(unet(SPEC, "cpu", "fp32")), gpu_model()
    data = batch(3)
    for which in ("raw", "ema"):
        for t in (0, 49):
            found, expected = (
                model.to_host(model.predict(model.to_device(data.x_t), t, which=which)).copy()
                for model in (gpu, cpu)
            )
            np.testing.assert_allclose(found, expected, atol=2e-5)
    found, expected = (model.to_host(model.evaluate_loss(data, mse)) for model in (gpu, cpu))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_predictions_follow_the_weights() -> None:
    """In bf16 the network computes with a copy of the weights, which must not be outdated."""
    model = gpu_model("bf16", replace(SPEC, dropout=0.0))
    x_t = model.to_device(batch().x_t)
    before = model.to_host(model.predict(x_t, 7, which="raw")).copy()
    step(model)
    after = model.to_host(model.predict(x_t, 7, which="raw")).copy()
    assert np.any(before != after)
    model.load_weights(weights(), "raw")
    np.testing.assert_array_equal(model.to_host(model.predict(x_t, 7, which="raw")), before)


def test_bf16_is_near_fp32_and_keeps_fp32_weights() -> None:
    exact, rounded = gpu_model(), gpu_model("bf16")
    for number in range(2):
        expected, found = step(exact, number), step(rounded, number)
        assert np.any(found != expected)
        np.testing.assert_allclose(found, expected, rtol=0.05)
    assert {array.dtype for array in rounded.weights("raw").values()} == {np.dtype(np.float32)}


def test_resumed_training_equals_an_uninterrupted_one() -> None:
    straight, first, second = gpu_model(), gpu_model(), gpu_model()
    expected = [step(straight, number) for number in range(3)]
    step(first, 0)
    for which in ("raw", "ema"):
        second.load_weights(first.weights(which), which)
    second.load_training_state(first.training_state())
    for number in (1, 2):
        np.testing.assert_array_equal(step(second, number), expected[number])


def test_flat_tensors_are_views_in_order() -> None:
    shapes = {"conv": (4, 3, 2, 2), "dense": (5, 3), "bias": (7,)}
    tensors = FlatTensors(shapes, CPU)
    values = [torch.randn(shape) for shape in shapes.values()]
    for tensor, value in zip(tensors.values(), values, strict=True):
        tensor.copy_(value)
    torch.testing.assert_close(tensors.flatten(values), tensors.flat)
    torch.testing.assert_close(tensors.flat[tensors.slices["dense"]], values[1].flatten())
    tensors.flat.zero_()
    assert all(not tensor.any() for tensor in tensors.values())
    assert tensors["conv"].is_contiguous(memory_format=torch.channels_last)


def test_staged_inputs_replace_values_in_place() -> None:
    inputs = StagedInputs({"x": np.zeros((2, 3), np.float32), "n": 0, "lr": np.float32(0)}, CPU)
    x, n = inputs["x"], inputs["n"]
    inputs.load({"x": np.full((2, 3), 0.5, np.float32), "n": 2**62, "lr": np.float32(1e-3)})
    assert x.tolist() == [[0.5] * 3] * 2
    assert (n.item(), n.shape) == (2**62, ())
    assert inputs["lr"].item() == np.float32(1e-3)


def test_without_graphs_every_call_runs_the_function() -> None:
    calls: list[None] = []

    def function() -> torch.Tensor:
        calls.append(None)
        return torch.zeros(1)

    captured = Captured(function, enabled=False, name="a call")
    for _ in range(3):
        captured()
    assert len(calls) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_function_that_waits_for_the_gpu_is_not_captured(capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.ones(3, device="cuda")
    captured = Captured(lambda: x * float(x.sum()), enabled=True, name="a call")
    assert [captured().tolist() for _ in range(3)] == [[3.0] * 3] * 3
    assert "a call cannot be captured" in capsys.readouterr().err


def test_interpreter_is_used_without_a_gpu() -> None:
    assert torch.cuda.is_available() or os.environ["TRITON_INTERPRET"] == "1"
