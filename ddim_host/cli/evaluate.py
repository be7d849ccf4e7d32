"""`ddim-host evaluate`."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from ddim_host.cli.options import read_list, requested
from ddim_host.cli.text import used_line
from ddim_host.errors import UserError
from ddim_host.evaluation.evaluator import Evaluator
from ddim_host.evaluation.scores import EvaluationFile
from ddim_host.evaluation.scoring import Plan, measure_real_images, planned, score
from ddim_host.evaluation.statistics import MeasureSettings
from ddim_host.evaluation.tables import as_csv, as_markdown, as_text, tables_of
from ddim_host.exports import export_images
from ddim_host.files import printable, write_text
from ddim_host.parameters import format_choice, parse_choice
from ddim_host.provenance import this_command
from ddim_host.report.writing import write_report
from ddim_host.runs import existing_run
from ddim_host.trained import assemble_trained, load_denoiser

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from ddim_host.data import Images
    from ddim_host.evaluation.scores import Sampled, Score, Scores
    from ddim_host.runs import RunDirectory

__all__ = ["main"]


def main(options: argparse.Namespace) -> int:
    """Score the trained run that the options name; scores that it already has are not made again.

    Returns:
        The exit code.

    Raises:
        UserError: An option is not allowed, the run, its data, the checkpoint or the feature extractor is not
            to be had or damaged, or the results cannot be written.
    """
    run = existing_run(options.run)
    file = EvaluationFile(run.path / "evaluation.json")
    known = file.read()
    steps, etas = read_list("steps", options.steps_list), read_list("eta", options.eta_list)
    seeds = None if options.seed_list is None else read_list("seed", options.seed_list)
    request = requested(options)
    # The first number of steps is what the timestep subset is tried with.
    request = replace(request, settings={**request.settings, "steps": steps[0]})
    experiment = assemble_trained(run, request, needs_images=True)
    for number in steps:
        experiment.timesteps(number)
    if known.scores:
        _write_tables(run.path, known)  # whether results can be written should be known before the work
    config = experiment.config
    plan = Plan(options.samples, steps, etas, seeds or (config.seed,))
    features = options.features or ("digits_mlp" if config.data.name == "digits" else "inception")
    with Evaluator(parse_choice(features), experiment.source.image_shape, MeasureSettings()) as evaluator:
        data = format_choice(config.data.name, config.data.parameters)
        ruler = measure_real_images(evaluator, file, data, experiment.load_images(), options.reference)
        denoiser, used = load_denoiser(experiment, run, options.checkpoint, options.weights)
        print(used_line(run.path, config.plugin.name, used), flush=True)
        sets = planned(experiment, denoiser, used, plan)
        missing = [sampled for sampled in sets if known.score_of(sampled, ruler) is None]
        if len(missing) < len(sets):
            print(f"{'known':<17} {len(sets) - len(missing)} of {len(sets)} scores, from {file.path}")
        for result, images in score(experiment, denoiser, evaluator, ruler, missing, keep=options.grids or 0):
            _write_tables(run.path, file.add(result))
            print(_score_line(result), flush=True)
            if len(images) and result.sampled.seed == plan.seeds[0]:
                print(f"wrote {printable(_write_grid(run, result.sampled, images))}", flush=True)
    scores = file.read()
    _write_tables(run.path, scores)
    asked = [s for sampled in sets if (s := scores.score_of(sampled, ruler)) is not None]
    for table in tables_of(replace(scores, scores=tuple(asked))):
        print(f"\n{as_text(table)}")
    print(f"\nwrote {printable(run.path / 'evaluation.json')}, .csv and .md")
    write_report([run.path], run.report_path, command=this_command())
    print(f"wrote {printable(run.report_path)}")
    return 0


def _score_line(result: Score) -> str:
    sampled, m = result.sampled, result.measures
    return (
        f"S={sampled.steps} eta={sampled.eta:g} seed={sampled.seed}: Fréchet {m.frechet_distance:.4g}, "
        f"kernel {m.kernel_distance:.2e} (+- {m.kernel_distance_error:.0e}), precision {m.precision:.3f}, "
        f"recall {m.recall:.3f}; sampled in {result.seconds.sampling:.1f} s, features "
        f"{result.seconds.features:.1f} s"
    )


def _write_grid(run: RunDirectory, sampled: Sampled, images: Images) -> Path:
    """The first images of a score, in the run's folder; nothing is replaced."""
    subset = sampled.timestep_subset.partition(":")[0]
    path = run.next_samples_path(f"evaluated-{subset}-{sampled.steps}-eta-{sampled.eta:g}")
    made = {name: value for name, value in asdict(sampled).items() if name != "num_images"}
    with export_images(path, num_images=len(images)) as export:
        export.add(images)
        export.finish({"kind": "samples", "rows": len(images), "columns": 1, **made})
    return path


def _write_tables(folder: Path, scores: Scores) -> None:
    """Everything measured so far, for people and for spreadsheets."""
    texts = {"evaluation.csv": as_csv(scores), "evaluation.md": as_markdown(tables_of(scores))}
    try:
        for name, text in texts.items():
            write_text(folder / name, text)
    except OSError as error:
        raise UserError(f"cannot write into {folder}", why=str(error.strerror or error)) from None
