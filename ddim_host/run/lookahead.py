"""Computation of values in a thread before they are needed."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Lookahead(Generic[T]):
    """Wrapper around a function of 0, 1, 2, ... that computes the next values in a thread.

    Args:
        function: A pure function; heavy NumPy operations release the GIL.
        depth: Number of values to compute ahead; 0 computes each value on request, without a thread.
        end: Values for `end` and above are not computed ahead.
    """

    def __init__(self, function: Callable[[int], T], *, depth: int, end: int) -> None:
        self._function = function
        self._depth = depth
        self._end = end
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lookahead") if depth else None
        self._futures: dict[int, Future[T]] = {}

    def __call__(self, number: int) -> T:
        """Return the value for a number, and start computing the next ones.

        Raises:
            Exception: Any exception that the function raised for this number.
        """
        if self._thread is None:
            return self._function(number)
        wanted = range(number, max(number + 1, min(number + 1 + self._depth, self._end)))
        for other in self._futures.keys() - wanted:  # after a jump
            self._futures.pop(other).cancel()
        for one in wanted:
            if one not in self._futures:
                self._futures[one] = self._thread.submit(self._function, one)
        return self._futures.pop(number).result()

    def close(self) -> None:
        """Stop computing ahead, and wait for the thread to finish."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
