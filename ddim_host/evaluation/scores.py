"""Scores with all that they depend on, and the file that keeps them: `evaluation.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ddim_host.evaluation.statistics import Measures, MeasureSettings
from ddim_host.evaluation.worker import FeatureSpace
from ddim_host.experiment.settings import CheckpointChoice
from ddim_host.framework.interface import Device, Precision, WhichWeights
from ddim_host.plugin.observation import ObservedScore
from ddim_host.system.files import file_errors, locked, read_json, write_text
from ddim_host.system.records import read_record, record_errors

if TYPE_CHECKING:
    from pathlib import Path

_FORMAT = 2
_WITHOUT_SOLVERS = 1


@dataclass(frozen=True)
class Sampled:
    """How the images of a score were made.

    Attributes:
        num_images: N.
        seed: Of the noise: images 0 to N - 1 of this seed.
        eta: 0 to 1.
        timesteps: The timesteps that were visited, increasing.
        timestep_subset: The part that chose them, with its parameters.
        solver: The part that followed them, with its parameters.
        clip: The largest absolute value that the predicted x_start was limited to; None if it was not.
        checkpoint: The choice of a checkpoint.
        checkpoint_steps: The training steps after which its weights were saved; several for an ensemble.
        weights: Raw or averaged.
        plugin: The framework.
        device: Where it computed.
        precision: Its arithmetic.
    """

    num_images: int
    seed: int
    eta: float
    timesteps: tuple[int, ...]
    timestep_subset: str
    solver: str
    clip: float | None
    checkpoint: CheckpointChoice
    checkpoint_steps: tuple[int, ...]
    weights: WhichWeights
    plugin: str
    device: Device
    precision: Precision

    @property
    def steps(self) -> int:
        """S, the timesteps that were visited."""
        return len(self.timesteps)


@dataclass(frozen=True)
class RealImages:
    """One half of a data set. Two are equal where their pixels are.

    Attributes:
        data: The data set with its parameters.
        half: `train` or `test`.
        num_images: How many there are.
        sha256: Of all pixels; see `data.image_hash`.
    """

    data: str = field(compare=False)
    half: str
    num_images: int
    sha256: str


@dataclass(frozen=True)
class Ruler:
    """What images were measured with. Numbers of different rulers are not comparable.

    Attributes:
        features: The feature space.
        reference: The real images that the others were compared with.
        settings: How the measures were taken.
    """

    features: FeatureSpace
    reference: RealImages
    settings: MeasureSettings


@dataclass(frozen=True)
class Seconds:
    """What a score took.

    Attributes:
        sampling: Sampling on a warm device, noise included.
        warmup: One step before, which compiles where the framework does that.
        features: Features, statistics and measures, in the evaluator's process.
    """

    sampling: float
    warmup: float
    features: float


@dataclass(frozen=True)
class Score:
    """How good sampled images are.

    Attributes:
        sampled: How they were made.
        ruler: What they were measured with.
        measures: The numbers.
        seconds: What it took.
        calls: Network calls for an image.
        batch_size: Images in each network call; the seconds depend on it, the images do not.
        warnings: What is doubtful about the numbers.
        made_with: Versions, hardware and the command.
    """

    sampled: Sampled
    ruler: Ruler
    measures: Measures
    seconds: Seconds
    calls: int
    batch_size: int
    warnings: tuple[str, ...]
    made_with: dict[str, str]

    @property
    def protocol(self) -> tuple[Sampled, Ruler]:
        """All that the numbers depend on, and that the rows and columns of a table do not say."""
        return replace(self.sampled, seed=0, eta=0.0, timesteps=()), self.ruler

    def observed(self) -> ObservedScore:
        """Return it as observers are told of it."""
        return ObservedScore(
            step=max(self.sampled.checkpoint_steps),
            steps=self.sampled.steps,
            eta=self.sampled.eta,
            seed=self.sampled.seed,
            num_images=self.sampled.num_images,
            features=self.ruler.features.choice,
            frechet_distance=self.measures.frechet_distance,
            kernel_distance=self.measures.kernel_distance,
            precision=self.measures.precision,
            recall=self.measures.recall,
            record=asdict(self),
        )


@dataclass(frozen=True)
class NoiseFloor:
    """What real images of the other half score: no better can be expected of sampled ones.

    Attributes:
        real: The other half.
        ruler: What they were measured with.
        measures: The numbers. The Fréchet distance depends on the number of images.
        warnings: What is doubtful about them.
    """

    real: RealImages
    ruler: Ruler
    measures: Measures
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Scores:
    """All scores of a run, in the order in which they were made."""

    scores: tuple[Score, ...] = ()
    noise_floors: tuple[NoiseFloor, ...] = ()

    def score_of(self, sampled: Sampled, ruler: Ruler) -> Score | None:
        """The score of exactly these images, if there is one."""
        return next((s for s in self.scores if (s.sampled, s.ruler) == (sampled, ruler)), None)

    def with_result(self, result: Score | NoiseFloor) -> Scores:
        """These and one more, unless the same was measured already."""
        if isinstance(result, Score):
            known = self.score_of(result.sampled, result.ruler) is not None
            return self if known else replace(self, scores=(*self.scores, result))
        known = self.floor_of(result.real, result.ruler) is not None
        return self if known else replace(self, noise_floors=(*self.noise_floors, result))

    def floor_of(self, real: RealImages, ruler: Ruler) -> NoiseFloor | None:
        """The noise floor of exactly these images, if there is one."""
        return next((f for f in self.noise_floors if (f.real, f.ruler) == (real, ruler)), None)


class EvaluationFile:
    """`evaluation.json`: written whole after every score, by any number of processes.

    Args:
        path: The file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Scores:
        """All that was measured so far; nothing where there is no file.

        Raises:
            UserError: The file is damaged.
        """
        with record_errors(self.path, fix="move it away; all of it is measured again then"):
            try:
                document = read_json(self.path)
            except FileNotFoundError:
                return Scores()
            if document["format"] == _WITHOUT_SOLVERS:
                _add_solvers(document)
            elif document["format"] != _FORMAT:
                raise ValueError(f"its format is {document['format']!r:.40}, not {_FORMAT}")
            return read_record(Scores, document)

    def add(self, result: Score | NoiseFloor) -> Scores:
        """Add one result, besides what other processes have added.

        Raises:
            UserError: The file is damaged, or cannot be written.
        """
        with file_errors(f"cannot write {self.path}"), locked(self.path.parent):
            known = self.read().with_result(result)
            write_text(self.path, _text(known))
        return known


def _add_solvers(document: dict[str, Any]) -> None:
    """Bring a document of the format before to this one: all its images were sampled by DDIM."""
    for score in document["scores"]:
        score["calls"] = len(score["sampled"]["timesteps"])
        score["sampled"]["solver"] = "ddim"


def _text(scores: Scores) -> str:
    """JSON with a line for each result."""
    lists = {
        name: ",\n".join(json.dumps(asdict(result)) for result in results)
        for name, results in (("scores", scores.scores), ("noise_floors", scores.noise_floors))
    }
    body = ",\n".join(f'"{name}": [\n{lines}\n]' for name, lines in lists.items())
    return f'{{\n"format": {_FORMAT},\n{body}\n}}\n'
