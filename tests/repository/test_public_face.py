"""Authors of plugins need to import from three modules only."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import ddim_host
import ddim_host.framework
import ddim_host.testing
from ddim_host.scaffold.names import PLUGIN_KINDS, new_plugin
from ddim_host.scaffold.rendering import write_plugin
from tests.support.repository import ROOT

if TYPE_CHECKING:
    from pathlib import Path

FACES = {"ddim_host", "ddim_host.framework", "ddim_host.testing"}

PARTS = """
    DrawnGrid Ending EpochMetrics ObservedRun ObservedScore Observer ObserverFactory
    DDIMStep DataSource DatasetFactory FeatureExtractor FeatureExtractorFactory Images Loss LossWeighting
    NoiseSchedule NoiseScheduleFactory PredictionType SamplerState Solver SubsetSearch Teacher TimestepSampler
    TimestepSamplerFactory TimestepSubset TrainTest UserError __version__ absolute_path cache_errors
    cache_folder download epsilon_error_ratio file_errors hookimpl locked strictly_increasing write_bytes
"""
FRAMEWORKS = """
    ADAM_BETA1 ADAM_BETA2 ADAM_EPSILON Attention Batch Check Conv DECLARATIONS KERNELS_VARIABLE Device Dropout
    GroupNorm JoinProcesses Kernels Layers LayersBase Linear Loss Model ModelBase
    ModelFactory Precision Processes TrainingState UNet UNetSpec Weights WhichWeights bf16_check
    cpu_precision PRECISION_VARIABLE
    cached cpu_kernels initial_weights launched parameters run_unet process_peak_memory_bytes
    processor_flags processor_name time_embedding_table transform_channels
"""
TESTS = """
    DatasetContract FeatureExtractorContract LossContract LossWeightingContract ModelFactoryContract
    NoiseScheduleContract ObserverContract PartContract SolverContract SubsetSearchContract
    TimestepSamplerContract TimestepSubsetContract linear_schedule one_batch tiny_spec
"""


@pytest.mark.parametrize(
    ("module", "names"),
    [("ddim_host", PARTS), ("ddim_host.framework", FRAMEWORKS), ("ddim_host.testing", TESTS)],
)
def test_exported_names_change_only_on_purpose(module: str, names: str) -> None:
    face = importlib.import_module(module)
    assert sorted(face.__all__) == sorted(names.split())
    for name in face.__all__:
        assert getattr(face, name) is not None


def test_table_for_authors_lists_every_name() -> None:
    """Readers of the plain file, in which the docstrings are missing, find each name and its source."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+) \| [^|]+ \| \[`ddim_host/", page, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted({*PARTS.split()} - {"__version__"})
    members = re.search(r"The members of `NoiseSchedule`.*?\n\n(?=The)", page, re.DOTALL)
    assert members is not None
    schedule = ddim_host.NoiseSchedule([0.1, 0.2])
    for name in re.findall(r"^\| `(\w+)", members[0], re.MULTILINE):
        assert hasattr(schedule, name), name


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'ddim_host' has no attribute 'nothing'"):
        _ = ddim_host.nothing


def others_imported(code: str) -> set[str]:
    """Return the imports from the host in `code`, except exported names of its public modules."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            exported = importlib.import_module(node.module or "").__all__ if node.module in FACES else []
            found |= {f"{node.module}.{alias.name}" for alias in node.names if alias.name not in exported}
    return {name for name in found if name.partition(".")[0] == "ddim_host"}


def test_modules_of_the_host_are_not_exported_names() -> None:
    assert others_imported("from ddim_host import UserError, sweep") == {"ddim_host.sweep"}
    assert others_imported("from ddim_host.plugin.data import Images") == {"ddim_host.plugin.data.Images"}


SOURCES = [
    path.relative_to(ROOT)
    for folder in ("plugins", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not any(part in (".venv", "build") for part in path.parts)
]


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_shipped_plugins_and_examples_import_nothing_else(path: Path) -> None:
    assert others_imported((ROOT / path).read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize("kind", PLUGIN_KINDS)
def test_new_plugins_import_nothing_else(kind: str, tmp_path: Path, no_framework: None) -> None:
    files = write_plugin(new_plugin("of-mine", PLUGIN_KINDS[kind]), tmp_path / "new")
    modules = [path for path in files if path.suffix == ".py"]
    assert modules
    for path in modules:
        assert others_imported(path.read_text(encoding="utf-8")) == set(), path


@pytest.mark.parametrize("page", ["docs/plugins.md", "docs/api.md", "README.md", "README.zh-CN.md"])
def test_pages_for_authors_of_plugins_import_nothing_else(page: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        assert others_imported(block) == set(), block


@pytest.mark.process
def test_hookimpl_alone_loads_no_numpy() -> None:
    """NumPy would delay `ddim-host --help`."""
    code = "import sys; from ddim_host import UserError, hookimpl; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(("module", "names"), [("ddim_host", PARTS), ("ddim_host.framework", FRAMEWORKS)])
def test_exported_names_are_documented(module: str, names: str) -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    undocumented = {
        "__version__",
        "ADAM_BETA1",
        "ADAM_BETA2",
        "ADAM_EPSILON",
    }  # their names are self-explanatory
    assert {name for name in names.split() if not re.search(rf"\b{name}\b", page)} <= undocumented
