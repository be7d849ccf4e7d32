"""`ddim-host plugins`."""

from __future__ import annotations

import dataclasses
import json

from ddim_host.plugins import Plugin, load_plugins
from ddim_host.registry import Kind

__all__ = ["plugins"]


def plugins(*, as_json: bool) -> int:
    """Print what is installed, as JSON or for people.

    Returns:
        The exit code.
    """
    loaded = load_plugins()
    installed = loaded.installed
    if as_json:
        print(json.dumps([dataclasses.asdict(plugin) for plugin in installed], indent=2))
    else:
        print("\n\n".join(_description(plugin) for plugin in installed))
        for kind, name, owners in loaded.registry.conflicts():
            print(f"\nconflict: {kind.words} {name!r} is given by {' and '.join(owners)}")
    return 0


def _description(plugin: Plugin) -> str:
    lines = [f"{plugin.name}  ({plugin.kind}, {plugin.distribution} {plugin.version}): {plugin.status}"]
    if plugin.kind == "framework" and plugin.status == "available":
        lines.append(f"  run with --plugin {plugin.name}")
    if plugin.error:
        lines.append(f"  {plugin.error}")
    for kind in Kind:
        names = plugin.provides.get(kind.value)
        if names:
            lines.append(f"  {kind.words + ':':<18} {', '.join(names)}")
    return "\n".join(lines)
