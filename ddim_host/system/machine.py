"""The machine: its processor, the memory of this process, and how its threads wait."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

_SPIN_COUNT = "10000"
"""How long threads of libgomp, in both frameworks, wait for each other awake.

On a machine with nothing else to do this is as fast as its default, 300,000. Where another process keeps one
of two cores busy, training steps on digits took 0.6 s in place of 8 s.
"""


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


def let_waiting_threads_sleep() -> None:
    """Let threads of OpenMP sleep soon while they wait, unless the user's environment says how they wait.

    It works where the framework, and with it OpenMP, has not been imported yet.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)


def _cpuinfo(key: str) -> str:
    """Return a field of the first processor in `/proc/cpuinfo`; empty where the system has none."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    match = re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else ""
