"""Importing Jittor: what the machine must have, oneDNN, and devices."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ddim_host.errors import UserError
from ddim_jittor import machine
from ddim_jittor.environment import import_jittor
from tests.jittor.fakes import fake_program

if TYPE_CHECKING:
    from ddim_host.framework.checks import Check


# --- What the machine must have -----------------------------------------------------------------------------


def failed(device: str = "cpu") -> list[Check]:
    return [check for check in machine.checks(device) if not check.ok]


def test_this_machine_passes_every_check(home: Path) -> None:
    assert failed() == []
    names = [check.name for check in machine.checks()]
    assert len(set(names)) == len(names) >= 7
    assert not home.exists()  # checks only look


def test_no_compiler(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    [check] = failed()
    assert "g++" in check.detail
    assert "apt-get install g++" in check.fix
    monkeypatch.setenv("cc_path", str(fake_program(tmp_path, "my-g++")))
    assert failed() == []


def test_no_python_headers(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    [check] = failed()
    assert str(tmp_path / "Python.h") in check.detail
    assert f"python{sys.version_info.major}.{sys.version_info.minor}-dev" in check.fix


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("distribution", "detail", "fix"),
    [
        ("numpy", "numpy is not installed", '"numpy>=1.26.4"'),
        ("jittor", "jittor is not installed", "--no-deps jittor==1.3.11.0 onednn-devel-cpu-gomp=="),
    ],
)
def test_missing_distributions(
    distribution: str, detail: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metadata.version

    def fake(name: str) -> str:
        if name == distribution:
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", fake)
    [check] = failed()
    assert detail in check.detail
    assert fix in check.fix
    with pytest.raises(UserError, match=detail):
        machine.require(machine.checks())


@pytest.mark.parametrize("distribution", ["onednn-devel-cpu-gomp", "onednn-cpu-gomp"])
def test_no_onednn(distribution: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.distribution

    def fake(name: str) -> metadata.Distribution:
        if name == distribution:
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "distribution", fake)
    [check] = failed()
    assert distribution in check.detail
    assert "pip install" in check.fix
    assert "onednn-devel-cpu-gomp==2022.2.1" in check.fix


def test_onednn_with_a_missing_file(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone.so"
    monkeypatch.setattr(metadata.PackagePath, "locate", lambda self: gone)
    [check] = failed()
    # Since Python 3.12 `files` leaves out those that are missing.
    assert str(gone) in check.detail or "hold no include/dnnl.hpp" in check.detail
    assert "--force-reinstall" in check.fix


def test_other_systems(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    [check] = failed()
    assert "Linux on aarch64" in check.detail


def test_cache_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DDIM_HOST_JITTOR_HOME", str(tmp_path / "file" / "jittor"))
    [check] = failed()
    assert str(tmp_path / "file" / "jittor") in check.detail
    assert "DDIM_HOST_JITTOR_HOME" in check.fix
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    monkeypatch.setenv("DDIM_HOST_JITTOR_HOME", str(tmp_path / "jittor"))
    [check] = failed()
    assert "cannot be written" in check.detail


def test_folder_that_jittor_cannot_compile_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a folder", "it's", "$HOME", "a;b"):
        monkeypatch.setenv("DDIM_HOST_JITTOR_HOME", str(tmp_path / name))
        [check] = failed()
        assert name in check.detail


def test_full_disk(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=12_000_000))
    [check] = failed()
    assert "12 MB" in check.detail


def test_home_follows_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    for name in ("DDIM_HOST_JITTOR_HOME", "DDIM_HOST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert machine.jittor_home() == tmp_path / "user/.cache/ddim-host/jittor"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert machine.jittor_home() == tmp_path / "xdg/ddim-host/jittor"
    monkeypatch.setenv("DDIM_HOST_CACHE", str(tmp_path / "ours"))
    assert machine.jittor_home() == tmp_path / "ours/jittor"
    monkeypatch.setenv("DDIM_HOST_JITTOR_HOME", "~/here")
    assert machine.jittor_home() == tmp_path / "user/here"
    monkeypatch.setenv("DDIM_HOST_JITTOR_HOME", "~nosuchuser/here")
    with pytest.raises(UserError, match="there is no home folder ~nosuchuser"):
        machine.jittor_home()


# --- oneDNN -------------------------------------------------------------------------------------------------


def onednn(home: Path) -> Path:
    return home / ".cache/jittor/mkl/dnnl_lnx_2.2.0_cpu_gomp"


def test_onednn_is_laid_where_jittor_looks(tmp_path: Path) -> None:
    machine.lay_onednn(tmp_path)
    folder = onednn(tmp_path)
    assert '#include "oneapi/dnnl/dnnl.hpp"' in (folder / "include/dnnl.hpp").read_text()
    assert "dnnl_convolution" in (folder / "include/oneapi/dnnl/dnnl_types.h").read_text()
    ctypes.CDLL(str(folder / "lib/libmkldnn.so")).dnnl_version()
    # The name that whatever is linked against the library looks for when it is loaded.
    assert (folder / "lib/libdnnl.so.2").samefile(folder / "lib/libmkldnn.so")
    assert all(path.is_symlink() for path in folder.rglob("*") if path.is_file())


def test_dangling_links_are_repaired_and_good_ones_left_alone(tmp_path: Path) -> None:
    machine.lay_onednn(tmp_path)
    library, header = onednn(tmp_path) / "lib/libmkldnn.so", onednn(tmp_path) / "include/dnnl.h"
    library.unlink()
    library.symlink_to(tmp_path / "an environment that was deleted")
    before = header.lstat()
    machine.lay_onednn(tmp_path)
    assert library.stat().st_size > 1_000_000
    assert header.lstat() == before
    assert not list(onednn(tmp_path).rglob(".*"))  # nothing temporary stays


def test_onednn_is_copied_where_links_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    machine.lay_onednn(tmp_path)
    library = onednn(tmp_path) / "lib/libdnnl.so.2"
    assert not library.is_symlink()
    assert library.stat().st_size > 1_000_000


# --- Which device -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("has_cuda", "device", "use_cuda"),
    [(False, "cpu", 0), (False, "auto", 0), (True, "cpu", 0), (True, "auto", 1), (True, "cuda", 1)],
)
def test_device_of_an_imported_jittor(
    has_cuda: bool, device: str, use_cuda: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    jittor: Any = SimpleNamespace(has_cuda=has_cuda, flags=SimpleNamespace(use_cuda=None))
    monkeypatch.setitem(sys.modules, "jittor", jittor)
    assert import_jittor(device) is jittor
    assert jittor.flags.use_cuda == use_cuda


def test_cuda_of_a_jittor_that_was_imported_without(monkeypatch: pytest.MonkeyPatch) -> None:
    jittor: Any = SimpleNamespace(has_cuda=False, flags=SimpleNamespace(use_cuda=0))
    monkeypatch.setitem(sys.modules, "jittor", jittor)
    with pytest.raises(UserError, match="CUDA"):
        import_jittor("cuda")


def test_unknown_device() -> None:
    with pytest.raises(ValueError, match="tpu"):
        import_jittor("tpu")
