"""What a result was made with: versions and hardware."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from ddim_host.errors import printable
from ddim_host.system.launch import launched
from ddim_host.system.machine import processor_name

if TYPE_CHECKING:
    from ddim_host.framework.interface import Model


def provenance(framework: str, model: Model, command: str) -> dict[str, str]:
    """What a result was made with, as text by name: `device` and `precision` as they came out of `auto`.

    Threads are those of each process. Versions are those of distributions.

    Args:
        framework: The framework's distribution.
        model: The network.
        command: What made it, for a shell or for Python.
    """
    facts = {
        "command": command,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
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
    return facts


def this_command() -> str:
    """The command that this process was called with, for a shell."""
    return printable(shlex.join(["ddim-host", *sys.argv[1:]]))
