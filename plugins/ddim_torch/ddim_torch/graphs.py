"""CUDA graphs: what a GPU is to do, recorded once and replayed without Python."""

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
    """A function of tensors that stay in place, captured in a CUDA graph by its second call.

    The first call runs it as it is: what is compiled, allocated or chosen once must not happen in a capture.
    A capture executes nothing, so each call runs the function once, whichever way.

    Args:
        function: Takes nothing, and returns a tensor; reads and writes tensors that stay where they are.
        enabled: Whether to capture at all.
        name: What it is, for the note that it cannot be captured.
    """

    def __init__(self, function: Callable[[], Tensor], *, enabled: bool, name: str) -> None:
        self._function = function
        self._enabled = enabled
        self._name = name
        self._warm = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: Tensor | None = None

    def __call__(self) -> Tensor:
        """Run it.

        Returns:
            The function's result; if it was captured, valid until the next call.
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
                f"note: {self._name} cannot be captured in a CUDA graph ({why}); it runs uncaptured, slower",
                file=sys.stderr,
            )
        else:
            self._graph, self._result = graph, result


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """A graph that is found to be garbage cannot be freed while another one is captured."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _first(error: BaseException) -> BaseException:
    """The error that the others followed from."""
    while error.__context__ is not None:
        error = error.__context__
    return error
