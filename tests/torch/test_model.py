"""`Model` in PyTorch: training steps compared with a plain loop, state, precision and dropout."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
import torch

import ddim_torch.model
from ddim_host.errors import UserError
from ddim_host.framework.interface import Batch, TrainingState
from ddim_host.framework.unet import (
    UNet,
    UNetSpec,
    initial_weights,
    parameters,
    run_unet,
    time_embedding_table,
)
from ddim_losses import mse
from ddim_torch import plugin
from ddim_torch.adam import adam_formula, adam_step
from ddim_torch.layers import TorchLayers
from ddim_torch.plugin import unet
from tests.support.networks import TINY as SPEC

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from ddim_host.framework.interface import Model
    from ddim_host.framework.unet import Weights

DROPPING = replace(SPEC, dropout=0.5)
NEVER = 1e9
"""A gradient norm that is never reached."""


pytestmark = pytest.mark.usefixtures("one_thread")


def random_weights(seed: int = 0) -> Weights:
    """Return weights that are random everywhere; initial weights disable most of the network."""
    rng = np.random.default_rng(seed)
    weights: Weights = {}
    for parameter in parameters(UNet.from_spec(SPEC)):
        scale = math.sqrt(math.prod(parameter.shape[1:])) if len(parameter.shape) > 1 else 5.0
        values = rng.standard_normal(parameter.shape) / scale + (parameter.init == "ones")
        weights[parameter.name] = values.astype(np.float32)
    return weights


def batch(number: int = 0, size: int = 4, *, dropout_seed: int = 0) -> Batch:
    rng = np.random.default_rng([1, number])
    x_t, target = rng.standard_normal((2, size, 3, 8, 8), dtype=np.float32)
    return Batch(
        x_t=x_t,
        t=rng.integers(0, 50, size),
        target=target,
        weights=rng.uniform(0.5, 2.0, size).astype(np.float32),
        sampler_weights=np.ones(size, dtype=np.float32),
        dropout_seed=dropout_seed,
        first=0,
        total=size,
    )


def model(
    spec: UNetSpec = SPEC, weights: Weights | None = None, precision: Literal["fp32", "bf16"] = "fp32"
) -> Model:
    built = unet(spec, "cpu", precision)
    built.load_weights(random_weights() if weights is None else weights, "raw")
    built.load_weights(random_weights() if weights is None else weights, "ema")
    return built


def step(
    trained: Model, data: Batch, *, lr: float = 1e-3, ema_decay: float = 0.9, max_grad_norm: float = NEVER
) -> NDArray[np.float32]:
    losses = trained.train_step(data, mse, lr=lr, ema_decay=ema_decay, max_grad_norm=max_grad_norm)
    return trained.to_host(losses)


def gradients(data: Batch, *, max_grad_norm: float = NEVER) -> Weights:
    """Return the gradients of one step, from the first moment after it, which is a tenth of them."""
    trained = model()
    step(trained, data, max_grad_norm=max_grad_norm)
    return {name: moment * np.float32(10) for name, moment in trained.training_state().exp_avg.items()}


def norm(arrays: Weights) -> float:
    return math.sqrt(sum(float((array.astype(np.float64) ** 2).sum()) for array in arrays.values()))


def assert_same(first: Weights, second: Weights) -> None:
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


def differ(first: Weights, second: Weights) -> bool:
    return any(np.any(values != second[name]) for name, values in first.items())


# --- The training step --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    lr: float
    ema_decay: float
    max_grad_norm: float


STEPS = [Step(1e-3, 0.1, NEVER), Step(2e-3, 0.5, 0.05), Step(5e-4, 0.9, NEVER), Step(1e-3, 0.99, 0.5)]


def plain_training() -> tuple[Weights, Weights, list[NDArray[np.float32]], list[bool]]:
    """Run the training steps in plain PyTorch; only the network is the project's own."""
    network, table = UNet.from_spec(SPEC), torch.from_numpy(time_embedding_table(SPEC))
    raw = {name: torch.from_numpy(value.copy()).requires_grad_() for name, value in random_weights().items()}
    ema = {name: value.detach().clone() for name, value in raw.items()}
    adam = torch.optim.Adam(raw.values(), betas=(0.9, 0.999), eps=1e-8, fused=False, foreach=False)
    losses, clipped = [], []
    for number, settings in enumerate(STEPS):
        data = batch(number)
        predicted = run_unet(
            network, TorchLayers(raw), torch.from_numpy(data.x_t), table[torch.from_numpy(data.t)]
        )
        loss: Tensor = ((predicted - torch.from_numpy(data.target)) ** 2).mean(dim=(1, 2, 3))
        adam.zero_grad()
        (loss * torch.from_numpy(data.weights)).mean().backward()  # type: ignore[no-untyped-call]
        total = math.sqrt(sum(float((p.grad**2).sum()) for p in raw.values() if p.grad is not None))
        for parameter in raw.values():
            if parameter.grad is not None and total > settings.max_grad_norm:
                parameter.grad *= settings.max_grad_norm / total
        adam.param_groups[0]["lr"] = settings.lr
        adam.step()
        with torch.no_grad():
            for name, value in raw.items():
                ema[name] = settings.ema_decay * ema[name] + (1 - settings.ema_decay) * value
        losses.append(loss.detach().numpy())
        clipped.append(total > settings.max_grad_norm)
    return (
        {n: v.detach().numpy() for n, v in raw.items()},
        {n: v.numpy() for n, v in ema.items()},
        losses,
        clipped,
    )


