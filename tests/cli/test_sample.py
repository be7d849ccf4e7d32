"""`sample`, `reconstruct` and presets on the command line."""

from __future__ import annotations

import json
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.numpy
import tomli_w
from PIL import Image

from ddim_host.experiment.assembly import Experiment
from ddim_host.parts.datasets import digits
from ddim_host.plugin.data import image_hash
from ddim_host.run.checkpoints import weights_folder
from ddim_host.run.directory import RunDirectory
from ddim_host.run.reconstruction import PAPER_ERRORS
from tests.support.fakes import NumpyModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tests.support.commands import Outcome, PythonCode, Run


def copied(run: Run, folder: Path) -> Path:
    return Path(shutil.copytree(run.path, folder / "run"))


def all_paths(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def edit_config(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = run / "config.toml"
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(tomli_w.dumps(document), encoding="utf-8")


def edit_progress(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    [path] = run.glob("checkpoints/*/progress.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def randomize(checkpoint: Path, seed: int) -> None:
    """Replace all weights, raw and averaged, because a barely trained network predicts almost nothing."""
    rng = np.random.default_rng(seed)
    for which in ("raw", "ema"):
        path = checkpoint / f"{which}.safetensors"
        weights = {}
        for name, array in safetensors.numpy.load_file(path).items():
            fan_in = int(np.prod(array.shape[1:])) or 1
            offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            scale = 0.1 if array.ndim == 1 else fan_in**-0.5
            weights[name] = (offset + scale * rng.standard_normal(array.shape)).astype(np.float32)
        safetensors.numpy.save_file(weights, path)


# --- Real networks ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """The outcome of a command and its output file."""

    outcome: Outcome
    out: Path

    @property
    def images(self) -> NDArray[np.uint8]:
        with np.load(self.out) as arrays:
            images: NDArray[np.uint8] = arrays["images"]
        return images

    @property
    def record(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out.with_suffix(".json").read_text(encoding="utf-8"))
        return document

    @property
    def picture_size(self) -> tuple[int, int]:
        with Image.open(self.out) as picture:
            return picture.size


@pytest.fixture(scope="module")
def made(
    several_runs: Callable[..., dict[str, Run]], tiny_run: Run, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Made]:
    """Outputs of `sample` and `reconstruct`, all made in one process, because importing torch is slow.

    The second run has random weights, different for each of its best epochs, and its data set is deleted.
    """
    folder = tmp_path_factory.mktemp("made")
    run = copied(tiny_run, folder)
    latest = weights_folder(run / "checkpoints", 3)
    for step in (1, 2):
        best = weights_folder(run / "checkpoints", step)
        best.mkdir()
        for name in ("raw.safetensors", "ema.safetensors"):
            shutil.copy(latest / name, best)
        randomize(best, step)
    randomize(latest, 3)
    epochs = {"train": 1, "test": 2, "avg": 3}
    best_epochs = {measure: {"step": step, "loss": 0.5} for measure, step in epochs.items()}
    edit_progress(run, lambda progress: progress.update(best=best_epochs))
    gone = {"name": "images", "distribution": "ddim-host", "parameters": {"path": str(folder / "gone")}}
    edit_config(run, lambda config: config.update(data=gone))

    commands = {
        "default.npz": f"sample {tiny_run.path}",
        "default-grid.png": f"sample {tiny_run.path}",
        "plain.npz": "sample RUN --num-images 5",
        "plain-grid.png": "sample RUN --num-images 5",
        "plain": "sample RUN --num-images 5",
        "batch-1.npz": "sample RUN --num-images 5 --batch-size 1",
        "batch-3.npz": "sample RUN --num-images 5 --batch-size 3",
        "eta.npz": "sample RUN --num-images 5 --eta 1",
        "eta-batch-2.npz": "sample RUN --num-images 5 --eta 1 --batch-size 2",
        "steps.npz": "sample RUN --num-images 5 --steps 5",
        "solver.npz": "sample RUN --num-images 5 --solver dpmpp_2m",
        "heun.npz": "sample RUN --num-images 5 --solver heun",
        "subset.npz": "sample RUN --num-images 5 --timestep-subset quad:span=0.5",
        "seed.npz": "sample RUN --num-images 5 --seed 8",
        "clip.npz": "sample RUN --num-images 5 --clip false",
        "interpolation.npz": "sample RUN --interpolate 3 --num-images 2",
        "interpolation-grid.png": "sample RUN --interpolate 3",
        "trajectory.npz": "sample RUN --show-trajectory 2 --num-images 4",
        "trajectory-grid.png": "sample RUN --show-trajectory",
        "latest.npz": "sample RUN --checkpoint latest",
        "raw.npz": "sample RUN --weights raw",
        "best-train.npz": "sample RUN --checkpoint best-train",
        "best-test.npz": "sample RUN --checkpoint best-test",
        "best-avg.npz": "sample RUN --checkpoint best-avg",
        "ensemble.npz": "sample RUN --checkpoint ensemble",
        "reconstruction.png": f"reconstruct {tiny_run.path} --steps 2,100 --num-images 10",
        "reconstruction-3.png": f"reconstruct {tiny_run.path} --steps 2 --num-images 10 --batch-size 3",
        "reconstruction-own.png": f"reconstruct {tiny_run.path} --steps 2 --num-images 3 "
        "--timestep-subset explicit:t=0,999",
        "reconstruction-quad.png": f"reconstruct {tiny_run.path} --steps 2 --num-images 3 "
        "--timestep-subset quad --checkpoint best-test --weights raw",
    }
    runs = several_runs(
        {
            name: [str(run) if word == "RUN" else word for word in command.split()]
            + ["--out", str(folder / name)]
            for name, command in commands.items()
        }
    )
    return {name: Made(run.outcome, folder / name) for name, run in runs.items()}


def nearly_equal(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Return True if the images are equal up to rounding, which depends on the batch size."""
    return one.shape == other.shape and int(np.abs(one.astype(int) - other.astype(int)).max()) <= 1


def clearly_different(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Return True if every image differs from its counterpart by more than rounding."""
    return bool(np.all(np.abs(one.astype(int) - other.astype(int)).max(axis=(1, 2, 3)) > 8))


def test_all_commands_succeed(made: dict[str, Made]) -> None:
    for name, command in made.items():
        assert command.outcome.code == 0, (name, command.outcome.err)


def test_sample_reproduces_the_grid_of_the_run(made: dict[str, Made], tiny_run: Run) -> None:
    assert made["default-grid.png"].out.read_bytes() == tiny_run.grid.read_bytes()
    again, then = made["default-grid.png"].record, json.loads(tiny_run.grid.with_suffix(".json").read_text())
    for record in (again, then):
        assert min(record.pop("seconds"), record.pop("warmup_seconds")) > 0
    assert again == then


def test_grid_shows_the_images_of_the_array(made: dict[str, Made]) -> None:
    images = made["default.npz"].images
    assert images.shape == (4, 8, 8, 1)
    assert images.dtype == np.uint8
    with Image.open(made["default-grid.png"].out) as picture:
        pixels = np.asarray(picture)
    for number, image in enumerate(images[:, :, :, 0]):
        top, left = 6 + 102 * (number // 2), 6 + 102 * (number % 2)
        cell = pixels[top + 6 : top + 96 : 12, left + 6 : left + 96 : 12]
        np.testing.assert_array_equal(cell, image)


def test_grid_may_be_an_incomplete_square(made: dict[str, Made]) -> None:
    images = made["plain.npz"].images
    assert images.shape == (5, 8, 8, 1)
    assert made["plain-grid.png"].picture_size == (3 * 102 + 6, 2 * 102 + 6)
    for number, image in enumerate(images[:, :, :, 0]):
        with Image.open(made["plain"].out / f"{number:06}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), image)


def test_settings_and_results_are_printed(made: dict[str, Made]) -> None:
    run = made["plain.npz"].out.parent / "run"
    network, sampling, timesteps, times, wrote = made["plain.npz"].outcome.out.splitlines()
    expected = f"network           {run}, latest checkpoint: step 3; averaged (EMA) weights; in torch"
    assert network == expected
    assert sampling == "sampling          5 images in 3 steps, eta 0, clipped to [-1, 1], seed 0, solver ddim"
    assert timesteps == "                  t = 0, 500, 999"
    _, sampling, *_ = made["heun.npz"].outcome.out.splitlines()
    assert "5 images in 3 steps (5 network calls each), eta 0" in sampling
    assert times.startswith("sampled 5 images in ")
    assert wrote == f"wrote {made['plain.npz'].out}"


@pytest.mark.parametrize(
    ("one", "other"), [("batch-1", "plain"), ("batch-3", "plain"), ("eta-batch-2", "eta")]
)
def test_batch_size_does_not_change_the_images(made: dict[str, Made], one: str, other: str) -> None:
    assert nearly_equal(made[f"{one}.npz"].images, made[f"{other}.npz"].images)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("eta", {"eta": 1.0}),
        ("steps", {"timesteps": [0, 250, 500, 749, 999], "network_calls": 5}),
        ("subset", {"timestep_subset": "quad:span=0.5", "timesteps": [0, 125, 500]}),
        ("seed", {"seed": 8}),
        ("clip", {"clip": None}),
        ("solver", {"solver": "dpmpp_2m"}),
        ("heun", {"solver": "heun", "network_calls": 5}),
    ],
)
def test_options_reach_the_sampler(made: dict[str, Made], name: str, changed: dict[str, Any]) -> None:
    assert clearly_different(made[f"{name}.npz"].images, made["plain.npz"].images)
    plain, record = made["plain.npz"].record, made[f"{name}.npz"].record
    for document in (plain, record):
        del document["seconds"], document["warmup_seconds"]
    assert record == plain | changed


def test_rows_of_an_interpolation_connect_two_samples(made: dict[str, Made]) -> None:
    rows = made["interpolation.npz"].images.reshape(2, 3, 8, 8, 1)
    samples = made["plain.npz"].images
    for row in (0, 1):
        assert nearly_equal(rows[row, 0], samples[2 * row])
        assert nearly_equal(rows[row, -1], samples[2 * row + 1])
        assert clearly_different(rows[row, [1, 1]], rows[row, [0, 2]])
    record = made["interpolation.npz"].record
    assert (record["kind"], record["rows"], record["columns"]) == ("interpolation", 2, 3)


def test_grid_of_an_interpolation_keeps_its_rows(made: dict[str, Made]) -> None:
    assert made["interpolation-grid.png"].picture_size == (3 * 102 + 6, 8 * 102 + 6)


def test_trajectory_ends_at_the_sample(made: dict[str, Made]) -> None:
    rows = made["trajectory.npz"].images.reshape(4, 2, 8, 8, 1)
    samples = made["plain.npz"].images
    assert nearly_equal(rows[:, -1], samples[:4])
    assert clearly_different(rows[:, 0], rows[:, 1])
    record = made["trajectory.npz"].record
    assert (record["kind"], record["rows"], record["columns"]) == ("trajectory", 4, 2)
    assert record["shown_timesteps"] == [999, 0]
    assert "sampled 4 images in " in made["trajectory.npz"].outcome.out


def test_trajectory_has_at_most_one_column_per_step(made: dict[str, Made]) -> None:
    assert made["trajectory-grid.png"].picture_size == (3 * 102 + 6, 8 * 102 + 6)
    assert made["trajectory-grid.png"].record["shown_timesteps"] == [999, 500, 0]


@pytest.mark.parametrize(
    ("checkpoint", "steps"),
    [("latest", [3]), ("best-train", [1]), ("best-test", [2]), ("best-avg", [3]), ("ensemble", [1, 2, 3])],
)
def test_record_names_the_checkpoint(made: dict[str, Made], checkpoint: str, steps: list[int]) -> None:
    record = made[f"{checkpoint}.npz"].record
    assert (record["checkpoint"], record["checkpoint_steps"]) == (checkpoint, steps)
    assert record["weights"] == "ema"
    named = f"{checkpoint} checkpoint: step {' and '.join(map(str, steps))}; averaged (EMA) weights"
    assert named in made[f"{checkpoint}.npz"].outcome.out


def test_each_checkpoint_yields_different_images(made: dict[str, Made]) -> None:
    train, test, avg, ensemble = (
        made[f"{name}.npz"].images for name in ("best-train", "best-test", "best-avg", "ensemble")
    )
    np.testing.assert_array_equal(avg, made["latest.npz"].images)
    assert clearly_different(train, test)
    assert clearly_different(test, avg)
    assert clearly_different(avg, train)
    for member in (train, test, avg):
        assert clearly_different(ensemble, member)


def test_raw_weights_yield_different_images(made: dict[str, Made]) -> None:
    raw = made["raw.npz"]
    assert raw.record["weights"] == "raw"
    assert "; raw weights; " in raw.outcome.out
    assert clearly_different(raw.images, made["latest.npz"].images)


# --- Reconstruction -----------------------------------------------------------------------------------------


def test_errors_are_printed_and_recorded(made: dict[str, Made], tiny_run: Run) -> None:
    record = made["reconstruction.png"].record
    few, many = record.pop("errors")
    assert record == {
        "num_images": 10,
        "images": "test half of digits",
        "images_sha256": image_hash(digits().load().test),
        "checkpoint": "latest",
        "checkpoint_steps": [3],
        "weights": "ema",
        "timestep_subset": "linear",
        "plugin": "torch",
        "device": "cpu",
        "precision": "fp32",
        "rows": 8,
        "pictured": [0, 32, 65, 98, 164, 197, 230, 296],
        "columns": ["original", "2 steps", "100 steps"],
        "unit": "mean squared error per dimension, pixels in [0, 1]",
    }
    assert (few["steps"], few["timesteps"]) == (2, [0, 999])
    assert (many["steps"], len(many["timesteps"])) == (100, 100)
    assert 0 < many["mse"] < few["mse"] / 10
    network, images, unit, header, *table, wrote = made["reconstruction.png"].outcome.out.splitlines()
    assert network.startswith(f"network           {tiny_run.path}, latest checkpoint: step 3; ")
    assert images == "images            10 of the 297 test images of digits"
    assert "per dimension, pixels in [0, 1]; decoded without clipping" in unit
    assert header.split() == ["steps", "MSE"], "the errors in the paper are for CIFAR-10"
    expected = [["2", f"{few['mse']:.2e}"], ["100", f"{many['mse']:.2e}"]]
    assert [line.split() for line in table] == expected
    assert wrote.startswith(f"wrote {made['reconstruction.png'].out}: 8 of the images; columns: original, ")


def test_originals_and_reconstructions_are_in_one_row(made: dict[str, Made]) -> None:
    with Image.open(made["reconstruction.png"].out) as picture:
        pixels = np.asarray(picture).astype(int)
    assert pixels.shape == (8 * 102 + 6, 3 * 102 + 6)  # eight rows; the original and two reconstructions
    original, rough, fine = (pixels[:, 6 + 102 * column :][:, :96] for column in range(3))
    test = digits().load().test
    for row, index in enumerate(made["reconstruction.png"].record["pictured"]):
        shown = original[6 + 102 * row :][:96]  # each pixel is enlarged to 12 x 12
        np.testing.assert_array_equal(shown[6::12, 6::12], test[index, ..., 0])
    assert np.abs(fine - original).mean() < np.abs(rough - original).mean() / 2


def test_batch_size_does_not_change_the_error(made: dict[str, Made]) -> None:
    """The picture shows more images than a batch contains."""
    small, whole = made["reconstruction-3.png"], made["reconstruction.png"]
    assert small.record["errors"][0]["mse"] == pytest.approx(whole.record["errors"][0]["mse"], rel=1e-4)
    assert small.picture_size == (2 * 102 + 6, 8 * 102 + 6)


def test_options_reach_the_reconstruction(made: dict[str, Made]) -> None:
    record = made["reconstruction-quad.png"].record
    assert (record["checkpoint"], record["weights"]) == ("best-test", "raw")
    assert record["timestep_subset"] == "quad:span=0.8"
    assert record["errors"][0]["timesteps"] == [0, 800]
    assert record["num_images"] == 3
    assert made["reconstruction-own.png"].record["errors"][0]["timesteps"] == [0, 999]


@pytest.fixture
def silent_network(
    in_process: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """`in_process` with a network that always predicts zero noise."""

    class Silent(NumpyModel):
        def load_weights(self, *_: object) -> None:
            pass

    def build(_: object) -> NumpyModel:
        return Silent(lambda x_t, t: np.zeros_like(x_t))

    monkeypatch.setattr(Experiment, "build_model", build)
    return in_process


def test_default_steps_are_those_of_the_paper(
    silent_network: Callable[..., Outcome], tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ddim_host.cli.reconstruct.is_cifar10", lambda data: data == "digits")
    out = tmp_path / "x.png"
    outcome = silent_network("reconstruct", tiny_run.path, "--num-images", "1", "--out", out)
    assert outcome.code == 0, outcome.err
    rows = [line.split() for line in outcome.out.splitlines()[4:-1]]
    assert {int(steps): float(paper) for steps, _, paper in rows} == PAPER_ERRORS
    assert all(row["mse"] < 1e-9 for row in json.loads(out.with_suffix(".json").read_text())["errors"])


def test_images_without_a_name_are_numbered(
    silent_network: Callable[..., Outcome], tiny_run: Run, tmp_path: Path
) -> None:
    """Nothing is overwritten, not even the record of a deleted image."""
    run = copied(tiny_run, tmp_path)
    for command in ("sample", "sample", "sample --interpolate 2", "sample --show-trajectory", "reconstruct"):
        name, *options = command.split()
        steps = ["--steps", "2"]
        assert silent_network(name, str(run), *steps, *options, "--num-images", "1").code == 0
    (run / "samples" / "samples-1.png").unlink()
    assert silent_network("sample", run).code == 0
    assert {path.name for path in (run / "samples").glob("*-*.png")} == {
        "linear-3-eta-0.png",
        "samples-2.png",
        "samples-3.png",
        "interpolation-1.png",
        "trajectory-1.png",
        "reconstruction-1.png",
    }


# --- Refused, before a framework is imported ----------------------------------------------------------------


@pytest.fixture
def refused(in_process: Callable[..., Outcome], tmp_path: Path) -> Callable[..., str]:
    """Return a function that requires a command to fail without writing, and returns its message."""

    def run(*arguments: str | Path) -> str:
        before = all_paths(tmp_path)
        outcome = in_process(*arguments)
        assert outcome.code == 2, outcome
        assert all_paths(tmp_path) == before
        assert outcome.err.count("error: ") == 1
        assert "Traceback" not in outcome.err
        return outcome.err.rpartition("error: ")[2]

    return run


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("sample RUN --interpolate 5 --eta 1", "--interpolate needs deterministic sampling"),
        ("sample RUN --interpolate 5 --eta 0.1", "fix: add --eta 0"),
        ("sample RUN --interpolate 5 --show-trajectory", "not allowed with argument --interpolate"),
        ("sample RUN --interpolate 1", "integer from 2 to 1,000, not '1'"),
        ("sample RUN --interpolate many", "integer from 2 to 1,000, not 'many'"),
        ("sample RUN --show-trajectory 0", "integer from 1 to 1,000, not '0'"),
        ("sample RUN --show-trajectory 1001", "integer from 1 to 1,000, not '1001'"),
        ("sample RUN --checkpoint worst", "--checkpoint must be one of"),
        ("sample RUN --weights both", "--weights must be one of ema, raw, not 'both'"),
        ("sample RUN --plugin troch", "no framework plugin named 'troch'; did you mean 'torch'?"),
        ("sample RUN --timestep-subset quat", "no timestep subset named 'quat'; did you mean 'quad'?"),
        ("sample RUN --timestep-subset explicit:t=0,5,9,10", "needs 3 timesteps, not 4"),
        ("sample RUN --solver dpm", "there is no solver named 'dpm'"),
        ("sample RUN --solver dpmpp_2m --eta 0.5", "solver 'dpmpp_2m' adds no noise, so eta must be 0"),
        ("sample RUN --solver dpmpp_2m:order=3", "solver 'dpmpp_2m' has no parameter 'order'"),
        ("evaluate RUN --solver dpmpp_2m", "fix: add --eta 0, or choose another solver with --solver"),
        ("reconstruct RUN --solver ddim", "`ddim-host reconstruct` does not accept '--solver'"),
        ("sample RUN --steps 0", "--steps must be an integer from 1 to 100,000, not '0'"),
        ("sample RUN --steps 1001", "cannot sample in 1001 steps"),
        ("sample RUN --eta 1.1", "--eta must be a number in [0, 1], not '1.1'"),
        ("sample RUN --clip maybe", "--clip must be true or false, not 'maybe'"),
        ("sample RUN --clip false --clip-range 0.5", "--clip-range has no effect with --clip false"),
        ("evaluate RUN --clip false --clip-range 0.5", "--clip-range has no effect with --clip false"),
        ("sample RUN --out TMP/x.npz --nearest", "--grid-scale and --nearest have no effect on an array"),
        ("sample RUN --out TMP/x --grid-scale 2", "--grid-scale and --nearest have no effect on an array"),
        ("evaluate RUN --nearest", "--grid-scale and --nearest have no effect without --grids"),
        ("sample RUN --seed -1", "--seed must be an integer in [0, 2^63), not '-1'"),
        ("sample RUN --num-images 0", "--num-images must be an integer from 1 to 1,000,000, not '0'"),
        ("sample RUN --num-images 10001", "10,001 images are too many for one grid"),
        ("sample RUN --interpolate 1000 --num-images 11", "11,000 images are too many for one grid"),
        ("sample RUN --interpolate 1000 --num-images 1001 --out TMP/x.npz", "1,001,000 images are too many"),
        ("sample RUN --batch-size 0", "--batch-size must be an integer from 1 to 100,000, not '0'"),
        ("sample RUN --device gpu", "--device must be one of auto, cpu, cuda, not 'gpu'"),
        ("sample RUN --lr 1", "`ddim-host sample` does not accept '--lr'"),
        ("sample RUN --out TMP/x.jpg", "cannot infer the output format from the name"),
        ("sample RUN --out RUN/config.toml", "already exists"),
        ("sample RUN --out RUN/samples/linear-3-eta-0.png", "already exists"),
        ("sample RUN --out RUN/samples", "already exists"),
        ("sample RUN --out RUN/metrics.csv/x.png", "metrics.csv\n  why: Not a directory"),
        ("sample", "the following arguments are required: RUN"),
        ("sample TMP/nowhere", "there is no run in"),
        ("sample RUN/config.toml", "there is no run in"),
        ("reconstruct TMP/nowhere", "there is no run in"),
        ("reconstruct RUN --steps ten", "--steps must be an integer from 1 to 100,000, or several "
            "separated by commas, not 'ten'"),
        ("reconstruct RUN --steps 0", "--steps must be an integer from 1 to 100,000, or several "
            "separated by commas, not '0'"),
        ("reconstruct RUN --steps 10,-1", "--steps must be an integer from 1 to 100,000, or "
            "several separated by commas, not '10,-1'"),
        ("reconstruct RUN --steps 10,,20", "--steps must be an integer from 1 to 100,000, or "
            "several separated by commas, not '10,,20'"),
        ("reconstruct RUN --steps 10,", "--steps must be an integer from 1 to 100,000, or several "
            "separated by commas, not '10,'"),
        ("reconstruct RUN --steps=", "--steps must be an integer from 1 to 100,000, or several "
            "separated by commas, not ''"),
        ("reconstruct RUN --steps 1.5", "--steps must be an integer from 1 to 100,000, or several "
            "separated by commas, not '1.5'"),
        ("reconstruct RUN --steps 10,1001", "cannot sample in 1001 steps"),
        (f"reconstruct RUN --steps {'9' * 5000}", "--steps must be an integer from 1 to 100,000, "
            "or several separated by commas, not '999"),
        ("reconstruct RUN --num-images 0", "integer from 1 to 1,000,000, not '0'"),
        ("reconstruct RUN --eta 0", "`ddim-host reconstruct` does not accept '--eta'"),
        ("reconstruct RUN --out TMP/x.npz", "--out must be a PNG file, not"),
        ("reconstruct RUN --out TMP/x", "--out must be a PNG file, not"),
        ("reconstruct RUN --out RUN/samples/linear-3-eta-0.png", "already exists"),
        ("reconstruct RUN --data images:path=TMP/nowhere", "cannot open"),
        ("reconstruct RUN --data cifar10", "differ in shape from the training images"),
    ],
)  # fmt: skip
def test_invalid_option_is_refused(
    refused: Callable[..., str], tiny_run: Run, tmp_path: Path, command: str, message: str
) -> None:
    words = (
        word.replace("RUN", str(tiny_run.path)).replace("TMP", str(tmp_path)) for word in command.split()
    )
    before = all_paths(tiny_run.path)
    assert message in refused(*words)
    assert all_paths(tiny_run.path) == before


@pytest.fixture
def run(tiny_run: Run, tmp_path: Path) -> Path:
    """A copy of a run that a test can damage."""
    return copied(tiny_run, tmp_path)


def test_clip_range_is_refused_if_the_run_does_not_clip(refused: Callable[..., str], run: Path) -> None:
    edit_config(run, lambda config: config.update(clip=False))
    message = refused("sample", run, "--clip-range", "0.5")
    assert "clip is false in the settings of the run\n  fix: add --clip true" in message


COMMANDS = ["sample", "reconstruct"]


@pytest.mark.parametrize("command", COMMANDS)
def test_run_without_checkpoint_is_refused(refused: Callable[..., str], run: Path, command: str) -> None:
    shutil.rmtree(run / "checkpoints")
    message = refused(command, run)
    assert message.startswith(f"the run in {run} has no checkpoint yet")
    assert f"--resume --out {run}" in message


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("which", ["ema", "raw"])
def test_damaged_checkpoint_is_refused(
    refused: Callable[..., str], run: Path, command: str, which: str
) -> None:
    path = RunDirectory(run).latest_checkpoint() / f"{which}.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert refused(command, run, "--weights", which).startswith(f"{path} is not a complete safetensors file")


@pytest.mark.parametrize("command", COMMANDS)
def test_checkpoint_of_another_network_is_refused(
    refused: Callable[..., str], run: Path, command: str
) -> None:
    edit_config(run, lambda config: config["model"]["parameters"].update(base_channels=16))
    assert "does not fit the network" in refused(command, run)


@pytest.mark.parametrize("checkpoint", ["best-train", "best-test", "best-avg", "ensemble"])
def test_missing_best_epochs_are_an_error(refused: Callable[..., str], run: Path, checkpoint: str) -> None:
    edit_progress(run, lambda progress: progress.update(best={}))
    message = refused("sample", run, "--checkpoint", checkpoint)
    assert message.startswith(f"the newest checkpoint in {run} has no best epoch")
    assert "use --checkpoint latest" in message


def test_one_missing_best_epoch_is_an_error(refused: Callable[..., str], run: Path) -> None:
    edit_progress(run, lambda progress: progress["best"].pop("test"))
    assert "has no best epoch" in refused("sample", run, "--checkpoint", "best-test")


def test_missing_weights_of_the_best_epoch_are_an_error(refused: Callable[..., str], run: Path) -> None:
    edit_progress(run, lambda progress: progress["best"].update(test={"step": 2, "loss": 0.1}))
    message = refused("sample", run, "--checkpoint", "best-test")
    assert message.startswith(f"cannot read {run / 'checkpoints' / 'step-00000002' / 'ema.safetensors'}")


def test_damaged_progress_file_is_an_error(refused: Callable[..., str], run: Path) -> None:
    edit_progress(run, lambda progress: progress.update(best={"train": 5}))
    assert "progress.json is damaged" in refused("sample", run, "--checkpoint", "ensemble")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "shape",
    [
        None, "8x8", 8, [], [8, 8], [8, 8, 1, 1], ["8", "8", "1"], [8.0, 8.0, 1.0], [True, True, True],
        [-8, -8, 1], [0, 0, 1], [0, 8, 1], [8, 8, 2], [8, 8, -1], [2**40, 2**40, 3], [[8], [8], [1]],
    ],
    ids=str,
)  # fmt: skip
def test_config_without_image_shape_is_refused(
    refused: Callable[..., str], run: Path, command: str, shape: object
) -> None:
    def change(config: dict[str, Any]) -> None:
        del config["provenance"]["image_shape"]
        if shape is not None:
            config["provenance"]["image_shape"] = shape

    edit_config(run, change)
    message = refused(command, run)
    assert message.startswith(f"{run / 'config.toml'} does not record a valid shape of the training images")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("provenance", [None, 3, "here", []], ids=str)
def test_config_without_provenance_is_refused(
    refused: Callable[..., str], run: Path, command: str, provenance: object
) -> None:
    def change(config: dict[str, Any]) -> None:
        del config["provenance"]
        if provenance is not None:
            config["provenance"] = provenance

    edit_config(run, change)
    assert "does not record a valid shape of the training images" in refused(command, run)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("text", ["[", "\0", "eta = 2.0", "x = 1", "[" * 100_000], ids=range(5))
def test_damaged_config_is_refused(refused: Callable[..., str], run: Path, command: str, text: str) -> None:
    (run / "config.toml").write_text(text, encoding="utf-8")
    assert str(run / "config.toml") in refused(command, run)


def test_reconstruct_reports_missing_data_and_accepts_other_images(
    in_process: Callable[..., Outcome], refused: Callable[..., str], run: Path, pictures: Path
) -> None:
    """`sample` does not need the data, as other tests show."""
    gone = {"name": "images", "parameters": {"path": str(run / "gone")}}
    edit_config(run, lambda config: config.update(data=gone))
    assert refused("reconstruct", run).startswith(f"cannot open {run / 'gone'}")
    message = refused("reconstruct", run, "--data", f"images:path={pictures}")
    assert message.startswith("the images of data set 'images' differ in shape from the training images")
    assert "(8, 8, 3), the network's is (8, 8, 1)" in message
    with pytest.raises(AssertionError, match="must exit before it builds a network"):
        in_process("reconstruct", run, "--data", "digits")


# --- Presets ------------------------------------------------------------------------------------------------


def dry_run(in_process: Callable[..., Outcome], *arguments: str) -> str:
    outcome = in_process("run", "--plugin", "torch", "--dry-run", *arguments)
    assert outcome.code == 0, outcome.err
    return outcome.out


def test_preset_has_the_protocol_of_the_paper(in_process: Callable[..., Outcome]) -> None:
    shown = dry_run(in_process, "--preset", "paper-cifar10")
    words = " ".join(shown.split())
    assert "network 35,746,307 parameters" in words
    assert "800,000 steps of 128 images, lr 0.0002, EMA 0.9999" in words
    assert "timestep subset quad (ddim-host" in words
    assert "in 50 steps, eta 0, not clipped" in words
    assert "base_channels=128 channel_multipliers=1,2,2,2 num_res_blocks=2 attention_resolutions=16" in words
    assert "dropout=0.1" in words
    timesteps = [int(t) for t in words.rpartition("t = ")[2].partition(" folder")[0].split(", ")]
    assert len(timesteps) == 50
    assert timesteps[-1] == 800


def test_command_line_overrides_the_preset(in_process: Callable[..., Outcome], tmp_path: Path) -> None:
    config = tmp_path / "own.toml"
    config.write_text("steps = 10\nclip = true\nloss = 'l2'\n", encoding="utf-8")
    options = "--preset paper-cifar10 --eta 1 --timestep-subset linear --epochs 3 --data digits --steps 20"
    shown = dry_run(in_process, *options.split(), "--model", "unet", "--config", str(config))
    words = " ".join(shown.split())
    assert "3 epochs of 128 images, lr 0.0002" in words
    assert "in 20 steps, eta 1, clipped to [-1, 1]" in words
    assert "t = 0, 53," in words
    assert "loss l2 (" in words
    assert "8 x 8" in words


@pytest.mark.parametrize("name", ["paper-cifar100", "", "../config", "paper-cifar10.toml"])
def test_unknown_preset_is_refused(refused: Callable[..., str], name: str) -> None:
    message = refused("run", "--plugin", "torch", "--dry-run", f"--preset={name}")
    assert "--preset must be one of paper-cifar10" in message


# --- Help ---------------------------------------------------------------------------------------------------

EVERYWHERE = {"--help", "--strict-plugins"}
WITHOUT_DEFAULT = EVERYWHERE | {"--preset", "--config", "--resume", "--start-from", "--dry-run"}
"""Options of `run`; in the other commands every option has a default."""


@pytest.mark.parametrize("command", ["run", *COMMANDS])
def test_help_documents_every_option_with_its_default(
    in_process: Callable[..., Outcome], command: str
) -> None:
    outcome = in_process(command, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    without = {
        name
        for name, text in documented(outcome.out).items()
        if "(default: " not in text and "; default: " not in text
    }
    assert without == (WITHOUT_DEFAULT if command == "run" else EVERYWHERE)


def documented(text: str) -> dict[str, str]:
    """Return the help text of each option."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("  -"):
            name = next(word for word in line.replace(",", " ").split() if word.startswith("--"))
            found[name] = ""
        elif not line.startswith("   "):
            name = ""
        if name:
            found[name] += " " + line.strip()
    return found


OF_SAMPLE = """
--plugin --checkpoint --weights --device --precision --timestep-subset --solver --steps --eta --clip
--clip-range
--seed --num-images --batch-size --interpolate --show-trajectory --out --observer
--grid-scale --nearest
"""
OF_RECONSTRUCT = """
--plugin --checkpoint --weights --device --precision --data --timestep-subset --steps --num-images
--batch-size --out --grid-scale --nearest
"""


@pytest.mark.parametrize(("command", "options"), [("sample", OF_SAMPLE), ("reconstruct", OF_RECONSTRUCT)])
def test_help_lists_every_option(in_process: Callable[..., Outcome], command: str, options: str) -> None:
    assert set(documented(in_process(command, "--help").out)) == {*EVERYWHERE, *options.split()}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_no_heavy_module(python: PythonCode, command: str) -> None:
    code = (
        "import atexit, sys; atexit.register(lambda: print('modules:', *sys.modules, file=sys.stderr))\n"
        "from ddim_host.cli import main; main()"
    )
    modules = set(python(code, command, "--help").err.rpartition("modules:")[2].split())
    assert "ddim_host.cli" in modules
    heavy = {
        "torch",
        "jittor",
        "scipy",
        "sklearn",
        "PIL",
        "ddim_torch",
        "ddim_jittor",
        "ddim_host.run.sampling",
    }
    assert not heavy & modules
