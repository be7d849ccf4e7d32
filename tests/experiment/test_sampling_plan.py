"""A sampling plan is built once per number of steps and eta, because building it tries the solver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddim_host.experiment.assembly import assemble
from ddim_host.experiment.config import Request
from ddim_host.plugin import validation

if TYPE_CHECKING:
    import pytest


def test_plan_is_built_once_per_steps_and_eta(no_framework: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal steps and eta share a plan, whether they are given or configured."""
    tried = []
    real = validation.checked_solver

    def counted(part: Any, parameters: Any, steps: Any) -> Any:
        tried.append((len(steps), max(step.sigma for step in steps) > 0.0))
        return real(part, parameters, steps)

    monkeypatch.setattr(validation, "checked_solver", counted)
    settings: dict[str, Any] = {"steps": 5, "eta": 0.0}
    experiment = assemble(Request("torch", settings=settings), image_shape=(8, 8, 1))
    tried.clear()
    plan = experiment.sampling_plan()
    assert all(experiment.sampling_plan(*given) is plan for given in ((), (5,), (5, 0.0)))
    assert tried == [(5, False)]
    assert any(step.sigma > 0.0 for step in experiment.sampling_plan(eta=1.0).steps)
    assert len(experiment.sampling_plan(3).steps) == experiment.sampling_plan(3).calls == 3
    assert tried == [(5, False), (5, True), (3, False)]
