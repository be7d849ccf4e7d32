"""`run`: the run directory, settings that reach the training, resuming, and divergence."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import math
import shutil
import tomllib
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from ddim_host.experiment.settings import SETTINGS
from ddim_host.framework.unet import UNet, UNetSpec, parameters
from ddim_host.run.checkpoints import load_progress
from ddim_host.system.cache import CACHE_VARIABLE, cache_folder
from tests.support.commands import Outcome, Run, last_error
from tests.support.distributions import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.support.commands import Command, PythonCode


WEIGHTS = ("raw.safetensors", "ema.safetensors")

NO_GRIDS = ("--sample-every", "none")

needs_jittor = pytest.mark.skipif(find_spec("jittor") is None, reason="Jittor is not installed")

JITTOR_CACHE = {CACHE_VARIABLE: str(cache_folder())}
"""The user's own cache, which may contain code that Jittor has compiled."""

JITTOR_SECONDS = 3600.0
"""Time for Jittor to compile where the cache is empty."""


# --- Errors found after importing torch ---------------------------------------------------------------------


FADING = """
calls = 0
def fading(prediction, target):
    global calls
    calls += 1
    losses = ((prediction - target) ** 2).reshape((prediction.shape[0], -1)).mean(1)
    return losses if calls < 3 else losses * float("nan")
@hookimpl
def ddim_losses():
    return {"fading": fading}
"""


@pytest.fixture(scope="module")
def images_run(tiny: list[str], pictures: Path) -> list[str]:
    """Options of a run with three rows of metrics and with dropout."""
    model = "unet:base_channels=8,num_groups=4,dropout=0.1"
    learning = ["--timestep-sampler", "importance:history=1", "--num-train-timesteps", "4"]
    options = ["--train-steps", "7", "--data", f"images:path={pictures}", "--model", model]
    return [*short(tiny), *options, *learning, "--noise-schedule", "cosine"]


@pytest.fixture(scope="module")
def variants(
    several_runs: Callable[..., dict[str, Run]],
    tiny: list[str],
    tiny_run: Run,
    images_run: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Run]:
    """Runs that are compared with each other, and runs that fail."""
    site = Site(tmp_path_factory.mktemp("site"))
    site.plugin("fading-losses", FADING)
    copies = {
        name: tmp_path_factory.mktemp("copies") / name for name in ("finished", "begun", "damaged", "rowless")
    }
    for copy in copies.values():
        shutil.copytree(tiny_run.path, copy)
    shutil.rmtree(copies["begun"] / "checkpoints")
    (copies["damaged"] / "report.html").unlink()  # otherwise the finished run would not be read
    (copies["rowless"] / "metrics.csv").unlink()
    [raw] = copies["damaged"].glob("checkpoints/*/raw.safetensors")
    raw.write_bytes(raw.read_bytes()[:-100])
    prepared = tmp_path_factory.mktemp("prepared")
    shutil.copy(tiny_run.path / "config.toml", prepared / "trial.toml")
    begin = ["run", "--config", str(prepared / "trial.toml"), "--out", str(prepared), "--resume"]
    runs = several_runs(
        {
            "begun with --resume": begin,
            "repeated": begin,
            "config": ["run", "--config", str(tiny_run.path / "config.toml")],
            "seed": [*tiny, "--seed", "1"],
            "eta": [*tiny, "--eta", "1"],
            "lr": [*tiny, "--lr", "0.01"],
            "T": [*tiny, "--num-train-timesteps", "500"],
            "longer": [*tiny, "--train-steps", "6"],
            "start-from": ["run", "--start-from", str(tiny_run.path), "--train-steps", "6"],
            "resampled": ["run", "--start-from", str(tiny_run.path), "--seed", "1"],
            "images": images_run,
            "no grids": [*images_run, *NO_GRIDS],
            "epochs": [*short(images_run), "--epochs", "2"],
            "no-gpu": [*tiny, "--device", "cuda"],
            "unwritable": [*tiny, "--out", "/dev/null/run"],
            "not-utf8-\udcff": tiny,
            "fading": [*tiny, "--loss", "fading"],
            "diverged": [*short(tiny), "--train-steps", "1", "--lr", "1e38"],
            "finished": [*tiny, "--resume", "--out", str(copies["finished"])],
            **{
                name: ["run", "--resume", "--out", str(copies[name])]
                for name in ("begun", "damaged", "rowless")
            },
        },
        env={**site.env, "CUDA_VISIBLE_DEVICES": ""},
    )
    copies |= dict.fromkeys(("begun with --resume", "repeated"), prepared)
    return runs | {name: Run(path, runs[name].outcome) for name, path in copies.items()}


