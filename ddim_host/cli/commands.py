"""The commands, in the order shown by `--help`; each is implemented in the module of the same name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddim_host.cli import options

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


@dataclass(frozen=True)
class Command:
    """A subcommand of `ddim-host`.

    Attributes:
        add_options: Adds the command's options to its parser.
        summary: Short help, for the list of commands.
        description: Long help, for the command's own `--help`.
        is_shared: True if several processes can run the command together.
        accepts_strict_plugins: True if the command accepts `--strict-plugins`.
    """

    add_options: Callable[[argparse.ArgumentParser], None]
    summary: str
    description: str
    is_shared: bool = False
    accepts_strict_plugins: bool = True


COMMANDS = {
    "run": Command(
        options.add_run_options,
        "train, sample, and write a run directory",
        "Assemble an experiment, train it, sample from it, and write a run directory.",
        is_shared=True,
    ),
    "sample": Command(
        options.add_sample_options,
        "sample from a trained run, in either framework",
        "Sample from a trained run with any checkpoint, number of steps and eta, in either framework.",
        is_shared=True,
    ),
    "reconstruct": Command(
        options.add_reconstruct_options,
        "encode test images to noise, decode them, and measure the error",
        "Encode test images to noise with deterministic DDIM, decode them again, and measure the error for "
        "each number of steps.",
    ),
    "evaluate": Command(
        options.add_evaluate_options,
        "measure sample quality for several steps and eta",
        "Measure the quality of a trained run's samples for every combination of steps, eta and seed. "
        "The results and the protocol are written to RUN/evaluation.json, .csv and .md; existing scores are "
        "not measured again.",
        is_shared=True,
    ),
    "optimize": Command(
        options.add_optimize_options,
        "find the best timesteps for sampling in a few steps",
        "For a trained run, find the timesteps with which a few DDIM steps come closest to the result of "
        "many. The search needs no images, only noise, and handles all numbers of steps at once. It writes "
        "RUN/subsets.json; use the result with `--timestep-subset optimized`.",
    ),
    "compare": Command(
        options.add_compare_options,
        "compare runs on one page",
        "Compare runs on one self-contained page: settings that differ, loss and time curves, speed, sample "
        "quality and image grids.",
        accepts_strict_plugins=False,
    ),
    "report": Command(
        options.add_report_options,
        "write a run's report page, optionally while it trains",
        "Rewrite a run's report page, RUN/report.html, for example after `sample`. With --watch, keep it up "
        "to date while the run trains.",
        accepts_strict_plugins=False,
    ),
    "sweep": Command(
        options.add_sweep_options,
        "run many experiments, one for every combination of repeated options",
        "Run an experiment for every combination of the values of repeated options, each in its own process, "
        "by default one at a time, and compare them on one page. A failed experiment does not stop the "
        "others; repeat the command to continue after an interruption. With --prepare, write the commands "
        "to a file for a scheduler instead.",
    ),
    "import": Command(
        options.add_import_options,
        "import a diffusers pipeline as a run",
        "Import an unconditional diffusers pipeline from a folder or from the Hugging Face Hub as a run. "
        "`sample`, `reconstruct`, `evaluate`, `compare` and `run --start-from` accept it in either "
        "framework.",
    ),
    "export": Command(
        options.add_export_options,
        "export a run as a diffusers pipeline",
        "Export a trained run as a pipeline that `DDIMPipeline.from_pretrained` can load, with a model card "
        "that shows pictures, scores and training details.",
    ),
    "plugins": Command(
        options.add_plugins_options,
        "list the installed plugins, their parts, and any problems",
        "List the installed plugins and their parts, and explain why any plugin does not work.",
    ),
    "new-plugin": Command(
        options.add_new_plugin_options,
        "create a new plugin",
        "Create a distribution with type annotations, one small working part and passing tests.",
        accepts_strict_plugins=False,
    ),
    "doctor": Command(
        options.add_doctor_options,
        "check this machine, and print the command that fixes each problem",
        "Check what works on this machine, and print the command that fixes each problem.",
    ),
    "completion": Command(
        options.add_completion_options,
        "enable Tab completion of commands, options, parts and runs in the shell",
        "Print a script that enables Tab completion of commands, options, parts with their parameters, and "
        'run directories. In bash: eval "$(ddim-host completion bash)"',
        accepts_strict_plugins=False,
    ),
}
