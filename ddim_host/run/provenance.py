"""Provenance of a result: versions, hardware and command."""

from __future__ import annotations

import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import ddim_host
from ddim_host.errors import printable
from ddim_host.system.checkout import checked_out_commit
from ddim_host.system.launch import launched
from ddim_host.system.machine import available_cores, processor_name

if TYPE_CHECKING:
    from ddim_host.framework.interface import Model


def provenance(framework: str, model: Model, command: str) -> dict[str, str]:
    """Return the provenance of a result, by name, with `device` and `precision` resolved.

    The number of threads is per process. `commit` is present if the host runs from a git checkout.

    Args:
        framework: The distribution that provides the framework.
        model: The network.
        command: The shell command or Python call that produced the result.
    """
    facts = {
        "command": command,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": str(available_cores()),
        "device": model.device_name,
        "precision": model.precision,
        "threads": str(model.threads),
        "processes": str(launched().count),
    }
    for distribution in ("ddim-host", "numpy", framework):
        try:
            facts[distribution] = version(distribution)
        except PackageNotFoundError:
            facts[distribution] = "unknown"
    commit = checked_out_commit(Path(ddim_host.__file__).parents[1])
    return facts | ({"commit": commit} if commit else {})


def this_command() -> str:
    """Return the command of this process, quoted for a shell."""
    return printable(shlex.join(["ddim-host", *sys.argv[1:]]))
