"""Conflicts between the names of a new plugin and existing names."""

from __future__ import annotations

import ast
import builtins
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ddim_host.errors import UserError
from ddim_host.plugin.discovery import framework_name, installed_frameworks
from ddim_host.plugin.loading import load_plugins
from ddim_host.plugin.registry import OWN_DISTRIBUTIONS, Kind, is_installed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ddim_host.scaffold.names import NewPlugin


def require_new(plugin: NewPlugin, files: Mapping[str, str]) -> None:
    """Check that the names of a plugin are unused.

    Args:
        plugin: The plugin's names.
        files: The contents of its files, by path.

    Raises:
        UserError: An installed package, this project, or the plugin's own code already uses one of the names.
    """
    problem, fix = _problem(plugin, files), "choose another name"
    if problem:
        if plugin.distribution not in OWN_DISTRIBUTIONS and is_installed(plugin.distribution):
            fix += f", or first uninstall the existing one: pip uninstall {plugin.distribution}"
        words = "framework" if plugin.kind is Kind.MODEL else plugin.kind.words
        raise UserError(f"a new {words} cannot be called {plugin.part!r}", why=problem, fix=fix)


def _problem(plugin: NewPlugin, files: Mapping[str, str]) -> str:
    """Describe how one of the names conflicts with an existing one; return '' if none does."""
    if plugin.distribution in OWN_DISTRIBUTIONS:
        return f"this project already has a distribution {plugin.distribution!r}"
    if is_installed(plugin.distribution):
        return f"the distribution {plugin.distribution!r} is already installed, and would be replaced"
    if find_spec(plugin.package) is not None:
        return f"a package {plugin.package!r} is already installed, and one of them would hide the other"
    if plugin.part in _names(plugin.kind):
        return "one with this name is already installed, so the name would be ambiguous"
    return "" if plugin.kind is Kind.MODEL else _problem_within(plugin, files)


def _problem_within(plugin: NewPlugin, files: Mapping[str, str]) -> str:
    """Describe how the name of the part or its class conflicts with the generated code; return '' if not."""
    for path, text in files.items():
        used = _used_names(text, plugin.package) if path.endswith(".py") else set()
        for name in {plugin.part, plugin.class_name} & used:
            return f"{path} already uses {name!r} for something else"
    return ""


def _names(kind: Kind) -> list[str]:
    if kind is Kind.MODEL:
        return [*map(framework_name, installed_frameworks())]
    return load_plugins(strict=False).registry.names(kind)


def _used_names(code: str, package: str) -> set[str]:
    """Return the built-in names, and the names that a module imports or is likely to import."""
    names = {*dir(builtins), "np"}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.module != package):
            names |= {alias.asname or alias.name for alias in node.names}
    return names