@pytest.fixture(scope="module")
def jittor_runs(several_runs: Callable[..., dict[str, Run]], images_run: list[str]) -> dict[str, Run]:
    """The runs of `variants` with and without grids, in Jittor."""
    runs = {"images": in_jittor(images_run), "no grids": [*in_jittor(images_run), *NO_GRIDS]}
    return several_runs(runs, env=JITTOR_CACHE, timeout=JITTOR_SECONDS)


def in_jittor(options: Sequence[str]) -> list[str]:
    return ["jittor" if word == "torch" else word for word in options]


def short(options: Sequence[str]) -> list[str]:
    """Return the options without `--train-steps`."""
    position = options.index("--train-steps")
    return [*options[:position], *options[position + 2 :]]


@pytest.mark.parametrize(
    "name", ["config", "seed", "eta", "lr", "T", "longer", "start-from", "images", "finished"]
)
def test_runs_succeed(variants: dict[str, Run], name: str) -> None:
    assert variants[name].outcome.code == 0, variants[name].outcome.err


def test_missing_gpu_is_one_error(variants: dict[str, Run]) -> None:
    outcome = variants["no-gpu"].outcome
    assert outcome.code == 2
    assert last_error(outcome.err).startswith("PyTorch cannot use a GPU on this machine\n  why: torch ")
    assert not variants["no-gpu"].path.exists()


def test_out_that_cannot_be_created_is_refused(variants: dict[str, Run]) -> None:
    outcome = variants["unwritable"].outcome
    assert outcome.code == 2
    assert last_error(outcome.err).startswith(
        "cannot use the run directory /dev/null/run\n  why: Not a directory"
    )


def test_out_that_is_not_utf8_is_created_or_refused(variants: dict[str, Run]) -> None:
    outcome = variants["not-utf8-\udcff"].outcome
    assert outcome.code == 0 or "ddim-host: error: " in outcome.err


# --- The run directory --------------------------------------------------------------------------------------


def arrays(path: Path) -> dict[str, NDArray[Any]]:
    loaded: dict[str, NDArray[Any]] = safetensors.numpy.load_file(path)
    return loaded


