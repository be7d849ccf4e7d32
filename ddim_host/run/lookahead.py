"""Values that a thread computes before they are asked for."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Lookahead(Generic[T]):
    """A function of 0, 1, 2, ..., whose next values are computed in a thread while the last one is used.

    Args:
        function: A pure function; NumPy's heavy parts let other threads run.
        depth: How many values to compute ahead; 0 computes each when it is asked for, without a thread.
        end: Values from here on are not computed ahead.
    """

    def __init__(self, function: Callable[[int], T], *, depth: int, end: int) -> None:
        self._function = function
        self._depth = depth
        self._end = end
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lookahead") if depth else None
        self._futures: dict[int, Future[T]] = {}

    def __call__(self, number: int) -> T:
        """Return the value, and see to it that the next ones are on their way.

        Raises:
            Exception: Whatever the function raises for this number.
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
        """Compute nothing more ahead; returns when the thread has ended."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
