"""Finding and loading plugins: each in isolation, and one framework per process at most."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.metadata
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import pluggy

from ddim_host import hookspecs
from ddim_host.errors import UserError
from ddim_host.parameters import suggestion
from ddim_host.registry import Kind, Part, Registry, normalised_distribution

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from ddim_host.checks import Check

__all__ = [
    "FRAMEWORK_ROOTS",
    "Plugin",
    "Plugins",
    "allow_framework",
    "installed_frameworks",
    "load_plugins",
]

FRAMEWORK_ROOTS = frozenset({"torch", "jittor", "tensorflow", "jax", "paddle", "mindspore"})

_SPIN_COUNT = "10000"
"""How long threads of libgomp, in both frameworks, wait for each other awake.

On a machine with nothing else to do this is as fast as its default, 300,000. Where another process keeps one
of two cores busy, training steps on digits took 0.6 s in place of 8 s.
"""

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
        provides: Hook -> names of parts; empty for a framework that was not imported.
        status: `ok`, `available` (a framework that was not imported) or `error`.
        error: Why it is not to be used; empty otherwise.
    """

    name: str
    distribution: str
    version: str
    kind: Literal["framework", "parts"]
    entry_point: str
    provides: dict[str, list[str]] = field(default_factory=dict)
    status: Literal["ok", "available", "error"] = "available"
    error: str = ""

    @property
    def label(self) -> str:
        """For messages: `ddim-losses 0.1.0 (losses)`."""
        return f"{self.distribution} {self.version} ({self.name})"

    def fail(self, error: str) -> None:
        """Mark the plugin as not usable."""
        self.status, self.error, self.provides = "error", error, {}


@dataclass(frozen=True)
class Plugins:
    """Everything that is installed.

    Attributes:
        installed: All plugins, sorted by kind and name.
        registry: The parts of those that were loaded.
        machine_checks: Looks for what the chosen framework needs from the machine.
    """

    installed: tuple[Plugin, ...]
    registry: Registry
    machine_checks: Callable[[], list[Check]]


class _FrameworkGuard(importlib.abc.MetaPathFinder):
    """Refuses to import any framework but the chosen one, whoever asks.

    It only gets in the way of an import, not of `importlib.util.find_spec`: torch itself looks whether
    TensorFlow is installed, and may be told so.
    """

    def __init__(self, chosen: str | None) -> None:
        self.chosen = chosen

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        root = fullname.partition(".")[0]
        if root not in FRAMEWORK_ROOTS or root == self.chosen:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((spec for finder in others if (spec := finder.find_spec(fullname, path, target))), None)
        if spec is not None:
            spec.loader = _RefusingLoader(self.chosen)
        return spec


class _RefusingLoader(importlib.abc.Loader):
    """Stands in for the loader of a framework that was not chosen."""

    def __init__(self, chosen: str | None) -> None:
        self.chosen = chosen

    def create_module(self, spec: ModuleSpec) -> NoReturn:
        running = f"runs {self.chosen}" if self.chosen else "runs no framework"
        raise ModuleNotFoundError(
            f"{spec.name!r} cannot be imported here: this process {running}, and one process never holds two",
            name=spec.name,
        )

    def exec_module(self, module: ModuleType) -> None:
        """Never reached; the import system asks whether it is there before it calls `create_module`."""


def installed_frameworks() -> list[str]:
    """The names that `--plugin` can take, from metadata alone."""
    return sorted({plugin.name for plugin, _ in _discover() if plugin.kind == "framework"})


def load_plugins(framework: str | None = None) -> Plugins:
    """Load all parts plugins and the chosen framework; from now on no other framework can be imported.

    A plugin that does not load is kept with its error and harms nobody else.

    Args:
        framework: Name of the framework's entry point; None loads none.

    Raises:
        UserError: The framework is not installed, is given by two distributions, or does not load.
        RuntimeError: The process already holds another framework.
    """
    allow_framework(framework)
    found = _discover()
    _mark_name_conflicts([plugin for plugin, _ in found])
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    parts: list[Part] = []
    for plugin, entry_point in found:
        if plugin.status == "error" or (plugin.kind == "framework" and plugin.name != framework):
            continue
        try:
            # What a plugin prints while it is imported must not end up in the output of a command.
            with contextlib.redirect_stdout(sys.stderr):
                module = entry_point.load()
                _register(manager, plugin, module)
                parts += _parts_of(manager, plugin, module)
        # A plugin may fail in any way, sys.exit() included; only an impatient user may not be held up.
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            plugin.fail(_describe(error))
        else:
            plugin.status = "ok"
    installed = tuple(plugin for plugin, _ in found)
    if framework is not None:
        _require_framework(framework, installed)
    failures = [f"{p.label} is broken: {p.error}" for p in installed if p.kind == "parts" and p.error]

    def machine_checks() -> list[Check]:
        return [check for checks in manager.hook.ddim_machine_checks() for check in checks]

    return Plugins(installed, Registry(parts, failures), machine_checks)


