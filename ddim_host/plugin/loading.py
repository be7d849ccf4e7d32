"""Loading plugins, each in isolation: a plugin that does not work harms nobody else."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pluggy

from ddim_host.errors import UserError, described
from ddim_host.framework.checks import Check
from ddim_host.plugin import hookspecs
from ddim_host.plugin.discovery import DISABLED, Plugin, discover, host_version
from ddim_host.plugin.framework_guard import FRAMEWORK_ROOTS, allow_framework
from ddim_host.plugin.parameters import suggestion
from ddim_host.plugin.registry import Failure, Kind, Part, Registry, own_first, which
from ddim_host.system.machine import let_waiting_threads_sleep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ddim_host.framework.interface import JoinProcesses

STRICT = "DDIM_HOST_STRICT_PLUGINS"
"""Variable of the environment: where it is set, a plugin that does not work is an error."""

_FRAMEWORK_HOOKS = {Kind.MODEL.value, "ddim_machine_checks", "ddim_process_groups"}
"""Hooks that say something of one framework: no other plugin can implement them."""

_SLOW_SECONDS = 2.0


@dataclass(frozen=True)
class Plugins:
    """Everything that is installed.

    Attributes:
        installed: All plugins, sorted by kind, name and distribution.
        registry: The parts of those that were loaded.
        framework: The chosen one; None where none was.
        machine_checks: Looks for what the chosen framework needs from the machine.
        join_processes: How the chosen framework joins several processes; None where it cannot.
    """

    installed: tuple[Plugin, ...]
    registry: Registry
    framework: Plugin | None
    machine_checks: Callable[[], list[Check]]
    join_processes: JoinProcesses | None

    def problems(self) -> list[str]:
        """A line for each plugin that does not work, and for each name that several distributions give."""
        broken = [f"{plugin.label} is broken: {plugin.error}" for plugin in self.installed if plugin.error]
        frameworks = [p for p in self.installed if p.kind == "framework" and not p.error]
        clashes = [
            (f"framework {name!r}", "--plugin", name, [p.distribution for p in same])
            for name, same in _by_name(frameworks).items()
            if len(same) > 1
        ]
        clashes += [
            (f"{kind.words} {name!r}", kind.flag, name, owners)
            for kind, name, owners in self.registry.conflicts()
        ]
        return broken + [_clash(*clash) for clash in clashes]


def load_plugins(framework: str | None = None, *, strict: bool | None = None) -> Plugins:
    """Load all parts plugins and the chosen framework; from now on no other framework can be imported.

    A plugin that does not load is kept with its error and harms nobody else.

    Args:
        framework: Name of the framework's entry point, or `distribution/name`; None loads none.
        strict: Whether a plugin that does not work is an error; None asks the environment.

    Raises:
        UserError: The framework is not installed, is given by two distributions, or does not load; or a
            plugin does not work, where that is an error.
        RuntimeError: The process already holds another framework.
    """
    found = discover()
    chosen = None if framework is None else _chosen([plugin for plugin, _ in found], framework)
    allow_framework(None if chosen is None else chosen.name)
    if chosen is not None:
        let_waiting_threads_sleep()
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    parts: list[Part] = []
    join_processes: JoinProcesses | None = None
    framework_module: Any = None
    for plugin, entry_point in found:
        if plugin.status != "available" or (plugin.kind == "framework" and plugin is not chosen):
            continue
        try:
            # What a plugin prints while it is imported must not end up in the output of a command.
            with contextlib.redirect_stdout(sys.stderr), _named_where_slow(plugin):
                module = entry_point.load()
                _register(manager, plugin, module)
                parts += _parts_of(manager, plugin, module)
                if plugin is chosen:
                    framework_module = module
                    join_processes = _join_of(manager, module)
        # A plugin may fail in any way, sys.exit() included; only an impatient user may not be held up.
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            plugin.fail(described(error, plugin.package), _remedy(plugin, error))
        else:
            plugin.status = "ok"
    if chosen is not None and chosen.status == "error":
        raise UserError(
            f"the framework plugin {chosen.name!r} does not load",
            why=f"{chosen.label}: {chosen.error}",
            fix=chosen.fix,
        )

    def machine_checks() -> list[Check]:
        return [] if chosen is None else _checks_of(manager, chosen, framework_module)

    installed = tuple(plugin for plugin, _ in found)
    failures = [
        Failure(plugin.distribution, plugin.hooks, f"{plugin.label} is broken: {plugin.error}")
        for plugin in installed
        if plugin.kind == "parts" and plugin.error
    ]
    plugins = Plugins(installed, Registry(parts, failures), chosen, machine_checks, join_processes)
    if (STRICT in os.environ if strict is None else strict) and (problems := plugins.problems()):
        raise UserError(
            "a plugin does not work, and --strict-plugins makes that an error",
            why=problems[0],
            notes=problems[1:],
            fix=f"uninstall it, or switch it off: {DISABLED}=DISTRIBUTION",
        )
    return plugins


def _chosen(installed: Iterable[Plugin], name: str) -> Plugin:
    """The framework that the user means.

    Raises:
        UserError: There is none, there are several, or it cannot be used.
    """
    frameworks = [plugin for plugin in installed if plugin.kind == "framework"]
    meant = [p for p in frameworks if p.name == name or ("/" in name and p.is_called(name))]
    # One that is broken is meant only where there is no other.
    usable = [plugin for plugin in meant if plugin.status == "available"] or [
        plugin for plugin in meant if plugin.status != "disabled"
    ]
    if not meant:
        names = sorted({plugin.name for plugin in frameworks})
        raise UserError(
            f"there is no framework plugin named {name!r}{suggestion(name, names)}",
            why=f"installed: {', '.join(names) or 'none'}",
            fix=f"pip install ddim-{name}" if name in ("torch", "jittor") else "choose one of these",
        )
    if not usable:
        raise UserError(f"the framework plugin {name!r} is switched off", fix=f"take it out of {DISABLED}")
    if len(usable) > 1:
        choices = which("--plugin", name, [plugin.distribution for plugin in usable])
        raise UserError(
            f"several distributions give the framework {name!r}",
            why=" and ".join(f"{plugin.distribution} {plugin.version}" for plugin in usable),
            fix=f"say which: {choices}, or uninstall one" if choices else "uninstall one",
        )
    [chosen] = usable
    return chosen


@contextlib.contextmanager
def _named_where_slow(plugin: Plugin) -> Iterator[None]:
    """Says which plugin a user waits for, where it takes long."""
    stream = sys.stderr
    timer = threading.Timer(
        _SLOW_SECONDS, lambda: print(f"loading the plugin {plugin.label} takes long", file=stream, flush=True)
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _register(manager: pluggy.PluginManager, plugin: Plugin, module: Any) -> None:
    if manager.is_registered(module):
        raise ValueError(f"{plugin.entry_point} is already loaded under another name")
    try:
        manager.register(module, name=f"{plugin.kind}/{plugin.distribution}/{plugin.name}")
    except pluggy.PluginValidationError as error:
        problem = " ".join(str(error).split())
        raise ValueError(f"{problem}; hooks have no arguments in this ddim-host, {host_version()}") from error
    callers = manager.get_hookcallers(module) or []
    unknown = [caller.name for caller in callers if not caller.has_spec()]
    if unknown or not callers:
        manager.unregister(module)
    if unknown:
        known = [name for name in vars(hookspecs) if name.startswith("ddim_")]
        raise ValueError(
            f"there is no hook {unknown[0]!r} in ddim-host {host_version()}{suggestion(unknown[0], known)}"
        )
    if not callers:
        raise ValueError("it implements no hook; is @hookimpl missing?")
    plugin.hooks = frozenset(caller.name for caller in callers)
    others = sorted(plugin.hooks & _FRAMEWORK_HOOKS)
    if others and plugin.kind == "parts":
        raise ValueError(
            f"{others[0]} is for frameworks alone; their entry points are in the group 'ddim_host.frameworks'"
        )


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
    if plugin.kind == "framework" and not plugin.provides.get(Kind.MODEL.value):
        raise ValueError(
            f"a framework gives networks, by the hook {Kind.MODEL.value}; the entry points of parts that "
            "need no framework are in the group 'ddim_host.plugins'"
        )
    return parts


def _join_of(manager: pluggy.PluginManager, framework: Any) -> JoinProcesses | None:
    """How a framework joins several processes; None where it does not say."""
    others = [other for other in manager.get_plugins() if other is not framework]
    given = manager.subset_hook_caller("ddim_process_groups", others)()
    return cast("JoinProcesses", given[0]) if given else None


def _checks_of(manager: pluggy.PluginManager, plugin: Plugin, framework: Any) -> list[Check]:
    """What a framework says of the machine; where it fails at that, that is what is wrong."""
    others = [other for other in manager.get_plugins() if other is not framework]
    hook = "ddim_machine_checks"
    try:
        checks = [check for given in manager.subset_hook_caller(hook, others)() for check in given]
    except (Exception, SystemExit) as error:
        return [Check(hook, False, described(error, plugin.package), _remedy(plugin, error))]
    for check in checks:
        if not isinstance(check, Check):
            problem = f"it gave a {type(check).__name__}, not a Check"
            return [Check(hook, False, problem, f"tell the authors of {plugin.distribution}")]
    return checks


def _remedy(plugin: Plugin, error: BaseException) -> str:
    """What to do about a plugin that raised this."""
    name = plugin.distribution
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if missing == plugin.package != "":
        return f"reinstall it: pip install --force-reinstall {name}"
    if missing and (missing not in FRAMEWORK_ROOTS or missing == plugin.name):
        return f"install what has the module {missing!r}"
    return f"tell the authors of {name}, or switch it off: {DISABLED}={name}"


def _clash(what: str, flag: str, name: str, owners: list[str]) -> str:
    """What to say of a name that is given more than once."""
    several = own_first(owners)
    if len(several) == 1:
        return f"the {what} is given twice by {several[0]}, and cannot be used: tell its authors"
    choices = which(flag, name, owners)
    return f"the {what} is given by {' and '.join(several)}" + (
        f": say which, as in {choices}" if choices else ""
    )


def _by_name(plugins: Iterable[Plugin]) -> dict[str, list[Plugin]]:
    named: dict[str, list[Plugin]] = defaultdict(list)
    for plugin in plugins:
        if plugin.status != "disabled":
            named[plugin.name].append(plugin)
    return named