def test_training_equals_a_plain_loop() -> None:
    """Learning rate, clipping before the update, Adam, and EMA after it, with settings that vary by step."""
    raw, ema, losses, clipped = plain_training()
    assert clipped == [False, True, False, True]
    trained = model()
    for number, settings in enumerate(STEPS):
        ours = step(
            trained,
            batch(number),
            lr=settings.lr,
            ema_decay=settings.ema_decay,
            max_grad_norm=settings.max_grad_norm,
        )
        np.testing.assert_allclose(ours, losses[number], rtol=1e-5)
    for which, expected in (("raw", raw), ("ema", ema)):
        weights = trained.weights("raw" if which == "raw" else "ema")
        for name, values in expected.items():
            # The softmax does not depend on a key's bias: its gradient is rounding noise, which Adam
            # amplifies. It does that to any gradient that is near zero, hence the root mean square.
            if not name.endswith("to_k.bias"):
                assert np.sqrt(np.mean((weights[name] - values) ** 2)) < 1e-6, f"{which} {name}"


def test_gradients_are_clipped_before_the_update() -> None:
    """The original Jittor code (docs/seed.md) clipped after the update, without effect."""
    free = gradients(batch())
    limit = 0.1 * norm(free)
    clipped = gradients(batch(), max_grad_norm=limit)
    assert norm(clipped) == pytest.approx(limit, rel=1e-4)
    for name in free:
        np.testing.assert_allclose(clipped[name], 0.1 * free[name], rtol=1e-3, atol=1e-7)
    within = gradients(batch(), max_grad_norm=1.01 * norm(free))
    assert_same(within, free)


def test_the_learning_rate_reaches_the_optimizer() -> None:
    """The original code (docs/seed.md) assigned `-lr` after building the optimizer, so it was ignored."""
    start = random_weights()
    moved = {}
    for lr in (0.0, 1e-4, 1e-2):
        trained = model()
        step(trained, batch(), lr=lr)
        weights = trained.weights("raw")
        moved[lr] = norm({name: weights[name] - start[name] for name in start})
    assert moved[0.0] == 0.0
    assert moved[1e-2] == pytest.approx(100 * moved[1e-4], rel=1e-3)


