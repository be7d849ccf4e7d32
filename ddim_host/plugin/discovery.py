"""Discovery of installed plugins from metadata alone, without importing them."""

from __future__ import annotations

import importlib.metadata
import os
import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Literal, cast

from packaging.requirements import InvalidRequirement, Requirement

from ddim_host.errors import UserError, described
from ddim_host.plugin.registry import normalised_distribution

if TYPE_CHECKING:
    from collections.abc import Iterable

DISABLED = "DDIM_HOST_DISABLE_PLUGINS"
"""Environment variable that lists plugins to disable, by distribution, name or both: `a,b/c`."""

_GROUPS: dict[str, Literal["framework", "parts"]] = {
    "ddim_host.frameworks": "framework",
    "ddim_host.plugins": "parts",
}


@dataclass
class Plugin:
    """An entry point and its status.

    Attributes:
        name: The entry point's name; for a framework, also the name of its module.
        distribution: The distribution that declares it.
        version: The distribution's version.
        kind: `framework` or `parts`.
        entry_point: Its target, `module` or `module:object`.
        provides: Names of its parts by hook; empty if it was not imported.
        status: `ok`, `available` (a framework that was not imported), `disabled` or `error`.
        error: The reason why it is unusable; empty otherwise.
        fix: The remedy for the error.
        hooks: The hooks that it implements; empty if it was not imported.
    """

    name: str
    distribution: str
    version: str
    kind: Literal["framework", "parts"]
    entry_point: str
    provides: dict[str, list[str]] = field(default_factory=dict)
    status: Literal["ok", "available", "disabled", "error"] = "available"
    error: str = ""
    fix: str = ""
    hooks: frozenset[str] = frozenset()

    @property
    def module(self) -> str:
        """The module that its entry point names."""
        return self.entry_point.partition(":")[0].strip()

    @property
    def package(self) -> str:
        """The top-level package of its code."""
        return self.module.partition(".")[0]

    @property
    def group(self) -> str:
        """The entry-point group of its kind."""
        return next(group for group, kind in _GROUPS.items() if kind == self.kind)

    @property
    def label(self) -> str:
        """Return the label for messages: `ddim-losses 0.1.0 (losses)`."""
        return f"{self.distribution} {self.version}".rstrip() + f" ({self.name})"

    @property
    def qualified_name(self) -> str:
        """The name with the distribution, which is never ambiguous: `distribution/name`."""
        return f"{self.distribution}/{self.name}"

    def fail(self, error: str, fix: str) -> None:
        """Mark the plugin as unusable."""
        self.status, self.error, self.fix, self.provides = "error", error, fix, {}

    def is_called(self, name: str) -> bool:
        """Return whether `name`, `distribution` or `distribution/name` refers to this plugin."""
        distribution, _, own_name = name.rpartition("/")
        if distribution:
            return (normalised_distribution(distribution), own_name) == (self.distribution, self.name)
        return name == self.name or normalised_distribution(name) == self.distribution

    def is_selected_by(self, option: str) -> bool:
        """Return whether a value of `--plugin`, `name` or `distribution/name`, refers to this framework."""
        return option == self.name or ("/" in option and self.is_called(option))


def discover() -> list[tuple[Plugin, importlib.metadata.EntryPoint]]:
    """Return all entry points of both groups, sorted by kind, name and distribution.

    The result includes plugins that are disabled, damaged, in an unknown group or incompatible with this
    version of the host; their status and error describe the problem.
    """
    found = []
    seen = set()
    disabled = [name for item in os.environ.get(DISABLED, "").split(",") if (name := item.strip())]
    for distribution in importlib.metadata.distributions():
        # Any installed distribution may be damaged, even one unrelated to this project.
        try:
            name = normalised_distribution(_name_of(distribution))
            entry_points = [point for point in distribution.entry_points if _group_meant(point.group)]
            needed = _newer_host(distribution) if entry_points else None
        except Exception as error:
            plugin = _damaged(distribution, error)
            found.append((plugin, importlib.metadata.EntryPoint(plugin.name, "", "")))
            continue
        if not name or name in seen:
            continue  # the same distribution later on the path, shadowed by the first
        seen.add(name)
        for point in entry_points:
            group = cast("str", _group_meant(point.group))
            plugin = Plugin(point.name, name, distribution.version, _GROUPS[group], point.value)
            if any(plugin.is_called(item) for item in disabled):
                plugin.status = "disabled"
            elif group != point.group:
                plugin.fail(
                    f"its entry-point group {point.group!r} does not exist; did you mean {group!r}?",
                    f'write [project.entry-points."{group}"] in its pyproject.toml, and reinstall it',
                )
            elif needed:
                plugin.fail(
                    f"it needs ddim-host{needed}, but {host_version()} is installed",
                    f"install ddim-host{needed}, or a version of {name} for ddim-host {host_version()}",
                )
            found.append((plugin, point))
    return sorted(found, key=lambda pair: (pair[0].kind, pair[0].name, pair[0].distribution))


