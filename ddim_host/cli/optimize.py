"""The `ddim-host optimize` command."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from ddim_host.cli.features import evaluator_of
from ddim_host.cli.options import requested
from ddim_host.cli.output import used_line
from ddim_host.errors import UserError, printable
from ddim_host.evaluation.feature_distance import feature_distance, require_enough
from ddim_host.experiment.assembly import default_part
from ddim_host.experiment.config import clip_in_words
from ddim_host.experiment.settings import read_list
from ddim_host.parts.found_subsets import Refinement, SubsetsFile
from ddim_host.plugin.parameters import parse_choice
from ddim_host.plugin.registry import Kind
from ddim_host.plugin.validation import try_search
from ddim_host.report.output import write_report
from ddim_host.run.directory import existing_run
from ddim_host.run.optimization import Method, search_of, search_subsets, teacher_timesteps
from ddim_host.run.provenance import this_command
from ddim_host.run.refinement import pixel_distance, refined_images
from ddim_host.run.trained import assemble_trained, load_denoiser, solver_of, weights_hash

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from ddim_host.experiment.assembly import Experiment
    from ddim_host.parts.found_subsets import FoundSubset
    from ddim_host.plugin.registry import Registry
    from ddim_host.run.refinement import Distance


def main(options: argparse.Namespace) -> int:
    """Find timestep subsets for the given run.

    Returns:
        The exit code.

    Raises:
        UserError: An option is not allowed, the run or the checkpoint is missing or damaged, the search
            breaks its contract, or the result cannot be written.
    """
    started = time.perf_counter()
    if options.refine == "none" and options.solver is not None:
        raise UserError(
            "--solver has no effect without --refine",
            why="the search is for DDIM; only the refinement uses another solver",
            fix="add --refine teacher, or pass --solver to `ddim-host sample`",
        )
    run = existing_run(options.run)
    sizes = read_list("steps", options.steps_list, origin="--steps")
    experiment = assemble_trained(run, requested(options), options.checkpoint, options.weights)
    method = _method(options.search, experiment.registry)
    try_search(method.part, method.parameters, experiment.schedule, sizes)
    timesteps = teacher_timesteps(experiment, options.teacher_steps, sizes)
    file = SubsetsFile(run.path)
    file.read()  # a damaged file raises before any work
    with ExitStack() as until_found:
        refinement, distance_from = _refinement(options.refine, experiment, options.images, until_found)
        denoiser, used = load_denoiser(experiment, run, options.checkpoint, options.weights)
        search = search_of(
            experiment,
            denoiser,
            used,
            method,
            weights_sha256=weights_hash(run, options.checkpoint, options.weights),
            timesteps=timesteps,
            num_images=options.images,
            refinement=refinement,
        )
        print(used_line(run.path, experiment.config.plugin.name, used))
        print(
            f"{'teacher':<17} {search.num_images:,} images in {len(timesteps)} steps, eta 0, "
            f"{clip_in_words(search.clip)}, seed {search.seed}"
        )
        print(f"{'search':<17} {search.method} ({search.distribution} {search.version})", flush=True)
        found = search_subsets(
            experiment, denoiser, method, search, sizes, started=started, distance_from=distance_from
        )
    file.add(found)
    print("\n".join(_lines(found)))
    print(f"wrote {printable(file.path)}: use them with --timestep-subset optimized")
    write_report([run.path], run.report_path, command=this_command())
    print(f"wrote {printable(run.report_path)}")
    return 0


def _method(text: str | None, registry: Registry) -> Method:
    choice = default_part(Kind.SEARCH, registry) if text is None else parse_choice(text)
    part = registry.find(Kind.SEARCH, choice)
    return Method(part, part.values(choice.arguments))


def _refinement(
    how: str, experiment: Experiment, num_images: int, until_found: ExitStack
) -> tuple[Refinement | None, Callable[[NDArray[np.float32]], Distance] | None]:
    """Return the refinement's record and distance function; both are None without refinement."""
    if how == "none":
        return None, None
    count, solver = refined_images(num_images), solver_of(experiment)
    if how == "teacher":
        return Refinement("pixels", solver, count), pixel_distance
    evaluator = evaluator_of(experiment)
    until_found.enter_context(evaluator)
    require_enough(evaluator, count)
    space = evaluator.space
    words = f"features of {space.choice} ({space.distribution} {space.version})"
    return Refinement(words, solver, count), partial(feature_distance, evaluator)


def _lines(found: list[FoundSubset]) -> Iterator[str]:
    yield f"{'error':<17} expected mean squared difference from the teacher's images, per pixel"
    yield f"{'S':>4}  {'error':>9}  {'of linear':>9}  timesteps"
    for subset in found:
        yield (
            f"{subset.steps:>4}  {subset.expected_error:>9.2e}  {subset.linear_expected_error:>9.2e}  "
            f"{', '.join(map(str, subset.timesteps))}"
        )
    refinement = found[0].search.refinement
    if refinement is None:
        return
    yield (
        f"{'refined':<17} with {refinement.solver}, minimising the distance in {refinement.distance} between "
        f"{refinement.num_images:,} images and the teacher's"
    )
    yield f"{'S':>4}  {'before':>9}  {'after':>9}  timesteps before"
    for subset in found:
        before, after = subset.distances
        yield (
            f"{subset.steps:>4}  {before:>9.2e}  {after:>9.2e}  {', '.join(map(str, subset.refined_from))}"
        )
