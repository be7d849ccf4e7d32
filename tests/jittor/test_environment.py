"""Importing Jittor: requirements of the machine, oneDNN, and devices."""

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
from ddim_jittor import machine, plugin
from ddim_jittor.environment import import_jittor
from tests.jittor.fakes import fake_program

if TYPE_CHECKING:
    from ddim_host.framework.checks import Check


# --- Requirements of the machine ----------------------------------------------------------------------------


def failed(device: str = "cpu") -> list[Check]:
    return [check for check in machine.checks(device) if not check.ok]


def test_this_machine_passes_every_check(home: Path) -> None:
    assert failed() == []
    names = [check.name for check in machine.checks()]
    assert len(set(names)) == len(names) >= 7
    assert not home.exists()  # checks write nothing


def test_doctor_describes_bf16() -> None:
    assert "bf16 on the CPU" in [check.name for check in plugin.ddim_machine_checks()]


def test_missing_compiler_fails_a_check(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    [check] = failed()
    assert "g++" in check.detail
    assert "apt-get install g++" in check.fix
    monkeypatch.setenv("cc_path", str(fake_program(tmp_path, "my-g++")))
    assert failed() == []


def test_missing_python_headers_fail_a_check(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
def test_missing_distribution_fails_a_check(
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
def test_missing_onednn_fails_a_check(distribution: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the wheels of oneDNN as left by `pip install --target`: without `lib`."""
    folder = tmp_path / "target"
    for name in ("onednn-devel-cpu-gomp", "onednn-cpu-gomp"):
        info = folder / f"{name.replace('-', '_')}-{machine.ONEDNN}.dist-info"
        info.mkdir(parents=True)
        for file in ("METADATA", "RECORD"):
            (info / file).write_text(metadata.distribution(name).read_text(file) or "")
    installed = metadata.distribution("onednn-devel-cpu-gomp").locate_file("")
    shutil.copytree(Path(str(installed), "../../../include").resolve(), folder / "include")
    monkeypatch.syspath_prepend(folder)
    return folder


def test_missing_onednn_library_is_named(home: Path, target: Path) -> None:
    """The header exists; the message names the library and every folder that was searched."""
    [check] = failed()
    record = next(target.glob("onednn_cpu*/RECORD")).read_text()
    recorded = next(line for line in record.splitlines() if "libdnnl.so.2," in line).partition(",")[0]
    listed = Path(os.path.normpath(target / recorded)).parent
    assert check.detail == (
        f"onednn-cpu-gomp is incomplete: there is no libdnnl.so.2 in {listed} or {target / 'lib'}"
    )
    assert "--force-reinstall" in check.fix


def test_missing_onednn_header_is_named(home: Path, target: Path) -> None:
    (target / "include/oneapi/dnnl/dnnl.hpp").unlink()
    [check] = failed()
    assert "onednn-devel-cpu-gomp is incomplete: there is no dnnl.hpp in " in check.detail
    assert check.detail.endswith(f" or {target / 'include/oneapi/dnnl'}")


def test_onednn_without_a_record_of_files_fails_a_check(home: Path, target: Path) -> None:
    for record in target.glob("*/RECORD"):
        record.unlink()
    [check] = failed()
    assert check.detail == "onednn-devel-cpu-gomp is installed without a RECORD of its files"


def test_onednn_in_a_target_folder_passes(home: Path, target: Path) -> None:
    (target / "lib").mkdir()
    (target / "lib/libdnnl.so.2").touch()
    assert failed() == []


def test_other_platforms_fail_a_check(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    [check] = failed()
    assert "Linux on aarch64" in check.detail


def test_unwritable_cache_folder_fails_a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DDIM_HOST_JITTOR_HOME", str(tmp_path / "file" / "jittor"))
    [check] = failed()
    assert str(tmp_path / "file" / "jittor") in check.detail
    assert "DDIM_HOST_JITTOR_HOME" in check.fix
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    monkeypatch.setenv("DDIM_HOST_JITTOR_HOME", str(tmp_path / "jittor"))
    [check] = failed()
    assert "is not writable" in check.detail


def test_folder_name_unsuited_to_jittor_fails_a_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a folder", "it's", "$HOME", "a;b"):
        monkeypatch.setenv("DDIM_HOST_JITTOR_HOME", str(tmp_path / name))
        [check] = failed()
        assert name in check.detail


def test_full_disk_fails_a_check(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=12_000_000))
    [check] = failed()
    assert "12 MB" in check.detail


def test_home_follows_the_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_onednn_is_placed_where_jittor_looks(tmp_path: Path) -> None:
    machine.lay_onednn(tmp_path)
    folder = onednn(tmp_path)
    assert '#include "oneapi/dnnl/dnnl.hpp"' in (folder / "include/dnnl.hpp").read_text()
    assert "dnnl_convolution" in (folder / "include/oneapi/dnnl/dnnl_types.h").read_text()
    ctypes.CDLL(str(folder / "lib/libmkldnn.so")).dnnl_version()
    # The name under which programs linked against the library load it.
    assert (folder / "lib/libdnnl.so.2").samefile(folder / "lib/libmkldnn.so")
    assert all(path.is_symlink() for path in folder.rglob("*") if path.is_file())


def test_only_dangling_links_are_repaired(tmp_path: Path) -> None:
    machine.lay_onednn(tmp_path)
    library, header = onednn(tmp_path) / "lib/libmkldnn.so", onednn(tmp_path) / "include/dnnl.h"
    library.unlink()
    library.symlink_to(tmp_path / "an environment that was deleted")
    before = header.lstat()
    machine.lay_onednn(tmp_path)
    assert library.stat().st_size > 1_000_000
    after = header.lstat()  # reading a link changes only its access time
    assert (after.st_ino, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )
    assert not list(onednn(tmp_path).rglob(".*"))  # no temporary files stay


def test_onednn_is_copied_if_links_are_not_supported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    machine.lay_onednn(tmp_path)
    library = onednn(tmp_path) / "lib/libdnnl.so.2"
    assert not library.is_symlink()
    assert library.stat().st_size > 1_000_000


# --- Devices ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("has_cuda", "device", "use_cuda"),
    [(False, "cpu", 0), (False, "auto", 0), (True, "cpu", 0), (True, "auto", 1), (True, "cuda", 1)],
)
def test_device_can_be_chosen_after_importing_jittor(
    has_cuda: bool, device: str, use_cuda: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    jittor: Any = SimpleNamespace(has_cuda=has_cuda, flags=SimpleNamespace(use_cuda=None))
    monkeypatch.setitem(sys.modules, "jittor", jittor)
    assert import_jittor(device) is jittor
    assert jittor.flags.use_cuda == use_cuda


def test_cuda_is_refused_if_jittor_was_imported_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    jittor: Any = SimpleNamespace(has_cuda=False, flags=SimpleNamespace(use_cuda=0))
    monkeypatch.setitem(sys.modules, "jittor", jittor)
    with pytest.raises(UserError, match="CUDA"):
        import_jittor("cuda")


def test_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="tpu"):
        import_jittor("tpu")
