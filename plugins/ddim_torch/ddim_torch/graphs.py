"""CUDA graphs: GPU work recorded once and replayed without Python."""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor


class Captured:
    """A function of tensors with fixed addresses, captured in a CUDA graph by its second call.

    The first call runs the function directly, because one-time compilation, allocation and autotuning must
    not happen during a capture. A capture executes nothing, so every call runs the function exactly once.

    Args:
        function: Takes no arguments and returns a tensor; reads and writes tensors with fixed addresses.
        enabled: Whether to capture the function.
        name: Name of the function, for the note printed if it cannot be captured.
    """

    def __init__(self, function: Callable[[], Tensor], *, enabled: bool, name: str) -> None:
        self._function = function
        self._enabled = enabled
        self._name = name
        self._warm = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: Tensor | None = None

    def __call__(self) -> Tensor:
        """Run the function.

        Returns:
            The function's result; once captured, it is valid until the next call.
        """
        if not self._enabled or not self._warm:
            self._warm = True
            return self._function()
        if self._graph is None:
            self._capture()
        if self._graph is None or self._result is None:
            return self._function()
        self._graph.replay()
        return self._result

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with _without_garbage_collection(), torch.cuda.graph(graph):
                result = self._function()
        except RuntimeError as error:
            self._enabled = False
            why = str(_first(error)).splitlines()[0]
            print(
                f"note: {self._name} cannot be captured in a CUDA graph ({why}), so it runs more slowly",
                file=sys.stderr,
            )
        else:
            self._graph, self._result = graph, result


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Suspend garbage collection: a graph cannot be freed while another one is captured."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _first(error: BaseException) -> BaseException:
    """Return the original error in a chain of exceptions."""
    while error.__context__ is not None:
        error = error.__context__
    return error
