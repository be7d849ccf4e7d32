"""Lines that several commands print."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ddim_host.errors import printable
from ddim_host.experiment.config import clip_in_words
from ddim_host.run.trained import other_images, solver_of
from ddim_host.system.launch import launched

if TYPE_CHECKING:
    from pathlib import Path

    from ddim_host.experiment.assembly import Experiment
    from ddim_host.experiment.config_file import ConfigFile
    from ddim_host.plugin.data import TrainTest
    from ddim_host.run.drawing import Times
    from ddim_host.run.trained import UsedWeights

_MOST_NAMES = 10
"""Number of left-out files that are named."""

_MOST_LEFT = 0.1
"""Of an image, in amplitude, where sampling begins: with more the network sees what it was not trained on."""


def used_line(path: Path, framework: str, used: UsedWeights) -> str:
    """Which weights are used, in which framework."""
    which = "averaged (EMA)" if used.weights == "ema" else "raw"
    steps = " and ".join(f"{step:,}" for step in used.steps)
    return (
        f"{'network':<17} {printable(path)}, {used.checkpoint} checkpoint: step {steps}; {which} weights; "
        f"in {framework}"
    )


def split_line(images: TrainTest) -> str:
    """How many images each half of a data set has."""
    split = f" ({images.split})" if images.split else ""
    return f"{'split':<17} {len(images.train):,} train, {len(images.test):,} test{split}"


def left_out_lines(images: TrainTest) -> list[str]:
    """Return a line that says which files were left out of a data set, if any were."""
    if not images.left_out:
        return []
    some = ", ".join(printable(name) for name in images.left_out[:_MOST_NAMES])
    more = ", ..." if len(images.left_out) > _MOST_NAMES else ""
    return [f"{'left out':<17} {len(images.left_out):,} broken files: {some}{more}"]


def note_other_images(config: ConfigFile, images: TrainTest) -> None:
    """Say on stderr, in the first process, where images are not those that a run was trained on.

    Raises:
        UserError: The run's configuration does not say.
    """
    why = other_images(config, images)
    if why and launched().is_first:
        path = printable(config.path)
        print(f"note: the images are not those of {path}: {why}", file=sys.stderr)


def sampling_line(experiment: Experiment, num_images: int) -> str:
    """How images are sampled, with the list of timesteps, and what is doubtful about that."""
    config, timesteps = experiment.config, experiment.timesteps()
    calls = experiment.sampling_plan().calls
    steps = f"{config.steps} steps" + (f" ({calls} network calls each)" if calls != config.steps else "")
    lines = [
        f"{'sampling':<17} {num_images:,} images in {steps}, eta {config.eta:g}, "
        f"{clip_in_words(config.x_start_limit)}, seed {config.seed}, solver {solver_of(experiment)}",
        f"{'':<17} t = {', '.join(map(str, timesteps))}",
    ]
    left = experiment.schedule.sqrt_alphas_cumprod[timesteps[-1]]
    if left > _MOST_LEFT:
        lines.append(
            f"{'':<17} it begins with pure noise at t = {timesteps[-1]}, where this schedule leaves "
            f"{left:.0%} of the image: another --timestep-subset may do better"
        )
    return "\n".join(lines)


def times_line(num_images: int, times: Times) -> str:
    """How long sampling took, and what comes before."""
    return (
        f"sampled {num_images:,} images in {times.seconds:.2f} s, "
        f"after {times.warmup_seconds:.2f} s of warm-up, which also compiles"
    )
