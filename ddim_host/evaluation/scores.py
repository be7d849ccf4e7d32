"""Scores with their complete protocol, and the file that stores them: `evaluation.json`."""

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
    """Description of a set of sampled images.

    Attributes:
        num_images: N.
        seed: Seed of the noise; the images are those numbered 0 to N - 1 for this seed.
        eta: eta in [0, 1].
        timesteps: The visited timesteps, increasing.
        timestep_subset: The part that chose the timesteps, with its parameters.
        solver: The solver, with its parameters.
        clip: Limit on the absolute value of the predicted x_start; None for no limit.
        checkpoint: The chosen checkpoint.
        checkpoint_steps: Training step at which the weights were saved; several for an ensemble.
        weights: Which weights were used: raw or averaged.
        plugin: The framework.
        device: The device.
        precision: The precision of the arithmetic.
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

    def on_any_network(self) -> Sampled:
        """Return the same description without the network and the arithmetic: scores may compare these."""
        return replace(
            self, plugin="", device="auto", precision="auto", checkpoint_steps=(), checkpoint="latest"
        )

    @property
    def steps(self) -> int:
        """S, the number of visited timesteps."""
        return len(self.timesteps)


@dataclass(frozen=True)
class RealImages:
    """One half of a data set. Comparisons ignore the name of the data set: only the images matter.

    Attributes:
        data: The name of the data set, with its parameters.
        half: `train` or `test`.
        num_images: The number of images.
        sha256: SHA-256 of all pixels; see `data.image_hash`.
    """

    data: str = field(compare=False)
    half: str
    num_images: int
    sha256: str


@dataclass(frozen=True)
class Ruler:
    """Measuring protocol: features, reference and settings. Scores with different rulers are not comparable.

    Attributes:
        features: The feature space.
        reference: The real images to compare with.
        settings: Settings of the measures.
    """

    features: FeatureSpace
    reference: RealImages
    settings: MeasureSettings


@dataclass(frozen=True)
class Seconds:
    """Time taken to produce a score, in seconds.

    Attributes:
        sampling: Sampling after the warm-up, including drawing the noise.
        warmup: One step before sampling, including any compilation by the framework.
        features: Features, statistics and measures, in the evaluator's process.
    """

    sampling: float
    warmup: float
    features: float


@dataclass(frozen=True)
class Score:
    """Quality of a set of sampled images.

    Attributes:
        sampled: Description of the images.
        ruler: Features, reference and settings of the measures.
        measures: The measures.
        seconds: Time taken.
        calls: Network calls per image.
        batch_size: Images per network call; affects the time taken, not the images.
        warnings: Reasons to doubt the measures.
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
        """Everything the measures depend on, except seed, eta and timesteps, which vary within a table."""
        return replace(self.sampled, seed=0, eta=0.0, timesteps=()), self.ruler

    def observed(self) -> ObservedScore:
        """Return the score in the form that observers receive."""
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
    """Score of the other half of the real images, for comparison; sampled images may score higher or lower.

    Attributes:
        real: The other half.
        ruler: Features, reference and settings of the measures.
        measures: The measures. The Fréchet distance depends on the number of images.
        warnings: Reasons to doubt the measures.
    """

    real: RealImages
    ruler: Ruler
    measures: Measures
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Scores:
    """All scores of a run, in the order in which they were measured."""

    scores: tuple[Score, ...] = ()
    noise_floors: tuple[NoiseFloor, ...] = ()

    def score_of(self, sampled: Sampled, ruler: Ruler) -> Score | None:
        """Return the score of exactly these images, or None if there is none."""
        return next((s for s in self.scores if (s.sampled, s.ruler) == (sampled, ruler)), None)

    def with_result(self, result: Score | NoiseFloor) -> Scores:
        """Return the scores with the result added, unless they already contain it."""
        if isinstance(result, Score):
            known = self.score_of(result.sampled, result.ruler) is not None
            return self if known else replace(self, scores=(*self.scores, result))
        known = self.floor_of(result.real, result.ruler) is not None
        return self if known else replace(self, noise_floors=(*self.noise_floors, result))

    def floor_of(self, real: RealImages, ruler: Ruler) -> NoiseFloor | None:
        """Return the noise floor of exactly these images, or None if there is none."""
        return next((f for f in self.noise_floors if (f.real, f.ruler) == (real, ruler)), None)


class EvaluationFile:
    """The file `evaluation.json`, rewritten after every score; several processes may write to it.

    Args:
        path: The file, in an existing folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Scores:
        """Return all results so far; empty if the file does not exist.

        Raises:
            UserError: The file is damaged.
        """
        with record_errors(self.path, fix="move the file elsewhere; all scores will then be measured again"):
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
        """Add one result, and return all results, including those added by other processes.

        Raises:
            UserError: The file is damaged, or cannot be written.
        """
        with file_errors(f"cannot write {self.path}"), locked(self.path.parent):
            known = self.read().with_result(result)
            write_text(self.path, _text(known))
        return known


def _add_solvers(document: dict[str, Any]) -> None:
    """Convert a document from the previous format, in which all images were sampled with DDIM."""
    for score in document["scores"]:
        score["calls"] = len(score["sampled"]["timesteps"])
        score["sampled"]["solver"] = "ddim"


def _text(scores: Scores) -> str:
    """Format scores as JSON, one line per result."""
    lists = {
        name: ",\n".join(json.dumps(asdict(result)) for result in results)
        for name, results in (("scores", scores.scores), ("noise_floors", scores.noise_floors))
    }
    body = ",\n".join(f'"{name}": [\n{lines}\n]' for name, lines in lists.items())
    return f'{{\n"format": {_FORMAT},\n{body}\n}}\n'
