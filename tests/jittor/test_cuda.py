"""Requirements of Jittor on a GPU: versions of CUDA and cuDNN, and CUDA 13 on request."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

import pytest

from ddim_host.errors import UserError
from ddim_jittor import cuda, cuda13, machine
from ddim_jittor.environment import import_jittor
from ddim_jittor.plugin import ddim_machine_checks
from tests.jittor.fakes import fake_file, fake_program

if TYPE_CHECKING:
    from pathlib import Path

    from ddim_host.framework.checks import Check


def failed(device: str = "cuda") -> list[Check]:
    return [check for check in machine.checks(device) if not check.ok]


def details() -> list[str]:
    return [check.detail for check in failed()]


@pytest.fixture
def no_toolkit(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cuda, "_PLACES", ())
    for name in ("CUDA_HOME", "CUDA_PATH", "nvcc_path", cuda13.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    fake_program(tmp_path / "programs", "g++")
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    return tmp_path


@pytest.fixture
def no_cuda(no_toolkit: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hide the toolkit and the driver."""
    real = ctypes.CDLL

    def no_driver(name: str | None) -> ctypes.CDLL:
        if name and "cuda" in name:
            raise OSError(f"{name}: cannot open shared object file")
        return real(name)

    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    return no_toolkit


def fake_toolkit(folder: Path, version: int | None, cudnn: str | None = None) -> Path:
    """Create a toolkit of CUDA 12.2 (for 12020) with the text of `cudnn_version.h`; return its compiler."""
    nvcc = fake_program(folder, "bin/nvcc")
    fake_file(folder / "lib64/libcudart.so")
    if version is not None:
        fake_file(folder / "include/cuda.h", f"#pragma once\n#define CUDA_VERSION {version}\n")
    if cudnn is not None:
        fake_file(folder / "include/cudnn.h")
        fake_file(folder / "include/cudnn_version.h", cudnn)
    return nvcc


