"""The Inception features of FID, and the sources of their weights."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from ddim_host.errors import UserError
from ddim_host.evaluation.paper import FID_WEIGHTS
from ddim_host.system.cache import cache_folder
from ddim_torch import inception_weights
from ddim_torch.features import Inception
from ddim_torch.inception import parameter_shapes
from ddim_torch.inception_files import FILE_NAME
from ddim_torch.inception_weights import read_weights
from tests.support.inception_weights import random_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Barrier

    from numpy.typing import NDArray

    Weights = dict[str, NDArray[np.float32]]

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return random_weights()


@pytest.fixture(scope="module")
def file(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "weights.safetensors"
    safetensors.numpy.save_file(weights, path)
    return path


@pytest.fixture(scope="module")
def extract(file: Path) -> Inception:
    return Inception(weights=file, device="cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DDIM_HOST_CACHE", str(tmp_path / "cache"))
    return cache_folder()


# --- Features -----------------------------------------------------------------------------------------------


def test_image_has_2048_features_independent_of_the_batch(extract: Inception) -> None:
    features = extract(IMAGES)
    assert features.shape == (3, 2048)
    assert features.dtype == np.float32
    np.testing.assert_allclose(extract(IMAGES[1:2])[0], features[1], rtol=1e-4, atol=1e-5)
    assert features.std(0).mean() > 1e-3


def test_grey_images_are_treated_as_rgb(extract: Inception) -> None:
    grey = IMAGES[:1, :8, :8, :1]
    np.testing.assert_allclose(extract(grey), extract(np.repeat(grey, 3, axis=3)), rtol=1e-3, atol=1e-4)


def test_network_has_the_parameters_of_the_published_file() -> None:
    """The file contains 566 tensors: these, a counter for each batch normalisation, and the classifier."""
    shapes = parameter_shapes()
    layers = [name for name in shapes if name.endswith("running_mean")]
    assert len(shapes) + len(layers) + 2 == 566
    sizes = [int(np.prod(shape)) for name, shape in shapes.items() if "running" not in name]
    assert sum(sizes) == 21_785_568, "the parameters of Inception v3 without classifiers"


@pytest.mark.process
def test_extractor_is_found_without_importing_torch() -> None:
    code = (
        "import sys\nfrom ddim_host.plugin.loading import load_plugins\n"
        "from ddim_host.plugin.registry import Kind\n"
        "print(load_plugins().registry.names(Kind.FEATURES), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['cifar_cnn', 'digits_mlp', 'inception'] False\n"


def test_an_unknown_device_is_an_error(file: Path) -> None:
    with pytest.raises(UserError, match="'tpu'"):
        Inception(weights=file, device="tpu")


# --- Weights from a file ------------------------------------------------------------------------------------


def test_fingerprint_depends_only_on_the_used_weights(file: Path, weights: Weights, tmp_path: Path) -> None:
    _, fingerprint = read_weights(file)
    other = tmp_path / "other.weights"
    safetensors.numpy.save_file({**weights, "fc.bias": np.zeros(1008, np.float32)}, other)
    assert read_weights(other)[1] == fingerprint, "unused tensors must not count"
    name = next(iter(weights))
    safetensors.numpy.save_file({**weights, name: weights[name] + 1}, other)
    assert read_weights(other)[1] != fingerprint


def changed(change: Callable[[Weights], object], weights: Weights) -> Weights:
    result = dict(weights)
    change(result)
    return result


CONV, VARIANCE = "Mixed_6b.branch1x1.conv.weight", "Mixed_6b.branch1x1.bn.running_var"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda w: w.pop(CONV), f"it has no {CONV}"),
        (lambda w: w.update({CONV: w[CONV][:-1]}), "of shape (191, 768, 1, 1)"),
        (lambda w: w.update({CONV: w[CONV].astype(np.float64)}), "float64"),
        (lambda w: w.update({CONV: w[CONV] * np.float32(np.nan)}), "not finite"),
        (lambda w: w.update({VARIANCE: -w[VARIANCE]}), "negative"),
        (lambda w: w.clear(), "it has no Conv2d_1a_3x3.conv.weight"),
    ],
)
def test_weights_of_another_network_are_refused(
    change: Callable[[Weights], object], why: str, weights: Weights, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(changed(change, weights), path)
    with pytest.raises(UserError, match="does not contain the weights") as caught:
        read_weights(path)
    assert why in caught.value.why
    assert "inception:weights=FILE" in caught.value.fix


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-1000],
        lambda whole: b"",
        lambda whole: (2**62).to_bytes(8, "little") + whole[8:],
        lambda whole: (10).to_bytes(8, "little") + b"{" * 10,
        lambda whole: b"\x80\x02cos\nsystem\n",
    ],
)
def test_a_damaged_file_is_an_error(damage: Callable[[bytes], bytes], file: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match="not a complete safetensors file"):
        read_weights(path)


class Trap:
    """An object that creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pkl", ""])
