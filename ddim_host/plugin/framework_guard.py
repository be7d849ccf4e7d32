"""One framework per process: whoever imports another one is refused."""

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
    """Let this one framework be imported into the process, and from now on no other.

    Args:
        chosen: The root of its modules; None allows none.

    Raises:
        RuntimeError: The process already holds another framework.
    """
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _FrameworkGuard)]
    sys.meta_path.insert(0, _FrameworkGuard(chosen))
    present = sorted((FRAMEWORK_ROOTS - {chosen}) & sys.modules.keys())
    if present:
        raise RuntimeError(f"this process was to run {chosen}, but already holds {', '.join(present)}")


class _FrameworkGuard(importlib.abc.MetaPathFinder):
    """Refuses to import any framework but the chosen one, whoever asks.

    It only gets in the way of an import, not of `importlib.util.find_spec`: torch itself looks whether
    TensorFlow is installed, and may be told so.
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
    """Stands in for the loader of a framework that was not chosen."""

    def __init__(self, chosen: str | None) -> None:
        self.chosen = chosen

    def create_module(self, spec: ModuleSpec) -> NoReturn:
        running = f"runs {self.chosen}" if self.chosen else "runs no framework"
        raise ModuleNotFoundError(
            f"{spec.name!r} cannot be imported here: this process {running}, and one process never holds two",
            name=spec.name,
        )

    def exec_module(self, module: ModuleType) -> None:
        """Never reached; the import system asks whether it is there before it calls `create_module`."""
