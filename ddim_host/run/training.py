"""The training loop, for any framework: steps, metrics, checkpoints."""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ddim_host.errors import DivergedError, InterruptedTrainingError, UserError
from ddim_host.framework.processes import any_of, gather, wait_for_all
from ddim_host.plugin.observation import EpochMetrics
from ddim_host.run.batches import TestBatches, training_batches
from ddim_host.run.checkpoints import BestEpoch, Progress, remove_others, save_checkpoint, save_weights
from ddim_host.run.during_training import TrainingGrids
from ddim_host.run.images import AUTOMATIC, Enlargement
from ddim_host.run.metrics import growth, measures
from ddim_host.system.interruption import Interruption
from ddim_host.system.launch import launched
from ddim_host.system.progress import progress_bar, restart

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tqdm import tqdm

    from ddim_host.experiment.assembly import Experiment
    from ddim_host.framework.interface import Batch, Model, Tensor
    from ddim_host.plugin.data import TrainTest
    from ddim_host.run.directory import RunDirectory

# The optimizer allocates memory in the first step, but not in the second, so both may need compiling.
_WARMUP_STEPS = 2
_REPORT_SECONDS = 0.5
# Maximum number of steps whose losses are still on the device, to limit memory.
_MOST_PENDING = 64
_BATCHES_AHEAD = 4
_METRICS_SHARE = 20
"""Between two writings of metrics, this many times the duration of the first one passes."""


def learning_rate_at(step: int, *, lr: float, warmup_steps: int) -> float:
    """Return the learning rate at a step, counted from 0: a linear warm-up, then a constant."""
    return lr * min(1.0, (step + 1) / warmup_steps) if warmup_steps else lr


def ema_decay_at(step: int, *, ema_decay: float) -> float:
    """Return the EMA decay after a step, counted from 0: `min(ema_decay, (1 + n) / (10 + n))`.

    Without this warm-up, the average of a short run would be dominated by its random initial weights. This
    is the rule of TensorFlow's `ExponentialMovingAverage` with `num_updates`.
    """
    return min(ema_decay, (1.0 + step) / (10.0 + step))


