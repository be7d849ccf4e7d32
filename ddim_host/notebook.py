"""Interface for notebooks: train with a progress bar, sample into arrays, show images.

The functions work like the commands `run` and `sample`, accept the same options, and use the same run
directories. A process can load only one framework; restart the notebook's kernel to use the other one.
"""

from __future__ import annotations

import io
import math
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ddim_host.errors import UserError
from ddim_host.experiment.config import LENGTHS, PART_KINDS, Request, Watchers
from ddim_host.experiment.observers import Watcher
from ddim_host.experiment.settings import SETTINGS, read_setting
from ddim_host.plugin.contracts import Observer
from ddim_host.plugin.observation import EpochMetrics
from ddim_host.plugin.parameters import parse_choice, suggestion
from ddim_host.report.output import write_report
from ddim_host.run.directory import RunDirectory, existing_run
from ddim_host.run.execution import is_complete, run_experiment
from ddim_host.run.images import grid_png
from ddim_host.run.preparation import assemble_run, require_stored_images
from ddim_host.run.sampling import Sampler
from ddim_host.run.trained import assemble_trained, load_denoiser, weights_hash
from ddim_host.system.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from os import PathLike

    from ddim_host.experiment.assembly import Experiment
    from ddim_host.experiment.settings import CheckpointChoice
    from ddim_host.framework.interface import WhichWeights
    from ddim_host.plugin.data import Images
    from ddim_host.run.sampling import Denoiser

__all__ = ["EpochMetrics", "Observer", "Run", "grid", "open_run", "train"]


def train(
    out: str | PathLike[str],
    *,
    resume: bool = False,
    start_from: str | PathLike[str] | None = None,
    observers: Sequence[str | Observer] = (),
    **options: object,
) -> Run:
    """Train a network and sample from it, as `ddim-host run` does.

    Args:
        out: The run directory; it must be new unless `resume` is true.
        resume: If `out` already contains a run, continue it with its own settings; if it is complete, only
            open it.
        start_from: The directory of another run; training starts from its newest weights.
        observers: Observers of metrics and grids: names of installed observers, such as `"tensorboard"`, or
            instances of your own subclasses of `Observer`.
        options: The options of `ddim-host run`, with underscores: `plugin="torch"`, `loss="huber:delta=0.1"`,
            `train_steps=450`.

    Raises:
        UserError: An option is unknown or not allowed, a requested part or device is not available, or the
            run cannot continue or start from the existing one, for the same reasons as with the command.
        DivergedError: A loss or a weight is not finite.
        InterruptedTrainingError: The kernel was interrupted; `resume=True` continues the run.
    """
    directory = RunDirectory(Path(out))
    watchers = [one for one in observers if not isinstance(one, str)]
    named = tuple(parse_choice(one) for one in observers if isinstance(one, str))
    watched = Request(watchers=Watchers(named) if named else None)
    if resume and directory.exists():
        if options or start_from is not None:
            raise UserError(
                "a resumed run keeps its settings",
                fix="remove all arguments except out, resume and observers",
            )
        start: RunDirectory | None = directory
    else:
        start = None if start_from is None else existing_run(Path(start_from))
    with _one_framework():
        experiment = assemble_run(watched.over(_request(options)), directory, start)
    if start is directory and is_complete(directory):
        require_stored_images(directory, experiment.images)
        return Run(directory.path)
    command = _call(out, resume=resume, start_from=start_from, **options)
    experiment = replace(experiment, observers=experiment.observers.with_more(map(_watcher, watchers)))
    with run_experiment(experiment, directory, start=start, command=command):
        write_report([directory.path], directory.report_path, command=command)
    return Run(directory.path)


def open_run(path: str | PathLike[str]) -> Run:
    """Open a trained run of either framework.

    Raises:
        UserError: The folder does not contain a run.
    """
    return Run(existing_run(Path(path)).path)


