"""Optional support for CUDA 13 with cuDNN 9: one folder with everything that Jittor expects next to `nvcc`.

NVIDIA's packages on PyPI install the libraries in several folders, under names that a linker does not look
for. The folder created here consists of links and has the layout of a toolkit.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from pathlib import Path

from ddim_host import UserError
from ddim_jittor.laying import make_once

VARIABLE = "DDIM_HOST_JITTOR_CUDA13"

ADVICE = f"export {VARIABLE}=1 (with cuDNN 9; it compiles, but has not been run on a GPU)"

_HEADERS = ("cuda_runtime.h", "cublas_v2.h", "curand.h", "cudnn.h")
_LIBRARIES = ("libcudart.so", "libcublas.so", "libcublasLt.so", "libcurand.so", "libcudnn.so")


def wanted() -> bool:
    """Return whether the user requested CUDA 13.

    Raises:
        UserError: The environment variable has an invalid value.
    """
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "0", "1"):
        raise UserError(f"{VARIABLE} must be 1 or 0, not {value!r}", fix=f"export {VARIABLE}=1, or unset it")
    return value == "1"


def packaged_nvccs() -> list[Path]:
    """List the paths where PyPI packages would install a compiler in this environment."""
    return [root / "bin/nvcc" for root in _packages()]


def header_folders(nvcc: Path, header: str) -> list[Path]:
    """List the folders that contain a header, the compiler's own first."""
    folders = [root / "include" for root in _roots(nvcc)]
    return [folder for folder in folders if (folder / header).is_file()]


def missing_files(nvcc: Path) -> list[str]:
    """List the headers and libraries that Jittor needs but that were not found."""
    links = _links(nvcc)
    needed = [*(f"include/{header}" for header in _HEADERS), *(f"lib64/{library}" for library in _LIBRARIES)]
    return [Path(name).name for name in needed if name not in links]


def lay_toolkit(home: Path, nvcc: Path) -> Path:
    """Create the folder of links, unless it exists.

    Args:
        home: Jittor's home.
        nvcc: A CUDA 13 compiler.

    Returns:
        The wrapper script of the compiler in this folder.

    Raises:
        OSError: The folder cannot be written.
    """
    links = _links(nvcc)
    key = hashlib.sha256(repr((str(nvcc), sorted(links.items()))).encode()).hexdigest()[:12]

    def fill(folder: Path) -> None:
        for name, file in links.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).symlink_to(file)
        program = folder / "bin/nvcc"
        program.parent.mkdir()
        # A script, not a link: Jittor resolves links and looks for everything else next to the target.
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(str(nvcc))} "$@"\n')
        program.chmod(0o755)

    target = home / "cuda13" / key
    make_once(target, fill)
    return target / "bin/nvcc"


def _packages() -> list[Path]:
    folders = [Path(folder or ".").absolute() / "nvidia" for folder in sys.path]
    roots = [folder / name for folder in folders for name in ("cu13", "cudnn")]
    return [root for root in dict.fromkeys(roots) if root.is_dir()]


def _roots(nvcc: Path) -> list[Path]:
    toolkit = nvcc.parent.parent
    return [toolkit, toolkit / "targets/x86_64-linux", *_packages()]


def _links(nvcc: Path) -> dict[str, Path]:
    """Map each name in the folder to its target; if several files have the same name, the first one wins."""
    links: dict[str, Path] = {}
    for root in _roots(nvcc):
        for file in sorted((root / "include").glob("*")):
            links.setdefault(f"include/{file.name}", file)
        for folder in ("lib64", "lib"):
            for file in sorted((root / folder).glob("*.so*")):
                links.setdefault(f"lib64/{file.name}", file)
    for name in list(links):
        if name.startswith("lib64/"):
            # The name that a linker looks for, which PyPI's packages lack.
            links.setdefault(f"{name.partition('.so')[0]}.so", links[name])
    return links
