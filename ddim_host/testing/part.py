"""What holds for parts of every kind."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ddim_host.diffusion import NoiseSchedule
from ddim_host.plugin.parameters import resolve
from ddim_host.plugin.registry import Kind, Part

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ddim_host.plugin.parameters import Value

_NOTICE_SECONDS = 10.0

_IMPORT = """
import importlib, sys
from ddim_host.plugin.framework_guard import allow_framework
allow_framework(None)
importlib.import_module(sys.argv[1])
"""


class PartContract:
    """The base of all contracts.

    Attributes:
        part: The callable that the hook gives.
        parameters: Values of its keyword-only parameters, where they are not to be the defaults.
        kind: What it is.
    """

    part: ClassVar[Callable[..., Any]]
    parameters: ClassVar[Mapping[str, Value]] = {}
    kind: ClassVar[Kind]

    @classmethod
    def whole_part(cls) -> Part:
        """The part as the registry holds it."""
        # As it was written: looked up the usual way, a function would become a method of this class.
        make = inspect.getattr_static(cls, "part")
        make = make.__func__ if isinstance(make, staticmethod) else make
        name = getattr(make, "__name__", "part")
        return Part(cls.kind, name, make, "the distribution under test", "")

    @classmethod
    def values(cls) -> dict[str, Value]:
        """All its parameters, defaults included.

        Raises:
            UserError: One is unknown, ill-typed, or missing though it has no default.
        """
        part = cls.whole_part()
        return resolve(part.label, part.parameters(), cls.parameters)

    def test_its_parameters_can_be_set_by_users(self) -> None:
        """Keyword-only parameters have types that users can write, and a default or a value here."""
        self.values()

    def test_it_is_documented(self) -> None:
        """`ddim-host plugins NAME` shows the first paragraph of its docstring."""
        assert inspect.getdoc(self.whole_part().make), "write a docstring: users will see its first paragraph"

    def test_importing_it_imports_no_framework(self) -> None:
        """The module is loaded in every process, whichever framework runs there."""
        module = self.whole_part().make.__module__
        done = run_python("-c", _IMPORT, module)
        assert done.returncode == 0, f"importing {module} without any framework failed:\n{done.stderr}"


def linear_schedule(num_train_timesteps: int) -> NoiseSchedule:
    """The linear schedule of DDPM."""
    scale = 1000.0 / num_train_timesteps
    return NoiseSchedule(np.linspace(1e-4 * scale, 0.02 * scale, num_train_timesteps))


def run_python(
    *arguments: str, timeout: float = 900.0, waiting: Callable[[float], object] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own that can import what this one can.

    Args:
        arguments: Those of the interpreter.
        timeout: Seconds after which the process is killed.
        waiting: Called every ten seconds with the seconds that have passed.

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
            process.kill()  # nothing happens to one that has ended
