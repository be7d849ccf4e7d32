"""Processes that end with the one that started them, however that ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_PARENT = "DDIM_HOST_PARENT"
"""The number of the process that the one with this variable in its environment is to follow."""

_PR_SET_PDEATHSIG = 1


def following(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process of the host that is to end with this one."""
    return {**environment, _PARENT: str(os.getpid())}


def follow_parent() -> None:
    """Have the kernel end this process when its parent ends, where the parent asked for that.

    A parent that is killed cannot end its children itself. See prctl(2).
    """
    parent = os.environ.pop(_PARENT, None)  # not meant for this process's own children
    if parent is None:
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if str(os.getppid()) != parent:
        sys.exit(1)  # it has ended already
