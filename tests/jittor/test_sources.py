"""The sources from which Jittor is compiled: the patches needed, and the patched copy."""

from __future__ import annotations

import sys
from importlib import metadata
from typing import TYPE_CHECKING

import pytest

from ddim_host.errors import UserError
from ddim_jittor import machine, sources
from ddim_jittor.laying import make_once
from ddim_jittor.patches import CUDA13, NUMPY2, PYTHON313, Patch
from ddim_jittor.sources import lay_sources, misfits, needed_patches
from tests.jittor.fakes import fake_file

if TYPE_CHECKING:
    from pathlib import Path

PATCHES = (Patch("jittor/core.h", "int old;", "long young;"), Patch("jittor_utils/a.py", "1", "2"))


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Fake versions of distributions; others have their real version."""
    fake_versions: dict[str, str] = {"numpy": "1.26.4"}
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: fake_versions.get(name) or real(name))
    monkeypatch.setattr(sys, "version_info", (3, 12, 0))
    return fake_versions


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for Jittor, first on the path."""
    site = tmp_path / "site"
    for name in ("jittor/__init__.py", "jittor/test/test_core.py", "jittor_utils/__init__.py"):
        fake_file(site / name)
    fake_file(site / "jittor/core.h", "a\nint old;\nb\n")
    fake_file(site / "jittor_utils/a.py", "x = 1\n")
    monkeypatch.syspath_prepend(str(site))
    return site


@pytest.fixture
def other_sources(installed: Path) -> None:
    """A Jittor whose source differs where the patches for NumPy 2 apply."""
    fake_file(installed / "jittor/src/pyjt/numpy.h", "struct PyArrayDescr_Proxy { /* of both */ };")


def test_patches_apply_to_the_installed_jittor() -> None:
    assert misfits([*NUMPY2, *PYTHON313, *CUDA13]) == []


@pytest.mark.parametrize(
    ("numpy", "python", "patches"),
    [
        ("1.26.4", (3, 12), ()),
        ("2.0.0", (3, 12), NUMPY2),
        ("2.5.2", (3, 13), NUMPY2 + PYTHON313),
        ("3.0.0rc1", (3, 14), NUMPY2 + PYTHON313),
    ],
)
def test_patches_depend_on_the_versions(
    numpy: str,
    python: tuple[int, int],
    patches: tuple[Patch, ...],
    versions: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions["numpy"] = numpy
    monkeypatch.setattr(sys, "version_info", (*python, 0))
    assert needed_patches() == patches


@pytest.mark.usefixtures("other_sources")
@pytest.mark.parametrize("numpy", ["1.26.4", "2.5.2"])
def test_jittor_that_supports_numpy_2_is_not_patched(
    numpy: str, versions: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    versions.update(numpy=numpy, jittor="1.3.12.0")
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy>=1.20", "tqdm"])
    assert needed_patches() == ()


@pytest.mark.usefixtures("other_sources", "home")
@pytest.mark.parametrize(
    ("version", "requirement"),
    [("1.3.12.0", "numpy<2.0"), ("1.3.9.0", "numpy")],  # old releases predate NumPy 2
)
def test_jittor_that_cannot_be_patched_is_refused(
    version: str, requirement: str, versions: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    versions.update(numpy="2.5.2", jittor=version)
    monkeypatch.setattr(metadata, "requires", lambda name: [requirement])
    with pytest.raises(UserError) as caught:
        needed_patches()
    assert f"jittor {version} does not work with numpy 2.5.2" in str(caught.value)
    assert "--no-deps --force-reinstall jittor==1.3.11.0" in caught.value.fix
    [check] = [check for check in machine.checks() if not check.ok]
    assert check.name == "NumPy"
    versions["numpy"] = "1.26.4"
    assert needed_patches() == ()


def test_patch_text_must_occur_exactly_once(installed: Path) -> None:
    core = installed / "jittor/core.h"
    assert misfits(PATCHES) == []
    core.write_text("int old;\nint old;\n")
    assert misfits(PATCHES) == [PATCHES[0]]
    core.write_bytes(b"int old;\xff")
    assert misfits(PATCHES) == [PATCHES[0]]
    core.unlink()
    assert misfits(PATCHES) == [PATCHES[0]]


def test_only_the_copy_is_patched(installed: Path, home: Path) -> None:
    before = {path: path.read_text() for path in installed.rglob("*") if path.is_file()}
    copy = lay_sources(home, PATCHES)
    assert copy is not None
    assert (copy / "jittor/core.h").read_text() == "a\nlong young;\nb\n"
    assert (copy / "jittor_utils/a.py").read_text() == "x = 2\n"
    assert (copy / "jittor/__init__.py").exists()
    assert not (copy / "jittor/test").exists()
    assert {path: path.read_text() for path in installed.rglob("*") if path.is_file()} == before
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_copy_is_reused_until_jittor_or_the_patches_change(
    installed: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lay_sources(home, ()) is None
    assert not home.exists()
    first = lay_sources(home, PATCHES)
    assert first is not None
    (first / "mark").touch()
    assert lay_sources(home, PATCHES) == first
    assert (first / "mark").exists()
    assert lay_sources(home, PATCHES[:1]) != first
    other_metadata = "Metadata-Version: 2.1\nName: jittor\nVersion: 1.3.11.0\n"
    monkeypatch.setattr(metadata.PathDistribution, "read_text", lambda self, name: other_metadata)
    assert lay_sources(home, PATCHES) != first


def test_folder_is_created_once_and_completely(tmp_path: Path) -> None:
    target = tmp_path / "deep/target"

    def other_process_is_faster(folder: Path) -> None:
        (folder / "mine").touch()
        fake_file(target / "theirs")

    make_once(target, other_process_is_faster)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["theirs"]

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        make_once(tmp_path / "other", fail)
    assert not (tmp_path / "other").exists()


def test_jittor_is_located_without_importing_it() -> None:
    assert (sources.installed_folder() / "jittor/compiler.py").is_file()
    assert "jittor_utils" not in sys.modules or "jittor" in sys.modules
