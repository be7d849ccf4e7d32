"""The commands, in the order of `--help`. The module of a command's name carries it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddim_host.cli import options

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        add_options: Adds its options to its parser.
        summary: A few words, for the list of commands.
        description: Sentences, for its own `--help`.
        is_shared: Whether several processes can carry it out together.
        takes_strict_plugins: Whether it has the option `--strict-plugins`.
    """

    add_options: Callable[[argparse.ArgumentParser], None]
    summary: str
    description: str
    is_shared: bool = False
    takes_strict_plugins: bool = True


COMMANDS = {
    "run": Command(
        options.add_run_options,
        "assemble, train, sample, and leave a run directory",
        "Assemble an experiment, train it, sample from it, and leave a run directory.",
        is_shared=True,
    ),
    "sample": Command(
        options.add_sample_options,
        "sample from a trained run, in either framework",
        "Sample from a trained run: any checkpoint, any steps and eta, in either framework.",
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
        "measure how good samples are, over steps and eta",
        "Measure how good a trained run's samples are, for every combination of steps, eta and seed. Results "
        "with their protocol go to RUN/evaluation.json, .csv and .md; what is there already is not measured "
        "again.",
        is_shared=True,
    ),
    "optimize": Command(
        options.add_optimize_options,
        "find the best timesteps for few steps",
        "Find for a trained run the timesteps with which few DDIM steps come nearest to many: from noise "
        "alone, for all numbers of steps at once. They go to RUN/subsets.json; `--timestep-subset optimized` "
        "uses them.",
    ),
    "compare": Command(
        options.add_compare_options,
        "runs side by side, on one page",
        "Put runs side by side on one self-contained page: what differs, loss and time curves, speed, sample "
        "quality, grids.",
        takes_strict_plugins=False,
    ),
    "sweep": Command(
        options.add_sweep_options,
        "many experiments: every combination of the values of repeated options",
        "Run every combination of the values of repeated options, each in a process of its own and one after "
        "the other, and put them on one page. What fails does not hold up the others; the same command goes "
        "on where it was interrupted. With --prepare, write the commands for a scheduler instead.",
    ),
    "import": Command(
        options.add_import_options,
        "make a run of a pipeline of diffusers",
        "Make a run of an unconditional pipeline of diffusers, from a folder or from the Hugging Face hub: "
        "`sample`, `reconstruct`, `evaluate`, `compare`, `run --start-from` take it, in either framework.",
    ),
    "export": Command(
        options.add_export_options,
        "write a run as a pipeline of diffusers",
        "Write a trained run as a pipeline that `DDIMPipeline.from_pretrained` opens, with a card: pictures, "
        "scores, and how it was made.",
    ),
    "plugins": Command(
        options.add_plugins_options,
        "what is installed, what it provides, what is broken and why",
        "Show what is installed, what it provides, what is broken and why.",
    ),
    "new-plugin": Command(
        options.add_new_plugin_options,
        "begin a plugin of your own",
        "Write a distribution with one small part that works, typed, with tests that it passes.",
        takes_strict_plugins=False,
    ),
    "doctor": Command(
        options.add_doctor_options,
        "what works on this machine, and the command that mends what does not",
        "Show what works on this machine, and the command that mends what does not.",
    ),
}
