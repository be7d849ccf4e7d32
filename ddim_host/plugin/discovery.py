"""Which plugins are installed, from metadata alone: nothing is imported."""

from __future__ import annotations

import importlib.metadata
import os
import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from typing import Literal, cast

from packaging.requirements import InvalidRequirement, Requirement

from ddim_host.errors import UserError, described
from ddim_host.plugin.registry import normalised_distribution

DISABLED = "DDIM_HOST_DISABLE_PLUGINS"
"""Variable of the environment: plugins that are not imported, by distribution, name or both: `a,b/c`."""

_GROUPS: dict[str, Literal["framework", "parts"]] = {
    "ddim_host.frameworks": "framework",
    "ddim_host.plugins": "parts",
}


@dataclass
class Plugin:
    """An entry point, and what became of it.

    Attributes:
        name: The entry point's name; of a framework also the name of the module that it stands for.
        distribution: The distribution that declares it.
        version: The distribution's version.
        kind: `framework` or `parts`.
        entry_point: What it refers to, `module` or `module:object`.
        provides: Hook -> names of parts; empty for what was not imported.
        status: `ok`, `available` (a framework that was not imported), `disabled` or `error`.
        error: Why it is not to be used; empty otherwise.
        fix: What to do about that.
        hooks: The hooks that it was seen to implement; empty where it was not imported.
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
    def package(self) -> str:
        """The top-level module of its code."""
        return self.entry_point.partition(":")[0].partition(".")[0].strip()

    @property
    def label(self) -> str:
        """For messages: `ddim-losses 0.1.0 (losses)`."""
        return f"{self.distribution} {self.version} ({self.name})"

    def fail(self, error: str, fix: str) -> None:
        """Mark the plugin as not usable."""
        self.status, self.error, self.fix, self.provides = "error", error, fix, {}

    def is_called(self, name: str) -> bool:
        """Whether a user who says `name`, `distribution` or `distribution/name` means this plugin."""
        distribution, _, own_name = name.rpartition("/")
        if distribution:
            return (normalised_distribution(distribution), own_name) == (self.distribution, self.name)
        return name == self.name or normalised_distribution(name) == self.distribution


def discover() -> list[tuple[Plugin, importlib.metadata.EntryPoint]]:
    """All entry points of both groups, sorted by kind, name and distribution.

    What is switched off, damaged, in a group that nobody reads, or made for another host is among them, and
    says so.
    """
    found = []
    seen = set()
    disabled = [name for item in os.environ.get(DISABLED, "").split(",") if (name := item.strip())]
    for distribution in importlib.metadata.distributions():
        # Any installed distribution may be damaged, also one that has nothing to do with this project.
        try:
            name = normalised_distribution(_name_of(distribution))
            entry_points = [point for point in distribution.entry_points if _group_meant(point.group)]
            needed = _newer_host(distribution) if entry_points else None
        except Exception as error:
            plugin = _damaged(distribution, error)
            found.append((plugin, importlib.metadata.EntryPoint(plugin.name, "", "")))
            continue
        if not name or name in seen:
            continue  # the same distribution further down the path, hidden by the first
        seen.add(name)
        for point in entry_points:
            group = cast("str", _group_meant(point.group))
            plugin = Plugin(point.name, name, distribution.version, _GROUPS[group], point.value)
            if any(plugin.is_called(item) for item in disabled):
                plugin.status = "disabled"
            elif group != point.group:
                plugin.fail(
                    f"nobody reads the entry points of {point.group!r}; did you mean {group!r}?",
                    f'write [project.entry-points."{group}"] in its pyproject.toml, and install it again',
                )
            elif needed:
                plugin.fail(
                    f"it needs ddim-host{needed}, and this is {host_version()}",
                    f'pip install "ddim-host{needed}", or a version of {name} for ddim-host {host_version()}',
                )
            found.append((plugin, point))
    return sorted(found, key=lambda pair: (pair[0].kind, pair[0].name, pair[0].distribution))


def installed_frameworks() -> list[str]:
    """The names that `--plugin` can take, from metadata alone."""
    frameworks = (plugin for plugin, _ in discover() if plugin.kind == "framework")
    return sorted({plugin.name for plugin in frameworks if plugin.status == "available"})


def only_framework() -> str:
    """Return the framework to use without `--plugin`: the only one that is installed.

    Raises:
        UserError: None is installed, or several are.
    """
    frameworks = installed_frameworks()
    if len(frameworks) != 1:
        raise no_framework_chosen()
    return frameworks[0]


def no_framework_chosen() -> UserError:
    """Return the error for a command that needs `--plugin` and was not given one."""
    frameworks = installed_frameworks()
    offers = " or ".join(f"--plugin {name}" for name in frameworks)
    return UserError(
        "no framework was chosen",
        why=f"installed: {', '.join(frameworks) or 'none'}",
        fix=f"add {offers}" if frameworks else 'pip install "ddim-host[torch]", or "ddim-host[jittor]"',
    )


def host_version() -> str:
    """The version of ddim-host that is installed."""
    return importlib.metadata.version("ddim-host")


def _name_of(distribution: importlib.metadata.Distribution) -> str:
    """Return the name in the metadata, or nothing.

    `distribution.metadata` parses all fields and the readme as well, which takes ten times as long; for all
    that is installed, it would be most of the time of a short command.
    """
    files = ("METADATA", "PKG-INFO", "")
    text = next(filter(None, map(distribution.read_text, files)), "")
    fields, _, _ = text.partition("\n\n")
    found = re.search(r"^Name:(.*)$", fields, re.MULTILINE | re.IGNORECASE)
    return found[1].strip() if found else ""


@cache
def _group_meant(group: str) -> str | None:
    """The group that this is, or, as `ddim-host.plugin`, was perhaps meant to be; None for all others."""
    if group in _GROUPS:
        return group
    plain = {re.sub(r"[-_.\s]+", "", name): name for name in _GROUPS}
    spelt = re.sub(r"[-_.\s]+", "", group.lower())
    # What stands in this project's own namespace was meant for it.
    own = re.match(r"ddim[-_]?host\.", group.lower()) is not None
    matches = get_close_matches(spelt, plain, n=1, cutoff=0.0 if own else 0.8)
    return plain[matches[0]] if matches else None


def _newer_host(distribution: importlib.metadata.Distribution) -> str | None:
    """The versions of the host that a distribution asks for, where this one is none of them.

    pip sees to that when it installs; but a host can be replaced later, and pip can be told not to look.
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
    # No public attribute says where a distribution lies whose name cannot be read.
    name = getattr(getattr(distribution, "_path", None), "name", "unknown")
    plugin = Plugin(name, name, "", "parts", "")
    plugin.fail(f"its metadata cannot be read: {described(error)}", f"pip install --force-reinstall {name}")
    return plugin
