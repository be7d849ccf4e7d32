"""The evaluator: a process of its own for features and statistics, the same for every framework.

The process that samples holds one framework; whatever the feature extractor computes with is over there.
Images go there a batch at a time, and numbers come back.
"""

from __future__ import annotations

import multiprocessing
import time
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ddim_host.errors import UserError
from ddim_host.evaluation.worker import serve

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from ddim_host.evaluation.statistics import Measures, MeasureSettings
    from ddim_host.evaluation.worker import FeatureSpace
    from ddim_host.plugin.data import Images
    from ddim_host.plugin.parameters import PartChoice


class Evaluator:
    """The near end of the evaluator's process; used in a `with` block, which ends the process.

    Its methods are those of `worker.Worker`, with the same errors.

    Attributes:
        space: The feature space.
        settings: How measures are taken.
        seconds: The time that features and statistics took since the last `begin`.

    Args:
        choice: The feature extractor that the user asked for.
        image_shape: `(H, W, C)` of the images to come.
        settings: How measures are taken.

    Raises:
        UserError: The extractor is not to be had, does not work, or is not made for such images.
    """

    def __init__(
        self, choice: PartChoice, image_shape: tuple[int, int, int], settings: MeasureSettings
    ) -> None:
        # A new interpreter, not a fork: neither side should hold the other one's framework.
        context = multiprocessing.get_context("spawn")
        self._connection, far_end = context.Pipe()
        self._process = context.Process(
            target=serve, args=(far_end, choice, image_shape, settings), daemon=True
        )
        self._process.start()
        far_end.close()
        self.settings = settings
        self.seconds = 0.0
        try:
            self.space: FeatureSpace = self._answer()
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process, whatever it does."""
        self._end()

    def load_reference(self, images_sha256: str, count: int) -> bool:
        """See `worker.Worker.load_reference`."""
        return cast("bool", self._ask("load_reference", images_sha256, count))

    def begin(self, count: int) -> None:
        """See `worker.Worker.begin`."""
        self.seconds = 0.0
        self._ask("begin", count)

    def add(self, images: Images) -> None:
        """See `worker.Worker.add`."""
        self._ask("add", np.array(images))  # of a memory map, the pixels

    def use_as_reference(self, images_sha256: str) -> None:
        """See `worker.Worker.use_as_reference`."""
        self._ask("use_as_reference", images_sha256)

    def measure(self) -> Measures:
        """See `worker.Worker.measure`."""
        return cast("Measures", self._ask("measure"))

    def _ask(self, method: str, *arguments: object) -> Any:
        started = time.perf_counter()
        answer = self._answer((method, *arguments))
        self.seconds += time.perf_counter() - started
        return answer

    def _answer(self, request: tuple[object, ...] | None = None) -> Any:
        """What the process answers to a request; without one, what it says when it has begun."""
        try:
            if request is not None:
                self._connection.send(request)
            result, error = self._connection.recv()
        except (EOFError, OSError):
            raise UserError(
                "the evaluator's process ended unexpectedly",
                why="it was killed, perhaps for want of memory, or its libraries crashed",
                fix="run the same command again: it goes on after the last score",
            ) from None
        if error is not None:
            raise error
        return result

    def _end(self) -> None:
        self._process.terminate()
        self._process.join()
        self._connection.close()
