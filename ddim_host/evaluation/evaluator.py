"""The evaluator: a separate process for features and statistics, the same for every framework.

The sampling process loads one framework; the feature extractor, in the evaluator's process, may use another.
Images are sent to that process in batches, and it sends the measures back.
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
    """Proxy for the evaluator's process. Use it in a `with` block, which stops the process on exit.

    Its methods mirror those of `worker.Worker` and raise the same errors.

    Attributes:
        space: The feature space.
        settings: Settings of the measures.
        seconds: Time spent on features and statistics since the last `begin`.

    Args:
        choice: The requested feature extractor.
        image_shape: `(H, W, C)` of the images.
        settings: Settings of the measures.

    Raises:
        UserError: The extractor is not available, does not work, or does not accept these images.
    """

    def __init__(
        self, choice: PartChoice, image_shape: tuple[int, int, int], settings: MeasureSettings
    ) -> None:
        # A new interpreter, not a fork: neither process should load the other's framework.
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
        """Return self; the process is already running."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the process, even in the middle of a request."""
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
        self._ask("add", np.array(images))  # copies the pixels of a memory map

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
        """Send a request, if there is one, and return the next answer from the process."""
        try:
            if request is not None:
                self._connection.send(request)
            result, error = self._connection.recv()
        except (EOFError, OSError):
            raise UserError(
                "the evaluator's process died unexpectedly",
                why="it was killed, perhaps because memory ran out, or one of its libraries crashed",
                fix="run the command again; it continues after the last score",
            ) from None
        if error is not None:
            raise error
        return result

    def _end(self) -> None:
        self._process.terminate()
        self._process.join()
        self._connection.close()