def frameworks_by_option(plugins: Iterable[Plugin]) -> dict[str, Plugin]:
    """Return the usable frameworks by the value of `--plugin` that selects each, sorted.

    The value is `distribution/name` if several distributions provide the name, otherwise the name.
    """
    usable = [plugin for plugin in plugins if plugin.kind == "framework" and plugin.status == "available"]
    names = [plugin.name for plugin in usable]
    options = {p.name if names.count(p.name) == 1 else p.qualified_name: p for p in usable}
    return dict(sorted(options.items()))


def framework_name(option: str) -> str:
    """Return the name in a value of `--plugin`, which is `name` or `distribution/name`."""
    return option.rpartition("/")[2]


def installed_frameworks() -> list[str]:
    """Return the values of `--plugin` that select a framework, from metadata alone."""
    return [*frameworks_by_option(plugin for plugin, _ in discover())]


def only_framework() -> str:
    """Return the framework to use without `--plugin`: the only installed one.

    Raises:
        UserError: No framework is installed, or several are.
    """
    frameworks = installed_frameworks()
    if len(frameworks) != 1:
        raise no_framework_chosen()
    return frameworks[0]


def no_framework_chosen() -> UserError:
    """Return the error for a command that requires `--plugin` but was run without it."""
    frameworks = installed_frameworks()
    offers = " or ".join(f"--plugin {name}" for name in frameworks)
    return UserError(
        "no framework was chosen",
        why=f"installed: {', '.join(frameworks) or 'none'}",
        fix=f"add {offers}" if frameworks else how_to_install("torch", "jittor"),
    )


def how_to_install(*frameworks: str) -> str:
    """Return instructions for installing this project's framework plugins, which are not on PyPI."""
    choices = " or ".join(f"plugins/ddim_{name}" for name in frameworks)
    return (
        "in a clone of ddim-host: `make install`, then `. .venv/bin/activate`; "
        f"for another environment: `pip install . plugins/losses plugins/timestep_samplers {choices}`"
    )


def host_version() -> str:
    """Return the installed version of ddim-host."""
    return importlib.metadata.version("ddim-host")


def _name_of(distribution: importlib.metadata.Distribution) -> str:
    """Return the name in the metadata, or an empty string if there is none.

    `distribution.metadata` parses all fields and the readme, which takes ten times as long. For all installed
    distributions together, that would take most of the run time of a short command.
    """
    files = ("METADATA", "PKG-INFO", "")
    text = next(filter(None, map(distribution.read_text, files)), "")
    fields, _, _ = text.partition("\n\n")
    found = re.search(r"^Name:(.*)$", fields, re.MULTILINE | re.IGNORECASE)
    return found[1].strip() if found else ""


@cache
def _group_meant(group: str) -> str | None:
    """Return the group, correcting misspellings such as `ddim-host.plugin`, or None for unrelated groups."""
    if group in _GROUPS:
        return group
    plain = {re.sub(r"[-_.\s]+", "", name): name for name in _GROUPS}
    spelt = re.sub(r"[-_.\s]+", "", group.lower())
    # Any group in this project's namespace was meant for this project.
    own = re.match(r"ddim[-_]?host\.", group.lower()) is not None
    matches = get_close_matches(spelt, plain, n=1, cutoff=0.0 if own else 0.8)
    return plain[matches[0]] if matches else None


def _newer_host(distribution: importlib.metadata.Distribution) -> str | None:
    """Return the host versions that a distribution requires; None if this version is among them.

    pip checks this during installation, but the host can be replaced later, and the check can be disabled.
    """
    version = host_version()
    for text in distribution.requires or ():
        try:
            needed = Requirement(text)
        except InvalidRequirement:
            continue
        if (
            normalised_distribution(needed.name) == "ddim-host"
            and (needed.marker is None or needed.marker.evaluate({"extra": ""}))
            and not needed.specifier.contains(version, prereleases=True)
        ):
            return str(needed.specifier)
    return None


def _damaged(distribution: importlib.metadata.Distribution, error: Exception) -> Plugin:
    # No public attribute contains the path of a distribution whose name cannot be read.
    name = getattr(getattr(distribution, "_path", None), "name", "unknown")
    plugin = Plugin(name, name, "", "parts", "")
    plugin.fail(
        f"its metadata cannot be read: {described(error)}", f"pip install --no-deps --force-reinstall {name}"
    )
    return plugin
