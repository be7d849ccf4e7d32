"""Fake distributions: plugins installed for a single test."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ddim_host.plugin.loading import load_plugins

if TYPE_CHECKING:
    from pathlib import Path

    from ddim_host.plugin.discovery import Plugin


class Site:
    """A folder of installed distributions, as created by `pip install --target`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def env(self) -> dict[str, str]:
        """Environment that puts the folder first on the path of a fresh process."""
        path = [str(self.path), os.environ.get("PYTHONPATH", "")]
        return {"PYTHONPATH": os.pathsep.join(filter(None, path))}

    def distribution(self, name: str, entry_points: str, version: str = "1.0") -> Path:
        info = self.path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (info / "METADATA").write_text(metadata, encoding="utf-8")
        (info / "entry_points.txt").write_text(entry_points, encoding="utf-8")
        return info

    def module(self, name: str, source: str) -> None:
        (self.path / f"{name}.py").write_text(source, encoding="utf-8")

    def package(self, name: str) -> None:
        """Add an empty importable package, as the stand-in of a framework."""
        (self.path / name).mkdir(parents=True)
        (self.path / name / "__init__.py").touch()

    def plugin(
        self,
        distribution: str,
        source: str,
        *,
        entry: str | None = None,
        group: str = "plugins",
        version: str = "1.0",
    ) -> None:
        """Add a distribution with one module and one entry point; `hookimpl` is imported for the source."""
        module = distribution.replace("-", "_")
        entry_points = f"[ddim_host.{group}]\n{entry or distribution} = {module}\n"
        self.distribution(distribution, entry_points, version)
        self.module(module, f"from ddim_host import hookimpl\n{source}\n")


def losses(*names: str) -> str:
    """Return the source of a plugin whose losses are all the mean squared error."""
    table = ", ".join(f"{name!r}: loss" for name in names)
    return (
        "def loss(prediction, target):\n"
        "    return ((prediction - target) ** 2).reshape((prediction.shape[0], -1)).mean(1)\n"
        f"@hookimpl\ndef ddim_losses():\n    return {{{table}}}"
    )


def installed(name: str) -> Plugin:
    """Return the only plugin of this name, as found by this process."""
    [plugin] = [plugin for plugin in load_plugins().installed if plugin.name == name]
    return plugin
