"""`ddim-host optimize`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ddim_host.cli.options import requested
from ddim_host.cli.output import used_line
from ddim_host.errors import printable
from ddim_host.experiment.assembly import default_part
from ddim_host.experiment.settings import read_list
from ddim_host.parts.found_subsets import SubsetsFile
from ddim_host.plugin.parameters import parse_choice, resolve
from ddim_host.plugin.registry import Kind
from ddim_host.run.directory import existing_run
from ddim_host.run.optimization import Method, search_of, search_subsets, teacher_timesteps
from ddim_host.run.trained import assemble_trained, load_denoiser, weights_hash

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ddim_host.parts.found_subsets import FoundSubset
    from ddim_host.plugin.registry import Registry


def main(options: argparse.Namespace) -> int:
    """Find timestep subsets for the trained run that the options name.

    Returns:
        The exit code.

    Raises:
        UserError: An option is not allowed, the run or the checkpoint is not available or damaged, the
            search breaks its contract, or the result cannot be written.
    """
    started = time.perf_counter()
    run = existing_run(options.run)
    sizes = read_list("steps", options.steps_list, origin="--steps")
    experiment = assemble_trained(run, requested(options), options.checkpoint, options.weights)
    method = _method(options.search, experiment.registry)
    timesteps = teacher_timesteps(experiment, options.teacher_steps, sizes)
    file = SubsetsFile(run.path)
    file.read()  # a damaged file is an error before the work
    denoiser, used = load_denoiser(experiment, run, options.checkpoint, options.weights)
    weights = weights_hash(run, options.checkpoint, options.weights)
    search = search_of(
        experiment,
        denoiser,
        used,
        method,
        weights_sha256=weights,
        timesteps=timesteps,
        num_images=options.images,
    )
    print(used_line(run.path, experiment.config.plugin.name, used))
    print(
        f"{'teacher':<17} {search.num_images:,} images in {len(timesteps)} steps, eta 0, "
        f"clip {str(search.clip).lower()}, seed {search.seed}",
        flush=True,
    )
    found = search_subsets(experiment, denoiser, method, search, sizes, started=started)
    file.add(found)
    print(f"{'search':<17} {search.method} ({search.distribution} {search.version})")
    print(f"{'error':<17} mean squared difference of a pixel from the teacher's images, as expected")
    print("\n".join(_rows(found)))
    print(f"wrote {printable(file.path)}: use them with --timestep-subset optimized")
    return 0


def _method(text: str | None, registry: Registry) -> Method:
    choice = default_part(Kind.SEARCH, registry) if text is None else parse_choice(text)
    part = registry.find(Kind.SEARCH, choice)
    return Method(part, resolve(part.label, part.parameters(), choice.arguments))


def _rows(found: Sequence[FoundSubset]) -> list[str]:
    rows = [f"{'S':>4}  {'error':>9}  {'of linear':>9}  timesteps"]
    return rows + [
        f"{subset.steps:>4}  {subset.expected_error:>9.2e}  {subset.linear_expected_error:>9.2e}  "
        f"{', '.join(map(str, subset.timesteps))}"
        for subset in found
    ]
