"""Kill runs at random moments, resume them, and compare their weights with those of an uninterrupted run.

python -m tests.soak.kill_runs --framework torch --kills 100
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddim_host.run.checkpoints import latest_checkpoint
from ddim_host.run.directory import RunDirectory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ddim_host.plugin.observation import EpochMetrics

# A checkpoint after every step, so that many kills happen during a write.
_OPTIONS = (
    "--device cpu --model unet:base_channels=8,num_groups=4,dropout=0 --batch-size 64 --test-images 8 "
    "--num-images 4 --steps 3 --lr-warmup-steps 0 --timestep-sampler importance:history=1 "
    "--num-train-timesteps 50 --checkpoint-seconds 0"
)
_MOST_SECONDS = 3600.0
_KILLED_WHILE_STARTING = 0.2
# A kill during training comes within 1 / 12 of a run's duration, so that many of them fit into a run.
_KILLS_OF_A_RUN = 12.0


@dataclass
class Counts:
    """Totals of a soak test.

    Attributes:
        kills: Killed processes.
        writing: Processes that were killed while writing a checkpoint.
        runs: Runs that ended, after these kills, with the weights of the uninterrupted run.
    """

    kills: int = 0
    writing: int = 0
    runs: int = 0


def kill_runs(framework: str, kills: int, *, train_steps: int, seed: int, folder: Path) -> Counts:
    """Kill runs at random moments until the count is reached, then let the last one finish.

    Args:
            framework: Name of the framework.
            kills: Number of kills.
            train_steps: Length of each run.
            seed: Seed of the random moments.
            folder: Folder for the runs.

    Raises:
        AssertionError: A run did not resume, or its results differ from the uninterrupted run.
    """
    rng = random.Random(seed)
    begin = ["run", "--plugin", framework, *_OPTIONS.split(), "--train-steps", str(train_steps)]
    for name in ("first", "straight"):  # the second run compiles nothing
        started = time.monotonic()
        process = _start([*begin, "--out", str(folder / name)])
        _wait_for_checkpoint(folder / name, process)
        training = time.monotonic()
        _end(process)
    starting, rest = training - started, time.monotonic() - training
    counts = Counts()
    while counts.kills < kills:
        run = folder / f"run-{counts.runs}"
        for _ in range(min(kills - counts.kills, max(1, kills // 10))):
            process = _start(_command(begin, run))
            try:
                if rng.random() < _KILLED_WHILE_STARTING:
                    process.wait(rng.uniform(0.0, starting))
                else:
                    _wait_for_checkpoint(run, process)
                    process.wait(rng.uniform(0.0, rest / _KILLS_OF_A_RUN))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                counts.kills += 1
                counts.writing += any(run.glob("checkpoints/.step-*")) or any(run.glob("**/.*.tmp"))
            else:
                assert process.returncode == 0, process.communicate()[1].decode()
                break
            finally:
                process.communicate()
        _end(_start(_command(begin, run)))
        _compare(folder / "straight", run)
        counts.runs += 1
        print(
            f"{counts.kills} kills, {counts.writing} of them during a write; {counts.runs} runs equal",
            flush=True,
        )
    return counts


def _wait_for_checkpoint(run: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the process has written a checkpoint or has exited."""
    before = latest_checkpoint(run / "checkpoints")
    while process.poll() is None and latest_checkpoint(run / "checkpoints") == before:
        time.sleep(0.01)


def _command(begin: Sequence[str], run: Path) -> list[str]:
    begun = (run / "config.toml").exists()
    return ["run", "--resume", "--out", str(run)] if begun else [*begin, "--out", str(run)]


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "ddim_host", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    _, err = process.communicate(timeout=_MOST_SECONDS)
    assert process.returncode == 0, f"{process.args!r}\n{err.decode()}"


def _compare(straight: Path, run: Path) -> None:
    names = sorted(path.relative_to(straight) for path in straight.glob("checkpoints/*/*.safetensors"))
    assert names == sorted(path.relative_to(run) for path in run.glob("checkpoints/*/*.safetensors"))
    names += [path.relative_to(straight) for path in straight.glob("samples/*.png")]
    for name in names:
        assert (straight / name).read_bytes() == (run / name).read_bytes(), f"{name} differs in {run}"
    assert _metrics(straight) == _metrics(run), f"metrics differ in {run}"


def _metrics(run: Path) -> list[EpochMetrics]:
    """Return the rows of metrics without values that depend on the machine and its clock."""
    measured = ("seconds", "images_per_second", "warmup_seconds", "peak_memory_bytes", "grid_seconds")
    nothing: dict[str, Any] = dict.fromkeys(measured, 0)
    return [replace(row, **nothing) for row in RunDirectory(run).read_metrics()]


def main() -> None:
    """Parse the options and run the soak test."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--framework", default="torch")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--train-steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kill_runs(
            options.framework,
            options.kills,
            train_steps=options.train_steps,
            seed=options.seed,
            folder=Path(folder),
        )


if __name__ == "__main__":
    main()
