"""Output lines shared by several commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_host.errors import printable
from ddim_host.experiment.config import clip_in_words
from ddim_host.run.trained import solver_of

if TYPE_CHECKING:
    from pathlib import Path

    from ddim_host.experiment.assembly import Experiment
    from ddim_host.plugin.data import TrainTest
    from ddim_host.run.drawing import Times
    from ddim_host.run.trained import UsedWeights

_MOST_NAMES = 10
"""Maximum number of names of left-out files to list."""

_FEW_IMAGES = 100
"""Number of training images below which a warning is printed."""

_MOST_LEFT = 0.1
"""A warning is printed if sqrt(alphas_cumprod) at the first sampling step is larger."""


def used_line(path: Path, framework: str, used: UsedWeights) -> str:
    """Describe the weights in use and their framework."""
    which = "averaged (EMA)" if used.weights == "ema" else "raw"
    steps = " and ".join(f"{step:,}" for step in used.steps)
    return (
        f"{'network':<17} {printable(path)}, {used.checkpoint} checkpoint: step {steps}; {which} weights; "
        f"in {framework}"
    )


def split_line(images: TrainTest) -> str:
    """Describe how many images of a data set are for training and for testing."""
    split = f" ({images.split})" if images.split else ""
    return f"{'split':<17} {len(images.train):,} train, {len(images.test):,} test{split}"


def memorised_lines(images: TrainTest) -> list[str]:
    """Return a line that warns of too few training images, or no lines if there are enough."""
    if len(images.train) >= _FEW_IMAGES:
        return []
    return [f"{'':<17} fewer than {_FEW_IMAGES} training images: the network will memorise them"]


def left_out_lines(images: TrainTest) -> list[str]:
    """Return a line that lists the files left out of a data set, or no lines if there are none."""
    if not images.left_out:
        return []
    some = ", ".join(printable(name) for name in images.left_out[:_MOST_NAMES])
    more = ", ..." if len(images.left_out) > _MOST_NAMES else ""
    return [f"{'left out':<17} {len(images.left_out):,} broken files: {some}{more}"]


def sampling_line(experiment: Experiment, num_images: int) -> str:
    """Describe the sampling and its timesteps; add a warning if sampling begins at too low a timestep."""
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
            f"{'':<17} sampling begins with pure noise at t = {timesteps[-1]}, where training images retain "
            f"{left:.0%} of their amplitude: another --timestep-subset may be better"
        )
    return "\n".join(lines)


def times_line(num_images: int, times: Times) -> str:
    """Describe how long sampling and warm-up took."""
    return (
        f"sampled {num_images:,} images in {times.seconds:.2f} s, "
        f"after {times.warmup_seconds:.2f} s of warm-up and compilation"
    )
