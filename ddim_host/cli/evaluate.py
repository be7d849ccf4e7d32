"""The `ddim-host evaluate` command."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from itertools import product
from typing import TYPE_CHECKING

from ddim_host.cli.features import evaluator_of
from ddim_host.cli.options import evaluation_options, requested, requested_enlargement
from ddim_host.cli.output import left_out_lines, used_line
from ddim_host.errors import UserError, printable
from ddim_host.evaluation.request import read_evaluation
from ddim_host.evaluation.scores import EvaluationFile
from ddim_host.evaluation.scoring import help_to_score, measure_real_images, network_calls, planned, score
from ddim_host.evaluation.tables import as_csv, as_markdown, as_text, number, tables_of
from ddim_host.framework.processes import any_of
from ddim_host.report.output import write_report
from ddim_host.run.directory import existing_run
from ddim_host.run.drawing import Drawing, draw, drawing_record
from ddim_host.run.exports import export_images
from ddim_host.run.images import AUTOMATIC
from ddim_host.run.provenance import this_command
from ddim_host.run.trained import assemble_trained, load_denoiser, note_other_images, observed_command
from ddim_host.system.failure import report_failure
from ddim_host.system.files import file_errors, read_json, write_text
from ddim_host.system.launch import launched

if TYPE_CHECKING:
    import argparse
    from pathlib import Path
    from typing import Any

    from ddim_host.evaluation.request import EvaluationRequest
    from ddim_host.evaluation.scores import Score, Scores
    from ddim_host.experiment.assembly import Experiment
    from ddim_host.run.directory import RunDirectory
    from ddim_host.run.images import Enlargement
    from ddim_host.run.sampling import Denoiser
    from ddim_host.run.trained import UsedWeights


def main(options: argparse.Namespace) -> int:
    """Score the given run; existing scores are not measured again.

    Returns:
        The exit code.

    Raises:
        UserError: See `_evaluate`.
    """
    try:
        return _evaluate(options)
    except KeyboardInterrupt as error:
        if launched().is_first:
            print(
                "\nddim-host: interrupted; run the command again to measure the missing scores",
                file=sys.stderr,
            )
            report_failure(error)
        return 1


def _evaluate(options: argparse.Namespace) -> int:
    """Score the run and print the results.

    Returns:
        The exit code.

    Raises:
        UserError: An option is not allowed; the run, its data, the checkpoint or the feature extractor is
            unavailable or damaged; or the results cannot be written.
    """
    run = existing_run(options.run)
    file = EvaluationFile(run.path / "evaluation.json")
    known = file.read()
    first = launched().is_first
    asked = read_evaluation(evaluation_options(options))
    enlargement = requested_enlargement(options)
    if asked.grids is None and enlargement != AUTOMATIC:
        raise UserError("--grid-scale and --nearest have no effect without --grids", fix="add --grids N")
    experiment = assemble_trained(run, requested(options), options.checkpoint, options.weights)
    for count, eta in product(asked.steps, asked.eta):
        experiment.sampling_plan(count, eta)
    _ = experiment.source  # raises before any measurement if there are no images
    if known.scores and first:
        _write_tables(run.path, known)  # raises before any measurement if results cannot be written
    config = experiment.config
    asked = replace(asked, seed=asked.seed or (config.seed,))
    if not first:
        _help(experiment, run, asked, options)
        return 0
    with evaluator_of(experiment, asked.features) as evaluator:
        # Measuring real images takes time; load first, so that all processes read the same checkpoint.
        denoiser, used = load_denoiser(experiment, run, options.checkpoint, options.weights)
        data = experiment.data_choice
        images = experiment.images
        note_other_images(run.config, images)
        ruler = measure_real_images(evaluator, file, data, images, asked.reference)
        print(used_line(run.path, config.plugin.name, used), *left_out_lines(images), sep="\n", flush=True)
        with experiment.observers.watching(observed_command("evaluate", run, experiment, denoiser, used)):
            _draw_grids(experiment, denoiser, used, run, asked, enlargement=enlargement)
            sets = planned(experiment, denoiser, used, asked)
            missing = [sampled for sampled in sets if known.score_of(sampled, ruler) is None]
            any_of(experiment.processes, [sampled in missing for sampled in sets])
            if len(missing) < len(sets):
                print(f"{'known':<17} {len(sets) - len(missing)} of {len(sets)} scores, from {file.path}")
            if missing:
                num_images = sum(sampled.num_images for sampled in missing)
                calls = network_calls(experiment, missing)
                print(
                    f"{'to measure':<17} {len(missing)} scores, {num_images:,} images: "
                    f"{calls:,} network calls with batches of up to {config.batch_size}",
                    flush=True,
                )
            for result in score(experiment, denoiser, evaluator, ruler, missing):
                _write_tables(run.path, file.add(result))
                print(_score_line(result), flush=True)
                experiment.observers.score(result.observed())
    scores = file.read()
    _write_tables(run.path, scores)
    wanted = [s for sampled in sets if (s := scores.score_of(sampled, ruler)) is not None]
    for table in tables_of(replace(scores, scores=tuple(wanted))):
        print(f"\n{as_text(table)}")
    print(f"\nwrote {printable(run.path / 'evaluation.json')}, .csv and .md")
    write_report([run.path], run.report_path, command=this_command())
    print(f"wrote {printable(run.report_path)}")
    return 0


def _help(
    experiment: Experiment, run: RunDirectory, asked: EvaluationRequest, options: argparse.Namespace
) -> None:
    """Draw and sample this process's share; the first process prints, measures and writes."""
    denoiser, used = load_denoiser(experiment, run, options.checkpoint, options.weights)
    _draw_grids(experiment, denoiser, used, run, asked, enlargement=requested_enlargement(options))
    sets = planned(experiment, denoiser, used, asked)
    wanted = any_of(experiment.processes, [False] * len(sets))
    help_to_score(
        experiment, denoiser, [sampled for sampled, is_wanted in zip(sets, wanted, strict=True) if is_wanted]
    )


