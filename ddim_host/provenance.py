"""What a result was made with: versions and hardware."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from ddim_host.errors import printable
from ddim_host.launch import launched

if TYPE_CHECKING:
    from ddim_host.waist import Model

__all__ = ["process_peak_memory_bytes", "processor_name", "provenance", "this_command"]


def provenance(framework: str, model: Model) -> dict[str, str]:
    """What a result was made with, as text by name: `device` and `precision` as they came out of `auto`.

    Threads are those of each process. Versions are those of distributions.
    """
    facts = {
        "command": this_command(),
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


def processor_name() -> str:
    """The processor in words, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


def process_peak_memory_bytes() -> int:
    """The most memory that this process has held so far."""
    import resource  # noqa: PLC0415 - not on every system, and only frameworks on the CPU ask

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
