"""Processes that terminate when their parent dies, even if it is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_PARENT = "DDIM_HOST_PARENT"
"""Environment variable with the id of the parent that a process must not outlive."""

_PR_SET_PDEATHSIG = 1


def following(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a process of the host does not outlive this one."""
    return {**environment, _PARENT: str(os.getpid())}


def follow_parent() -> None:
    """Ask the kernel to terminate this process when its parent dies, if the parent requested it.

    A parent that is killed cannot terminate its own children. See prctl(2).
    """
    parent = os.environ.pop(_PARENT, None)  # this process's own children must not inherit it
    if parent is None:
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if str(os.getppid()) != parent:
        sys.exit(1)  # the parent is already dead
