"""Compute networks of the family in one framework; the parity tests run this once per framework.

    python family_worker.py FRAMEWORK noise|noise-of-all|training OUT.npz

A process cannot load two frameworks, so the tests compare files.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddim_host.framework.unet import spec_from_diffusers
from ddim_host.plugin.loading import load_plugins
from ddim_host.plugin.parameters import PartChoice
from ddim_host.plugin.registry import Kind
from ddim_host.testing import one_batch
from tests.support.family import FAMILY, TELLING, UNUSUAL
from tests.support.networks import random_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TIMESTEPS = (0, 17, 500)


def noise(build: Any, names: Iterable[str] = TELLING) -> dict[str, Any]:
    """Return the predictions of networks of the family."""
    predicted = {}
    for name in names:
        spec = spec_from_diffusers(FAMILY[name], 1000)
        model = build(spec, "cpu", "fp32")
        model.load_weights(random_weights(spec), "raw")
        x_t = model.to_device(one_batch(spec, batch_size=2).x_t)
        for t in TIMESTEPS:
            predicted[f"{name}, t {t}"] = model.to_host(model.predict(x_t, t, which="raw")).copy()
    return predicted


def training(build: Any) -> dict[str, Any]:
    """Return losses over some steps, and the first gradient, of the network with all unusual settings."""

    def mse(prediction: Any, target: Any) -> Any:
        return ((prediction - target) ** 2).reshape((prediction.shape[0], -1)).mean(1)

    whole = spec_from_diffusers(UNUSUAL, 1000)
    networks = {
        "all": whole,
        "no norm and no dropout": replace(whole, middle_attention_groups=None, dropout=0.0),
        "no attention in the middle": replace(whole, middle_attention=False, attention_resolutions=()),
    }
    found = {}
    for name, spec in networks.items():
        model = build(spec, "cpu", "fp32")
        weights = random_weights(spec)
        for which in ("raw", "ema"):
            model.load_weights(weights, which)
        losses = []
        for step in range(5):
            batch = replace(one_batch(spec, seed=step), dropout_seed=step)
            values = model.train_step(batch, mse, lr=1e-3, ema_decay=0.9, max_grad_norm=1e9)
            losses.append(model.to_host(values).copy())
            if step == 0:
                for parameter, moment in model.training_state().exp_avg.items():
                    found[f"{name}: {parameter}"] = moment / 0.1
        found[f"{name}: losses"] = np.array(losses)
    return found


def noise_of_all(build: Any) -> dict[str, Any]:
    """Return the predictions of every network of the family, which takes Jittor most of an hour."""
    return noise(build, FAMILY)


TASKS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "noise": noise,
    "noise-of-all": noise_of_all,
    "training": training,
}


def main(framework: str, task: str, out: str) -> None:
    registry = load_plugins(framework).registry
    build = registry.find(Kind.MODEL, PartChoice("unet", None, {})).make
    result = TASKS[task](build)
    assert ("jittor" if framework == "torch" else "torch") not in sys.modules
    np.savez(Path(out), **result)


if __name__ == "__main__":
    main(*sys.argv[1:])
