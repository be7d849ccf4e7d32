"""The evaluator's process: its framework, its cache, and its handling of faulty extractors."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ddim_host.errors import UserError
from ddim_host.evaluation.evaluator import Evaluator
from ddim_host.evaluation.statistics import MeasureSettings, StatisticsAccumulator, measure
from ddim_host.parts.feature_extractors import DigitsMLP
from ddim_host.plugin.data import image_hash
from ddim_host.plugin.parameters import parse_choice

if TYPE_CHECKING:
    from pathlib import Path

    from ddim_host.evaluation.statistics import Measures
    from ddim_host.plugin.data import Images
    from tests.support.distributions import Site

pytestmark = pytest.mark.process

SHAPE = (8, 8, 1)
SETTINGS = MeasureSettings(kernel_subsets=4, kernel_subset_size=20, max_kept=40)
REAL, GENERATED = np.random.default_rng(0).integers(0, 256, (2, 60, *SHAPE), np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("DDIM_HOST_CACHE", str(folder))
    return folder


def evaluator(choice: str = "digits_mlp") -> Evaluator:
    return Evaluator(parse_choice(choice), SHAPE, SETTINGS)


def gather(process: Evaluator, images: Images) -> None:
    process.begin(len(images))
    for first in range(0, len(images), 25):
        process.add(images[first : first + 25])


def use_reference(process: Evaluator, images: Images) -> bool:
    """Set the reference; return True if its statistics came from the cache."""
    sha256 = image_hash(images)
    if process.load_reference(sha256, len(images)):
        return True
    gather(process, images)
    process.use_as_reference(sha256)
    return False


def measures_of(process: Evaluator) -> Measures:
    gather(process, GENERATED)
    return process.measure()


def test_measures_equal_those_computed_in_this_process() -> None:
    gatherings = [StatisticsAccumulator(60, SETTINGS.max_kept) for _ in range(2)]
    for gathering, images in zip(gatherings, (GENERATED, REAL), strict=True):
        gathering.add(DigitsMLP()(images))
    with evaluator() as process:
        assert not use_reference(process, REAL)
        measures = measures_of(process)
        assert 0.0 < process.seconds < 60.0
        space = process.space
    wanted = measure(gatherings[0].statistics(), gatherings[1].statistics(), SETTINGS)
    for name in ("frechet_distance", "kernel_distance", "precision", "recall"):
        assert getattr(measures, name) == pytest.approx(getattr(wanted, name), rel=1e-6)
    assert (space.name, space.distribution, space.dimension) == ("digits_mlp", "ddim-host", 128)
    assert space.fingerprint == DigitsMLP().fingerprint


def test_statistics_of_the_reference_are_cached(cache: Path) -> None:
    with evaluator() as process:
        assert not use_reference(process, REAL)
        first = measures_of(process)
        assert not process.load_reference(image_hash(GENERATED), len(GENERATED)), (
            "the cache must not match other images"
        )
    [stored] = cache.iterdir()
    with evaluator() as process:
        assert use_reference(process, REAL)
        assert measures_of(process) == first
    whole = stored.read_bytes()
    for damaged in (b"", whole[:-100], whole[:20] + b"x" * 20 + whole[40:], whole[:-8] + b"\xff" * 8):
        stored.write_bytes(damaged)
        with evaluator() as process:
            assert not use_reference(process, REAL)
            assert measures_of(process) == first
        assert stored.read_bytes() == whole


# --- Third-party extractors ---------------------------------------------------------------------------------

EXTRACTOR = """
import os, sys, time
import numpy as np

class Extractor:
    {attributes}
    def __init__(self):
        self.fingerprint = "0123456789abcdef"
        {making}
    def __call__(self, images):
        features = images.reshape(len(images), -1)[:, :3].astype(np.float32)
        {calling}
        return features

@hookimpl
def ddim_feature_extractors():
    return {{"mine": Extractor}}
"""


def extractor(attributes: str = "pass", making: str = "pass", calling: str = "pass") -> str:
    return EXTRACTOR.format(attributes=attributes, making=making, calling=calling)


def test_extractor_may_use_its_declared_framework(site: Site) -> None:
    site.package("paddle")
    site.plugin("mine", extractor('framework = "paddle"', making="import paddle"))
    with evaluator("mine") as process:
        assert process.space.dimension == 3
    assert "paddle" not in sys.modules


@pytest.mark.parametrize("attributes", ["pass", 'framework = "torch"'])
def test_extractor_may_not_use_another_framework(site: Site, attributes: str) -> None:
    site.package("paddle")
    site.plugin("mine", extractor(attributes, making="import paddle"))
    with pytest.raises(UserError, match="feature extractor 'mine'") as caught:
        evaluator("mine")
    assert "'paddle' cannot be imported here" in caught.value.why


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (extractor(calling="features = features.astype(np.float64)"), "float64"),
        (extractor(calling="features = features[:1]"), "features of shape (1, 3) for 2 images"),
        (extractor(calling="features = features[:, 0]"), "features of shape (2,)"),
        (extractor(calling="features[0, 0] = np.nan"), "not all finite"),
        (extractor(calling="features = None"), "NoneType"),
        (extractor(calling="raise OSError('no')"), "OSError: no"),
        (extractor(making="self.fingerprint = None"), "fingerprint"),
        (extractor(making="del self.fingerprint"), "fingerprint"),
        (extractor("framework = 3"), "framework"),
        (extractor(making="import nowhere"), "nowhere"),
        (extractor().replace('"mine": Extractor', '"mine": lambda: 3'), "fingerprint"),
    ],
)
def test_extractor_that_violates_the_contract_is_named(site: Site, source: str, why: str) -> None:
    site.plugin("mine", source, version="2.5")
    with pytest.raises(UserError, match="feature extractor 'mine'") as caught:
        evaluator("mine")
    assert why in caught.value.why
    assert "mine" in caught.value.fix


def test_extractor_that_changes_its_dimension_is_an_error(site: Site) -> None:
    site.plugin("mine", extractor(calling="features = features[:, : 3 if len(images) < 5 else 2]"))
    with evaluator("mine") as process, pytest.raises(UserError, match="'mine'"):
        gather(process, REAL)


def test_process_that_dies_during_a_call_is_an_error(site: Site) -> None:
    site.plugin("mine", extractor(calling="len(images) < 5 or os._exit(3)"))
    with evaluator("mine") as process, pytest.raises(UserError, match="died unexpectedly"):
        gather(process, REAL)


def test_process_that_died_between_calls_is_an_error(site: Site) -> None:
    """Sending the request fails, rather than receiving the answer."""
    site.plugin("mine", extractor())
    with evaluator("mine") as process:
        process._process.kill()
        process._process.join()
        with pytest.raises(UserError, match="died unexpectedly"):
            gather(process, REAL)


def test_closing_does_not_wait_for_an_extractor(site: Site) -> None:
    site.plugin("mine", extractor(calling="len(images) < 5 or time.sleep(600)"))
    started = time.monotonic()
    with evaluator("mine") as process:
        process.begin(60)
        process._connection.send(("add", REAL))
    assert time.monotonic() - started < 60


def test_output_of_libraries_goes_to_stderr(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    site.plugin("mine", extractor(making="print('hello')", calling="print('features')"))
    with evaluator("mine") as process:
        gather(process, REAL)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "hello" in captured.err