def test_a_pickle_that_is_not_the_published_one_is_never_loaded(suffix: str, tmp_path: Path) -> None:
    path, touched = tmp_path / f"weights{suffix}", tmp_path / "touched"
    path.write_bytes(pickle.dumps(Trap(touched)))
    with pytest.raises(UserError, match="cannot be loaded safely") as caught:
        read_weights(path)
    assert "pickle" in caught.value.why
    assert not touched.exists()


@pytest.mark.parametrize("name", ["gone.safetensors", "gone.pth", "."])
def test_missing_file_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read|not a whole"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_pipe_is_refused_without_waiting(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"pipe{suffix}"
    os.mkfifo(path)
    with pytest.raises(UserError, match="cannot read the weights") as caught:
        read_weights(path)
    assert caught.value.why == "it is not a regular file"


# --- The published weights ----------------------------------------------------------------------------------


@pytest.fixture
def published(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a file in the format of the published weights, and make the code accept it."""
    path = tmp_path / "published.pth"
    state = {name: torch.from_numpy(array) for name, array in weights.items()}
    counters = {
        n.replace("running_mean", "num_batches_tracked"): torch.tensor(0) for n in state if "mean" in n
    }
    torch.save({**state, **counters, "fc.bias": torch.zeros(1008)}, path)
    monkeypatch.setattr(inception_weights, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(inception_weights, "NUM_BYTES", path.stat().st_size)
    monkeypatch.setattr(inception_weights, "URL", "http://127.0.0.1:1/nothing-listens-here.pth")
    return path


def same(one: Weights, other: Weights) -> bool:
    return list(one) == list(other) and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_copy_of_the_published_file_is_read(published: Path, weights: Weights) -> None:
    arrays, fingerprint = read_weights(published)
    assert same(arrays, weights)
    assert fingerprint == inception_weights.SHA256


def test_published_file_is_converted_once_and_then_read_without_pickle(
    published: Path, weights: Weights, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir()
    assert inception_weights.published_weights().startswith("not in the cache yet")
    (cache / FILE_NAME).write_bytes(published.read_bytes())
    assert inception_weights.published_weights() == "in the cache"
    arrays, fingerprint = read_weights(None)
    assert inception_weights.published_weights() == "in the cache"
    assert same(arrays, weights)
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]
    monkeypatch.setattr(torch, "load", None)
    again, same_fingerprint = read_weights(None)
    assert same(again, weights)
    assert same_fingerprint == fingerprint == inception_weights.SHA256
    [kept] = cache.iterdir()
    assert read_weights(kept)[1] == fingerprint, "the file must be usable on another machine"


@pytest.mark.parametrize("at", [5_000, -5_000])
def test_damaged_copy_in_the_cache_is_replaced(published: Path, cache: Path, at: int) -> None:
    cache.mkdir()
    original = cache / FILE_NAME
    original.write_bytes(published.read_bytes())
    read_weights(None)
    [kept] = cache.iterdir()
    damaged = bytearray(kept.read_bytes())
    damaged[at] ^= 0x10
    kept.write_bytes(damaged)
    with pytest.raises(UserError, match="cannot download"):
        read_weights(None)
    original.write_bytes(published.read_bytes())
    assert read_weights(None)[1] == inception_weights.SHA256


def test_download_error_names_the_file_and_its_place(published: Path, cache: Path) -> None:
    with pytest.raises(UserError, match="cannot download") as caught:
        read_weights(None)
    for said in ("pt_inception-2015-12-05-6726825d.pth", "inception:weights=FILE", str(cache)):
        assert said in caught.value.fix


def test_a_wrong_file_in_the_cache_is_not_loaded(published: Path, cache: Path, tmp_path: Path) -> None:
    cache.mkdir()
    touched = tmp_path / "touched"
    (cache / FILE_NAME).write_bytes(pickle.dumps(Trap(touched)))
    with pytest.raises(UserError, match="cannot download"):
        read_weights(None)
    assert not touched.exists()


def fingerprint_or_error(expected: str, start: Barrier, answers: Queue[str]) -> None:
    inception_weights.SHA256 = expected
    start.wait()
    try:
        answers.put(read_weights(None)[1])
    except Exception as error:
        answers.put(repr(error))


@pytest.mark.process
def test_simultaneous_conversions_do_not_interfere(published: Path, cache: Path) -> None:
    cache.mkdir()
    (cache / FILE_NAME).write_bytes(published.read_bytes())
    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(2), context.Queue()
    expected = inception_weights.SHA256
    arguments = (expected, start, answers)
    processes = [context.Process(target=fingerprint_or_error, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert found == [expected, expected]


def test_published_weights_are_those_of_the_comparison_with_the_paper() -> None:
    assert inception_weights.SHA256 == FID_WEIGHTS
