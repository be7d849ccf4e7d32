"""The `ddim-host doctor` command."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

from ddim_host.errors import UserError, printable
from ddim_host.framework.checks import Check
from ddim_host.framework.kernels import KERNELS_VARIABLE, load_kernels
from ddim_host.parts.datasets.cifar10 import official_archive
from ddim_host.parts.datasets.mnist import FASHION_MNIST, MNIST, official_files
from ddim_host.plugin.discovery import Plugin, discover, frameworks_by_option
from ddim_host.plugin.loading import Plugins, load_plugins
from ddim_host.system.cache import cache_errors, cache_folder
from ddim_host.system.machine import available_cores, memory_bytes, processor_name
from ddim_host.system.releases import installed_releases, untested

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

_SECONDS = 120.0


@dataclass(frozen=True)
class _Section:
    """Results for the host, or for one framework.

    Attributes:
        name: `host`, or the framework's name.
        distribution: The distribution that contains it.
        version: The version of the distribution.
        checks: The results.
    """

    name: str
    distribution: str
    version: str
    checks: list[Check]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)


def main(options: argparse.Namespace) -> int:
    """Print which checks pass and fail, as text or as JSON.

    Without `--plugin`, the host and all frameworks are checked. Each framework has its own process, because
    a process can load at most one.

    Returns:
        The exit code: 0 if everything works.
    """
    sections = _sections(options.plugin)
    if options.json:
        with contextlib.redirect_stdout(sys.stderr):  # plugins may print
            found = list(sections)
        print(json.dumps(_document(found), indent=2))
        return 0 if all(section.ok for section in found) else 1
    code = 0
    for number, section in enumerate(sections):
        if number:
            print()
        print("\n".join(_lines(section)), flush=True)
        code = max(code, 0 if section.ok else 1)
    return code


def _sections(framework: str | None) -> Iterator[_Section]:
    """Check one framework in this process, or the host here and every framework in its own process."""
    if framework is not None:
        plugins = load_plugins(framework)
        plugin = cast("Plugin", plugins.framework)
        yield _Section(plugin.name, plugin.distribution, plugin.version, plugins.machine_checks())
        return
    loaded = load_plugins(strict=False)
    yield _Section("host", "ddim-host", version("ddim-host"), _host_checks(loaded))
    for option, plugin in frameworks_by_option(loaded.installed).items():
        yield _checked_in_process(option, plugin)


def _checked_in_process(option: str, plugin: Plugin) -> _Section:
    """Check the framework that this value of `--plugin` selects, in another process."""
    command = [sys.executable, "-m", "ddim_host", "doctor", "--plugin", option, "--json"]
    try:
        done = subprocess.run(command, check=False, timeout=_SECONDS, stdout=subprocess.PIPE)
        [section] = json.loads(done.stdout)["sections"]
        return _Section(**{**section, "checks": [Check(**check) for check in section["checks"]]})
    except subprocess.TimeoutExpired:
        failed = Check(plugin.name, False, f"did not answer within {_SECONDS:g} s", "try again")
    except ValueError:  # not JSON: the process crashed, or printed an error to stderr
        detail = f"its check exited with code {done.returncode} without a result"
        failed = Check(plugin.name, False, detail, f"ddim-host doctor --plugin {option} shows why")
    return _Section(plugin.name, plugin.distribution, plugin.version, [failed])


def _document(sections: list[_Section]) -> dict[str, Any]:
    """Return the results and all versions, for JSON."""
    plugins = {plugin.distribution: plugin.version for plugin, _ in discover()}
    return {
        "ok": all(section.ok for section in sections),
        "versions": {"ddim-host": version("ddim-host")} | plugins | installed_releases(),
        "sections": [asdict(section) for section in sections],
    }


def _lines(section: _Section) -> list[str]:
    lines = [f"{section.name} ({section.distribution} {section.version})"]
    width = max((len(check.name) for check in section.checks), default=0)
    for check in section.checks:
        lines.append(f"  {'ok  ' if check.ok else 'FAIL'}  {check.name:<{width}}  {check.detail}")
        if check.fix and not check.ok:
            lines.append(f"        {'':<{width}}  fix: {check.fix}")
    return lines


def _host_checks(loaded: Plugins) -> list[Check]:
    checks = [
        Check("Python", True, platform.python_version()),
        Check("NumPy", True, version("numpy")),
        _releases_check(),
        Check("system", True, _system()),
        Check("processor", True, f"{processor_name()}; cores for this process: {available_cores()}"),
        Check("memory", True, f"{memory_bytes() / 1e9:.1f} GB"),
        _cache_check(),
        _kernels_check(),
        _data_check("CIFAR-10", official_archive),
        *(_data_check(known.name, partial(official_files, known)) for known in (MNIST, FASHION_MNIST)),
    ]
    for plugin in loaded.installed:
        if plugin.kind == "parts" or plugin.error:
            detail = plugin.error or "loaded"
            checks.append(Check(f"plugin {plugin.label}", not plugin.error, detail, plugin.fix))
    checks += [Check("ambiguous", clash.usable, clash.text) for clash in loaded.clashes()]
    return checks


def _releases_check() -> Check:
    """List releases outside the tested ranges. They may work, so this check never fails."""
    notes = untested(installed_releases())
    return Check("releases", True, "; ".join(notes) or "all within the tested ranges")


def _system() -> str:
    libc = " ".join(platform.libc_ver())
    kernel = f"{platform.system()} {platform.release()} on {platform.machine()}"
    return f"{kernel}, {libc}" if libc.strip() else kernel


def _cache_check() -> Check:
    name = "cache folder"
    try:
        return Check(name, True, printable(cache_folder()))
    except UserError as error:
        return Check.failed(name, error)


def _kernels_check() -> Check:
    """Check that the fast CPU kernels can be compiled; without them, everything is slower."""
    name = "kernels for the CPU"
    if os.environ.get(KERNELS_VARIABLE) == "framework":
        return Check(name, True, f"disabled by {KERNELS_VARIABLE}")
    try:
        load_kernels()
    except UserError as error:
        return Check.failed(name, error)
    return Check(name, True, "compiled for this processor")


def _data_check(name: str, state: Callable[[], str]) -> Check:
    """Report whether a published data set is present; a missing one is not a failure."""
    try:
        with cache_errors():
            return Check(name, True, state())
    except UserError as error:
        return Check.failed(name, error)
