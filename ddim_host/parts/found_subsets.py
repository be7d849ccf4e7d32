"""Timestep subsets that `ddim-host optimize` found, each with how: the file `subsets.json` of a run."""

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

_DAMAGED = "move it away, and search again with `ddim-host optimize`"
"""What to do about a damaged file."""

_FORMAT = 1


@dataclass(frozen=True)
class Refinement:
    """How subsets were refined after the search: moved until sampled images were nearer to the teacher's.

    Attributes:
        distance: From the teacher's images: that of their pixels, or in which features.
        solver: The solver, with its parameters, that sampled with eta 0.
        num_images: How many of the teacher's images were compared.
    """

    distance: str
    solver: str
    num_images: int


@dataclass(frozen=True)
class Search:
    """How a subset was searched for.

    Attributes:
        method: The subset search, with its parameters.
        distribution: The distribution that provides it.
        version: That distribution's version.
        teacher_timesteps: The timesteps of the teacher, which subsets are taken from.
        num_images: The images that the teacher sampled.
        seed: The seed of their noise.
        clip: The largest absolute value that the predicted x_start was limited to; None if it was not.
        checkpoint: The choice of a checkpoint.
        checkpoint_steps: The training steps after which its weights were saved; several for an ensemble.
        weights: Raw or averaged.
        weights_sha256: Of the files of these weights.
        noise_schedule: The noise schedule with its parameters, for people.
        schedule_sha256: Of its betas.
        plugin: The framework.
        device: Where it computed.
        precision: Its arithmetic.
        batch_size: Images in each network call.
        refinement: How what was found was refined; None if it was not.
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
        """The weights, in words."""
        return weights_in_words(self.weights, self.checkpoint, self.checkpoint_steps)


@dataclass(frozen=True)
class WantedWeights:
    """Weights that subsets may have been found for.

    Attributes:
        sha256: Of their files.
        words: What they are.
        options: Options of `ddim-host optimize` that choose them, each after a space.
    """

    sha256: str
    words: str
    options: str


@dataclass(frozen=True)
class FoundSubset:
    """A timestep subset that was found.

    Attributes:
        timesteps: The timesteps, increasing.
        expected_error: The mean squared difference of a pixel from the teacher's images, as the search
            expects it.
        linear_expected_error: The same of the subset `linear` of as many timesteps.
        refined_from: The timesteps before the refinement; none without one.
        distances: Those of sampled images from the teacher's before and after it; none without one.
        search: How it was found.
        calls: Network calls of the whole search, all images of a batch together.
        seconds: What the whole search took.
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
        """S."""
        return len(self.timesteps)

    def require_timesteps(self) -> None:
        """Make sure that the timesteps are those of a subset.

        Raises:
            ValueError: There are none, they do not increase, or the teacher had others.
        """
        known = {*self.search.teacher_timesteps}
        increasing = all(one < other for one, other in itertools.pairwise(self.timesteps))
        if not self.timesteps or not increasing or not known.issuperset(self.timesteps):
            raise ValueError(f"{self.timesteps!r:.80} are not increasing timesteps of the teacher")


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
        """Return all that was found, the oldest first; nothing if there is no file.

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
        """Add subsets; they replace those of as many timesteps that were found in the same way.

        Raises:
            UserError: The file is damaged, or cannot be written.
        """
        new = {(subset.steps, subset.search): subset for subset in found}
        with file_errors(f"cannot write {self.path}"), locked(self.path.parent):
            old = [subset for subset in self.read() if (subset.steps, subset.search) not in new]
            lines = ",\n".join(json.dumps(asdict(subset)) for subset in (*old, *new.values()))
            write_text(self.path, f'{{\n"format": {_FORMAT},\n"subsets": [\n{lines}\n]\n}}\n')


def found_subset(
    run: Path, schedule: NoiseSchedule, num_inference_steps: int, weights: WantedWeights | None = None
) -> NDArray[np.int64]:
    """Return what was found last.

    Args:
        run: The folder of a run.
        schedule: The noise schedule to sample with.
        num_inference_steps: S.
        weights: The weights to sample with, if they are those of that run.

    Returns:
        int64 `(S,)`.

    Raises:
        UserError: No such subset was found, for these weights or for this schedule; or the file is damaged.
    """
    if not run.is_dir():
        raise UserError(f"there is no run in {run}", why="optimized subsets were to be taken from it")
    file = SubsetsFile(run)
    fix = f"ddim-host optimize {shlex.quote(str(run))} --steps {num_inference_steps}"
    if weights is not None:
        fix += weights.options
    found = file.read()
    if not found:
        raise UserError(f"no timestep subsets were searched for the run in {run}", fix=fix)
    digest = schedule_hash(schedule)
    same = [subset for subset in found if subset.search.schedule_sha256 == digest]
    if not same:
        raise UserError(
            f"the timestep subsets in {file.path} were found for another noise schedule",
            why=f"that was {found[-1].search.noise_schedule}",
            fix=f"{fix}, or another --timestep-subset" if weights else "choose another --timestep-subset",
        )
    if weights is not None:
        same = [subset for subset in same if subset.search.weights_sha256 == weights.sha256]
        if not same:
            raise UserError(
                f"the timestep subsets in {file.path} were found for other weights",
                why=f"for {found[-1].search.network}, not {weights.words}",
                fix=fix,
            )
    fitting = [subset for subset in same if subset.steps == num_inference_steps]
    if not fitting:
        sizes = ", ".join(map(str, sorted({subset.steps for subset in same})))
        raise UserError(
            f"no timestep subset of {num_inference_steps} steps was searched for the run in {run}",
            why=f"there are those of {sizes}",
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
    """Return what some weights of a run are: `the ema weights of checkpoint 'latest' (step 450)`."""
    after = " and ".join(f"{step:,}" for step in steps)
    return f"the {which} weights of checkpoint {checkpoint!r} (step {after})"


def schedule_hash(schedule: NoiseSchedule) -> str:
    """Return the SHA-256 of the betas of a schedule."""
    return hashlib.sha256(schedule.betas.astype("<f8").tobytes()).hexdigest()