def _score_line(result: Score) -> str:
    sampled, m = result.sampled, result.measures
    calls = f" ({result.calls} calls)" if result.calls != sampled.steps else ""
    return (
        f"S={sampled.steps}{calls} eta={sampled.eta:g} seed={sampled.seed}: "
        f"Fréchet {m.frechet_distance:.4g}, kernel x 1000 {number(1000.0 * m.kernel_distance)} "
        f"(+- {number(1000.0 * m.kernel_distance_error)} over subsets of these images), "
        f"precision {m.precision:.3f}, recall {m.recall:.3f}; "
        f"sampled in {result.seconds.sampling:.1f} s, features {result.seconds.features:.1f} s"
    )


def _draw_grids(
    experiment: Experiment,
    denoiser: Denoiser,
    used: UsedWeights,
    run: RunDirectory,
    asked: EvaluationRequest,
    *,
    enlargement: Enlargement,
) -> None:
    """Draw a grid of the first seed's first images for each number of steps and eta, unless it exists."""
    if asked.grids is None:
        return
    drawing = Drawing(asked.grids)
    for steps, eta in product(asked.steps, asked.eta):
        config = replace(experiment.config, steps=steps, eta=eta, seed=asked.seed[0])
        one = replace(experiment, config=config)
        record = drawing_record(one, denoiser, used, drawing) | {"enlargement": asdict(enlargement)}
        known = _drawn(run, record) if launched().is_first else None
        if any_of(experiment.processes, [known is not None])[0]:
            if known is not None:
                print(f"{'existing':<17} grid {printable(known)}", flush=True)
            continue
        with run.new_samples_path(f"evaluated-{config.timestep_subset.name}-{steps}-eta-{eta:g}") as path:
            export = export_images(
                path, num_images=asked.grids, image_shape=one.image_shape, enlargement=enlargement
            )
            draw(one, denoiser, used, drawing, export)
        print(f"wrote {printable(path)}", flush=True)


def _drawn(run: RunDirectory, record: dict[str, Any]) -> Path | None:
    """Return the run's grid that has this record, or None."""
    wanted = json.loads(json.dumps(record)).items()
    for beside in sorted(run.samples_path.glob("*.json")):
        picture = beside.with_suffix(".png")
        try:
            # The records of older versions do not mention the enlargement.
            found = {"enlargement": asdict(AUTOMATIC)} | read_json(beside)
            if picture.exists() and all(found.get(key) == value for key, value in wanted):
                return picture
        except (OSError, TypeError, ValueError):
            continue  # ignore grids with damaged records; `compare` reports them
    return None


def _write_tables(folder: Path, scores: Scores) -> None:
    """Write all scores so far as Markdown and CSV."""
    texts = {"evaluation.csv": as_csv(scores), "evaluation.md": as_markdown(tables_of(scores))}
    with file_errors(f"cannot write into {folder}"):
        for name, text in texts.items():
            write_text(folder / name, text)
