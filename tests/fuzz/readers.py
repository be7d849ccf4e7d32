"""The files that the host reads: for each kind a valid one, its mutation, and its reader."""

from __future__ import annotations

import gzip
import importlib
import io
import json
import struct
import sys
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
import safetensors.numpy
from PIL import Image

from ddim_host.cli.evaluate import _drawn
from ddim_host.evaluation import tables
from ddim_host.evaluation.moments import Moments
from ddim_host.evaluation.scores import EvaluationFile
from ddim_host.evaluation.statistics import FeatureStatistics
from ddim_host.evaluation.worker import _read_statistics, _statistics_bytes
from ddim_host.exchange.importing import read_pipeline
from ddim_host.exchange.source import open_pipeline
from ddim_host.experiment.config import Request
from ddim_host.framework.unet import parameters
from ddim_host.parts.datasets import cache
from ddim_host.parts.datasets.cifar10 import MEMBERS, cifar10
from ddim_host.parts.datasets.decoding import decode_image, read_size
from ddim_host.parts.datasets.images import images
from ddim_host.parts.found_subsets import FoundSubset, Refinement, Search, SubsetsFile, schedule_hash
from ddim_host.parts.timestep_subsets import optimized
from ddim_host.plugin import discovery
from ddim_host.plugin.registry import Kind, Part
from ddim_host.plugin.validation import checked_subset
from ddim_host.report.comparison import compare
from ddim_host.report.markdown import as_markdown
from ddim_host.report.reported_run import read_reported_run
from ddim_host.run.checkpoints import latest_checkpoint, load_checkpoint, load_weights
from ddim_host.run.directory import RunDirectory
from ddim_host.run.trained import assemble_trained
from ddim_host.sweep.grid import read_grid, requested, trial_name
from ddim_host.sweep.sweeping import Sweep
from ddim_host.sweep.trial import Stage, Trial, TrialRequest
from ddim_host.system.failure import read_failure
from tests.fuzz.mutations import (
    mutated,
    mutated_csv,
    mutated_json,
    mutated_safetensors,
    mutated_tar,
    mutated_toml,
    mutated_zip,
    png_of_any_size,
)
from tests.support.pipelines import save_pipeline

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ddim_host.experiment.assembly import Experiment

__all__ = ["Reader", "readers"]

_SWEEP = """plugin = ["torch"]
loss = ["mse", "l2"]
seed = [0, 1]

[evaluate]
samples = 10
steps = [1, 2]
"""
_FORMATS = (
    *(("PNG", mode) for mode in ("L", "LA", "P", "RGB", "RGBA", "1", "I;16")),
    *(("JPEG", mode) for mode in ("L", "RGB", "CMYK")),
    *(("TIFF", mode) for mode in ("L", "RGB", "I;16", "F", "1")),
    *(("GIF", "P"), ("WEBP", "RGB"), ("WEBP", "RGBA"), ("BMP", "RGB"), ("BMP", "P")),
)


@dataclass(frozen=True)
class Reader:
    """Reader of one kind of file.

    Attributes:
        name: Name of the kind.
        path: The file, rewritten for each input.
        make: Returns an input.
        read: Reads the file as the host does.
    """

    name: str
    path: Path
    make: Callable[[random.Random], bytes]
    read: Callable[[], object]


def readers(run: Path, folder: Path) -> Iterator[Reader]:
    """Yield all readers.

    Args:
        run: A run that was trained, sampled and evaluated; its files are modified.
        folder: Folder for all other files.
    """
    yield from _of_run(run)
    yield from _of_images(folder)
    yield from _of_others(folder)


def _text(path: Path) -> Callable[[random.Random], bytes]:
    return partial(mutated, path.read_bytes(), text=True)


def _json(path: Path) -> Callable[[random.Random], bytes]:
    return partial(mutated_json, path.read_bytes())


