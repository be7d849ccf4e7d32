"""Load plugins in isolation, so that a broken plugin does not affect the others."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pluggy

from ddim_host.errors import UserError, described, print_traceback
from ddim_host.framework.checks import Check
from ddim_host.plugin import hookspecs
from ddim_host.plugin.discovery import DISABLED, Plugin, discover, host_version, how_to_install
from ddim_host.plugin.framework_guard import FRAMEWORK_ROOTS, allow_framework, naming_fix
from ddim_host.plugin.installed_files import local_folder, own_modules
from ddim_host.plugin.parameters import suggestion, suggestion_of_part
from ddim_host.plugin.registry import Failure, Kind, Part, Registry, own_first, which
from ddim_host.system.machine import let_waiting_threads_sleep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ddim_host.framework.interface import JoinProcesses

STRICT = "DDIM_HOST_STRICT_PLUGINS"
"""Environment variable that, if set, makes a broken plugin an error."""

_FRAMEWORK_HOOKS = {Kind.MODEL.value, "ddim_machine_checks", "ddim_process_groups"}
"""Hooks that describe a framework; only framework plugins may implement them."""

_SLOW_SECONDS = 2.0


class Clash(NamedTuple):
    """A name that is provided more than once.

    Attributes:
        text: The distributions that provide the name, and how to choose one.
        usable: True if a choice is possible; false if one distribution provides the name twice.
    """

    text: str
    usable: bool


@dataclass(frozen=True)
class Plugins:
    """All installed plugins.

    Attributes:
        installed: All plugins, sorted by kind, name and distribution.
        registry: The parts of the loaded plugins.
        framework: The chosen framework; None if none was chosen.
        machine_checks: Checks that the machine meets the chosen framework's requirements.
        join_processes: Connects several processes in the chosen framework; None if unsupported.
    """

    installed: tuple[Plugin, ...]
    registry: Registry
    framework: Plugin | None
    machine_checks: Callable[[], list[Check]]
    join_processes: JoinProcesses | None

    def problems(self) -> list[str]:
        """List the broken plugins, and the names that are provided more than once."""
        return [*self.broken(), *(clash.text for clash in self.clashes())]

    def broken(self) -> list[str]:
        """List the broken plugins, with reasons."""
        return [f"{plugin.label} is broken: {plugin.error}" for plugin in self.installed if plugin.error]

    def clashes(self) -> list[Clash]:
        """List the names that are provided more than once."""
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
        return [_clash(*clash) for clash in clashes]


def load_plugins(framework: str | None = None, *, strict: bool | None = None) -> Plugins:
    """Load all parts plugins and the chosen framework; no other framework can be imported afterwards.

    A plugin that fails to load is listed with its error and does not affect the others.

    Args:
        framework: Name of the framework's entry point, or `distribution/name`; None loads none.
        strict: Treat a broken plugin as an error; None reads the environment variable.

    Raises:
        UserError: The framework is not installed, is provided by two distributions or fails to load; or
            `strict` is set and a plugin is broken.
        RuntimeError: The process has already imported another framework.
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
            # Text printed by a plugin during its import must not end up in the output of the command.
            with contextlib.redirect_stdout(sys.stderr), _named_if_slow(plugin):
                module = entry_point.load()
                _register(manager, plugin, module)
                parts += _parts_of(manager, plugin, module)
                if plugin is chosen:
                    framework_module = module
                    join_processes = _join_of(manager, module)
        # A plugin may fail in any way, including sys.exit(); only Ctrl-C is passed on.
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            print_traceback(error)
            plugin.fail(*_diagnosis(plugin, error))
        else:
            plugin.status = "ok"
    if chosen is not None and chosen.status == "error":
        raise UserError(
            f"framework plugin {chosen.name!r} failed to load",
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
            "a plugin failed to load, and --strict-plugins makes that an error",
            why=problems[0],
            notes=problems[1:],
            fix=f"uninstall it, or disable it: {DISABLED}=DISTRIBUTION",
        )
    return plugins


def _chosen(installed: Iterable[Plugin], name: str) -> Plugin:
    """Return the framework that the user chose.

    Raises:
        UserError: No framework or more than one has this name, or it is unusable.
    """
    frameworks = [plugin for plugin in installed if plugin.kind == "framework"]
    meant = [plugin for plugin in frameworks if plugin.is_selected_by(name)]
    # A broken framework is chosen only if no other has the name.
    usable = [plugin for plugin in meant if plugin.status == "available"] or [
        plugin for plugin in meant if plugin.status != "disabled"
    ]
    if not meant:
        raise _no_framework(frameworks, name)
    if not usable:
        raise UserError(f"framework plugin {name!r} is disabled", fix=f"remove it from {DISABLED}")
    if len(usable) > 1:
        choices = which("--plugin", name, [plugin.distribution for plugin in usable])
        raise UserError(
            f"several distributions provide the framework {name!r}",
            why=" and ".join(f"{plugin.distribution} {plugin.version}" for plugin in usable),
            fix=f"choose one: {choices}, or uninstall the others" if choices else "uninstall all but one",
        )
    [chosen] = usable
    return chosen


def _no_framework(frameworks: Iterable[Plugin], option: str) -> UserError:
    """Return the error for a value of `--plugin` that selects no framework."""
    distribution, _, name = option.rpartition("/")
    names = sorted({plugin.qualified_name if distribution else plugin.name for plugin in frameworks})
    if name in ("torch", "jittor") and name not in {plugin.name for plugin in frameworks}:
        fix = how_to_install(name)
    else:
        fix = f"install {distribution}, or choose one of these" if distribution else "choose one of these"
    return UserError(
        f"there is no framework plugin named {option!r}{suggestion_of_part('--plugin', option, names)}",
        why=f"installed: {', '.join(names) or 'none'}",
        fix=fix,
    )


