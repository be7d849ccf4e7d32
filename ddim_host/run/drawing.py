"""Drawings: grids sampled from a trained network, with a progress bar and a record."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from ddim_host.diffusion import slerp
from ddim_host.plugin.observation import DrawnGrid
from ddim_host.run.sampling import Sampler, start_noise
from ddim_host.run.trained import record_of, solver_of
from ddim_host.system.launch import launched
from ddim_host.system.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ddim_host.experiment.assembly import Experiment
    from ddim_host.plugin.data import Images
    from ddim_host.run.exports import ImageExport
    from ddim_host.run.sampling import Denoiser, StartNoise
    from ddim_host.run.trained import UsedWeights

PictureKind: TypeAlias = Literal["samples", "interpolation", "trajectory"]


@dataclass(frozen=True)
class Drawing:
    """Kind and layout of a drawing.

    Attributes:
        rows: Number of samples, interpolations or trajectories.
        columns: Images per row; 1 for samples.
        kind: `samples` are samples 0 to N - 1 of the seed; row r of an `interpolation` goes from sample 2 r
            to sample 2 r + 1; a `trajectory` shows the predicted x_start at successive steps.
    """

    rows: int
    columns: int = 1
    kind: PictureKind = "samples"

    @property
    def num_images(self) -> int:
        """The number of images in the drawing."""
        return self.rows * self.columns

    @property
    def num_sampled(self) -> int:
        """The number of sampled images; a trajectory shows one image several times."""
        return self.rows if self.kind == "trajectory" else self.num_images


@dataclass(frozen=True)
class Times:
    """Sampling times of a drawing.

    Attributes:
        seconds: Sampling time on a warm device, including noise generation.
        warmup_seconds: Time of the warm-up steps, including any compilation.
    """

    seconds: float
    warmup_seconds: float


def draw(
    experiment: Experiment,
    denoiser: Denoiser,
    used: UsedWeights,
    drawing: Drawing,
    export: ImageExport,
    *,
    on_images: Callable[[Images], object] = lambda _: None,
) -> Times:
    """Sample with the experiment's configuration; the first process writes the images.

    The experiment's observers are notified if the output is a grid.

    Args:
        experiment: The experiment.
        denoiser: Its trained network.
        used: The weights in use, for the record.
        drawing: The drawing.
        export: The export that receives the images.
        on_images: Called with each batch of images, uint8 `(B, H, W, C)`, in the first process.

    Raises:
        UserError: A pixel is not finite, or the images cannot be written.
    """
    sampler = sampler_of(experiment, denoiser, drawing)
    first = launched().is_first
    batch_size = min(drawing.num_sampled, experiment.config.batch_size)
    calls = math.ceil(drawing.num_sampled / batch_size) * experiment.sampling_plan().calls
    with export, progress_bar("sampling", calls, unit="call") as bar:
        for images in sampler.images(drawing.num_sampled, batch_size=batch_size, on_call=bar.update):
            if first:
                export.add(images)
                on_images(images)
        times = Times(sampler.seconds, sampler.warmup_seconds)
        if first:
            record = drawing_record(experiment, denoiser, used, drawing) | asdict(times) | export.details
            export.finish(record)
            if export.is_grid:
                experiment.observers.grid(DrawnGrid(export.path, max(used.steps), record))
    return times


def sampler_of(experiment: Experiment, denoiser: Denoiser, drawing: Drawing) -> Sampler:
    """Return the sampler for a drawing, with the experiment's configuration."""
    config = experiment.config
    plan = experiment.sampling_plan()
    start = None
    if drawing.kind == "interpolation":
        height, width, channels = experiment.image_shape
        start = _between(start_noise(config.seed, (channels, height, width)), drawing.columns)
    return Sampler(
        denoiser,
        plan.steps,
        image_shape=experiment.image_shape,
        seed=config.seed,
        limit=config.x_start_limit,
        solver=plan.solver,
        start=start,
        shown=shown_steps(len(plan.steps), drawing.columns) if drawing.kind == "trajectory" else None,
        processes=experiment.processes,
    )


def drawing_record(
    experiment: Experiment, denoiser: Denoiser, used: UsedWeights, drawing: Drawing
) -> dict[str, Any]:
    """Return everything that determines the images of a drawing, for its JSON file."""
    config = experiment.config
    timesteps = experiment.timesteps().tolist()
    record = {
        **asdict(drawing),
        "seed": config.seed,
        **record_of(experiment, denoiser, used),
        "timesteps": timesteps,
        "solver": solver_of(experiment),
        "network_calls": experiment.sampling_plan().calls * len(denoiser.members),
        "eta": config.eta,
        "clip": config.x_start_limit,
    }
    if drawing.kind == "trajectory":
        shown = shown_steps(len(timesteps), drawing.columns)
        record["shown_timesteps"] = [timesteps[-1 - position] for position in shown]
    return record


def shown_steps(num_steps: int, columns: int) -> tuple[int, ...]:
    """Return the positions of `columns` evenly spaced steps including the last, or all if there are fewer."""
    return tuple(int(n) for n in np.unique(np.rint(np.linspace(num_steps - 1, 0, min(columns, num_steps)))))


def _between(start: StartNoise, columns: int) -> StartNoise:
    """Return noise interpolated between samples.

    Image `r columns + c` is `c / (columns - 1)` of the way from sample 2 r to sample 2 r + 1.
    """

    def interpolated(indices: NDArray[np.int64]) -> NDArray[np.float32]:
        rows, positions = np.divmod(indices, columns)
        ends = zip(start(2 * rows), start(2 * rows + 1), positions, strict=True)
        return np.stack([slerp(one, other, int(at) / (columns - 1)) for one, other, at in ends])

    return interpolated
