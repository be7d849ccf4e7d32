"""Timestep subsets found by `ddim-host optimize`, with the search settings: a run's `subsets.json`."""

from __future__ import annotations

import hashlib
import itertools
import json
import shlex
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from ddim_host.errors import UserError
from ddim_host.system.files import file_errors, locked, read_json, write_text
from ddim_host.system.records import read_record, record_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ddim_host.diffusion import NoiseSchedule

_DAMAGED = "move the file away, and search again with `ddim-host optimize`"
"""Remedy for a damaged file."""

_FORMAT = 1


@dataclass(frozen=True)
class Refinement:
    """Settings of a refinement, which moves timesteps to bring sampled images closer to the teacher's.

    Attributes:
        distance: What is compared with the teacher's images: pixels, or the features named here.
        solver: The solver used for sampling (with eta 0), and its parameters.
        num_images: The number of images that were compared with the teacher's.
    """

    distance: str
    solver: str
    num_images: int


@dataclass(frozen=True)
class Search:
    """Settings of the search for a subset.

    Attributes:
        method: The subset search, with its parameters.
        distribution: The distribution that provides it.
        version: The distribution's version.
        teacher_timesteps: The timesteps of the teacher, from which subsets are chosen.
        num_images: The number of images sampled by the teacher.
        seed: The seed of the noise that these images start from.
        clip: Limit on the absolute value of the predicted x_start; None for no limit.
        checkpoint: The chosen checkpoint, such as `latest`.
        checkpoint_steps: The training steps after which its weights were saved; several for an ensemble.
        weights: `raw` or `ema` (averaged).
        weights_sha256: SHA-256 of the files of these weights.
        noise_schedule: The noise schedule with its parameters, in readable form.
        schedule_sha256: SHA-256 of its betas.
        plugin: The framework.
        device: The device used for the search.
        precision: The precision of the network.
        batch_size: Images per network call.
        refinement: Settings of the refinement; None if there was none.
    """

    method: str
    distribution: str
    version: str
    teacher_timesteps: tuple[int, ...]
    num_images: int
    seed: int
    clip: float | None
    checkpoint: str
    checkpoint_steps: tuple[int, ...]
    weights: str
    weights_sha256: str
    noise_schedule: str
    schedule_sha256: str
    plugin: str
    device: str
    precision: str
    batch_size: int
    refinement: Refinement | None

    @property
    def network(self) -> str:
        """A description of the weights."""
        return weights_in_words(self.weights, self.checkpoint, self.checkpoint_steps)


@dataclass(frozen=True)
class WantedWeights:
    """The weights that a subset is needed for.

    Attributes:
        sha256: SHA-256 of their files.
        words: A description of them.
        options: Options of `ddim-host optimize` that select them, each preceded by a space.
    """

    sha256: str
    words: str
    options: str


@dataclass(frozen=True)
class FoundSubset:
    """The result of a search for a timestep subset.

    Attributes:
        timesteps: The timesteps, increasing.
        expected_error: The mean squared difference of a pixel from the teacher's images, as estimated by the
            search.
        linear_expected_error: The same for the subset `linear` of the same size.
        refined_from: The timesteps before the refinement; empty if there was none.
        distances: Distances of sampled images from the teacher's, before and after the refinement; empty if
            there was none.
        search: Settings of the search.
        calls: Network calls of the complete search; a batch is one call.
        seconds: Duration of the complete search.
        made_with: Versions, hardware and the command.
    """

    timesteps: tuple[int, ...]
    expected_error: float
    linear_expected_error: float
    refined_from: tuple[int, ...]
    distances: tuple[float, ...]
    search: Search
    calls: int
    seconds: float
    made_with: dict[str, str]

    @property
    def steps(self) -> int:
        """The number of timesteps S."""
        return len(self.timesteps)

    def require_timesteps(self) -> None:
        """Check that the timesteps form a subset of the teacher's.

        Raises:
            ValueError: The timesteps are empty, not increasing or not among the teacher's.
        """
        known = {*self.search.teacher_timesteps}
        increasing = all(one < other for one, other in itertools.pairwise(self.timesteps))
        if not self.timesteps or not increasing or not known.issuperset(self.timesteps):
            raise ValueError(
                "the timesteps must be a strictly increasing, non-empty subset of the teacher's, not "
                f"{self.timesteps!r:.80}"
            )