def _of_run(run: Path) -> Iterator[Reader]:
    directory = RunDirectory(run)
    whole = latest_checkpoint(directory.checkpoints_path)
    assert whole is not None
    experiment = assemble_trained(directory, Request())
    network = parameters(experiment.unet)
    raw, training = whole / "raw.safetensors", whole / "training.safetensors"
    yield Reader(
        "weights",
        raw,
        partial(mutated_safetensors, raw.read_bytes()),
        lambda: load_weights(whole, "raw", network),
    )

    def resume() -> None:
        experiment.sampler.load_state_dict(load_checkpoint(whole, network).sampler)

    yield Reader("training state", training, partial(mutated_safetensors, training.read_bytes()), resume)
    progress = whole / "progress.json"
    yield Reader("progress", progress, _json(progress), directory.best_checkpoints)
    config = directory.config_path
    yield Reader(
        "config",
        config,
        partial(mutated_toml, config.read_bytes()),
        lambda: assemble_trained(directory, Request()),
    )
    subsets = SubsetsFile(run)
    subsets.add([_found_subset(experiment)])
    yield Reader("subsets", subsets.path, _json(subsets.path), lambda: optimized_timesteps(run, experiment))
    whole_run = read_reported_run(run, "another")

    def compare_with_whole() -> None:
        as_markdown(compare([whole_run, read_reported_run(run, "run")]), title="", command="").encode()

    yield Reader(
        "config that is shown", config, partial(mutated_toml, config.read_bytes()), compare_with_whole
    )
    metrics = directory.metrics_path

    def read_metrics() -> None:
        directory.read_metrics()
        compare_with_whole()

    yield Reader("metrics", metrics, partial(mutated_csv, metrics.read_bytes()), read_metrics)
    evaluation = run / "evaluation.json"

    def read_evaluation() -> None:
        scores = EvaluationFile(evaluation).read()
        (tables.as_csv(scores) + tables.as_markdown(tables.tables_of(scores))).encode()

    yield Reader("evaluation", evaluation, _json(evaluation), read_evaluation)
    record = next(directory.samples_path.glob("*.json"))

    def read_record() -> None:
        compare_with_whole()
        _drawn(directory, {"kind": "samples"})

    yield Reader("record of samples", record, _json(record), read_record)
    grid = record.with_suffix(".png")
    png = grid.read_bytes()

    def make_grid(rng: random.Random) -> bytes:
        return png_of_any_size(png, rng) if rng.random() < 0.1 else mutated(png, rng)

    yield Reader("grid of samples", grid, make_grid, compare_with_whole)
    trial = run / "sweep" / "torch"
    trial.mkdir(parents=True)
    text = config.read_text(encoding="utf-8").partition("[provenance]")[0]
    (trial / "trial.toml").write_text(text, encoding="utf-8")
    Trial(trial, {}).record("evaluate", Stage(("evaluate", str(trial)), 0, 1.5))
    same = TrialRequest({"plugin": "torch"}, set(), experiment.config)

    def plan() -> None:
        sweep = Sweep(trial.parent, {})
        for known in sweep.plan([same], sweep.trials()):
            assert known.path.parent == trial.parent, known.name

    for path, make in ((trial / "trial.toml", mutated_toml), (trial / "trial.json", mutated_json)):
        yield Reader(f"{path.name} of a sweep", path, partial(make, path.read_bytes()), plan)
    sweep = run / "sweep.toml"
    sweep.write_text(_SWEEP, encoding="utf-8")

    def read_sweep() -> None:
        grid_file = read_grid(sweep)
        for values in grid_file.trials():
            trial_name(values, grid_file.varying())
            requested(values)

    yield Reader("file of a sweep", sweep, partial(mutated_toml, sweep.read_bytes()), read_sweep)


