"""One framework per process: only the chosen plugin is imported, and no other framework can be."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING

import pytest

from ddim_host.plugin.loading import load_plugins
from tests.support.commands import DRY
from tests.support.distributions import Site

if TYPE_CHECKING:
    from tests.support.commands import Outcome, PythonCode


# --- One framework per process ------------------------------------------------------------------------------


REMEMBERS_MODULES = """
import atexit, sys
atexit.register(lambda: print('modules:', *sys.modules, file=sys.stderr))
from ddim_host.cli import main
main()
"""


PADDLE = """
import paddle
@hookimpl
def ddim_model_factories():
    return {'unet': lambda spec, device, precision: None}
"""


def modules(outcome: Outcome) -> set[str]:
    assert outcome.code == 0, outcome.err
    return set(outcome.err.rpartition("modules:")[2].split())


@pytest.fixture(scope="module")
def paddle(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A second framework plugin, and stand-ins for frameworks that import quickly."""
    site = Site(tmp_path_factory.mktemp("paddle"))
    site.plugin("ddim-paddle", PADDLE, entry="paddle", group="frameworks")
    for name in ("paddle", "torch", "tensorflow"):
        site.package(name)
    return site


def test_only_the_chosen_plugin_is_imported(paddle: Site, python: PythonCode) -> None:
    found = modules(python(REMEMBERS_MODULES, *DRY, env=paddle.env))
    assert "ddim_torch.plugin" in found
    assert not {"ddim_paddle", "paddle"} & found


def test_another_framework_can_be_chosen(paddle: Site, python: PythonCode) -> None:
    found = modules(python(REMEMBERS_MODULES, "run", "--plugin", "paddle", "--dry-run", env=paddle.env))
    assert {"ddim_paddle", "paddle"} <= found
    assert not {"ddim_torch.plugin", "torch"} & found


def test_plugins_imports_no_framework_and_no_plugin_of_one(paddle: Site, python: PythonCode) -> None:
    found = modules(python(REMEMBERS_MODULES, "plugins", env=paddle.env))
    assert "ddim_losses" in found
    assert not {"ddim_paddle", "ddim_torch.plugin", "paddle", "torch"} & found


def test_finding_another_framework_is_allowed_but_importing_it_is_not(
    paddle: Site, python: PythonCode
) -> None:
    code = """
import importlib.util
from ddim_host.plugin.loading import load_plugins
load_plugins('torch')
assert importlib.util.find_spec('tensorflow') is not None
assert importlib.util.find_spec('mindspore') is None
try:
    import tensorflow
except ImportError:
    print('refused')
import torch
load_plugins('torch')
"""
    outcome = python(code, env=paddle.env)
    assert (outcome.code, outcome.out, outcome.err) == (0, "refused\n", "")


def test_error_of_importing_another_framework_explains_why(paddle: Site, python: PythonCode) -> None:
    code = "from ddim_host.plugin.loading import load_plugins; load_plugins('torch'); import tensorflow"
    outcome = python(code, env=paddle.env)
    assert "'tensorflow' cannot be imported here: this process runs torch and cannot load" in outcome.err


def test_guard_remains_after_loading_and_follows_the_last_choice(paddle: Site, python: PythonCode) -> None:
    code = """
from ddim_host.plugin.loading import load_plugins
load_plugins()
try:
    import torch
except ImportError:
    print('refused')
load_plugins('torch')
import torch
"""
    outcome = python(code, env=paddle.env)
    assert (outcome.code, outcome.out, outcome.err) == (0, "refused\n", "")


@pytest.mark.usefixtures("no_framework")
def test_process_with_another_framework_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax", types.ModuleType("jax"))
    with pytest.raises(RuntimeError, match="already loaded jax"):
        load_plugins("torch")


# --- Waiting threads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "framework", "count"),
    [
        ({}, "'torch'", "10000"),
        ({}, "None", None),
        ({"GOMP_SPINCOUNT": "7"}, "'torch'", "7"),
        ({"OMP_WAIT_POLICY": "active"}, "'torch'", None),
    ],
)
def test_threads_spin_briefly_unless_the_user_sets_otherwise(
    given: dict[str, str], framework: str, count: str | None, python: PythonCode
) -> None:
    code = (
        "import os\n"
        "[os.environ.pop(name, None) for name in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')]\n"
        f"os.environ.update({given})\n"
        "from ddim_host.plugin.loading import load_plugins\n"
        f"load_plugins({framework})\n"
        "print(os.environ.get('GOMP_SPINCOUNT'))\n"
    )
    assert python(code).out.strip() == str(count)
