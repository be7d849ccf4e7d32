"""Test a loss on the arrays of one framework: compute its values, and train a network for one step.

The arguments are the framework, the loss's module and name, and its parameters as JSON; the losses are
printed as JSON. If the framework itself does not work, the reason is printed and the exit code is `UNUSABLE`.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
from typing import TYPE_CHECKING

import numpy as np

from ddim_host.errors import UserError
from ddim_host.framework.unet import UNet, initial_weights
from ddim_host.plugin import validation
from ddim_host.plugin.loading import load_plugins
from ddim_host.plugin.parameters import PartChoice
from ddim_host.plugin.registry import Kind, Part
from ddim_host.testing.models import one_batch, tiny_spec
from ddim_host.testing.part import UNUSABLE

if TYPE_CHECKING:
    from ddim_host.framework.interface import Model


def main(framework: str, module: str, name: str, parameters: str) -> None:
    """Compute the losses, train one step, and print the losses.

    Raises:
        AssertionError: The weights are not finite after the step, or did not change.
        UserError: The loss breaks its contract.
        SystemExit: The framework does not work.
    """
    try:
        model = _tiny_model(framework)
    except (ImportError, UserError) as error:
        print(error)
        sys.exit(UNUSABLE)
    make = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    part = Part(Kind.LOSS, name, make, "", "")  # type: ignore[arg-type]
    loss = validation.checked_loss(part, part.values(json.loads(parameters)))
    spec = tiny_spec()
    before = initial_weights(UNet.from_spec(spec), 0)
    for which in ("raw", "ema"):
        model.load_weights(before, which)
    rng = [np.random.default_rng(seed) for seed in (0, 1)]
    prediction, target = (r.standard_normal((4, 3, 8, 8)).astype(np.float32) for r in rng)
    values = model.to_host(loss(model.to_device(prediction), model.to_device(target)))
    model.to_host(model.train_step(one_batch(spec), loss, lr=1e-3, ema_decay=0.5, max_grad_norm=1.0))
    after = model.weights("raw")
    assert all(np.isfinite(array).all() for array in after.values()), "its gradient is not finite"
    assert any((after[key] != before[key]).any() for key in before), "its gradient is zero"
    print(json.dumps([float(value) for value in values]))


def _tiny_model(framework: str) -> Model:
    factory = load_plugins(framework).registry.find(Kind.MODEL, PartChoice("unet", None, {}))
    return validation.checked_model(factory, lambda: factory.make(tiny_spec(), "cpu", "fp32"))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
