"""The cut of the house: layers, extension points, documentation."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from ddim_host import hookspecs
from ddim_host.parameters import PartChoice
from ddim_host.plugins import load_plugins
from ddim_host.registry import Kind

ROOT = Path(__file__).parents[1]


def test_layers_and_independence_are_kept() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_every_hook_that_gives_parts_has_a_kind_and_every_kind_a_hook() -> None:
    hooks = [name for name in vars(hookspecs) if name.startswith("ddim_")]
    assert sorted(hooks) == sorted(
        ["ddim_machine_checks", "ddim_process_groups", *(kind.value for kind in Kind)]
    )
    assert all(inspect.getdoc(getattr(hookspecs, name)) for name in hooks)


@pytest.mark.usefixtures("no_framework")
def test_every_part_that_is_shipped_is_documented() -> None:
    registry = load_plugins("torch").registry
    parts = [
        registry.find(kind, PartChoice(name, None, {})) for kind in Kind for name in registry.names(kind)
    ]
    assert {"mse", "uniform", "unet", "digits", "cosine"} <= {part.name for part in parts}
    for part in parts:
        text = inspect.getdoc(part.make) or ""
        assert text.endswith((".", "`", "`.")) or "Args:" in text, part.label
        for parameter in part.parameters():
            assert f"{parameter.name}: " in text, f"{part.label}: {parameter.name}"


@pytest.mark.usefixtures("no_framework")
def test_plugins_that_are_shipped_load() -> None:
    assert [plugin.error for plugin in load_plugins("torch").installed if plugin.error] == []
