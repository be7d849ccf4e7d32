"""`ddim-host doctor`."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, cast

from ddim_host.errors import UserError
from ddim_host.framework.checks import Check
from ddim_host.framework.kernels import KERNELS_VARIABLE, load_kernels
from ddim_host.parts.datasets.cifar10 import official_archive
from ddim_host.parts.datasets.mnist import FASHION_MNIST, MNIST, official_files
from ddim_host.plugin.discovery import Plugin, installed_frameworks
from ddim_host.plugin.loading import load_plugins
from ddim_host.system.cache import cache_errors
from ddim_host.system.releases import installed_releases, untested

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_SECONDS = 120.0


def main(options: argparse.Namespace) -> int:
    """Print what works and what does not.

    Of the one framework that the options name; else of the host and of each framework, in a process of its
    own, because one process holds at most one.

    Returns:
        The exit code: 0 where everything works.
    """
    framework: str | None = options.plugin
    if framework is not None:
        plugins = load_plugins(framework)
        plugin = cast("Plugin", plugins.framework)
        return _show(f"{plugin.name} ({plugin.distribution} {plugin.version})", plugins.machine_checks())
    code = _show(
        f"host (ddim-host {version('ddim-host')})", _host_checks(load_plugins(strict=False).installed)
    )
    for name in installed_frameworks():
        sys.stdout.flush()
        code = max(code, _look_at(name))
    return code


def _host_checks(installed: tuple[Plugin, ...]) -> list[Check]:
    checks = [
        Check("Python", True, platform.python_version()),
        Check("NumPy", True, version("numpy")),
        _releases_check(),
        _kernels_check(),
        _data_check("CIFAR-10", official_archive),
        *(_data_check(known.name, partial(official_files, known)) for known in (MNIST, FASHION_MNIST)),
    ]
    for plugin in installed:
        if plugin.kind == "parts" or plugin.error:
            detail = plugin.error or "loaded"
            checks.append(Check(f"plugin {plugin.label}", not plugin.error, detail, plugin.fix))
    return checks


def _releases_check() -> Check:
    """Tell of releases that no test was run with. They may well work, so this is never a failure."""
    notes = untested(installed_releases())
    return Check("releases", True, "; ".join(notes) or "all within what was tested")


def _kernels_check() -> Check:
    """Whether the fast kernels for the CPU can be compiled. Without them all works, but slowly."""
    name = "kernels for the CPU"
    if os.environ.get(KERNELS_VARIABLE) == "framework":
        return Check(name, True, f"switched off by {KERNELS_VARIABLE}")
    try:
        load_kernels()
    except UserError as error:
        return Check.failed(name, error)
    return Check(name, True, "compiled for this processor")


def _data_check(name: str, state: Callable[[], str]) -> Check:
    """Tell whether a published data set is here; if it is not, that is no failure."""
    try:
        with cache_errors():
            return Check(name, True, state())
    except UserError as error:
        return Check.failed(name, error)


def _look_at(framework: str) -> int:
    print()
    command = [sys.executable, "-m", "ddim_host", "doctor", "--plugin", framework]
    try:
        return min(1, subprocess.run(command, check=False, timeout=_SECONDS).returncode)
    except subprocess.TimeoutExpired:
        late = Check(framework, False, f"did not answer within {_SECONDS:g} s", "try again")
        return _show(framework, [late])


def _show(title: str, checks: list[Check]) -> int:
    print(title)
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        print(f"  {'ok  ' if check.ok else 'FAIL'}  {check.name:<{width}}  {check.detail}")
        if check.fix and not check.ok:
            print(f"        {'':<{width}}  fix: {check.fix}")
    return 0 if all(check.ok for check in checks) else 1
