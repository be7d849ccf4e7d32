"""Lines that several commands print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_host.errors import printable

if TYPE_CHECKING:
    from pathlib import Path

    from ddim_host.assembly import Experiment
    from ddim_host.drawing import Times
    from ddim_host.trained import UsedWeights

__all__ = ["sampling_line", "times_line", "used_line"]


def used_line(path: Path, framework: str, used: UsedWeights) -> str:
    """Which weights are used, in which framework."""
    which = "averaged (EMA)" if used.weights == "ema" else "raw"
    steps = " and ".join(f"{step:,}" for step in used.steps)
    return (
        f"{'network':<17} {printable(path)}, {used.checkpoint} checkpoint: step {steps}; {which} weights; "
        f"in {framework}"
    )


def sampling_line(experiment: Experiment, num_images: int) -> str:
    """How images are sampled, with the list of timesteps."""
    config = experiment.config
    timesteps = ", ".join(str(t) for t in experiment.timesteps())
    return (
        f"{'sampling':<17} {num_images:,} images in {config.steps} steps, eta {config.eta:g}, "
        f"clip {str(config.clip).lower()}, seed {config.seed}\n{'':<17} t = {timesteps}"
    )


def times_line(num_images: int, times: Times) -> str:
    """How long sampling took, with and without what comes before."""
    return (
        f"sampled {num_images:,} images in {times.seconds:.2f} s; "
        f"{times.seconds + times.warmup_seconds:.2f} s with the warm-up before it, which also compiles"
    )
