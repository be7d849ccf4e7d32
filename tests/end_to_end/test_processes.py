"""One experiment in several processes: they share the batches, and the results equal those of one process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
import safetensors.numpy

from ddim_host.run.directory import RunDirectory

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.commands import Command
    from tests.support.distributions import Site


MINUTES = 60.0


SCORED = ["--samples", "25", "--steps", "2,3", "--eta", "0,1", "--grids", "9"]


# Of 7 images, one process gets 3 and the other 4; some of the last 5 test digits are repeats.
TRAINING = [
    "--model",
    "unet:base_channels=8,num_groups=4,dropout=0.1",
    "--batch-size",
    "7",
    "--train-steps",
    "260",
    "--test-images",
    "30",
    "--timestep-sampler",
    "importance:history=1",
    "--num-train-timesteps",
    "50",
    "--steps",
    "4",
    "--num-images",
    "15",
    "--eta",
    "0.5",
    "--lr-warmup-steps",
    "0",
    "--device",
    "cpu",
]


def launcher(framework: str, count: int, *, patience: int = 1) -> list[str]:
    """Return the command that starts `count` processes; mpirun waits `patience` seconds after a signal."""
    if framework == "torch":
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    mpirun = shutil.which("mpirun")
    if mpirun is None:
        pytest.skip("Open MPI is not installed (Debian: openmpi-bin, libopenmpi-dev)")
    wait = ["--mca", "odls_base_sigkill_timeout", str(patience)]
    return [mpirun, "--allow-run-as-root", "--oversubscribe", *wait, "-np", str(count), sys.executable]


def together(
    framework: str, *arguments: str | Path, count: int = 2, script: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command, or `script` instead, in `count` processes; without a launcher if `count` is 1."""
    start = [sys.executable] if count == 1 else launcher(framework, count)
    program = ["-m", "ddim_host"] if script is None else [str(script)]
    return subprocess.run(
        [*start, *program, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=20 * MINUTES,  # Jittor may have to compile
        check=False,
    )


FRAMEWORKS = ["torch", "jittor"]


@pytest.fixture(scope="module", params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    launcher(name, 2)  # skips if it is not installed
    return name


@pytest.fixture(scope="module")
def runs(framework: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, RunDirectory]:
    """A run in one process, and the same run in two."""
    folder = tmp_path_factory.mktemp("runs")
    options: list[str | Path] = ["run", "--plugin", framework, *TRAINING, "--out"]
    done = together(framework, *options, folder / "alone", count=1)
    assert done.returncode == 0, done.stderr
    done = together(framework, *options, folder / "together")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote ") == 2, "only the first process prints"
    return RunDirectory(folder / "alone"), RunDirectory(folder / "together")


@pytest.mark.slow
def test_losses_and_weights_equal_those_of_one_process(runs: tuple[RunDirectory, RunDirectory]) -> None:
    alone, together_ = (run.read_metrics() for run in runs)
    assert [(row.epoch, row.step) for row in alone] == [(row.epoch, row.step) for row in together_]
    for row, same in zip(alone, together_, strict=True):
        assert same.train_loss == pytest.approx(row.train_loss, rel=1e-5)
        assert same.test_loss == pytest.approx(row.test_loss, rel=1e-5)
    one, other = (safetensors.numpy.load_file(run.latest_checkpoint() / "ema.safetensors") for run in runs)
    difference = sum(float(((one[name] - other[name]) ** 2).sum()) for name in one) ** 0.5
    assert difference < 1e-3 * sum(float((array**2).sum()) for array in one.values()) ** 0.5


@pytest.mark.slow
def test_samples_equal_those_of_one_process(
    framework: str, runs: tuple[RunDirectory, RunDirectory], tmp_path: Path
) -> None:
    run, _ = runs
    # With one image for two processes, one process gets none.
    for count, number in ((1, 15), (2, 15), (2, 1)):
        out = tmp_path / f"{number}-by-{count}.npz"
        options: list[str | Path] = ["sample", run.path, "--num-images", str(number), "--out", out]
        done = together(framework, *options, count=count)
        assert done.returncode == 0, done.stderr
    alone, shared, one = (
        np.load(tmp_path / f"{name}.npz")["images"].astype(int) for name in ("15-by-1", "15-by-2", "1-by-2")
    )
    assert alone.std() > 10
    assert np.abs(alone - shared).max() <= 1
    assert np.abs(alone[:1] - one).max() <= 1


@pytest.mark.slow
def test_scores_equal_those_of_one_process(
    framework: str, runs: tuple[RunDirectory, RunDirectory], tmp_path: Path
) -> None:
    scored = []
    for count in (1, 2):
        copy = tmp_path / str(count)
        shutil.copytree(runs[0].path, copy)
        done = together(framework, "evaluate", copy, *SCORED, count=count)
        assert done.returncode == 0, done.stderr
        scores = json.loads((copy / "evaluation.json").read_text(encoding="utf-8"))["scores"]
        assert len(scores) == 4
        scored.append([score["measures"]["frechet_distance"] for score in scores])
        assert len(list((copy / "samples").glob("evaluated-*.png"))) == 4
    assert scored[1] == pytest.approx(scored[0], rel=1e-3)
    again = together(framework, "evaluate", copy, *SCORED)
    assert "4 of 4 scores" in again.stdout


_SIGNALLED = """
import os, signal, sys
from ddim_host.cli import main
from ddim_host.system.launch import launched
from ddim_host.run.training import Trainer

def step(trainer, take=Trainer._step):
    take(trainer)
    if launched().rank == 1 and trainer._progress.step == 3:
        os.kill(os.getpid(), int(sys.argv[-1]))

Trainer._step = step
main(sys.argv[1:-1])
"""


def signalled(framework: str, folder: Path, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Run an experiment whose second process gets a signal after its third step."""
    script = folder / "signalled.py"
    script.write_text(_SIGNALLED, encoding="utf-8")
    options: list[str | Path] = ["run", "--plugin", framework, *TRAINING]
    options += ["--out", folder / "run", str(int(number))]
    return together(framework, *options, script=script)


@pytest.mark.slow
def test_death_of_one_process_ends_the_run(framework: str, tmp_path: Path) -> None:
    done = signalled(framework, tmp_path, signal.SIGKILL)
    assert done.returncode != 0
    assert "wrote" not in done.stdout


@pytest.mark.slow
def test_signal_to_one_process_stops_all_with_a_checkpoint(framework: str, tmp_path: Path) -> None:
    done = signalled(framework, tmp_path, signal.SIGTERM)
    assert done.returncode != 0
    assert "interrupted after 3 steps; continue with" in done.stderr
    assert RunDirectory(tmp_path / "run").latest_checkpoint().name == "step-00000003"


@pytest.mark.slow
def test_requests_unsuited_to_several_processes_are_refused(
    framework: str, ddim_host: Command, tmp_path: Path
) -> None:
    refused: list[tuple[list[str | Path], str]] = [
        (["sweep", "--plugin", framework], "runs in a single process"),
        (
            ["run", "--plugin", framework, "--batch-size", "1", "--out", tmp_path / "a"],
            "a batch of 1 cannot be split among 2 processes",
        ),
    ]
    for arguments, what in refused:
        done = together(framework, *arguments)
        assert done.returncode != 0
        assert what in done.stderr
        assert "ddim_host/cli" not in done.stderr, "there is a traceback beside the launcher's"
    other = {"torch": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), "jittor": ("RANK", "WORLD_SIZE")}
    rank, size = other[framework]
    wrong = ddim_host(*("run", "--plugin", framework, "--out", tmp_path / "b"), env={rank: "0", size: "2"})
    assert wrong.code == 2
    assert "does not support" in wrong.err


LOCAL_COPIES = """
import os
import numpy as np
from ddim_host.plugin.data import DataSource, TrainTest

@hookimpl
def ddim_datasets():
    return {"copies": copies}

def copies() -> DataSource:
    images = np.full((8, 8, 8, 1), int(os.environ["RANK"]), np.uint8)
    return DataSource((8, 8, 1), False, "other images on each machine", lambda: TrainTest(images, images))
"""


@pytest.mark.slow
def test_processes_with_different_images_are_refused(tmp_path: Path, site: Site) -> None:
    site.plugin("local-copies", LOCAL_COPIES)
    options = ["run", "--plugin", "torch", *TRAINING, "--data", "copies", "--out"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", site.env["PYTHONPATH"])
        done = together("torch", *options, tmp_path / "run")
    assert done.returncode != 0
    assert "the processes read different images" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_error_in_the_first_process_ends_all(framework: str, tmp_path: Path) -> None:
    """The error occurs after the processes have connected, while the others wait for the first."""
    done = together(framework, "run", "--plugin", framework, *TRAINING, "--out", "/proc/nowhere")
    assert done.returncode != 0
    assert "cannot use the run directory /proc/nowhere" in done.stderr


@pytest.mark.slow
def test_signal_to_the_launcher_and_its_processes_stops_all(framework: str, tmp_path: Path) -> None:
    """Batch systems signal both, so the processes receive the signal twice."""
    path = tmp_path / "run"
    endless = ["run", "--plugin", framework, *TRAINING, "--train-steps", "1000000", "--out", str(path)]
    process = subprocess.Popen(
        [*launcher(framework, 2, patience=60), "-m", "ddim_host", *endless, "--checkpoint-seconds", "0"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not RunDirectory(path).has_checkpoint():
        assert process.poll() is None
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=5 * MINUTES)
    assert process.returncode != 0
    assert "continue with: ddim-host run --resume --out" in err
    assert RunDirectory(path).has_checkpoint()
