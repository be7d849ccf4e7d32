"""The machine: its processor, and the memory of this process."""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path

__all__ = ["process_peak_memory_bytes", "processor_flags", "processor_name"]


def processor_name() -> str:
    """Return the processor's name, as far as the system tells."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def processor_flags() -> str:
    """Return what distinguishes processors that run different instructions."""
    return f"{platform.machine()} {_cpuinfo('flags') or _cpuinfo('Features') or platform.processor()}"


def process_peak_memory_bytes() -> int:
    """Return the most memory that this process has held so far, in bytes."""
    import resource  # noqa: PLC0415 - not on every system, and only frameworks on the CPU ask

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def _cpuinfo(key: str) -> str:
    """Return a field of the first processor in `/proc/cpuinfo`; empty where the system has none."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    match = re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else ""
