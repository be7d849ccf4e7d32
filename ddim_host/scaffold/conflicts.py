"""Whether a new plugin would stand in the way of something that is there."""

from __future__ import annotations

import ast
import builtins
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ddim_host.errors import UserError
from ddim_host.plugin.discovery import installed_frameworks
from ddim_host.plugin.loading import load_plugins
from ddim_host.plugin.registry import OWN_DISTRIBUTIONS, Kind, is_installed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ddim_host.scaffold.names import NewPlugin


def require_new(plugin: NewPlugin, files: Mapping[str, str]) -> None:
    """Make sure that the names of a plugin are its own.

    Args:
        plugin: Its names.
        files: What is to be written, by path.

    Raises:
        UserError: Something installed, this project, or the code of the plugin itself has such a name.
    """
    problem = _problem(plugin, files)
    if problem:
        words = "framework" if plugin.kind is Kind.MODEL else plugin.kind.words
        raise UserError(
            f"a new {words} cannot be called {plugin.part!r}", why=problem, fix="choose another name"
        )


def _problem(plugin: NewPlugin, files: Mapping[str, str]) -> str:
    """What has one of the names; empty where nothing has."""
    if plugin.distribution in OWN_DISTRIBUTIONS:
        return f"its distribution {plugin.distribution!r} would be one of this project"
    if is_installed(plugin.distribution):
        return f"a distribution {plugin.distribution!r} is installed, and would be replaced"
    if find_spec(plugin.package) is not None:
        return f"there is a package {plugin.package!r}, which one of the two would hide"
    if plugin.part in _names(plugin.kind):
        return "there is one of that name, and users would have to say which one they mean"
    return "" if plugin.kind is Kind.MODEL else _problem_within(plugin, files)


def _problem_within(plugin: NewPlugin, files: Mapping[str, str]) -> str:
    """As above, for the part and its class in the code that is to be written."""
    for path, text in files.items():
        used = _used_names(text, plugin.package) if path.endswith(".py") else set()
        for name in {plugin.part, plugin.class_name} & used:
            return f"in {path} {name!r} is something else"
    return ""


def _names(kind: Kind) -> list[str]:
    if kind is Kind.MODEL:
        return installed_frameworks()
    return load_plugins(strict=False).registry.names(kind)


def _used_names(code: str, package: str) -> set[str]:
    """What a module imports from elsewhere or soon will, and everything that is there without an import."""
    names = {*dir(builtins), "np"}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.module != package):
            names |= {alias.asname or alias.name for alias in node.names}
    return names