def test_every_parameter_receives_a_gradient() -> None:
    gradient = gradients(batch())
    # A key's bias shifts all scores of a query equally, which does not change the softmax.
    small = [n for n, g in gradient.items() if np.abs(g).max() < 1e-4 and not n.endswith("to_k.bias")]
    assert small == []


def test_image_weights_reach_the_gradient_but_not_the_reported_losses() -> None:
    both = batch(size=2)
    first = Batch(
        both.x_t[:1], both.t[:1], both.target[:1], np.ones(1, np.float32), np.ones(1, np.float32), 0, 0, 1
    )
    expected = gradients(first)
    weighted = gradients(replace(both, weights=np.array([2.0, 0.0], np.float32)))
    assert norm({n: weighted[n] - expected[n] for n in expected}) < 1e-5 * norm(expected)
    losses = step(model(), replace(both, weights=np.array([7.0, 0.0], np.float32)))
    np.testing.assert_allclose(
        losses, ((prediction(model(), both) - both.target) ** 2).mean((1, 2, 3)), rtol=1e-5
    )


def prediction(used: Model, data: Batch) -> NDArray[np.float32]:
    return used.to_host(used.evaluate_loss(data, lambda predicted, _: predicted))


def test_training_lowers_the_loss() -> None:
    trained = model(weights=initial_weights(UNet.from_spec(SPEC), seed=0))
    losses = [step(trained, batch()).mean() for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]


# --- State --------------------------------------------------------------------------------------------------


def test_weights_survive_a_round_trip() -> None:
    used = unet(SPEC, "cpu", "fp32")
    raw, ema = random_weights(1), random_weights(2)
    used.load_weights(raw, "raw")
    used.load_weights(ema, "ema")
    assert_same(used.weights("raw"), raw)
    assert_same(used.weights("ema"), ema)
    assert all(values.dtype == np.float32 and values.flags.c_contiguous for values in raw.values())


def test_returned_state_does_not_change() -> None:
    trained = model()
    step(trained, batch(0))
    raw, ema, state = trained.weights("raw"), trained.weights("ema"), trained.training_state()
    kept = [{n: v.copy() for n, v in w.items()} for w in (raw, ema, state.exp_avg, state.exp_avg_sq)]
    step(trained, batch(1))
    for now, then in zip((raw, ema, state.exp_avg, state.exp_avg_sq), kept, strict=True):
        assert_same(now, then)
    assert differ(trained.weights("raw"), raw)


def test_loaded_state_is_copied() -> None:
    weights = random_weights()
    trained = model(weights=weights)
    step(trained, batch())
    assert_same(weights, random_weights())


def test_optimizer_state_is_zero_before_the_first_step() -> None:
    state = model().training_state()
    assert state.step == 0
    assert norm(state.exp_avg) == norm(state.exp_avg_sq) == 0.0


