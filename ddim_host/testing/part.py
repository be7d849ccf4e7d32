"""Tests that apply to parts of every kind."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ddim_host.diffusion import NoiseSchedule
from ddim_host.plugin.registry import Kind, Part

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ddim_host.plugin.parameters import Value

UNUSABLE = 77
"""Exit code of a process whose framework does not work on this machine."""

_NOTICE_SECONDS = 10.0

_IMPORT = """
import importlib, sys
from ddim_host.plugin.framework_guard import allow_framework
allow_framework(None)
importlib.import_module(sys.argv[1])
"""


class PartContract:
    """Base class of all contracts.

    Attributes:
        part: The callable that the hook provides.
        parameters: Values for its keyword-only parameters, if they differ from the defaults.
        kind: The kind of part.
    """

    part: ClassVar[Callable[..., Any]]
    parameters: ClassVar[Mapping[str, Value]] = {}
    kind: ClassVar[Kind]

    @classmethod
    def whole_part(cls) -> Part:
        """Return the part in the form used by the registry."""
        # Looked up statically: ordinary access would turn a function into a method of this class.
        make = inspect.getattr_static(cls, "part")
        make = make.__func__ if isinstance(make, staticmethod) else make
        name = getattr(make, "__name__", "part")
        return Part(cls.kind, name, make, "", "")

    @classmethod
    def values(cls) -> dict[str, Value]:
        """Return the values of all parameters, including defaults.

        Raises:
            UserError: A parameter is unknown, has the wrong type, or is missing and has no default.
        """
        return cls.whole_part().values(cls.parameters)

    def test_its_parameters_can_be_set_by_users(self) -> None:
        """Check that each keyword-only parameter has a supported type, and a default or a test value."""
        self.values()

    def test_it_is_documented(self) -> None:
        """Check that there is a docstring; `ddim-host plugins NAME` shows its first paragraph."""
        assert inspect.getdoc(self.whole_part().make), "write a docstring: users will see its first paragraph"

    def test_importing_it_imports_no_framework(self) -> None:
        """Check that the module imports no framework: every process loads it, whichever framework it runs."""
        module = self.whole_part().make.__module__
        done = run_python("-c", _IMPORT, module)
        assert done.returncode == 0, f"importing {module} without any framework failed:\n{done.stderr}"


def linear_schedule(num_train_timesteps: int) -> NoiseSchedule:
    """Return the linear schedule of DDPM."""
    scale = 1000.0 / num_train_timesteps
    return NoiseSchedule(np.linspace(1e-4 * scale, 0.02 * scale, num_train_timesteps))


def run_python(
    *arguments: str, timeout: float = 900.0, waiting: Callable[[float], object] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python in a new process with this process's import path.

    Args:
        arguments: Arguments for the interpreter.
        timeout: Seconds after which the process is killed.
        waiting: Called every ten seconds with the elapsed seconds.

    Raises:
        subprocess.TimeoutExpired: The process took too long.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, *arguments]
    started = time.monotonic()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            while True:
                try:
                    out, err = process.communicate(timeout=_NOTICE_SECONDS)
                except subprocess.TimeoutExpired:
                    passed = time.monotonic() - started
                    if passed > timeout:
                        raise
                    if waiting is not None:
                        waiting(passed)
                else:
                    return subprocess.CompletedProcess(command, process.returncode, out, err)
        finally:
            process.kill()  # no effect if the process has exited