def test_missing_requirements_of_cuda_are_reported_in_order(
    no_cuda: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = details()
    assert nothing[0] == "nvcc was not found"
    assert len(nothing) == 3
    assert all("--device cpu" in check.fix or "first" in check.fix for check in failed())

    nvcc = fake_program(no_cuda, "cuda/bin/nvcc")
    monkeypatch.setenv("CUDA_HOME", str(no_cuda / "cuda"))
    assert str(no_cuda / "cuda/lib64/libcudart.so") in details()[0]
    assert cuda.find_nvcc() is None

    fake_toolkit(no_cuda / "cuda", None)
    assert "no cuda.h that states its version" in details()[0]

    fake_toolkit(no_cuda / "cuda", 12020)
    assert cuda.find_nvcc() == nvcc
    cudnn, driver = details()
    assert "cudnn.h" in cudnn
    assert "libcuda.so" in driver

    fake_toolkit(no_cuda / "cuda", 12020, "#define CUDNN_MAJOR 8\n#define CUDNN_MINOR 9\n")
    assert ["libcuda.so" in detail for detail in details()] == [True]
    assert failed("auto") == failed("cpu") == []


@pytest.mark.parametrize(("version", "shown"), [(10020, "10.2"), (12030, "12.3"), (13000, "13.0")])
def test_unsupported_version_of_cuda_is_refused(
    version: int, shown: str, no_cuda: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_toolkit(no_cuda / "cuda", version, "#define CUDNN_MAJOR 8")
    monkeypatch.setenv("CUDA_HOME", str(no_cuda / "cuda"))
    check = failed()[0]
    assert "Jittor supports CUDA 11.0 to 12.2" in check.detail
    assert check.detail.endswith(f"is CUDA {shown}")
    assert "install CUDA 12.2 and cuDNN 8.9.7" in check.fix
    assert (cuda13.VARIABLE in check.fix) == (version == 13000)
    with pytest.raises(UserError, match=r"Jittor supports CUDA 11\.0 to 12\.2"):
        import_jittor("cuda")
    assert not machine.jittor_home().exists()


@pytest.mark.parametrize(
    ("header", "shown"),
    [("#define CUDNN_MAJOR 9", "is cuDNN 9"), ("#define CUDNN_MAJOR\n", "is cuDNN of unknown version")],
)
def test_unsupported_version_of_cudnn_is_refused(
    header: str, shown: str, no_cuda: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_toolkit(no_cuda / "cuda", 11080, header)
    monkeypatch.setenv("CUDA_HOME", str(no_cuda / "cuda"))
    check = failed()[0]
    assert check.name == "cuDNN"
    assert "Jittor supports cuDNN 8" in check.detail
    assert shown in check.detail
    assert "install cuDNN 8.9.7" in check.fix


def test_nvcc_without_library_does_not_hide_a_complete_toolkit(
    no_cuda: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_program(no_cuda, "programs/nvcc")
    whole = fake_toolkit(no_cuda / "cuda", None)
    assert cuda.find_nvcc() is None
    monkeypatch.setattr(cuda, "_PLACES", (str(whole),))
    assert cuda.find_nvcc() == whole


def test_supported_toolkit_is_preferred_to_the_first(no_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = fake_toolkit(no_cuda / "cuda-13.0", 13000)
    supported = fake_toolkit(no_cuda / "cuda-12.2", 12020)
    monkeypatch.setattr(cuda, "_PLACES", (str(newest), str(supported)))
    assert cuda.find_nvcc() == supported


def test_cuda_without_a_toolkit_is_refused_before_compiling(no_cuda: Path) -> None:
    with pytest.raises(UserError, match="nvcc was not found"):
        import_jittor("cuda")
    assert not machine.jittor_home().exists()


# --- CUDA 13, on request ------------------------------------------------------------------------------------


@pytest.fixture
def packages(no_toolkit: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site-packages folder with the files of NVIDIA's packages, with CUDA 13 requested."""
    site = no_toolkit / "site-packages"
    for header in ("cuda_runtime.h", "cublas_v2.h", "curand.h"):
        fake_file(site / "nvidia/cu13/include" / header, "of the package")
    for library in ("libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10"):
        fake_file(site / "nvidia/cu13/lib" / library)
    fake_file(site / "nvidia/cudnn/include/cudnn.h")
    fake_file(site / "nvidia/cudnn/include/cudnn_version.h", "#define CUDNN_MAJOR 9")
    fake_file(site / "nvidia/cudnn/lib/libcudnn.so.9")
    fake_file(site / "nvidia/cudnn/lib/libcudnn_ops.so.9")
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    monkeypatch.setenv(cuda13.VARIABLE, "1")
    return site


def test_cuda_13_uses_libraries_of_packages(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "there is no nvcc for CUDA 13" in details()[0]
    old = fake_toolkit(tmp_path / "cuda-12.2", 12020)
    new = fake_toolkit(tmp_path / "cuda-13.0", 13000)
    fake_file(tmp_path / "cuda-13.0/include/cuda_runtime.h", "of the toolkit")
    monkeypatch.setattr(cuda, "_PLACES", (str(old), str(new)))
    assert [check.name for check in failed()] in ([], ["GPU"])
    assert cuda.find_nvcc13() == new

    nvcc = cuda13.lay_toolkit(tmp_path / "jittor", new)
    folder = nvcc.parent.parent
    assert nvcc.name == "nvcc"
    assert not nvcc.is_symlink()
    assert f"exec {new} " in nvcc.read_text()
    assert (folder / "include/cuda_runtime.h").read_text() == "of the toolkit"
    assert (folder / "include/curand.h").read_text() == "of the package"
    for name in ("libcublas.so", "libcublas.so.13", "libcudnn.so", "libcudnn_ops.so.9", "libcudart.so"):
        assert (folder / "lib64" / name).is_file()
    assert cuda13.lay_toolkit(tmp_path / "jittor", new) == nvcc
    fake_file(packages / "nvidia/cudnn/lib/libcudnn_cnn.so.9")
    assert cuda13.lay_toolkit(tmp_path / "jittor", new) != nvcc


def test_variable_must_be_1_or_0(no_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cuda13.VARIABLE, "0")
    assert details()[0] == "nvcc was not found"
    monkeypatch.setenv(cuda13.VARIABLE, "yes")
    with pytest.raises(UserError, match="must be 1 or 0, not 'yes'"):
        import_jittor("auto")
    [check] = [check for check in ddim_machine_checks() if not check.ok]
    assert (check.name, check.fix) == ("GPU", f"export {cuda13.VARIABLE}=1, or unset it")


def test_cuda_13_requires_cudnn_9_and_all_libraries(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "_PLACES", (str(fake_toolkit(tmp_path / "cuda", 13000)),))
    fake_file(packages / "nvidia/cudnn/include/cudnn_version.h", "#define CUDNN_MAJOR 8")
    assert details()[0] == "CUDA 13 needs cuDNN 9, but this is 8"
    # GPU builds of PyTorch depend on the same packages.
    monkeypatch.setattr(cuda13, "_packages", lambda: [packages / "nvidia/cu13", packages / "nvidia/cudnn"])
    (packages / "nvidia/cudnn/lib/libcudnn.so.9").unlink()
    (packages / "nvidia/cu13/include/curand.h").unlink()
    check = failed()[0]
    assert check.detail == "there is no curand.h and no libcudnn.so"
    assert "nvidia-cudnn-cu13" in check.fix
