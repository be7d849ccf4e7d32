"""`ddim-host plugins`."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from ddim_host.errors import UserError
from ddim_host.parameters import REQUIRED, format_choice
from ddim_host.plugins import Plugin, load_plugins
from ddim_host.registry import Kind, Part, Registry

if TYPE_CHECKING:
    import argparse

__all__ = ["main"]


def main(options: argparse.Namespace) -> int:
    """Print what is installed, as JSON or for people.

    Returns:
        The exit code.
    """
    loaded = load_plugins()
    installed = loaded.installed
    if options.json:
        print(json.dumps([dataclasses.asdict(plugin) for plugin in installed], indent=2))
    else:
        print("\n\n".join(_description(plugin, loaded.registry) for plugin in installed))
        for kind, name, owners in loaded.registry.conflicts():
            print(f"\nconflict: {kind.words} {name!r} is given by {' and '.join(owners)}")
    return 0


def _description(plugin: Plugin, registry: Registry) -> str:
    lines = [f"{plugin.name}  ({plugin.kind}, {plugin.distribution} {plugin.version}): {plugin.status}"]
    if plugin.kind == "framework" and plugin.status == "available":
        lines.append(f"  run with --plugin {plugin.name}")
    if plugin.error:
        lines.append(f"  {plugin.error}")
    for kind in Kind:
        names = plugin.provides.get(kind.value, ())
        parts = [part for part in registry.given_by(plugin.distribution, kind) if part.name in names]
        for number, part in enumerate(parts):
            title = "" if number else f"{kind.words}:"
            lines.append(f"  {title:<18} {_signature(part)}")
    return "\n".join(lines)


def _signature(part: Part) -> str:
    """The part as users write it, with all that can be set and the defaults."""
    try:
        parameters = part.parameters()
    except UserError as error:
        return f"{part.name}  (broken: {error.why})"
    defaults: dict[str, Any] = {p.name: "..." if p.default is REQUIRED else p.default for p in parameters}
    return format_choice(part.name, defaults)
