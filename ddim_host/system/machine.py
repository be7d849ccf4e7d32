"""The machine: processor, memory, and the behaviour of waiting OpenMP threads."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

_SPIN_COUNT = "10000"
"""Spin count of libgomp threads that wait for each other, in both frameworks.

On an idle machine this is as fast as the default, 300,000. With another process on one of two cores, training
steps on digits took 0.6 s instead of 8 s.
"""


def processor_name() -> str:
    """Return the processor's name, as reported by the system."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def processor_flags() -> str:
    """Return the instruction-set flags of the processor."""
    return f"{platform.machine()} {_cpuinfo('flags') or _cpuinfo('Features') or platform.processor()}"


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """Return the machine's physical memory, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def process_peak_memory_bytes() -> int:
    """Return the peak memory of this process so far, in bytes."""
    import resource  # noqa: PLC0415 - missing on some systems, and needed only on the CPU

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def let_waiting_threads_sleep() -> None:
    """Let waiting OpenMP threads go to sleep sooner, unless the user's environment sets their behaviour.

    Call this before importing a framework, which loads OpenMP.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)


def _cpuinfo(key: str) -> str:
    """Return a field of the first processor in `/proc/cpuinfo`, or an empty string if it is missing."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    match = re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else ""