@contextlib.contextmanager
def _named_if_slow(plugin: Plugin) -> Iterator[None]:
    """Print the name of the plugin if the block is slow."""
    stream, line = sys.stderr, f"note: still loading the plugin {plugin.label}"
    timer = threading.Timer(_SLOW_SECONDS, lambda: print(line, file=stream, flush=True))
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
        *_, definition, problem = str(error).splitlines()
        hook = definition.rpartition(": ")[2]
        if problem.startswith("Argument"):
            problem = f"hooks take no arguments in ddim-host {host_version()}"
        raise ValueError(f"{hook}: {problem}") from error
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
            f"the hook {others[0]} is only for plugins in the entry-point group 'ddim_host.frameworks'"
        )


def _parts_of(manager: pluggy.PluginManager, plugin: Plugin, module: Any) -> list[Part]:
    """Call the hooks of one plugin separately from the others, so that failures can be attributed to it."""
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
                    raise ValueError(f"{kind.value}: {name!r} is not a valid part name")
                if not callable(make):
                    raise TypeError(
                        f"{kind.value}: {name!r} must be callable, but its type is {type(make).__name__}"
                    )
                parts.append(Part(kind, name, make, plugin.distribution, plugin.version))
            plugin.provides[kind.value] = sorted(provided)
    if plugin.kind == "framework" and not plugin.provides.get(Kind.MODEL.value):
        raise ValueError(
            f"a framework plugin must provide networks with the hook {Kind.MODEL.value}; plugins with only "
            "other parts belong in the entry-point group 'ddim_host.plugins'"
        )
    return parts


def _join_of(manager: pluggy.PluginManager, framework: Any) -> JoinProcesses | None:
    """Return the function that connects several processes in a framework, or None if there is none."""
    others = [other for other in manager.get_plugins() if other is not framework]
    given = manager.subset_hook_caller("ddim_process_groups", others)()
    return cast("JoinProcesses", given[0]) if given else None


def _checks_of(manager: pluggy.PluginManager, plugin: Plugin, framework: Any) -> list[Check]:
    """Return the results of a framework's machine checks; an exception becomes a failed check."""
    others = [other for other in manager.get_plugins() if other is not framework]
    hook = "ddim_machine_checks"
    try:
        checks = [check for given in manager.subset_hook_caller(hook, others)() for check in given]
    except (Exception, SystemExit) as error:
        return [Check(hook, False, described(error, plugin.package), _remedy(plugin, error))]
    for check in checks:
        if not isinstance(check, Check):
            problem = f"it yielded a {type(check).__name__}, not a Check"
            return [Check(hook, False, problem, f"report it to the authors of {plugin.distribution}")]
    return checks


def _diagnosis(plugin: Plugin, error: BaseException) -> tuple[str, str]:
    """Return the reason why a plugin did not load, and the remedy."""
    missing = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    if missing and f"{plugin.module}.".startswith(f"{missing}."):
        modules = own_modules(plugin.distribution)
        if modules and missing not in modules:
            return _misnamed_module(plugin, modules)
    return described(error, plugin.package), _remedy(plugin, error)


def _misnamed_module(plugin: Plugin, modules: set[str]) -> tuple[str, str]:
    """Return the problem and the remedy for an entry point whose module is not in the distribution."""
    meant = get_close_matches(plugin.module, sorted(modules), n=1)
    top_level = ", ".join(sorted({name.partition(".")[0] for name in modules}))
    folder = local_folder(plugin.distribution)
    return (
        f"its entry point {plugin.name!r} names the module {plugin.module!r}, which {plugin.distribution} "
        "does not contain" + (f"; did you mean {meant[0]!r}?" if meant else f"; it contains {top_level}"),
        f'write {plugin.name} = "{meant[0] if meant else "MODULE"}" below '
        f'[project.entry-points."{plugin.group}"] in its pyproject.toml, and reinstall it'
        + (f": {folder.reinstall}" if folder else ""),
    )


def _remedy(plugin: Plugin, error: BaseException) -> str:
    """Return the remedy for a plugin that raised this error."""
    name, folder = plugin.distribution, local_folder(plugin.distribution)
    if plugin.kind == "framework" and (fix := naming_fix(error, plugin.name, name)):
        return fix
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if missing == plugin.package != "":
        reinstall = folder.reinstall if folder else f"pip install --no-deps --force-reinstall {name}"
        return f"reinstall it: {reinstall}"
    if missing and (missing not in FRAMEWORK_ROOTS or missing == plugin.name):
        return f"install the distribution that contains the module {missing!r}"
    action = f"correct it in {folder.path}" if folder else f"report it to the authors of {name}"
    return f"{action}, or disable it: {DISABLED}={name}"


def _clash(what: str, flag: str, name: str, owners: list[str]) -> Clash:
    """Describe a name that is provided more than once."""
    several = own_first(owners)
    if len(several) == 1:
        text = f"{several[0]} provides the {what} twice, so it cannot be used: report it to its authors"
        return Clash(text, usable=False)
    choices = which(flag, name, owners)
    text = f"{' and '.join(several)} provide the {what}" + (f": choose one with {choices}" if choices else "")
    return Clash(text, usable=bool(choices))


def _by_name(plugins: Iterable[Plugin]) -> dict[str, list[Plugin]]:
    named: dict[str, list[Plugin]] = defaultdict(list)
    for plugin in plugins:
        if plugin.status != "disabled":
            named[plugin.name].append(plugin)
    return named
