"""The contract of observers."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddim_host.plugin import validation
from ddim_host.plugin.observation import DrawnGrid, Ending, EpochMetrics, ObservedRun, ObservedScore
from ddim_host.plugin.registry import Kind
from ddim_host.run.images import grid_png
from ddim_host.testing.part import PartContract

if TYPE_CHECKING:
    from ddim_host.plugin.contracts import Observer

_SEED = 3


class ObserverContract(PartContract):
    """Tests of an observer: it accepts every event of a command, and does not change the run."""

    kind = Kind.OBSERVER

    def observer(self) -> Observer:
        """Return a new observer, after the host's checks."""
        return validation.checked_observer(self.whole_part(), self.values())

    def tell_a_run(self, folder: Path, *, step: int = 0, ending: Ending | None = None) -> None:
        """Send the events of a complete run to a new observer: two epochs, a grid, scores, and the end.

        Args:
            folder: The existing folder of the run.
            step: The optimizer steps taken before the run starts or resumes.
            ending: The last event; None for a successful end.
        """
        observer = self.observer()
        observer.on_begin(_run(folder, "run", step))
        for epoch in (1, 2):
            observer.on_row(_row(epoch, step + 12 * epoch))
        observer.on_grid(_grid(folder, step + 24))
        for eta in (0.0, 1.0):
            observer.on_score(_score(eta, step + 24))
        observer.on_end(ending or Ending("finished"))

    def test_it_accepts_all_events_of_a_run(self) -> None:
        """Send the events of a successful run: rows (one without timed steps), a grid, scores and the end."""
        with tempfile.TemporaryDirectory() as folder:
            self.tell_a_run(Path(folder))

    def test_it_accepts_interrupted_and_resumed_runs(self) -> None:
        """Send the events of an interrupted run, a resumed run that fails, and one that ends at once."""
        with tempfile.TemporaryDirectory() as folder:
            self.tell_a_run(Path(folder), ending=Ending("interrupted", "interrupted after 24 steps"))
            self.tell_a_run(Path(folder), step=24, ending=Ending("failed", "a loss is not finite"))
            observer = self.observer()
            observer.on_begin(_run(Path(folder), "run", 24))
            observer.on_end(Ending("interrupted", "interrupted"))

    def test_it_accepts_commands_on_a_finished_run(self) -> None:
        """Send the events of `sample` (grids) and `evaluate` (grids and scores); neither adds rows."""
        with tempfile.TemporaryDirectory() as folder:
            for command in ("sample", "evaluate"):
                observer = self.observer()
                observer.on_begin(_run(Path(folder), command, 24))
                observer.on_grid(_grid(Path(folder), 24))
                if command == "evaluate":
                    observer.on_score(_score(0.5, 24))
                observer.on_end(Ending("finished"))

    def test_it_opens_nothing_before_it_begins(self) -> None:
        """Check that the constructor opens nothing, because dry runs and all processes call it, too."""
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            self.observer()
            assert Path.cwd() == Path(folder).resolve(), "it changed the current folder"
            assert not list(Path(folder).iterdir()), "it wrote a file to the current folder"

    def test_it_leaves_the_process_and_the_files_of_a_run_alone(self) -> None:
        """Check that NumPy's random generator, the current folder and the run's files are unchanged."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            (path / "config.toml").write_text("seed = 0\n", encoding="utf-8")
            np.random.seed(_SEED)  # noqa: NPY002 - the global generator, which an observer must not change
            before = str(np.random.get_state()), Path.cwd()  # noqa: NPY002
            self.tell_a_run(path)
            after = str(np.random.get_state()), Path.cwd()  # noqa: NPY002
            assert after == before, "it changed the global random generator or the current folder"
            assert (path / "config.toml").read_text(encoding="utf-8") == "seed = 0\n"
            assert (path / "grid-24.png").exists(), "it moved or deleted the picture"


def _run(folder: Path, command: Any, step: int) -> ObservedRun:
    config = {
        "steps": 20,
        "eta": 0.0,
        "clip": True,
        "loss": {"name": "mse", "distribution": "ddim-losses", "version": "0.1.0", "parameters": {}},
        "model": {
            "name": "unet",
            "parameters": {"channel_multipliers": [1, 2], "attention_head_dim": "none"},
        },
    }
    made_with = {"command": f"ddim-host {command}", "python": "3.11.9", "device": "cpu"}
    return ObservedRun(folder, command, config, made_with, step)


def _row(epoch: int, step: int) -> EpochMetrics:
    return EpochMetrics(
        epoch=epoch,
        step=step,
        train_loss=1.0 / epoch,
        test_loss=1.1 / epoch,
        learning_rate=1e-3,
        seconds=1.5 * (epoch - 1),
        images_per_second=850.0 if epoch > 1 else float("nan"),  # a row of warm-up has no timed steps
        warmup_seconds=0.5,
        peak_memory_bytes=1 << 28,
    )


def _grid(folder: Path, step: int) -> DrawnGrid:
    path = folder / f"grid-{step}.png"
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    path.write_bytes(grid_png(images))
    return DrawnGrid(path, step, {"kind": "samples", "rows": 5, "columns": 1, "eta": 0.0, "seed": 0})


def _score(eta: float, step: int) -> ObservedScore:
    numbers = {"frechet_distance": 12.5, "kernel_distance": -0.001, "precision": 0.7, "recall": 0.4}
    return ObservedScore(
        step=step,
        steps=20,
        eta=eta,
        seed=0,
        num_images=1000,
        features="digits_mlp",
        **numbers,
        record={"measures": numbers},
    )
