"""One framework per process: an import hook rejects all others."""

from __future__ import annotations

import importlib.abc
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

FRAMEWORK_ROOTS = frozenset({"torch", "jittor", "tensorflow", "jax", "paddle", "mindspore"})


def allow_framework(chosen: str | None) -> None:
    """From now on, allow only this framework to be imported into the process.

    Args:
        chosen: The framework's root module; None forbids all frameworks.

    Raises:
        RuntimeError: The process has already imported another framework.
    """
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _FrameworkGuard)]
    sys.meta_path.insert(0, _FrameworkGuard(chosen))
    present = sorted((FRAMEWORK_ROOTS - {chosen}) & sys.modules.keys())
    if present:
        raise RuntimeError(f"cannot use {chosen}: this process has already loaded {', '.join(present)}")


class RefusedFrameworkError(ModuleNotFoundError):
    """Import of a framework other than the chosen one."""


def naming_fix(error: BaseException, framework: str, distribution: str) -> str:
    """Return the remedy if a framework plugin was refused its own framework because of its name, else ''.

    Args:
        error: The error that the plugin raised.
        framework: The name of its entry point.
        distribution: Its distribution.
    """
    if not isinstance(error, RefusedFrameworkError) or framework in FRAMEWORK_ROOTS:
        return ""
    module = (error.name or "").partition(".")[0]
    return (
        f"in {distribution}, name the entry point {module} instead of {framework}, like the module it imports"
    )


class _FrameworkGuard(importlib.abc.MetaPathFinder):
    """Import hook that rejects any framework but the chosen one, whichever module imports it.

    It blocks imports but not `importlib.util.find_spec`, so that torch can check whether TensorFlow is
    installed.
    """

    def __init__(self, chosen: str | None) -> None:
        self.chosen = chosen

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        root = fullname.partition(".")[0]
        if root not in FRAMEWORK_ROOTS or root == self.chosen:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((spec for finder in others if (spec := finder.find_spec(fullname, path, target))), None)
        if spec is not None:
            spec.loader = _RefusingLoader(self.chosen)
        return spec


class _RefusingLoader(importlib.abc.Loader):
    """Loader that rejects a framework other than the chosen one."""

    def __init__(self, chosen: str | None) -> None:
        self.chosen = chosen

    def create_module(self, spec: ModuleSpec) -> NoReturn:
        running = (
            f"runs {self.chosen} and cannot load another framework"
            if self.chosen
            else "must not load a framework"
        )
        raise RefusedFrameworkError(
            f"{spec.name!r} cannot be imported here: this process {running}", name=spec.name
        )

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing; the import system requires this method, but `create_module` always raises first."""
