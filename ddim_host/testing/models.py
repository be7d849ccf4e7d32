"""The contract of a framework: tests of its model factory with a tiny network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddim_host.framework.interface import ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON, Batch
from ddim_host.framework.unet import UNet, UNetSpec, initial_weights, parameters
from ddim_host.plugin import validation
from ddim_host.plugin.registry import Kind
from ddim_host.testing.part import PartContract, linear_schedule

if TYPE_CHECKING:
    from ddim_host.framework.interface import Model, WhichWeights
    from ddim_host.framework.unet import Weights

_TIMESTEPS = 50
_SMALL_STEP = 0.01
_OBJECTIVE = "the gradient is not that of sum(weights * losses) / total"
_REFERENCE = Path(__file__).with_name("reference_prediction.npy")
_ANOTHER_NETWORK = "this is not the network that the spec describes"
_BOTH: tuple[WhichWeights, WhichWeights] = ("raw", "ema")


def tiny_spec(*, dropout: float = 0.0) -> UNetSpec:
    """Return the spec of a small network with all features: two levels, attention, several groups."""
    return UNetSpec(
        image_size=(8, 8),
        image_channels=3,
        num_train_timesteps=_TIMESTEPS,
        base_channels=8,
        channel_multipliers=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(4,),
        num_groups=4,
        dropout=dropout,
    )


def one_batch(spec: UNetSpec, *, seed: int = 0, batch_size: int = 4) -> Batch:
    """Return a batch of noised images for a training step.

    The batch is a share of a larger one and its images have different weights, so a model that ignores
    `total` or the weights computes a wrong gradient.
    """
    rng = np.random.default_rng(seed)
    shape = (batch_size, spec.image_channels, *spec.image_size)
    schedule = linear_schedule(spec.num_train_timesteps)
    t = rng.integers(0, spec.num_train_timesteps, batch_size, dtype=np.int64)
    noise = rng.standard_normal(shape).astype(np.float32)
    share = np.sqrt(schedule.alphas_cumprod[t])[:, None, None, None]
    x_t = share * np.tanh(rng.standard_normal(shape)) + np.sqrt(1.0 - share**2) * noise
    weights = np.geomspace(0.1, 3.0, batch_size, dtype=np.float32)
    return Batch(
        x_t.astype(np.float32), t, noise, weights, weights, dropout_seed=1, first=0, total=2 * batch_size
    )


def _anywhere() -> Weights:
    """Return weights far from the initial ones, with which most of the network would have no gradient."""
    rng = np.random.default_rng(7)
    weights = initial_weights(UNet.from_spec(tiny_spec()), 0)
    return {
        name: array + 0.1 * rng.standard_normal(array.shape, dtype=np.float32)
        for name, array in weights.items()
    }


def _require_close(found: Any, wanted: Any, what: str) -> None:
    """Compare arrays up to the rounding errors of fp32 for numbers of this size."""
    np.testing.assert_allclose(
        found, wanted, rtol=1e-2, atol=1e-4 * float(np.abs(wanted).max()), err_msg=what
    )


def _mse(prediction: Any, target: Any) -> Any:
    return ((prediction - target) ** 2).reshape((prediction.shape[0], -1)).mean(1)


class ModelFactoryContract(PartContract):
    """Tests of a framework's network: the entire interface that the host uses."""

    kind = Kind.MODEL

    def model(self, *, seed: int = 0, dropout: float = 0.0) -> Model:
        """Return a tiny network with initial weights, on the CPU in fp32."""
        part, spec = self.whole_part(), tiny_spec(dropout=dropout)
        model = validation.checked_model(part, lambda: part.make(spec, "cpu", "fp32", **self.values()))
        weights = initial_weights(UNet.from_spec(spec), seed)
        model.load_weights(weights, "raw")
        model.load_weights(weights, "ema")
        return model

    def trained(self, steps: int, *, first: int = 0, model: Model | None = None) -> Model:
        """Return a model after some training steps, each on a different batch."""
        model = model or self.model()
        for step in range(first, first + steps):
            batch = one_batch(tiny_spec(), seed=step)
            model.train_step(batch, _mse, lr=1e-3, ema_decay=0.9, max_grad_norm=1.0)
        return model

    def test_it_reports_its_device(self) -> None:
        """Check the device and its name, number of threads, precision, peak memory and synchronisation."""
        model = self.model()
        assert (model.device, model.precision) == ("cpu", "fp32")
        assert model.device_name
        assert model.threads >= 1
        model.synchronize()
        assert model.peak_memory_bytes() > 0

    def test_weights_are_restored(self) -> None:
        """Check that both kinds of weights are returned exactly, under their names, as copies."""
        model, spec = self.model(), tiny_spec()
        raw, ema = (initial_weights(UNet.from_spec(spec), seed) for seed in (1, 2))
        model.load_weights(raw, "raw")
        model.load_weights(ema, "ema")
        expected = {parameter.name: parameter.shape for parameter in parameters(UNet.from_spec(spec))}
        for given, found in ((raw, model.weights("raw")), (ema, model.weights("ema"))):
            assert {name: array.shape for name, array in found.items()} == expected
            for name, array in found.items():
                assert array.dtype == np.float32
                np.testing.assert_array_equal(array, given[name], name)
                array[...] = 7.0
        np.testing.assert_array_equal(next(iter(model.weights("raw").values())), next(iter(raw.values())))

    def test_arrays_go_to_the_device_and_back(self) -> None:
        """Check that arrays are unchanged by the round trip, and clipped on request."""
        model = self.model()
        array = np.linspace(-2.0, 2.0, 2 * 3 * 8 * 8, dtype=np.float32).reshape(2, 3, 8, 8)
        tensor = model.to_device(array)
        np.testing.assert_array_equal(model.to_host(tensor), array)
        np.testing.assert_array_equal(model.to_host(model.clip(tensor, -1.0, 1.0)), array.clip(-1.0, 1.0))
        np.testing.assert_allclose(
            model.to_host(tensor * 2.0 - tensor / 4.0 + 1.0), array * 1.75 + 1, atol=1e-5
        )

    def test_predictions_are_independent_of_the_batch(self) -> None:
        """Check shapes and independence of other images, for several timesteps and both kinds of weights."""
        model = self.trained(2)
        x_t = one_batch(tiny_spec()).x_t
        predictions = {}
        for t in (0, 17, _TIMESTEPS - 1):
            for which in _BOTH:
                together = model.to_host(model.predict(model.to_device(x_t), t, which=which)).copy()
                assert together.shape == x_t.shape
                assert together.dtype == np.float32
                alone = [
                    model.to_host(model.predict(model.to_device(x_t[i : i + 1]), t, which=which)).copy()
                    for i in range(len(x_t))
                ]
                np.testing.assert_allclose(np.concatenate(alone), together, rtol=1e-3, atol=1e-4)
                predictions[t, which] = together
        assert np.abs(predictions[0, "raw"] - predictions[17, "raw"]).max() > 1e-5, (
            "the timestep has no effect"
        )
        assert np.abs(predictions[0, "raw"] - predictions[0, "ema"]).max() > 1e-7, "raw and ema are the same"

    def test_predictions_match_the_reference(self) -> None:
        """Compare with predictions of diffusers' `UNet2DModel` with equal weights, up to fp32 rounding."""
        model, batch = self.model(), one_batch(tiny_spec())
        model.load_weights(_anywhere(), "raw")
        predictions = [
            model.to_host(model.predict(model.to_device(batch.x_t[i : i + 1]), int(t), which="raw")).copy()
            for i, t in enumerate(batch.t)
        ]
        reference = np.load(_REFERENCE, allow_pickle=False)
        np.testing.assert_allclose(
            np.concatenate(predictions), reference, rtol=1e-3, atol=1e-4, err_msg=_ANOTHER_NETWORK
        )

    def test_training_lowers_the_loss(self) -> None:
        """Check that a repeated batch lowers the loss and that `evaluate_loss` agrees with `train_step`."""
        model, batch = self.model(), one_batch(tiny_spec())
        losses = []
        for _ in range(30):
            before = model.to_host(model.evaluate_loss(batch, _mse)).copy()
            trained = model.train_step(batch, _mse, lr=3e-3, ema_decay=0.9, max_grad_norm=1.0)
            losses.append(model.to_host(trained).copy())
            np.testing.assert_allclose(losses[-1], before, rtol=1e-3, atol=1e-5)
        assert losses[0].shape == (len(batch.t),)
        assert losses[-1].mean() < 0.8 * losses[0].mean(), "the loss does not decrease"

    def test_the_gradient_is_that_of_the_weighted_losses(self) -> None:
        """Check that the gradient predicts the effect of a small step on sum(weights x losses) / total."""
        model, batch = self.model(), one_batch(tiny_spec())
        start = _anywhere()
        model.load_weights(start, "raw")
        model.train_step(batch, _mse, lr=1e-3, ema_decay=0.9, max_grad_norm=1e9)
        gradient = {name: array / 0.1 for name, array in model.training_state().exp_avg.items()}
        norm = sum(float((array.astype(np.float64) ** 2).sum()) for array in gradient.values()) ** 0.5
        objectives = []
        for sign in (-1.0, 1.0):
            step = sign * _SMALL_STEP / norm
            moved = {
                name: (array + step * gradient[name]).astype(np.float32) for name, array in start.items()
            }
            model.load_weights(moved, "raw")
            losses = model.to_host(model.evaluate_loss(batch, _mse)).astype(np.float64)
            objectives.append(float((batch.weights * losses).sum() / batch.total))
        slope = (objectives[1] - objectives[0]) / (2.0 * _SMALL_STEP)
        np.testing.assert_allclose(norm, slope, rtol=5e-3, err_msg=_OBJECTIVE)

    def test_every_step_is_a_step_of_adam(self) -> None:
        """Compare moments, weights and averages with arXiv 1412.6980, algorithm 1, after several steps."""
        model = self.model()
        raw = _anywhere()
        for which in _BOTH:
            model.load_weights(raw, which)
        first, second = ({name: np.zeros_like(array) for name, array in raw.items()} for _ in range(2))
        ema = raw
        for step in range(1, 5):
            self.trained(1, first=step, model=model)
            state = model.training_state()
            assert state.step == step
            for name, found in model.weights("raw").items():
                # The gradient follows from the first moment, and everything else from the gradient.
                gradient = (state.exp_avg[name].astype(np.float64) - ADAM_BETA1 * first[name]) / (
                    1.0 - ADAM_BETA1
                )
                square = ADAM_BETA2 * second[name] + (1.0 - ADAM_BETA2) * gradient**2
                _require_close(state.exp_avg_sq[name], square, f"the second moment of {name}")
                corrected = np.sqrt(square / (1.0 - ADAM_BETA2**step)) + ADAM_EPSILON
                moved = raw[name] - 1e-3 * state.exp_avg[name] / (1.0 - ADAM_BETA1**step) / corrected
                np.testing.assert_allclose(found, moved, rtol=1e-5, atol=1e-5, err_msg=f"step {step}: {name}")
            raw, before = model.weights("raw"), ema
            ema = model.weights("ema")
            for name, average in ema.items():
                wanted = 0.9 * before[name] + 0.1 * raw[name]
                np.testing.assert_allclose(average, wanted, rtol=1e-5, atol=1e-6, err_msg=f"average {name}")
            first, second = state.exp_avg, state.exp_avg_sq

    def test_dropout_follows_its_seed(self) -> None:
        """Check that dropout is the same for equal seeds, differs between seeds, and is off in evaluation."""
        model = self.model(dropout=0.5)
        losses = []
        for seed in (1, 1, 2):
            model.load_weights(_anywhere(), "raw")
            batch = replace(one_batch(tiny_spec()), dropout_seed=seed)
            evaluated = model.to_host(model.evaluate_loss(batch, _mse)).copy()
            trained = model.train_step(batch, _mse, lr=1e-3, ema_decay=0.9, max_grad_norm=1.0)
            losses.append((evaluated, model.to_host(trained).copy()))
        (evaluated, one), (again, same), (_, other) = losses
        np.testing.assert_array_equal(evaluated, again, "dropout in evaluate_loss")
        np.testing.assert_array_equal(one, same, "dropout differs for equal seeds")
        assert (one != other).any(), "dropout does not depend on its seed"
        assert (one != evaluated).any(), "dropout has no effect"

    def test_gradients_are_clipped_before_the_step(self) -> None:
        """Check that the optimizer stores the clipped gradient, whose norm is at most the limit."""
        model = self.model()
        model.train_step(one_batch(tiny_spec()), _mse, lr=1e-3, ema_decay=0.9, max_grad_norm=1e-3)
        moments = model.training_state().exp_avg.values()
        squares = sum(float((array.astype(np.float64) ** 2).sum()) for array in moments)
        np.testing.assert_allclose(10.0 * squares**0.5, 1e-3, rtol=1e-2)  # exp_avg is 0.1 times the gradient

    def test_training_can_be_resumed(self) -> None:
        """Check that another model with the same weights and optimizer state takes bit-identical steps."""
        original = self.trained(3)
        restored = self.model(seed=5)
        for which in _BOTH:
            restored.load_weights(original.weights(which), which)
        state = original.training_state()
        assert state.step == 3
        restored.load_training_state(state)
        for model in (original, restored):
            self.trained(2, first=3, model=model)
        for which in _BOTH:
            for name, array in original.weights(which).items():
                np.testing.assert_array_equal(restored.weights(which)[name], array, f"{which} {name}")

    def test_it_is_deterministic(self) -> None:
        """Check that equal steps from equal weights give identical bits."""
        one, other = (self.trained(3).weights("raw") for _ in range(2))
        for name, array in one.items():
            np.testing.assert_array_equal(other[name], array, name)
