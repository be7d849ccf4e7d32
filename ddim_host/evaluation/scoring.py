"""Scoring of a trained run over steps x eta x seeds; each score is yielded as soon as it is measured."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING

from ddim_host.errors import UserError, printable
from ddim_host.evaluation.scores import NoiseFloor, RealImages, Ruler, Sampled, Score, Seconds
from ddim_host.plugin.parameters import parse_choice
from ddim_host.run.provenance import provenance, this_command
from ddim_host.run.sampling import Sampler
from ddim_host.run.trained import record_of, solver_of
from ddim_host.system.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddim_host.evaluation.evaluator import Evaluator
    from ddim_host.evaluation.request import EvaluationRequest, Half
    from ddim_host.evaluation.scores import EvaluationFile
    from ddim_host.experiment.assembly import Experiment
    from ddim_host.plugin.data import Images, TrainTest
    from ddim_host.plugin.validation import SamplingPlan
    from ddim_host.run.sampling import Denoiser
    from ddim_host.run.trained import UsedWeights

_REAL_BATCH = 100


def measure_real_images(
    evaluator: Evaluator,
    file: EvaluationFile,
    data: str,
    images: TrainTest,
    half: Half,
) -> Ruler:
    """Make one half of a data set the reference, and measure the noise floor with the other half.

    Args:
        evaluator: Receives the reference.
        file: Receives the noise floor, unless it already contains it.
        data: The name of the data set, with its parameters.
        images: The data set.
        half: The half to use as the reference.

    Returns:
        The ruler for measuring samples.

    Raises:
        UserError: The reference has too few images.
    """
    other: Half = "test" if half == "train" else "train"
    halves = {"train": images.train, "test": images.test}
    hashes = {"train": images.fingerprint.train_sha256, "test": images.fingerprint.test_sha256}
    real = {name: RealImages(data, name, len(halves[name]), hashes[name]) for name in halves}
    if real[half].num_images <= evaluator.settings.neighbours:
        raise UserError(
            f"{_name(data)} has too few {'training' if half == 'train' else half} images to compare with",
            why=f"it has {real[half].num_images}; the metrics need more than {evaluator.settings.neighbours}",
            fix="choose other images with --data, or the other half with --reference",
        )
    ruler = Ruler(evaluator.space, real[half], evaluator.settings)
    if not evaluator.load_reference(real[half].sha256, real[half].num_images):
        _gather(evaluator, halves[half], half)
        evaluator.use_as_reference(real[half].sha256)
    if (
        file.read().floor_of(real[other], ruler) is None
        and real[other].num_images > ruler.settings.neighbours
    ):
        _gather(evaluator, halves[other], other)
        measures = evaluator.measure()
        file.add(NoiseFloor(real[other], ruler, measures, _warnings(real[other].num_images, ruler)))
    return ruler


def planned(
    experiment: Experiment, denoiser: Denoiser, used: UsedWeights, request: EvaluationRequest
) -> list[Sampled]:
    """Return a description of each set of images to score, ordered by seed.

    Raises:
        UserError: The timestep subset does not support one of the step counts.
    """
    made = record_of(experiment, denoiser, used)
    subsets = {steps: tuple(experiment.timesteps(steps).tolist()) for steps in request.steps}
    solver = solver_of(experiment)
    return [
        Sampled(
            num_images=request.samples,
            seed=seed,
            eta=eta,
            timesteps=subsets[steps],
            solver=solver,
            clip=experiment.config.x_start_limit,
            **made,
        )
        for seed, steps, eta in product(request.seed, request.steps, request.eta)
    ]


def network_calls(experiment: Experiment, sets: list[Sampled]) -> int:
    """Return the number of network calls, each for one batch, needed to sample these sets."""
    return sum(
        math.ceil(sampled.num_images / experiment.config.batch_size)
        * experiment.sampling_plan(sampled.steps, sampled.eta).calls
        for sampled in sets
    )


def score(
    experiment: Experiment,
    denoiser: Denoiser,
    evaluator: Evaluator,
    ruler: Ruler,
    sets: list[Sampled],
) -> Iterator[Score]:
    """Sample and measure sets of images, with a progress bar; all other processes call `help_to_score`.

    Args:
        experiment: The experiment of the run.
        denoiser: Its trained network.
        evaluator: The evaluator, with the reference of `ruler` already set.
        ruler: Features, reference and settings of the measures.
        sets: The sets, from `planned`.

    Yields:
        The scores, in the same order.

    Raises:
        UserError: A pixel is not finite, or the evaluator's process died.
    """
    if not sets:
        return
    config = experiment.config
    made_with = provenance(config.plugin.name, denoiser.model, this_command())
    plans = [experiment.sampling_plan(sampled.steps, sampled.eta) for sampled in sets]
    with progress_bar("scoring", network_calls(experiment, sets), unit="call") as bar:
        for sampled, plan in zip(sets, plans, strict=True):
            sampler = _sampler(experiment, denoiser, sampled, plan)
            evaluator.begin(sampled.num_images)
            for images in sampler.images(
                sampled.num_images, batch_size=config.batch_size, on_call=bar.update
            ):
                evaluator.add(images)
            measures = evaluator.measure()
            bar.clear()
            yield Score(
                sampled=sampled,
                ruler=ruler,
                measures=measures,
                seconds=Seconds(sampler.seconds, sampler.warmup_seconds, evaluator.seconds),
                calls=plan.calls * len(denoiser.members),
                batch_size=min(config.batch_size, sampled.num_images),
                warnings=_warnings(sampled.num_images, ruler),
                made_with=made_with,
            )


def help_to_score(experiment: Experiment, denoiser: Denoiser, sets: list[Sampled]) -> None:
    """Sample this process's share of the images that the first process scores.

    Args:
        experiment: The experiment of the run.
        denoiser: Its trained network.
        sets: The sets that the first process passes to `score`.
    """
    for sampled in sets:
        plan = experiment.sampling_plan(sampled.steps, sampled.eta)
        sampler = _sampler(experiment, denoiser, sampled, plan)
        for _ in sampler.images(sampled.num_images, batch_size=experiment.config.batch_size):
            pass


def _sampler(experiment: Experiment, denoiser: Denoiser, sampled: Sampled, plan: SamplingPlan) -> Sampler:
    return Sampler(
        denoiser,
        plan.steps,
        image_shape=experiment.image_shape,
        seed=sampled.seed,
        limit=sampled.clip,
        solver=plan.solver,
        processes=experiment.processes,
    )


def _gather(evaluator: Evaluator, images: Images, half: Half) -> None:
    evaluator.begin(len(images))
    with progress_bar(f"features of real {half} images", len(images), unit="image") as bar:
        for first in range(0, len(images), _REAL_BATCH):
            batch = images[first : first + _REAL_BATCH]
            evaluator.add(batch)
            bar.update(len(batch))


def _warnings(count: int, ruler: Ruler) -> tuple[str, ...]:
    """List warnings about measures computed from too few images."""
    dimension = ruler.features.dimension
    few = [
        f"{number:,} {name} are too few for the covariance of {dimension:,} features, which is singular: "
        "the Fréchet distance is far too large"
        for number, name in ((count, "images"), (ruler.reference.num_images, "reference images"))
        if number <= dimension
    ]
    return tuple(few)


def _name(data: str) -> str:
    """Return the path in a data set's parameters, or its name if it has no path."""
    choice = parse_choice(data)
    return printable(choice.arguments.get("path", choice.name))
