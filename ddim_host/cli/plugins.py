"""The `ddim-host plugins` command."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import sys
import textwrap
from importlib.metadata import PackageNotFoundError, metadata
from typing import TYPE_CHECKING, Any, get_type_hints

from ddim_host.errors import UserError, printable
from ddim_host.experiment.defaults import DEFAULT_PARTS, default_model_parameters
from ddim_host.framework.unet import UNetSpec
from ddim_host.plugin.discovery import frameworks_by_option
from ddim_host.plugin.loading import STRICT, Plugins, load_plugins
from ddim_host.plugin.parameters import (
    REQUIRED,
    Parameter,
    format_choice,
    format_value,
    parameter_descriptions,
    suggestion,
    type_name,
    written,
)
from ddim_host.plugin.registry import Kind

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from ddim_host.plugin.discovery import Plugin
    from ddim_host.plugin.registry import Part

_JSON_KEYS = (
    "name",
    "distribution",
    "version",
    "kind",
    "entry_point",
    "provides",
    "status",
    "error",
)

_COLUMNS = 100
"""Line width of parameter descriptions."""

_UNET = DEFAULT_PARTS[Kind.MODEL]
_SIZES = (8, 32)
"""Image sizes, in pixels, for which the default networks differ."""


def main(options: argparse.Namespace) -> int:
    """List the installed plugins and parts, as tables or JSON, or describe those with a given name.

    Returns:
        The exit code: 2 if a plugin is broken and plugins are loaded strictly, otherwise 0.

    Raises:
        UserError: Nothing has the requested name.
    """
    loaded = load_plugins(strict=False)
    if options.json:
        rows = [dataclasses.asdict(plugin) for plugin in loaded.installed]
        print(json.dumps([{key: row[key] for key in _JSON_KEYS} for row in rows], indent=2))
    elif options.name is None:
        print("\n\n".join(_table(loaded)))
    else:
        print("\n\n".join(_details(loaded, options.name)))
    if STRICT in os.environ and (problems := loaded.problems()):
        for problem in problems:
            print(f"ddim-host: error: {problem}", file=sys.stderr)
        return 2
    return 0


def _table(loaded: Plugins) -> list[str]:
    """Return the tables: frameworks, parts by kind, and plugins that do not work."""
    frameworks = frameworks_by_option(loaded.installed)
    rows = [(option, f"{p.distribution} {p.version}") for option, p in frameworks.items()]
    tables = [("framework (--plugin)", rows)]
    for kind in Kind:
        rows = [
            (_signature(part), f"{part.distribution} {part.version}")
            for part in loaded.registry.of_kind(kind)
        ]
        if kind is Kind.MODEL and frameworks:  # networks come from frameworks, which are not loaded here
            rows = [(_UNET, "every framework")]
        tables.append((f"{kind.words} ({kind.flag})", rows))
    width = max((len(left) for _, rows in tables for left, _ in rows), default=0)
    texts = [
        "\n".join([title, *(f"  {left:<{width}}  {right}" for left, right in rows)])
        for title, rows in tables
        if rows
    ]
    off = [f"  {plugin.label}" for plugin in loaded.installed if plugin.status == "disabled"]
    texts += ["\n".join(["disabled", *off])] if off else []
    clashes = [clash.text for clash in loaded.clashes()]
    for title, problems in (("broken", loaded.broken()), ("ambiguous", clashes)):
        lines = [f"  {printable(problem)}" for problem in problems]
        texts += ["\n".join([title, *lines])] if lines else []
    return texts


def _details(loaded: Plugins, name: str) -> list[str]:
    """Describe every part, plugin and distribution with this name.

    Raises:
        UserError: Nothing has this name.
    """
    plugins = [plugin for plugin in loaded.installed if plugin.is_called(name)]
    parts = [
        part
        for kind in Kind
        for part in loaded.registry.of_kind(kind)
        if name in (part.name, f"{part.distribution}/{part.name}")
    ]
    networks = [_about_unet()] if name == _UNET else []
    if not plugins and not parts and not networks:
        failures = [failure.text for failure in loaded.registry.failures]
        known = {_UNET} | {p.name for p in loaded.installed} | {p.distribution for p in loaded.installed}
        known |= {part.name for kind in Kind for part in loaded.registry.of_kind(kind)}
        raise UserError(
            f"no installed part, plugin or distribution is called {name!r}{suggestion(name, sorted(known))}",
            why="; ".join(failures[:1]),
            notes=failures[1:],
            fix="see `ddim-host plugins` for the list",
        )
    options = {p.qualified_name: option for option, p in frameworks_by_option(loaded.installed).items()}
    return [*(_about_plugin(plugin, options) for plugin in plugins), *map(_about_part, parts), *networks]


def _about_plugin(plugin: Plugin, options: Mapping[str, str]) -> str:
    """Describe a plugin; `options` has the values of `--plugin` by the qualified names of frameworks."""
    lines = [f"{plugin.label}: {plugin.status}"]
    try:
        about = metadata(plugin.distribution)
        summary = about["Summary"] if "Summary" in about else None  # noqa: SIM401 - it has no `get`
    except PackageNotFoundError:
        summary = None
    lines += [f"  {printable(summary)}"] if summary else []
    lines.append(f"  {plugin.kind}, from {plugin.entry_point}")
    if plugin.kind == "framework" and plugin.status == "available":
        lines.append(f"  run with --plugin {options[plugin.qualified_name]}")
    lines += [f"  {printable(plugin.error)}", f"  fix: {printable(plugin.fix)}"] if plugin.error else []
    lines += [f"  {Kind(hook).words}: {', '.join(names)}" for hook, names in plugin.provides.items()]
    return "\n".join(lines)


def _about_part(part: Part) -> str:
    lines = [f"{part.label} of {part.distribution} {part.version}"]
    first_paragraph = (inspect.getdoc(part.make) or "").partition("\n\n")[0]
    lines += [f"  {line}" for line in first_paragraph.splitlines()]
    lines.append(f"  {part.kind.flag} {_signature(part)}")
    try:
        parameters = part.parameters()
    except UserError:
        return "\n".join(lines)
    width = max((len(written(parameter.name)) for parameter in parameters), default=0)
    about = parameter_descriptions(part.make)
    margin = " " * (width + 6)
    for p in parameters:
        default = "no default" if p.default is REQUIRED else f"default {_default(p)}"
        lines.append(f"    {written(p.name):<{width}}  {type_name(p.annotation)}, {default}")
        lines += textwrap.wrap(
            printable(about.get(p.name, "")), _COLUMNS, initial_indent=margin, subsequent_indent=margin
        )
    return "\n".join(lines)


def _about_unet() -> str:
    """Describe the U-Net from its parameters in the host, without loading a framework that builds it."""
    about = dict(re.findall(r"^ +(\w+): (.+)$", UNetSpec.__doc__ or "", re.MULTILINE))
    types = get_type_hints(UNetSpec)
    small, large = (default_model_parameters(size) for size in _SIZES)
    lines = [
        f"model {_UNET!r}, built by every framework",
        "  The U-Net of DDPM. The defaults of some parameters depend on the size of the images.",
        f"  {Kind.MODEL.flag} {_UNET}:base_channels=64,dropout=0",
    ]
    width = max(map(len, small))
    for name in small:
        defaults = format_value(small[name])
        if small[name] != large[name]:
            one, other = (f"for {size} x {size} pixels" for size in _SIZES)
            defaults = f"{defaults} {one}, {format_value(large[name])} {other}"
        lines.append(f"    {name:<{width}}  {about[name]}")
        lines.append(f"    {'':<{width}}  ({type_name(types[name])}; default {defaults})")
    return "\n".join(lines)


def _signature(part: Part) -> str:
    """Return a part as it is written on the command line, with all parameters and defaults."""
    try:
        parameters = part.parameters()
    except UserError as error:
        return f"{part.name}  (broken: {error.why})"
    defaults: dict[str, Any] = {p.name: "..." if p.default is REQUIRED else p.default for p in parameters}
    return format_choice(part.name, defaults)


def _default(parameter: Parameter) -> str:
    default: Any = parameter.default
    return format_value(default)