def rows(run: Run) -> list[dict[str, float]]:
    with (run.path / "metrics.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def protocol(run: Run) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run.grid.with_suffix(".json").read_text())
    return document


def test_run_succeeds(tiny_run: Run) -> None:
    assert tiny_run.outcome.code == 0, tiny_run.outcome.err
    assert "trained 3 steps" in tiny_run.outcome.out
    assert f"wrote {tiny_run.grid}\n" in tiny_run.outcome.out


def test_run_directory_has_exactly_the_documented_files(tiny_run: Run) -> None:
    files = {
        path.relative_to(tiny_run.path).as_posix() for path in tiny_run.path.rglob("*") if path.is_file()
    }
    assert files == {
        "config.toml",
        "metrics.csv",
        *(
            f"checkpoints/step-00000003/{name}"
            for name in (*WEIGHTS, "training.safetensors", "progress.json")
        ),
        "samples/linear-3-eta-0.png",
        "samples/linear-3-eta-0.json",
        *(
            f"samples/during-training/step-{step:08d}.{kind}"
            for step in (1, 2, 3)
            for kind in ("png", "json")
        ),
        "report.html",
        "samples/real/linear-3-eta-0.json",
        "samples/real/linear-3-eta-0.png",
        "samples/real/test.json",
        "samples/real/test.png",
    }


def test_config_records_all_settings_and_parts(tiny_run: Run) -> None:
    config = tomllib.loads((tiny_run.path / "config.toml").read_text())
    assert set(SETTINGS) - {"epochs"} <= set(config)
    assert (config["num_train_timesteps"], config["train_steps"], config["seed"]) == (1000, 3, 0)
    parts = {
        name: (table["name"], table["distribution"])
        for name, table in config.items()
        if isinstance(table, dict) and "name" in table
    }
    assert parts == {
        "plugin": ("torch", "ddim-torch"),
        "data": ("digits", "ddim-host"),
        "model": ("unet", "ddim-torch"),
        "noise_schedule": ("linear", "ddim-host"),
        "timestep_sampler": ("uniform", "ddim-timestep-samplers"),
        "loss": ("mse", "ddim-losses"),
        "loss_weighting": ("none", "ddim-host"),
        "timestep_subset": ("linear", "ddim-host"),
        "solver": ("ddim", "ddim-host"),
    }
    for name, (_, distribution) in parts.items():
        assert config[name]["version"] == importlib.metadata.version(distribution)
    assert config["noise_schedule"]["parameters"] == {"beta_start": 1e-4, "beta_end": 0.02}
    assert config["model"]["parameters"]["num_groups"] == 4
    assert config["model"]["parameters"]["dropout"] == 0.0
    assert config["provenance"]["torch"] == importlib.metadata.version("torch")
    assert (config["precision"], config["provenance"]["precision"]) == ("auto", "fp32")
    assert (config["provenance"]["threads"], config["provenance"]["processes"]) == ("1", "1")
    assert config["provenance"]["command"].startswith("ddim-host run --plugin torch --device cpu")


def test_number_of_threads_is_recorded_and_compared(
    several_runs: Callable[..., dict[str, Run]], tiny: list[str], tiny_run: Run, ddim_host: Command
) -> None:
    other = several_runs({"two": tiny}, env={"OMP_NUM_THREADS": "2"})["two"]
    assert other.outcome.code == 0, other.outcome.err
    config = tomllib.loads((other.path / "config.toml").read_text())
    assert config["provenance"]["threads"] == "2"
    compared = ddim_host("compare", tiny_run.path, other.path)
    assert "times were measured under different conditions: threads 1 (tiny), 2 (two)" in compared.err


def test_metrics_are_finite_and_end_at_the_last_step(tiny_run: Run) -> None:
    header = (tiny_run.path / "metrics.csv").read_text().splitlines()[0]
    assert header == (
        "epoch,step,train_loss,test_loss,learning_rate,seconds,images_per_second,warmup_seconds,"
        "peak_memory_bytes,grid_seconds"
    )
    [row] = rows(tiny_run)
    assert (row["epoch"], row["step"]) == (0, 3)
    assert all(math.isfinite(value) for value in row.values())
    assert 0.5 < row["train_loss"] < 2.0
    assert 0.5 < row["test_loss"] < 2.0
    assert min(row["seconds"], row["images_per_second"], row["warmup_seconds"]) > 0.0
    assert row["peak_memory_bytes"] > 10_000_000


def test_metrics_have_a_row_for_every_epoch(variants: dict[str, Run]) -> None:
    found = [(row["epoch"], row["step"]) for row in rows(variants["epochs"])]
    assert found == [(1, 3), (2, 5)]  # 18 images in batches of 8


def test_checkpoint_is_complete_and_has_canonical_names(tiny_run: Run) -> None:
    spec = UNetSpec((8, 8), 1, 1000, 8, (1, 2), 2, (4,), None, 4, 0.0)
    shapes = {parameter.name: parameter.shape for parameter in parameters(UNet.from_spec(spec))}
    for name in WEIGHTS:
        assert {key: array.shape for key, array in arrays(tiny_run.checkpoint / name).items()} == shapes
    training = arrays(tiny_run.checkpoint / "training.safetensors")
    assert {key: array.shape for key, array in training.items()} == {
        f"{moment}.{name}": shape for name, shape in shapes.items() for moment in ("exp_avg", "exp_avg_sq")
    }
    assert json.loads((tiny_run.checkpoint / "progress.json").read_text())["step"] == 3


def test_averaged_weights_differ_from_raw_weights(tiny_run: Run) -> None:
    raw, ema = (arrays(tiny_run.checkpoint / name) for name in WEIGHTS)
    assert not np.array_equal(raw["conv_in.weight"], ema["conv_in.weight"])


def test_grid_contains_all_images(tiny_run: Run) -> None:
    with Image.open(tiny_run.grid) as picture:
        assert (picture.format, picture.mode) == ("PNG", "L")
        assert picture.width == picture.height >= 2 * 64  # 2 x 2 images, enlarged
        pixels = np.asarray(picture)
    cells = {pixels[y : y + 64, x : x + 64].tobytes() for y in (2, 68) for x in (2, 68)}
    assert len(cells) == 4


def test_grid_has_a_record_of_its_protocol(tiny_run: Run) -> None:
    document = protocol(tiny_run)
    seconds = document.pop("seconds"), document.pop("warmup_seconds")
    assert min(seconds) > 0.0
    assert document == {
        "kind": "samples",
        "rows": 4,
        "columns": 1,
        "seed": 0,
        "checkpoint": "latest",
        "checkpoint_steps": [3],
        "weights": "ema",
        "timestep_subset": "linear",
        "timesteps": [0, 500, 999],
        "solver": "ddim",
        "network_calls": 3,
        "eta": 0.0,
        "clip": 1.0,
        "plugin": "torch",
        "device": "cpu",
        "precision": "fp32",
        "enlargement": {"scale": None, "nearest": False},
    }


def test_progress_in_a_log_is_plain_lines(tiny_run: Run) -> None:
    err = tiny_run.outcome.err
    assert "\r" not in err
    assert "\x1b" not in err
    assert {line.partition(":")[0] for line in err.splitlines()} == {
        "warming up (may compile)",
        "training",
        "sampling",
    }
    assert "3/3" in err


def test_progress_of_decoding_in_a_log_is_plain_lines(variants: dict[str, Run]) -> None:
    assert "decoding images" in variants["images"].outcome.err
    assert "\r" not in variants["images"].outcome.err


# --- Equal and different results ----------------------------------------------------------------------------


def same_weights(one: Run, other: Run) -> bool:
    return all(
        (one.checkpoint / name).read_bytes() == (other.checkpoint / name).read_bytes()
        for name in (*WEIGHTS, "training.safetensors")
    )


def losses(run: Run) -> list[list[float]]:
    return [[row[name] for name in ("epoch", "step", "train_loss", "test_loss")] for row in rows(run)]


def test_equal_settings_give_identical_bits(tiny_run: Run, variants: dict[str, Run]) -> None:
    again = variants["config"]
    assert same_weights(tiny_run, again)
    assert tiny_run.grid.read_bytes() == again.grid.read_bytes()
    ours, theirs = (tomllib.loads((run.path / "config.toml").read_text()) for run in (tiny_run, again))
    assert ours.pop("provenance") != theirs.pop("provenance")
    assert ours == theirs


def test_seed_changes_weights_and_images(tiny_run: Run, variants: dict[str, Run]) -> None:
    assert not same_weights(tiny_run, variants["seed"])
    assert tiny_run.grid.read_bytes() != variants["seed"].grid.read_bytes()


def test_seed_of_a_continued_run_changes_only_the_images(tiny_run: Run, variants: dict[str, Run]) -> None:
    assert same_weights(tiny_run, variants["resampled"])
    assert tiny_run.grid.read_bytes() != variants["resampled"].grid.read_bytes()


def test_eta_changes_only_the_images(tiny_run: Run, variants: dict[str, Run]) -> None:
    random = variants["eta"]
    assert same_weights(tiny_run, random)
    assert tiny_run.grid.read_bytes() != random.grid.read_bytes()
    assert protocol(random)["eta"] == 1.0
    assert random.grid.name == "linear-3-eta-1.png"


def test_grids_change_nothing_else(variants: dict[str, Run]) -> None:
    assert_equal_but_for_grids(variants["images"], variants["no grids"])


@pytest.mark.slow
@needs_jittor
def test_grids_change_nothing_else_in_jittor(jittor_runs: dict[str, Run]) -> None:
    assert_equal_but_for_grids(jittor_runs["images"], jittor_runs["no grids"])


def assert_equal_but_for_grids(drawing: Run, plain: Run) -> None:
    for run, drawn in ((drawing, [f"step-{step:08d}.png" for step in range(1, 8)]), (plain, [])):
        assert run.outcome.code == 0, run.outcome.err
        assert sorted(path.name for path in run.path.glob("samples/during-training/*.png")) == drawn
    assert same_weights(drawing, plain)
    assert losses(drawing) == losses(plain)
    assert drawing.grid.read_bytes() == plain.grid.read_bytes()


@pytest.mark.parametrize("setting", ["lr", "T"])
def test_setting_reaches_the_training(tiny_run: Run, variants: dict[str, Run], setting: str) -> None:
    assert not same_weights(tiny_run, variants[setting])


def test_number_of_timesteps_reaches_the_sampling(variants: dict[str, Run]) -> None:
    assert protocol(variants["T"])["timesteps"] == [0, 250, 499]


# --- Resuming -----------------------------------------------------------------------------------------------


def test_finished_run_can_be_resumed(tiny_run: Run, variants: dict[str, Run]) -> None:
    assert same_weights(tiny_run, variants["finished"])
    assert tiny_run.grid.read_bytes() == variants["finished"].grid.read_bytes()
    assert rows(tiny_run) == rows(variants["finished"])


def test_run_with_start_from_continues_where_the_other_ended(variants: dict[str, Run]) -> None:
    assert variants["start-from"].checkpoint.name == "step-00000006"
    assert same_weights(variants["start-from"], variants["longer"])


def test_run_without_checkpoint_starts_over(tiny_run: Run, variants: dict[str, Run]) -> None:
    assert variants["begun"].outcome.code == 0
    assert same_weights(tiny_run, variants["begun"])


def test_resume_with_a_config_file_can_be_repeated(tiny_run: Run, variants: dict[str, Run]) -> None:
    begun, repeated = variants["begun with --resume"], variants["repeated"]
    assert (begun.outcome.code, repeated.outcome.code) == (0, 0)
    assert same_weights(tiny_run, begun)
    assert "trained 3 steps" in begun.outcome.out
    assert "already complete" not in begun.outcome.out
    assert "already complete" in repeated.outcome.out
    assert "trained 3 steps" not in repeated.outcome.out


def test_damaged_checkpoint_is_named(variants: dict[str, Run]) -> None:
    outcome = variants["damaged"].outcome
    assert outcome.code == 2
    path = variants["damaged"].checkpoint / "raw.safetensors"
    assert last_error(outcome.err).startswith(f"{path} is not a complete safetensors file")


def test_finished_run_without_metrics_can_be_resumed(variants: dict[str, Run]) -> None:
    assert "Traceback" not in variants["rowless"].outcome.err


KILLED_AT_STEP_5 = """
import os, signal
from ddim_host.cli import main
from ddim_host.run import training
from ddim_host.run.directory import RunDirectory
from ddim_host.run.training import Trainer

training._METRICS_SHARE = 0  # write every row

def decide(trainer, usual=Trainer._decide):
    usual(trainer)
    trainer._checkpoint_is_due = trainer._progress.step == 4

def write_and_die(run, rows, write=RunDirectory.write_metrics):
    write(run, rows)
    if rows[-1].step == 5:
        os.kill(os.getpid(), signal.SIGKILL)

Trainer._decide = decide
RunDirectory.write_metrics = write_and_die
main()
"""


ENDS_BEFORE_TRAINING = """
import sys
from ddim_host.cli import main
from ddim_host.run.training import Trainer
Trainer.train = lambda trainer: sys.exit(0)
main()
"""


COMMAND = "from ddim_host.cli import main; main()"


def test_resumed_run_equals_an_uninterrupted_one(
    python: PythonCode, images_run: list[str], variants: dict[str, Run], tmp_path: Path
) -> None:
    assert_resumes_exactly(python, images_run, variants["images"], tmp_path / "stopped")


@pytest.mark.slow
@needs_jittor
def test_resumed_run_equals_an_uninterrupted_one_in_jittor(
    python: PythonCode, images_run: list[str], jittor_runs: dict[str, Run], tmp_path: Path
) -> None:
    straight = jittor_runs["images"]
    assert straight.outcome.code == 0, straight.outcome.err
    patient = partial(python, env=JITTOR_CACHE, timeout=JITTOR_SECONDS)
    assert_resumes_exactly(patient, in_jittor(images_run), straight, tmp_path / "stopped")


def assert_resumes_exactly(
    python: Callable[..., Outcome], options: list[str], straight: Run, path: Path
) -> None:
    stopped = Run(path, Outcome(0, "", ""))
    # Kill it after a row of metrics that is newer than the checkpoint, which was saved within an epoch.
    assert python(KILLED_AT_STEP_5, *options, "--out", stopped.path).code == -9
    assert {path.name for path in (stopped.path / "checkpoints").iterdir()} == {
        "step-00000003",  # the best epoch so far
        "step-00000004",  # the newest checkpoint
    }
    assert [row["step"] for row in rows(stopped)] == [3, 5]
    # Weights saved after the last checkpoint must be deleted: the resumed run saves its own.
    checkpoints = path / "checkpoints"
    whole = set(checkpoints.iterdir())
    shutil.copytree(checkpoints / "step-00000003", checkpoints / "step-00000005")
    assert python(ENDS_BEFORE_TRAINING, "run", "--resume", "--out", path).code == 0
    assert set(checkpoints.iterdir()) == whole

    assert python(COMMAND, "run", "--resume", "--out", stopped.path).code == 0

    assert same_weights(straight, stopped)
    assert load_progress(straight.checkpoint).best == load_progress(stopped.checkpoint).best
    for folder in (straight.path / "checkpoints").iterdir():
        for name in WEIGHTS:
            assert (folder / name).read_bytes() == (checkpoints / folder.name / name).read_bytes()
    assert straight.grid.read_bytes() == stopped.grid.read_bytes()
    assert losses(straight) == losses(stopped)
    assert [row["step"] for row in rows(straight)] == [3, 5, 7]


# --- Divergence ---------------------------------------------------------------------------------------------


def test_loss_that_is_not_a_number_stops_the_run(variants: dict[str, Run]) -> None:
    outcome = variants["fading"].outcome
    assert outcome.code == 1
    message = "training stopped: a loss or a weight is no longer finite\n  fix: use a smaller --lr"
    assert last_error(outcome.err).startswith(message)
    assert not list((variants["fading"].path / "samples").glob("*.png"))


def test_run_that_diverges_in_its_last_step_fails(variants: dict[str, Run]) -> None:
    assert variants["diverged"].outcome.code == 1


def test_large_finite_loss_is_a_warning(several_runs: Callable[..., dict[str, Run]], tiny: list[str]) -> None:
    length = ["--train-steps", "30", "--num-train-timesteps", "50"]
    runs = several_runs({"fine": [*tiny, *length], "steep": [*tiny, *length, "--lr", "30"]})
    for run in runs.values():
        assert run.outcome.code == 0, run.outcome.err
    assert "warning" not in runs["fine"].outcome.err
    assert "ddim-host: warning: the " in runs["steep"].outcome.err
    assert "but predicting 0 would give" in runs["steep"].outcome.err
    assert "use a smaller --lr" in runs["steep"].outcome.err
