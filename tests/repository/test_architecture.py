"""The structure of the project: layers, extension points, documentation of parts."""

from __future__ import annotations

import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ddim_host
from ddim_host.plugin.loading import load_plugins
from ddim_host.plugin.parameters import PartChoice
from ddim_host.plugin.registry import OWN_DISTRIBUTIONS, Kind
from tests.support.repository import ROOT


@pytest.mark.process
def test_imports_respect_the_layers() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_all_distributions_have_the_version_of_the_host() -> None:
    projects = [ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")]
    tables = [tomllib.loads(path.read_text(encoding="utf-8"))["project"] for path in projects]
    assert {table["name"]: table["version"] for table in tables} == dict.fromkeys(
        OWN_DISTRIBUTIONS, ddim_host.__version__
    )


@pytest.mark.usefixtures("no_framework")
def test_every_shipped_part_is_documented() -> None:
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
def test_shipped_plugins_load() -> None:
    assert [plugin.error for plugin in load_plugins("torch").installed if plugin.error] == []
