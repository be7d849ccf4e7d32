"""Run one framework and store its results; the parity tests run this once per framework.

    python parity_worker.py FRAMEWORK TASK digits|images FOLDER OUT.npz

A process cannot load two frameworks, so the tests compare files.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddim_host.experiment.assembly import assemble
from ddim_host.experiment.config import Request
from ddim_host.experiment.settings import read_setting
from ddim_host.framework.interface import Batch
from ddim_host.framework.unet import initial_weights, parameters
from ddim_host.plugin.parameters import PartChoice
from ddim_host.plugin.registry import Kind
from ddim_host.run.batches import training_batches
from ddim_host.run.training import ema_decay_at, learning_rate_at

if TYPE_CHECKING:
    from ddim_host.experiment.assembly import Experiment
    from ddim_host.framework.interface import Model
    from ddim_host.framework.unet import Weights


def random_weights(experiment: Experiment) -> Weights:
    """Return random parameters, so that zeros hide no layer; activations are of order 1."""
    rng = np.random.default_rng(0)
    weights = {}
    for parameter in parameters(experiment.unet):
        fan_in = int(np.prod(parameter.shape[1:])) or 1
        scale = 0.1 if len(parameter.shape) == 1 else fan_in**-0.5
        offset = 1.0 if parameter.init == "ones" else 0.0
        weights[parameter.name] = (offset + scale * rng.standard_normal(parameter.shape)).astype(np.float32)
    return weights


def experiment_for(
    framework: str, data: str, images: str | None, *, dropout: str, precision: str
) -> Experiment:
    """Return an experiment on digits, or with the CIFAR-10 network on a folder of images."""
    choice = (
        PartChoice("digits", None, {}) if data == "digits" else PartChoice("images", None, {"path": images})
    )
    model = PartChoice("unet", None, {"dropout": dropout})
    settings = {
        "device": "cpu",
        "precision": precision,
        "train_steps": read_setting("train_steps", 200, origin=""),
    }
    return assemble(Request(framework, {Kind.DATA: choice, Kind.MODEL: model}, settings))


def predicted_noise(experiment: Experiment, model: Model) -> dict[str, Any]:
    """Return epsilon at three timesteps for one batch."""
    weights = random_weights(experiment)
    model.load_weights(weights, "raw")
    size, _, channels = experiment.image_shape
    x_t = np.random.default_rng(1).standard_normal((2, channels, size, size), dtype=np.float32)
    return {
        f"t{t}": model.to_host(model.predict(model.to_device(x_t), t, which="raw")) for t in (0, 371, 999)
    }


def loss_curve(experiment: Experiment, model: Model) -> dict[str, Any]:
    """Return the mean loss of each of the first 200 steps."""
    config = experiment.config
    weights = initial_weights(experiment.unet, config.seed)
    model.load_weights(weights, "raw")
    model.load_weights(weights, "ema")
    batches = training_batches(experiment, experiment.images.train)
    losses = []
    for step in range(200):
        values = model.train_step(
            batches.batch(step),
            experiment.loss,
            lr=learning_rate_at(step, lr=config.lr, warmup_steps=config.lr_warmup_steps),
            ema_decay=ema_decay_at(step, ema_decay=config.ema_decay),
            max_grad_norm=config.max_grad_norm,
        )
        losses.append(model.to_host(values).mean(dtype=np.float64))
    return {"losses": np.array(losses)}


def gradients(experiment: Experiment, model: Model) -> dict[str, Any]:
    """Return the gradients at random weights, from Adam's first moment after one step."""
    model.load_weights(random_weights(experiment), "raw")
    batch = training_batches(experiment, experiment.images.train).batch(0)
    few = Batch(
        batch.x_t[:16],
        batch.t[:16],
        batch.target[:16],
        batch.weights[:16],
        batch.sampler_weights[:16],
        batch.dropout_seed,
        first=0,
        total=16,
    )
    # The first moment after one step is (1 - 0.9) times the gradient; the limit on the norm is never reached.
    model.train_step(few, experiment.loss, lr=1e-3, ema_decay=0.5, max_grad_norm=1e9)
    return {name: moment / 0.1 for name, moment in model.training_state().exp_avg.items()}


TASKS = {
    "predicted-noise": predicted_noise,
    "loss-curve": loss_curve,
    "gradients": gradients,
    "gradients-with-dropout": gradients,
    "predicted-noise-in-bf16": predicted_noise,
    "loss-curve-in-bf16": loss_curve,
    "gradients-in-bf16": gradients,
    "gradients-with-dropout-in-bf16": gradients,
}


def main(framework: str, task: str, data: str, images: str, out: str) -> None:
    dropout = "0.2" if "dropout" in task else "0"
    precision = "bf16" if "bf16" in task else "fp32"
    experiment = experiment_for(framework, data, images, dropout=dropout, precision=precision)
    result = TASKS[task](experiment, experiment.build_model())
    other = "jittor" if framework == "torch" else "torch"
    assert other not in sys.modules
    np.savez(Path(out), **result)


if __name__ == "__main__":
    main(*sys.argv[1:])
