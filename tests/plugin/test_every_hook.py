"""Every extension point is documented accurately, has a contract for tests of plugins, and is used."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

import pytest

from ddim_host import testing
from ddim_host.framework import interface
from ddim_host.plugin import contracts, hookspecs
from ddim_host.plugin.registry import Kind
from tests.support.repository import ROOT

if TYPE_CHECKING:
    from tests.support.commands import PythonCode

GUIDE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
HOOKS = [name for name in vars(hookspecs) if name.startswith("ddim_")]

# Protocols of the callables; a type alias has no signature of its own.
CALLED = {
    Kind.MODEL: interface.ModelFactory,
    Kind.NOISE_SCHEDULE: contracts.NoiseScheduleFactory,
    Kind.TIMESTEP_SAMPLER: contracts.TimestepSamplerFactory,
    Kind.LOSS: interface.Loss,
    Kind.LOSS_WEIGHTING: contracts.LossWeighting,
    Kind.TIMESTEP_SUBSET: contracts.TimestepSubset,
    Kind.SOLVER: contracts.Solver,
    Kind.SEARCH: contracts.SubsetSearch,
}


def test_all_hooks_except_two_provide_parts() -> None:
    assert {*HOOKS} == {kind.value for kind in Kind} | {"ddim_machine_checks", "ddim_process_groups"}


@pytest.mark.parametrize("name", HOOKS)
def test_hook_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(hookspecs, name))
    assert not inspect.signature(getattr(hookspecs, name)).parameters
    assert re.search(rf"^\| `{name}` \|", GUIDE, re.MULTILINE)


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.option)
def test_guide_lists_the_arguments_of_parts(kind: Kind) -> None:
    protocol: Any = CALLED.get(kind)
    names = [] if protocol is None else list(inspect.signature(protocol.__call__).parameters)[1:]
    assert f"| `{kind.value}` | `({', '.join(names)})` |" in GUIDE
    assert kind.arguments == tuple(names)
    if protocol is not None:
        specified = inspect.getdoc(getattr(hookspecs, kind.value)) or ""
        assert f"({', '.join(names)})" in specified


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.option)
def test_kind_has_a_contract(kind: Kind) -> None:
    classes = [getattr(testing, name) for name in testing.__all__]
    assert [cls for cls in classes if getattr(cls, "kind", None) is kind]


def test_every_hook_has_an_implementation(python: PythonCode) -> None:
    code = (
        "from ddim_host.plugin.loading import load_plugins\n"
        "from ddim_host.plugin.registry import Kind\n"
        "plugins = load_plugins('torch')\n"
        "assert all(plugins.registry.of_kind(kind) for kind in Kind)\n"
        "assert plugins.machine_checks()\n"
        "assert plugins.join_processes\n"
    )
    done = python(code)
    assert done.code == 0, done.err
