"""Source distributions contain the code and its tests, not the author's runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest

from ddim_host.scaffold.names import PLUGIN_KINDS, new_plugin
from ddim_host.scaffold.rendering import write_plugin
from tests.support.repository import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("no_framework")]

PROJECTS = sorted(
    path.parent for folder in ("plugins", "examples") for path in (ROOT / folder).glob("*/pyproject.toml")
)
LEFT_BEHIND = ("runs/mine/checkpoints/step-1.safetensors", "first-try/metrics.csv", "dist/x.whl", "notes.txt")


def source_distribution_of(project: Path) -> set[str]:
    """Use a project, build its source distribution offline, and return the paths in it."""
    for name in LEFT_BEHIND:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("private", encoding="utf-8")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "sdist"], cwd=project, check=True)
    [archive] = (project / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as source:
        return {member.name.partition("/")[2] for member in source if member.isfile()}


@pytest.mark.parametrize("kind", ["loss", "framework"])
def test_new_plugin_publishes_its_code_alone(kind: str, tmp_path: Path) -> None:
    plugin = new_plugin("mine", PLUGIN_KINDS[kind])
    files = {path.relative_to(tmp_path / "new").as_posix() for path in write_plugin(plugin, tmp_path / "new")}
    assert ".gitignore" in files
    assert source_distribution_of(tmp_path / "new") == {*files, "PKG-INFO"}


def test_git_ignores_the_runs_of_a_new_plugin(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    write_plugin(new_plugin("mine", PLUGIN_KINDS["loss"]), folder)
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    ignored = ["runs/a/config.toml", "dist/a.whl", ".venv/bin/python", "ddim_mine/__pycache__/a.pyc"]
    done = subprocess.run(
        ["git", "check-ignore", *ignored, "ddim_mine/__init__.py", "pyproject.toml"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ignored


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.name)
def test_plugins_of_this_repository_publish_their_code_alone(project: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns("dist", "runs", "*.pyc", ".*"))
    names = source_distribution_of(copy)
    assert not names & {*LEFT_BEHIND}
    expected = {path.relative_to(copy).as_posix() for path in copy.rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == expected
    assert "README.md" in names