@dataclass(frozen=True)
class _Document:
    subsets: tuple[FoundSubset, ...]


class SubsetsFile:
    """`subsets.json` in the folder of a run.

    Args:
        run: The folder.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / "subsets.json"

    def read(self) -> tuple[FoundSubset, ...]:
        """Return all subsets found, oldest first, or none if the file does not exist.

        Raises:
            UserError: The file is damaged.
        """
        with record_errors(self.path, fix=_DAMAGED):
            try:
                document = read_json(self.path)
            except FileNotFoundError:
                return ()
            if document["format"] != _FORMAT:
                raise ValueError(f"its format is {document['format']!r:.40}, not {_FORMAT}")
            subsets = read_record(_Document, document).subsets
            for subset in subsets:
                subset.require_timesteps()
            return subsets

    def add(self, found: Iterable[FoundSubset]) -> None:
        """Add subsets; they replace those of the same size found with the same settings.

        Raises:
            UserError: The file is damaged or cannot be written.
        """
        new = {(subset.steps, subset.search): subset for subset in found}
        with file_errors(f"cannot write {self.path}"), locked(self.path.parent):
            old = [subset for subset in self.read() if (subset.steps, subset.search) not in new]
            lines = ",\n".join(json.dumps(asdict(subset)) for subset in (*old, *new.values()))
            write_text(self.path, f'{{\n"format": {_FORMAT},\n"subsets": [\n{lines}\n]\n}}\n')


def found_subset(
    run: Path, schedule: NoiseSchedule, num_inference_steps: int, weights: WantedWeights | None = None
) -> NDArray[np.int64]:
    """Return the subset that was found most recently.

    Args:
        run: The folder of a run.
        schedule: The noise schedule to sample with.
        num_inference_steps: S.
        weights: The weights to sample with, if they belong to that run; None to ignore the weights.

    Returns:
        int64 `(S,)`.

    Raises:
        UserError: No subset of this size was found for these weights and this schedule; or the file is
            damaged.
    """
    if not run.is_dir():
        raise UserError(
            f"there is no run in {run}",
            why="timestep subset 'optimized' reads its subsets from a run's folder",
        )
    file = SubsetsFile(run)
    fix = f"ddim-host optimize {shlex.quote(str(run))} --steps {num_inference_steps}"
    if weights is not None:
        fix += weights.options
    found = file.read()
    if not found:
        raise UserError(f"the run in {run} has no optimized timestep subsets", fix=fix)
    digest = schedule_hash(schedule)
    same = [subset for subset in found if subset.search.schedule_sha256 == digest]
    if not same:
        raise UserError(
            f"the timestep subsets in {file.path} were found for a different noise schedule",
            why=f"they were found for {found[-1].search.noise_schedule}",
            fix=f"{fix}, or another --timestep-subset" if weights else "choose another --timestep-subset",
        )
    if weights is not None:
        same = [subset for subset in same if subset.search.weights_sha256 == weights.sha256]
        if not same:
            raise UserError(
                f"the timestep subsets in {file.path} were found for other weights",
                why=f"they were found for {found[-1].search.network}, not for {weights.words}",
                fix=fix,
            )
    fitting = [subset for subset in same if subset.steps == num_inference_steps]
    if not fitting:
        sizes = ", ".join(map(str, sorted({subset.steps for subset in same})))
        raise UserError(
            f"the run in {run} has no optimized timestep subset of {num_inference_steps} steps",
            why=f"it has subsets of {sizes} steps",
            fix=fix,
        )
    timesteps = fitting[-1].timesteps
    if timesteps[0] < 0 or timesteps[-1] >= schedule.num_train_timesteps:
        raise UserError(
            f"{file.path} is damaged",
            why=f"{timesteps} are not all in [0, {schedule.num_train_timesteps})",
            fix=_DAMAGED,
        )
    return np.array(timesteps, dtype=np.int64)


def weights_in_words(which: str, checkpoint: str, steps: Sequence[int]) -> str:
    """Describe weights of a run: `the ema weights of checkpoint 'latest' (step 450)`."""
    after = " and ".join(f"{step:,}" for step in steps)
    return f"the {which} weights of checkpoint {checkpoint!r} (step {after})"


def schedule_hash(schedule: NoiseSchedule) -> str:
    """Return the SHA-256 of the betas of a schedule."""
    return hashlib.sha256(schedule.betas.astype("<f8").tobytes()).hexdigest()