def _found_subset(experiment: Experiment) -> FoundSubset:
    """Return a subset as a search would have found it."""
    search = Search(
        method="by hand",
        distribution="ddim-host",
        version="0.1.0",
        teacher_timesteps=(0, 20, 49),
        num_images=2,
        seed=0,
        clip=1.0,
        checkpoint="latest",
        checkpoint_steps=(3,),
        weights="ema",
        weights_sha256="00" * 32,
        noise_schedule="linear",
        schedule_sha256=schedule_hash(experiment.schedule),
        plugin="torch",
        device="cpu",
        precision="fp32",
        batch_size=2,
        refinement=Refinement("pixels", "ddim", 1),
    )
    return FoundSubset((0, 49), 0.1, 0.1, (20, 49), (0.2, 0.1), search, 3, 1.0, {})


def optimized_timesteps(run: Path, experiment: Experiment) -> object:
    """Load the subset as sampling does."""
    part = Part(Kind.TIMESTEP_SUBSET, "optimized", optimized, "ddim-host", "")
    return checked_subset(part, {"from_": run}, experiment.schedule, 2)


def _of_images(folder: Path) -> Iterator[Reader]:
    pictures = [_picture(form, mode) for form, mode in _FORMATS]
    path = folder / "image"

    def make_image(rng: random.Random) -> bytes:
        if rng.random() < 0.1:
            return png_of_any_size(pictures[3], rng)
        return mutated(rng.choice(pictures), rng)

    def read_image() -> None:
        data = path.read_bytes()
        read_size(data, "image")
        assert decode_image(data, "image", resize_to=8).shape == (8, 8, 3)

    yield Reader("image", path, make_image, read_image)
    members = {f"{half}/{number}.png": pictures[3] for half in ("train", "test") for number in range(2)}
    for kind, make in (("tar", mutated_tar), ("zip", mutated_zip)):
        archive = folder / f"images.{kind}"

        def read(archive: Path = archive) -> None:
            images(path=archive, size=8).load()

        yield Reader(f"{kind} of images", archive, partial(make, members), read)
    yield from _of_arrays(folder)
    record = b"\x03" + bytes(range(256)) * 12
    batches = {f"cifar-10-batches-bin/{name}": record * 2 for name in MEMBERS}
    official = folder / "cifar-10-binary.tar.gz"
    yield Reader(
        "CIFAR-10 archive",
        official,
        partial(mutated_tar, batches),
        lambda: cifar10(path=official).load(),
    )
    with cache.new_train_test(3, 2, (4, 4, 3)) as new:
        new.key = "fuzzed"
        for writer, count in ((new.train, 3), (new.test, 2)):
            writer.write(0, np.zeros((count, 4, 4, 3), np.uint8))
    decoded, _ = cache._paths("fuzzed")

    def read_decoded() -> None:
        found = cache.open_train_test("fuzzed", (4, 4, 3))
        if found is not None:
            assert found.train.sum() >= 0

    yield Reader(
        "decoded images in the cache",
        decoded,
        partial(mutated, decoded.read_bytes()),
        read_decoded,
    )