def allow_framework(chosen: str | None) -> None:
    """Let this one framework be imported into the process, and from now on no other.

    Args:
        chosen: The root of its modules; None allows none.

    Raises:
        RuntimeError: The process already holds another framework.
    """
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _FrameworkGuard)]
    sys.meta_path.insert(0, _FrameworkGuard(chosen))
    if chosen is not None and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
    present = sorted((FRAMEWORK_ROOTS - {chosen}) & sys.modules.keys())
    if present:
        raise RuntimeError(f"this process was to run {chosen}, but already holds {', '.join(present)}")


def _discover() -> list[tuple[Plugin, importlib.metadata.EntryPoint]]:
    """All entry points of both groups, sorted; nothing is imported."""
    found = []
    seen = set()
    for distribution in importlib.metadata.distributions():
        # Any installed distribution may be damaged, also one that has nothing to do with this project.
        try:
            name = normalised_distribution(distribution.metadata["Name"] or "")
            entry_points = [point for point in distribution.entry_points if point.group in _GROUPS]
        except Exception as error:
            plugin = _damaged(distribution, error)
            found.append((plugin, importlib.metadata.EntryPoint(plugin.name, "", "")))
            continue
        if not name or name in seen:
            continue  # the same distribution further down the path, hidden by the first
        seen.add(name)
        for point in entry_points:
            plugin = Plugin(point.name, name, distribution.version, _GROUPS[point.group], point.value)
            found.append((plugin, point))
    return sorted(found, key=lambda pair: (pair[0].kind, pair[0].name, pair[0].distribution))


def _damaged(distribution: importlib.metadata.Distribution, error: Exception) -> Plugin:
    # No public attribute says where a distribution lies whose name cannot be read.
    name = getattr(getattr(distribution, "_path", None), "name", "unknown")
    plugin = Plugin(name, name, "", "parts", "")
    plugin.fail(f"its metadata cannot be read: {_describe(error)}")
    return plugin


def _mark_name_conflicts(plugins: Iterable[Plugin]) -> None:
    plugins = list(plugins)
    count = Counter((plugin.kind, plugin.name) for plugin in plugins)
    for plugin in plugins:
        if count[plugin.kind, plugin.name] > 1:
            others = [
                f"{p.distribution} {p.version}"
                for p in plugins
                if (p.kind, p.name) == (plugin.kind, plugin.name) and p is not plugin
            ]
            plugin.fail(f"{' and '.join(others)} has an entry point of the same name; uninstall one")


def _register(manager: pluggy.PluginManager, plugin: Plugin, module: Any) -> None:
    if manager.is_registered(module):
        raise ValueError(f"{plugin.entry_point} is already loaded under another name")
    manager.register(module, name=f"{plugin.kind}/{plugin.name}")
    callers = manager.get_hookcallers(module) or []
    unknown = [caller.name for caller in callers if not caller.has_spec()]
    if unknown or not callers:
        manager.unregister(module)
    if unknown:
        known = [name for name in vars(hookspecs) if name.startswith("ddim_")]
        raise ValueError(f"there is no hook {unknown[0]!r}{suggestion(unknown[0], known)}")
    if not callers:
        raise ValueError("it implements no hook; is @hookimpl missing?")


def _parts_of(manager: pluggy.PluginManager, plugin: Plugin, module: Any) -> list[Part]:
    """Call each hook of one plugin alone, so that a failure is known to be its own."""
    others = [other for other in manager.get_plugins() if other is not module]
    parts = []
    for kind in Kind:
        caller = manager.subset_hook_caller(kind.value, others)
        results = caller()
        if len(results) < len(caller.get_hookimpls()):
            raise TypeError(f"{kind.value} returned nothing; is `return` missing?")
        for provided in results:
            if not isinstance(provided, Mapping):
                raise TypeError(f"{kind.value} returned a {type(provided).__name__}, not a dict of parts")
            for name, make in provided.items():
                if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
                    raise ValueError(f"{kind.value}: {name!r} cannot be the name of a part")
                if not callable(make):
                    raise TypeError(f"{kind.value}: {name!r} is a {type(make).__name__}, not a callable")
                parts.append(Part(kind, name, make, plugin.distribution, plugin.version))
            plugin.provides[kind.value] = sorted(provided)
    return parts


def _describe(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _require_framework(name: str, installed: Iterable[Plugin]) -> None:
    frameworks = [plugin for plugin in installed if plugin.kind == "framework"]
    chosen = [plugin for plugin in frameworks if plugin.name == name]
    if not chosen:
        names = sorted({plugin.name for plugin in frameworks})
        raise UserError(
            f"there is no framework plugin named {name!r}{suggestion(name, names)}",
            why=f"installed: {', '.join(names) or 'none'}",
            fix=f"pip install ddim-{name}" if name in ("torch", "jittor") else "choose one of these",
        )
    if chosen[0].status == "error":
        raise UserError(
            f"the framework plugin {name!r} does not load",
            why=f"{chosen[0].label}: {chosen[0].error}",
            fix=f"reinstall it: pip install --force-reinstall {chosen[0].distribution}",
        )