class Run:
    """A trained run.

    Args:
        path: The run directory.

    Attributes:
        path: The run directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._loaded: tuple[tuple[object, ...], Denoiser] | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_png_(self) -> bytes | None:
        """Return the newest grid of samples, which a notebook shows instead of the text."""
        folder = RunDirectory(self.path).samples_path
        pictures = sorted(folder.glob("*.png"), key=lambda path: path.stat().st_mtime)
        return pictures[-1].read_bytes() if pictures else None

    @property
    def metrics(self) -> list[EpochMetrics]:
        """Losses, times and memory of each epoch so far, read from the file at each access.

        Raises:
            UserError: The metrics cannot be read.
        """
        return RunDirectory(self.path).read_metrics()

    def sample(
        self,
        num_images: int | None = None,
        *,
        checkpoint: CheckpointChoice = "latest",
        weights: WhichWeights = "ema",
        **options: object,
    ) -> Images:
        """Sample images, as `ddim-host sample` does, without writing them.

        The network stays loaded for the next call, until its weights or the device differ.

        Args:
            num_images: The number of images N; None for the number in the run's settings.
            checkpoint: The checkpoint to load.
            weights: `ema` for the averaged weights, `raw` for the weights without averaging.
            options: Settings that differ from the run's: `steps=10`, `eta=1.0`, `seed=1`, `plugin="jittor"`,
                `timestep_subset="quad"`.

        Returns:
            uint8 `(N, H, W, C)`.

        Raises:
            UserError: An option is unknown or not allowed, or the weights cannot be loaded.
        """
        if num_images is not None:
            options["num_images"] = num_images
        run = RunDirectory(self.path)  # read again, because the run may have been trained further
        with _one_framework():
            experiment = assemble_trained(run, _request(options), checkpoint, weights)
        config, plan = experiment.config, experiment.sampling_plan()
        sampler = Sampler(
            self._denoiser(experiment, run, checkpoint, weights),
            plan.steps,
            image_shape=experiment.image_shape,
            seed=config.seed,
            limit=config.x_start_limit,
            solver=plan.solver,
            processes=experiment.processes,
        )
        batch_size = min(config.num_images, config.batch_size)
        calls = math.ceil(config.num_images / batch_size) * plan.calls
        with progress_bar("sampling", calls, unit="call", leave=False) as bar:
            batches = sampler.images(config.num_images, batch_size=batch_size, on_call=bar.update)
            return np.concatenate(list(batches))

    def _denoiser(
        self, experiment: Experiment, run: RunDirectory, checkpoint: CheckpointChoice, weights: WhichWeights
    ) -> Denoiser:
        """Return the denoiser of an experiment; load it unless the last call used the same network."""
        config = experiment.config
        network = (config.plugin, config.model, experiment.unet.spec, config.device, config.precision)
        key = (*network, weights_hash(run, checkpoint, weights))
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # free its memory first
            self._loaded = key, load_denoiser(experiment, run, checkpoint, weights)[0]
        return replace(self._loaded[1], prediction_type=config.prediction_type)


def grid(images: Images, *, columns: int | None = None) -> Image.Image:
    """Arrange images in a grid and enlarge small ones; a notebook displays the result.

    Args:
        images: uint8 `(N, H, W, C)`.
        columns: Images per row; None makes the grid as square as possible.
    """
    return Image.open(io.BytesIO(grid_png(images, columns=columns)))


def _watcher(observer: Observer) -> Watcher:
    """Return a watcher for an observer object, labelled with the name of its class."""
    kind = type(observer)
    return Watcher(observer, f"observer {kind.__name__}", kind.__module__.partition(".")[0])


def _call(out: str | PathLike[str], **arguments: object) -> str:
    """Return the call of `train` as text, which the run records; omitted arguments are left out."""
    given = [f"{name}={value!r}" for name, value in arguments.items() if value not in (None, False)]
    return f"ddim_host.notebook.train({', '.join([repr(str(out)), *given])})"


@contextmanager
def _one_framework() -> Iterator[None]:
    """Turn the error about another loaded framework into a `UserError` with a remedy."""
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            "this process has already loaded another framework",
            why=str(error),
            fix="restart the kernel, or use the loaded framework",
        ) from error


def _request(options: dict[str, object]) -> Request:
    """Read options in the same way as the command line.

    Raises:
        UserError: An option is unknown, or its value is not allowed.
    """
    kinds = {kind.option: kind for kind in PART_KINDS}
    known = ("plugin", *kinds, *SETTINGS)
    for name in options:
        if name not in known:
            raise UserError(
                f"unknown option {name!r}{suggestion(name, known)}", why=f"known options: {', '.join(known)}"
            )
    if options.keys() >= LENGTHS:
        raise UserError("epochs and train_steps are mutually exclusive", fix="remove one of them")
    texts = {name: value for name, value in options.items() if name not in SETTINGS}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise UserError(f"{name} must be a string such as 'name:parameter=value', not {value!r:.40}")
    return Request(
        str(texts["plugin"]) if "plugin" in texts else None,
        {kind: parse_choice(str(texts[option])) for option, kind in kinds.items() if option in texts},
        {name: read_setting(name, options[name], origin=name) for name in SETTINGS if name in options},
    )