def _of_arrays(folder: Path) -> Iterator[Reader]:
    rows = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    npy = io.BytesIO()
    np.save(npy, rows)
    idx = struct.pack(">4B3I", 0, 0, 8, 3, 6, 4, 4) + rows[:, :, :, 0].tobytes()
    archives = [
        {f"{name}.npy": npy.getvalue() for name in names} for names in (("x_train", "x_test"), ("images",))
    ]

    def make_npz(rng: random.Random) -> bytes:
        return mutated_zip(rng.choice(archives), rng)

    def make_gzip(rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            return gzip.compress(mutated(idx, rng), compresslevel=1)
        return mutated(gzip.compress(idx), rng)

    kinds: list[tuple[str, Callable[[random.Random], bytes]]] = [
        ("npy", partial(mutated, npy.getvalue())),
        ("npz", make_npz),
        ("idx", partial(mutated, idx)),
        ("idx.gz", make_gzip),
    ]
    if find_spec("pyarrow") is not None:
        kinds.append(("parquet", partial(mutated, _parquet())))
    for kind, make in kinds:
        path = folder / f"images.{kind}"

        def read(path: Path = path) -> None:
            images(path=path, size=4).load()

        yield Reader(f"{kind} of images", path, make, read)


def _parquet() -> bytes:
    import pyarrow as pa  # noqa: PLC0415 - not installed everywhere
    import pyarrow.parquet as pq  # noqa: PLC0415

    buffer = io.BytesIO()
    values = [{"bytes": _picture("PNG", "RGB"), "path": f"{number}.png"} for number in range(4)]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pq.write_table(pa.table({"image": pa.array(values, kind)}), buffer, row_group_size=2)
    return buffer.getvalue()


def _picture(form: str, mode: str) -> bytes:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    if mode == "F":
        noise = Image.fromarray(np.asarray(noise.convert("L"), np.float32) / 255)
    else:
        noise = noise.convert("L" if mode.startswith("I") else "RGB").convert(mode)
    noise.save(buffer, form)
    return buffer.getvalue()


def _of_others(folder: Path) -> Iterator[Reader]:
    rng = np.random.default_rng(0)
    moments = Moments(4)
    features = rng.standard_normal((10, 4)).astype(np.float32)
    moments.add(features)
    statistics = folder / "features.safetensors"
    whole = _statistics_bytes(FeatureStatistics(10, moments.mean, moments.covariance, features))
    yield Reader(
        "statistics in the cache",
        statistics,
        partial(mutated_safetensors, whole),
        lambda: _read_statistics(statistics, 1 << 20),
    )
    inception = folder / "inception.safetensors"
    arrays = dict.fromkeys(("layer.weight", "layer.running_var"), np.abs(features))
    inception.write_bytes(safetensors.numpy.save(arrays))
    yield Reader(
        "Inception weights",
        inception,
        partial(mutated_safetensors, inception.read_bytes()),
        partial(_read_inception, inception, dict.fromkeys(arrays, features.shape)),
    )
    yield from _of_pipelines(folder / "pipeline")
    failure = folder / "failure.json"
    record = {"what": "it does not work", "why": "unknown", "notes": ["one", "two"], "fix": "wait"}
    failure.write_text(json.dumps(record), encoding="utf-8")
    yield Reader("failure of a command", failure, _json(failure), lambda: str(read_failure(failure)).encode())
    info = folder / "site" / "fuzzed-1.0.dist-info"
    info.mkdir(parents=True)
    texts = {
        "METADATA": "Metadata-Version: 2.1\nName: fuzzed\nVersion: 1.0\nRequires-Dist: ddim-host>=0.1\n",
        "entry_points.txt": "[ddim_host.plugins]\na = fuzzed\n[ddim_host.frameworks]\nb = fuzzed:x\n",
    }
    for name, text in texts.items():
        (info / name).write_text(text, encoding="utf-8")

    host = info.parent / "ddim_host-0.1.0.dist-info"
    host.mkdir()
    (host / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: ddim-host\nVersion: 0.1.0\n", encoding="utf-8"
    )

    def discover() -> None:
        importlib.invalidate_caches()
        with mock.patch.object(sys, "path", [str(info.parent)]):
            for plugin, _ in discovery.discover():
                plugin.label.encode()

    for name in texts:
        yield Reader(f"plugin metadata: {name}", info / name, _text(info / name), discover)


def _of_pipelines(folder: Path) -> Iterator[Reader]:
    save_pipeline(folder)

    def read() -> None:
        with open_pipeline(str(folder)) as pipeline:
            read_pipeline(pipeline, Request("torch"))

    for name in ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json"):
        yield Reader(f"pipeline: {name}", folder / name, _json(folder / name), read)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    change = partial(mutated_safetensors, weights.read_bytes())
    yield Reader("pipeline: weights", weights, change, read)


def _read_inception(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Read the weights of an Inception network that is much smaller than the real one."""
    from ddim_torch import inception_weights  # noqa: PLC0415 - imports torch

    with mock.patch.object(inception_weights, "parameter_shapes", return_value=shapes):
        inception_weights.read_weights(path)