def test_reading_the_average_does_not_change_it() -> None:
    """The average starts as a copy of the weights before the first update; see `Model.train_step`."""
    looked, left_alone = unet(SPEC, "cpu", "fp32"), unet(SPEC, "cpu", "fp32")
    for trained in (looked, left_alone):
        trained.load_weights(random_weights(), "raw")
    looked.weights("ema")
    step(looked, batch())
    step(left_alone, batch())
    assert_same(looked.weights("ema"), left_alone.weights("ema"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumed_training_is_bit_identical(precision: Literal["fp32", "bf16"]) -> None:
    def steps(trained: Model, first: int, last: int) -> None:
        for number in range(first, last):
            step(trained, batch(number, dropout_seed=number), max_grad_norm=1.0)

    whole, begun = model(DROPPING, precision=precision), model(DROPPING, precision=precision)
    resumed = unet(DROPPING, "cpu", precision)
    steps(whole, 0, 5)
    steps(begun, 0, 3)
    state = begun.training_state()
    assert state.step == 3
    resumed.load_weights(begun.weights("raw"), "raw")
    resumed.load_weights(begun.weights("ema"), "ema")
    resumed.load_training_state(state)
    loaded = resumed.training_state()
    assert loaded.step == 3
    assert_same(loaded.exp_avg, state.exp_avg)
    assert_same(loaded.exp_avg_sq, state.exp_avg_sq)
    steps(resumed, 3, 5)
    for which in ("raw", "ema"):
        assert_same(resumed.weights(which), whole.weights(which))
    ours, theirs = resumed.training_state(), whole.training_state()
    assert ours.step == theirs.step == 5
    assert_same(ours.exp_avg, theirs.exp_avg)
    assert_same(ours.exp_avg_sq, theirs.exp_avg_sq)


def test_training_state_follows_adam() -> None:
    """Moments follow the paper's definition, so they are the same in every framework."""
    trained = model()
    step(trained, batch(0))
    first = trained.training_state()
    for name, moment in first.exp_avg.items():
        np.testing.assert_allclose(
            first.exp_avg_sq[name], 0.001 * (10 * moment.astype(np.float64)) ** 2, rtol=1e-4, atol=1e-20
        )
    zeros = {name: np.zeros_like(value) for name, value in first.exp_avg.items()}
    fresh = model()
    fresh.load_training_state(TrainingState(0, zeros, zeros))
    step(fresh, batch(0))
    assert_same(fresh.weights("raw"), trained.weights("raw"))


# --- Prediction ---------------------------------------------------------------------------------------------


def test_raw_and_averaged_weights_are_separate() -> None:
    used = unet(SPEC, "cpu", "fp32")
    used.load_weights(random_weights(1), "raw")
    used.load_weights(random_weights(2), "ema")
    x = used.to_device(batch().x_t)
    for which, seed in (("raw", 1), ("ema", 2)):
        alone = model(weights=random_weights(seed))
        expected = alone.to_host(alone.predict(x, 7, which="raw"))
        predicted = used.predict(x, 7, which="raw" if which == "raw" else "ema")
        np.testing.assert_array_equal(used.to_host(predicted), expected)


def test_prediction_uses_no_dropout_and_changes_nothing() -> None:
    looked, left_alone, never_drops = model(DROPPING), model(DROPPING), model(SPEC)
    step(looked, batch(0))
    step(left_alone, batch(0))
    x = looked.to_device(batch().x_t)
    never_drops.load_weights(looked.weights("raw"), "raw")
    np.testing.assert_array_equal(prediction(looked, batch()), prediction(never_drops, batch()))
    np.testing.assert_array_equal(
        looked.to_host(looked.predict(x, 3, which="raw")),
        never_drops.to_host(never_drops.predict(x, 3, which="raw")),
    )
    step(looked, batch(1))
    step(left_alone, batch(1))
    assert_same(looked.weights("raw"), left_alone.weights("raw"))
    assert_same(looked.weights("ema"), left_alone.weights("ema"))


def test_prediction_of_an_image_does_not_depend_on_the_batch() -> None:
    used, data = model(), batch()
    together = prediction(used, data)
    for image, t in enumerate(data.t.tolist()):
        alone = used.predict(used.to_device(data.x_t[image : image + 1]), t, which="raw")
        np.testing.assert_allclose(used.to_host(alone)[0], together[image], atol=1e-5)


def test_clip_limits_both_ends() -> None:
    used = model()
    clipped = used.clip(used.to_device(np.array([-2, -0.5, 0.5, 2], np.float32)), -1.0, 1.0)
    np.testing.assert_array_equal(used.to_host(clipped), np.array([-1, -0.5, 0.5, 1], np.float32))


# --- Dropout ------------------------------------------------------------------------------------------------


def test_dropout_depends_only_on_the_seed_of_the_batch() -> None:
    def after(seed: int, *, torch_seed: int) -> Weights:
        trained = model(DROPPING)
        torch.manual_seed(torch_seed)
        step(trained, batch(dropout_seed=seed))
        return trained.weights("raw")

    first = after(2**63 - 1, torch_seed=0)
    assert_same(first, after(2**63 - 1, torch_seed=1))
    assert differ(first, after(5, torch_seed=0))


def test_without_dropout_the_seed_has_no_effect() -> None:
    first, second = model(), model()
    step(first, batch(dropout_seed=1))
    step(second, batch(dropout_seed=2))
    assert_same(first.weights("raw"), second.weights("raw"))


# --- Device and precision -----------------------------------------------------------------------------------


def test_bf16_computes_in_bf16_and_keeps_fp32_weights() -> None:
    exact, rounded = model(), unet(SPEC, "cpu", "bf16")
    rounded.load_weights(random_weights(), "raw")
    rounded.load_weights(random_weights(), "ema")
    assert (exact.precision, rounded.precision) == ("fp32", "bf16")
    for number in range(3):
        expected = step(exact, batch(number))
        losses = step(rounded, batch(number))
        assert losses.dtype == np.float32
        assert np.any(losses != expected), "losses must differ from those in fp32"
        np.testing.assert_allclose(losses, expected, rtol=0.05)
    for which in ("raw", "ema"):
        assert {values.dtype for values in rounded.weights(which).values()} == {np.dtype(np.float32)}
    predicted = rounded.predict(rounded.to_device(batch().x_t), 3, which="ema")
    assert rounded.to_host(predicted).dtype == np.float32


@pytest.mark.parametrize("scale_shift", [False, True])
def test_bf16_gradients_and_predictions_are_near_fp32(*, scale_shift: bool) -> None:
    """With dropout, rounding changes a gradient by at most a tenth, and a different mask by more."""
    spec = replace(DROPPING, scale_shift=scale_shift)
    generator = np.random.default_rng(0)
    weights: Weights = {
        p.name: (
            generator.standard_normal(p.shape) / math.sqrt(max(1, math.prod(p.shape[1:])))
            + (p.init == "ones")
        ).astype(np.float32)
        for p in parameters(UNet.from_spec(spec))
    }
    found = []
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    for precision in precisions:
        trained = model(spec, weights, precision)
        predicted = trained.to_host(trained.predict(trained.to_device(batch().x_t), 3, which="ema"))
        step(trained, batch(size=8, dropout_seed=5))
        found.append((predicted, trained.training_state().exp_avg))
    (exact, gradients), (near, rounded) = found
    assert np.linalg.norm(near - exact) < 0.02 * np.linalg.norm(exact)
    total = norm(gradients)
    for name, values in gradients.items():
        assert rounded[name].dtype == np.float32
        difference = float(np.linalg.norm(rounded[name] - values))
        assert difference < 0.15 * float(np.linalg.norm(values)) + 1e-3 * total, name


def test_bf16_sampling_uses_the_trained_weights() -> None:
    trained = model(precision="bf16")
    x_t = trained.to_device(batch().x_t)
    before = trained.to_host(trained.predict(x_t, 3, which="raw")).copy()
    np.testing.assert_array_equal(trained.to_host(trained.predict(x_t, 3, which="raw")), before)
    step(trained, batch(), lr=1e-2)
    after = trained.to_host(trained.predict(x_t, 3, which="raw")).copy()
    fresh = model(weights=trained.weights("raw"), precision="bf16")
    assert np.any(after != before)
    np.testing.assert_array_equal(
        fresh.to_host(fresh.predict(fresh.to_device(batch().x_t), 3, which="raw")), after
    )


def test_bf16_training_is_reproducible_bit_for_bit() -> None:
    first, second = (model(DROPPING, precision="bf16") for _ in range(2))
    for number in range(3):
        for trained in (first, second):
            step(trained, batch(number, dropout_seed=number))
    assert_same(first.weights("raw"), second.weights("raw"))
    assert_same(first.weights("ema"), second.weights("ema"))


@pytest.mark.slow
def test_bf16_loss_curve_is_near_that_of_fp32() -> None:
    """Means of 20 losses differ by at most 2% over 200 steps with dropout."""
    start = initial_weights(UNet.from_spec(SPEC), seed=0)
    spec = replace(SPEC, dropout=0.1)
    curves = []
    for trained in (model(spec, start), model(spec, start, "bf16")):
        losses = [step(trained, batch(n, 8, dropout_seed=n), max_grad_norm=1.0).mean() for n in range(200)]
        curves.append(np.convolve(losses, np.full(20, 1 / 20), "valid"))
    np.testing.assert_allclose(curves[1], curves[0], rtol=0.02)


def test_bf16_without_the_kernels_is_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ddim_torch.model, "cpu_kernels", lambda: None)
    losses = step(model(precision="bf16"), batch())
    np.testing.assert_allclose(losses, step(model(), batch()), rtol=0.05)


def test_auto_is_fp32_on_the_cpu() -> None:
    used = unet(SPEC, "cpu", "auto")
    assert (used.device, used.precision) == ("cpu", "fp32")
    assert used.device_name
    assert used.peak_memory_bytes() > 1e6


def test_doctor_describes_bf16() -> None:
    assert "bf16 on the CPU" in [check.name for check in plugin.ddim_machine_checks()]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_a_user_error() -> None:
    with pytest.raises(UserError, match="cannot use a GPU") as caught:
        unet(SPEC, "cuda", "fp32")
    assert "--device cpu" in caught.value.fix
    assert unet(SPEC, "auto", "fp32").device == "cpu"


@pytest.mark.parametrize(
    ("cuda", "visible", "fix"),
    [
        (None, None, "install a CUDA build of torch"),
        ("13.0", None, "check whether nvidia-smi lists the GPU, and whether its driver supports this CUDA"),
        ("13.0", "7", "check CUDA_VISIBLE_DEVICES, which is '7', and whether nvidia-smi lists the GPU"),
        ("13.0", "", "check CUDA_VISIBLE_DEVICES, which is '', and"),
    ],
)
def test_advice_about_a_missing_gpu_follows_from_the_build(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, visible: str | None, fix: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UserError) as caught:
        unet(SPEC, "cuda", "fp32")
    assert caught.value.fix.startswith(f"use --device cpu, or {fix}")


def test_unknown_value_of_the_graphs_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDIM_HOST_CUDA_GRAPHS", "maybe")
    with pytest.raises(UserError, match="DDIM_HOST_CUDA_GRAPHS must be on or off, not 'maybe'"):
        unet(SPEC, "cpu", "fp32")


def test_adam_formula_equals_the_fused_step() -> None:
    def trained(step_function: Callable[..., None]) -> list[Tensor]:
        rng = torch.Generator().manual_seed(0)
        tensors = [torch.randn(7, generator=rng) for _ in range(2)]
        moments = [[torch.zeros(7) for _ in tensors] for _ in range(2)]
        for number in range(1, 4):
            gradients = [torch.randn(7, generator=rng) for _ in tensors]
            step_function(tensors, gradients, *moments, step=torch.tensor(float(number)), lr=1e-2)
        return [*tensors, *moments[0], *moments[1]]

    for found, expected in zip(trained(adam_formula), trained(adam_step), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_dense_layers_are_the_same_in_both_of_pytorchs_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries are MKL and oneDNN, which is faster on some processors."""
    weights, results = random_weights(), {}
    for onednn in (False, True):
        monkeypatch.setattr("ddim_torch.kernel_layers._ONEDNN_IS_FASTER", onednn)
        trained = model(weights=weights)
        x_t = trained.to_device(batch().x_t)
        predicted = trained.to_host(trained.predict(x_t, 7, which="raw")).copy()
        trained.train_step(batch(), mse, lr=1e-3, ema_decay=0.9, max_grad_norm=NEVER)
        results[onednn] = {"prediction": predicted, **trained.training_state().exp_avg}
    for name, array in results[False].items():
        np.testing.assert_allclose(results[True][name], array, rtol=1e-3, atol=1e-5, err_msg=name)