class Trainer:
    """Trains one model to the end of its run, in one or more processes.

    After each step, all processes agree on decisions that depend on time or signals, so that they take the
    same steps. Only the first process writes files.

    Args:
        experiment: The assembled experiment.
        model: The network, with initial weights or those of a checkpoint.
        images: The data set.
        run: The run directory, for metrics and checkpoints.
        progress: The progress of the run.
        metrics: The rows of metrics so far.
        enlargement: Enlargement of small images in grids.
    """

    def __init__(
        self,
        experiment: Experiment,
        model: Model,
        images: TrainTest,
        *,
        run: RunDirectory,
        progress: Progress,
        metrics: list[EpochMetrics],
        enlargement: Enlargement = AUTOMATIC,
    ) -> None:
        config = experiment.config
        self._experiment = experiment
        self._config = config
        self._model = model
        self._run = run
        self._progress = progress
        self._metrics = metrics
        # On the CPU the network needs all cores, so nothing is prepared ahead.
        ahead = _BATCHES_AHEAD if model.device == "cuda" else 0
        self._train = training_batches(experiment, images.train, ahead=ahead)
        self._processes = experiment.processes
        self._test = TestBatches(
            images.test,
            experiment.schedule,
            config.batch_size,
            config.test_images,
            self._processes,
            config.prediction_type,
        )
        self._total_steps = config.length(len(images.train))
        self._grids = TrainingGrids(experiment, model, run, self._total_steps, enlargement)
        # The minimum over all epochs: the first batch of an epoch may begin in the previous epoch.
        self._images_of_an_epoch = len(images.train) - config.batch_size + 1
        self._first_epoch = self._train.epochs_done(progress.step)
        self._interruption = Interruption()
        self._pending: list[tuple[Tensor, NDArray[np.float32]]] = []
        self._newest_loss = math.nan
        self._checkpointed = self._reported = self._metrics_due = time.monotonic()
        self._num_written = len(metrics)
        self._stop = self._checkpoint_is_due = self._report_is_due = False

    def train(self) -> None:
        """Run the remaining steps, and write all metrics and a final checkpoint.

        Raises:
            DivergedError: A loss or a weight is not finite. The last checkpoint is kept.
            InterruptedTrainingError: A signal arrived; a checkpoint of the current step has been written.
            UserError: The run directory cannot be written.
        """
        with self._interruption:
            try:
                self._take_steps()
            except Exception as error:
                with contextlib.suppress(UserError):  # the first error matters more
                    self._write_metrics()  # they show how training went until then
                if self._interruption.requested and not isinstance(error, DivergedError | UserError):
                    # Ctrl-C also stops a framework's compilers, which makes the framework raise errors.
                    raise KeyboardInterrupt from None
                raise
            finally:
                self._train.close()
        if self._stop:
            raise InterruptedTrainingError(self._progress.step)

    def _take_steps(self) -> None:
        progress = self._progress
        with progress_bar(
            "warming up (may compile)", self._total_steps, unit="step", done=progress.step
        ) as bar:
            warm = min(self._total_steps, progress.step + _WARMUP_STEPS)
            self._draw_if_due()  # a grid may be missing after an interruption
            while progress.step < warm and not self._stop:
                self._warmup_step()
                self._draw_if_due()
                self._end_row_if_due()
            bar.set_description("training", refresh=False)
            restart(bar, progress.step)
            while progress.step < self._total_steps and not self._stop:
                self._steady_steps(bar)
                self._draw_if_due()
                self._end_row_if_due()
                if self._checkpoint_is_due:
                    self.save()
            if self._metrics:
                bar.set_postfix(self._shown(self._metrics[-1].train_loss), refresh=False)
        if progress.step:  # before the first step there is nothing to save
            self.save()
        self._decide()  # a signal may have arrived since the last step

    def save(self) -> None:
        """Write a checkpoint of the current state, and before it all metrics, which belong to it."""
        self._fetch_losses()
        self._write_metrics()
        if launched().is_first:
            state = self._experiment.sampler.state_dict()
            save_checkpoint(self._run.checkpoints_path, self._model, state, self._progress)
        # No process continues or exits before the checkpoint is written.
        wait_for_all(self._processes)
        self._checkpointed = time.monotonic()
        self._checkpoint_is_due = False

    def _warmup_step(self) -> None:
        """Run one training step and time it separately, because it compiles, allocates and fills caches."""
        started = time.perf_counter()
        self._step()
        self._decide()
        self._model.synchronize()
        self._progress.warmup_seconds += time.perf_counter() - started

    def _steady_steps(self, bar: tqdm[Any]) -> None:
        """Run training steps until a row of metrics is complete, or a grid or a checkpoint is due."""
        progress = self._progress
        first = progress.step
        row_end = self._train.first_step_after(self._train.epochs_done(first) + 1)
        end = min(row_end, self._grids.next_step(first))
        started = time.perf_counter()
        while progress.step < end and not self._stop and not self._checkpoint_is_due:
            self._step()
            self._decide()
            self._report(bar)
        self._model.synchronize()
        progress.seconds += time.perf_counter() - started
        progress.steady_images += (progress.step - first) * self._config.batch_size

    def _draw_if_due(self) -> None:
        """Draw this step's grid if it is due; its time is counted separately."""
        self._fetch_losses()  # raises if training has diverged
        seconds = self._grids.draw_if_due(self._progress.step)
        if seconds:
            self._progress.grid_seconds += seconds
            self._decide()  # a signal may have arrived meanwhile

    def _step(self) -> None:
        config, step = self._config, self._progress.step
        batch = self._train.batch(step)
        losses = self._model.train_step(
            batch,
            self._experiment.loss,
            lr=self._learning_rate(step),
            ema_decay=ema_decay_at(step, ema_decay=config.ema_decay),
            max_grad_norm=config.max_grad_norm,
        )
        self._progress.step += 1
        self._pending.append((losses, batch.sampler_weights))
        if self._experiment.sampler.needs_losses:
            self._update_sampler(batch, losses)
        if len(self._pending) >= _MOST_PENDING:
            self._fetch_losses()

    def _learning_rate(self, step: int) -> float:
        return learning_rate_at(step, lr=self._config.lr, warmup_steps=self._config.lr_warmup_steps)

    def _decide(self) -> None:
        """Agree with the other processes on decisions that depend on signals or the first process's clock."""
        now = time.monotonic()
        first = launched().is_first
        wanted = (
            self._interruption.requested,
            first and now - self._checkpointed >= self._config.checkpoint_seconds,
            first and now - self._reported > _REPORT_SECONDS,
        )
        self._stop, self._checkpoint_is_due, self._report_is_due = any_of(self._processes, wanted)

    def _update_sampler(self, batch: Batch, losses: Tensor) -> None:
        factors = self._experiment.weighting[batch.t].astype(np.float32)
        weighted = gather(self._processes, self._model.to_host(losses) * factors, batch.total)
        self._experiment.sampler.update(gather(self._processes, batch.t, batch.total), weighted)

    def _fetch_losses(self) -> None:
        """Copy the losses of recent steps to the host.

        Raises:
            DivergedError: A loss is not finite.
        """
        for losses, sampler_weights in self._pending:
            mine = self._model.to_host(losses) * sampler_weights
            values = gather(self._processes, mine, self._config.batch_size)
            mean = float(values.mean(dtype=np.float64))
            if not math.isfinite(mean):
                raise DivergedError
            self._progress.loss_sum += float(values.sum(dtype=np.float64))
            self._progress.loss_count += len(values)
            self._newest_loss = mean
        self._pending.clear()

    def _report(self, bar: tqdm[Any]) -> None:
        """Update the progress bar; fetch a new loss only rarely, so as not to slow down the device."""
        if self._report_is_due:
            self._fetch_losses()
            bar.set_postfix(self._shown(self._newest_loss), refresh=False)
            self._reported = time.monotonic()
        bar.update()

    def _end_row_if_due(self) -> None:
        """Add a row of metrics at the end of an epoch or of the run."""
        progress = self._progress
        epoch = self._train.epochs_done(progress.step)
        last_epoch = self._metrics[-1].epoch if self._metrics else self._first_epoch
        if epoch == last_epoch and progress.step < self._total_steps:
            return
        self._fetch_losses()
        test_loss = self._test_loss()
        if not math.isfinite(test_loss):
            raise DivergedError
        row = EpochMetrics(
            epoch=epoch,
            step=progress.step,
            train_loss=progress.loss_sum / progress.loss_count,
            test_loss=test_loss,
            learning_rate=self._learning_rate(progress.step - 1),
            seconds=progress.seconds,
            images_per_second=progress.steady_images / progress.seconds if progress.seconds else math.nan,
            warmup_seconds=progress.warmup_seconds,
            peak_memory_bytes=self._model.peak_memory_bytes(),
            grid_seconds=progress.grid_seconds,
        )
        self._metrics.append(row)
        if time.monotonic() >= self._metrics_due:
            self._write_metrics()
        self._experiment.observers.row(row)
        whole = epoch > last_epoch and progress.loss_count >= self._images_of_an_epoch
        progress.loss_sum, progress.loss_count = 0.0, 0
        progress.seconds, progress.steady_images, progress.warmup_seconds = 0.0, 0, 0.0
        progress.grid_seconds = 0.0
        # The last row, and the first one after starting mid-epoch, may cover only a few images. Such a row
        # can be the best only if the run has no complete epoch.
        if whole or (not progress.best and progress.step == self._total_steps):
            self._save_if_best(row)

    def _write_metrics(self) -> None:
        """Write all rows of metrics that are not yet in the file, by replacing it.

        With many rows this takes long, so the time until the next writing grows with it.
        """
        if launched().is_first and self._num_written < len(self._metrics):
            started = time.monotonic()
            self._run.write_metrics(self._metrics)
            self._num_written = len(self._metrics)
            now = time.monotonic()
            self._metrics_due = now + _METRICS_SHARE * (now - started)

    def _save_if_best(self, row: EpochMetrics) -> None:
        """Save the weights at the end of an epoch if it is the best so far by any measure."""
        best = self._progress.best
        better = {
            measure: BestEpoch(row.step, loss)
            for measure, loss in measures(row).items()
            if measure not in best or loss < best[measure].loss
        }
        best |= better
        if better and launched().is_first:
            save_weights(self._run.checkpoints_path, self._model, row.step)
            remove_others(self._run.checkpoints_path, self._progress)

    def growth(self) -> str:
        """Describe the growth of the loss, if it has grown; see `metrics.growth`."""
        batch, size = next(iter(self._test))
        noise = self._model.to_device(batch.target)
        losses = self._model.to_host(self._experiment.loss(noise * 0.0, noise))
        untrained = gather(self._processes, losses, batch.total)[:size].mean(dtype=np.float64)
        return growth(self._metrics, float(untrained))

    def _test_loss(self) -> float:
        total, count = 0.0, 0
        for batch, size in self._test:
            losses = self._model.to_host(self._model.evaluate_loss(batch, self._experiment.loss))
            whole = gather(self._processes, losses, batch.total)[:size]
            total += float(whole.sum(dtype=np.float64))
            count += size
        return total / count

    def _shown(self, train_loss: float) -> dict[str, str]:
        """Return the values shown in the progress bar: train loss, newest test loss, time spent on grids."""
        test = {"test": f"{self._metrics[-1].test_loss:.4g}"} if self._metrics else {}
        grids = {"grids": f"{self._grids.seconds:.1f}s"} if self._grids.seconds else {}
        return {"loss": f"{train_loss:.4g}", **test, **grids}
