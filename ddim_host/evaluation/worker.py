"""The worker in the evaluator's process: features, statistics, measures."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import signal
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import safetensors.numpy

from ddim_host.errors import UserError, print_traceback
from ddim_host.evaluation.statistics import (
    FeatureStatistics,
    Measures,
    MeasureSettings,
    StatisticsAccumulator,
    measure,
)
from ddim_host.plugin.framework_guard import allow_framework
from ddim_host.plugin.loading import load_plugins
from ddim_host.plugin.parameters import format_choice
from ddim_host.plugin.registry import Kind
from ddim_host.plugin.validation import checked_extractor, checked_features, framework_of
from ddim_host.system.arrays import safetensors_bytes
from ddim_host.system.cache import cache_errors, cache_folder
from ddim_host.system.files import read_bytes, write_bytes
from ddim_host.system.machine import let_waiting_threads_sleep

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from pathlib import Path

    from ddim_host.plugin.data import Images
    from ddim_host.plugin.parameters import PartChoice

_Result = TypeVar("_Result")

_FORMAT = 1
"""Format version of the cached reference statistics."""

_MOST_HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class FeatureSpace:
    """A space in which images are compared.

    Attributes:
        name: The feature extractor.
        choice: The extractor with its parameters, as on the command line.
        distribution: The distribution that provides the extractor.
        version: The version of the distribution.
        fingerprint: Identifies the weights; see `contracts.FeatureExtractor`.
        dimension: D, the number of features of an image.
    """

    name: str
    choice: str
    distribution: str
    version: str
    fingerprint: str
    dimension: int


class Worker:
    """A feature extractor, the reference, and the current set of images.

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
        # No framework is allowed yet: importing a part must not import one.
        self._part = load_plugins().registry.find(Kind.FEATURES, choice)
        parameters = self._part.values(choice.arguments)
        allow_framework(framework_of(self._part))
        let_waiting_threads_sleep()
        self._settings = settings
        self._extractor = checked_extractor(self._part, parameters)
        trial = checked_features(self._part, self._extractor, np.zeros((2, *image_shape), np.uint8))
        self.space = FeatureSpace(
            name=self._part.name,
            choice=format_choice(self._part.name, parameters),
            distribution=self._part.distribution,
            version=self._part.version,
            fingerprint=self._extractor.fingerprint,
            dimension=trial.shape[1],
        )
        self._accumulator = StatisticsAccumulator(0, 0)
        self._reference: FeatureStatistics | None = None

    def load_reference(self, images_sha256: str, count: int) -> bool:
        """Use cached statistics as the reference.

        Args:
            images_sha256: SHA-256 of the images.
            count: The number of images.

        Returns:
            True if the cache contains valid statistics.
        """
        dimension, kept = self.space.dimension, self._settings.max_kept
        most_bytes = 8 * (dimension + 1) * dimension + 4 * kept * dimension + _MOST_HEADER_BYTES
        self._reference = _read_statistics(self._path(images_sha256), most_bytes)
        found = self._reference
        if found is not None and (found.count, len(found.mean)) != (count, self.space.dimension):
            self._reference = None
        return self._reference is not None

    def begin(self, count: int) -> None:
        """Begin a new set of `count` images."""
        self._accumulator = StatisticsAccumulator(count, self._settings.max_kept)

    def add(self, images: Images) -> None:
        """Add images to the set, uint8 `(B, H, W, C)`.

        Raises:
            UserError: The extractor fails or returns invalid features.
        """
        features = checked_features(self._part, self._extractor, images, self.space.dimension)
        self._accumulator.add(features)

    def use_as_reference(self, images_sha256: str) -> None:
        """Make the set the reference, and store its statistics in the cache.

        Raises:
            UserError: The cache cannot be written.
        """
        self._reference = self._accumulator.statistics()
        with cache_errors():
            path = self._path(images_sha256)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, _statistics_bytes(self._reference))

    def measure(self) -> Measures:
        """Compare the set with the reference."""
        assert self._reference is not None, "set the reference first"
        return measure(self._accumulator.statistics(), self._reference, self._settings)

    def _path(self, images_sha256: str) -> Path:
        key = repr((_FORMAT, self.space, self._settings.max_kept, images_sha256))
        return cache_folder() / f"features-{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"


def serve(connection: Connection, *arguments: Any) -> None:
    """Run the evaluator's process: create a worker and answer requests.

    Each request is the name of a method and its arguments. Each answer is `(result, None)` or
    `(None, error)`; the first answer contains the feature space.

    Args:
        connection: Connection to the sampling process.
        arguments: Arguments of `Worker`.
    """
    # Ctrl-C reaches all processes of a terminal; the sampling process handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Output of libraries must not reach a command's stdout. EOFError: the sampling process has finished.
    with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(EOFError):
        worker, error = _attempt(lambda: Worker(*arguments))
        connection.send((worker and worker.space, error))
        while worker is not None:
            method, *given = connection.recv()
            connection.send(_attempt(functools.partial(getattr(worker, method), *given)))


def _attempt(call: Callable[[], _Result]) -> tuple[_Result | None, Exception | None]:
    """Return the call's result, or an error that can be sent to another process."""
    try:
        return call(), None
    except UserError as error:
        print_traceback(error)  # it would be lost on the way to the other process
        return None, error
    except Exception:
        return None, RuntimeError(f"in the evaluator's process:\n{traceback.format_exc()}")


def _statistics_bytes(statistics: FeatureStatistics) -> bytes:
    return safetensors_bytes(
        {
            "count": np.array([statistics.count], np.int64),
            "mean": statistics.mean,
            "covariance": statistics.covariance,
            "kept": statistics.kept,
        }
    )


def _read_statistics(path: Path, max_bytes: int) -> FeatureStatistics | None:
    """Return statistics from the cache, or None if they are missing or invalid."""
    try:
        arrays = safetensors.numpy.load(read_bytes(path, max_bytes))
        statistics = FeatureStatistics(
            int(arrays["count"].item()), arrays["mean"], arrays["covariance"], arrays["kept"]
        )
    except Exception:  # a damaged file fails in many ways; it will be replaced
        return None
    mean, covariance, kept = statistics.mean, statistics.covariance, statistics.kept
    dimension = (len(mean),)
    fits = (
        [array.dtype.name for array in (mean, covariance, kept)] == ["float64", "float64", "float32"]
        and (mean.shape, covariance.shape, kept.shape[1:]) == (dimension, dimension * 2, dimension)
        and all(np.isfinite(array).all() for array in (mean, covariance, kept))
    )
    return statistics if fits else None
