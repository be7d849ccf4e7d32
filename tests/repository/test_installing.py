"""`make demo` and `make install` find a Python, or report in one message what the machine lacks."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.repository import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.process

FINDER = ROOT / "tools" / "find-python.sh"
SHELL = "/bin/sh"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Return an empty folder, the only one on the path besides the shell's tools."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "head").symlink_to("/usr/bin/head")
    return folder


def provide(programs: Path, name: str, text: str) -> None:
    path = programs / name
    path.write_text(f"#!{SHELL}\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def provide_python(programs: Path, name: str, setup: str = "") -> None:
    """Install a program `name` that runs the current Python, and `setup` before the code passed with `-c`."""
    provide(programs, name, f'shift; code=$1; shift; exec {sys.executable} -c "{setup}\n$code" "$@"')


def find(programs: Path, purpose: str, *pythons: str) -> tuple[int, str, str]:
    command = [SHELL, str(FINDER), purpose, *pythons]
    done = subprocess.run(command, env={"PATH": str(programs)}, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip(), done.stderr


OLD = "import sys; sys.version_info = (3, 10, 12)"
NO_HEADERS = "import sysconfig; sysconfig.get_path = lambda name: '/nowhere'"
NO_VENV = "import sys; sys.modules['ensurepip'] = None"


def test_first_working_python_is_used(programs: Path) -> None:
    provide(programs, "g++", "")
    provide(programs, "python3.13", "echo 'shim: python3.13: command not found' >&2; exit 127")
    provide_python(programs, "python3.12", NO_VENV)
    provide_python(programs, "python3.11")
    provide_python(programs, "python3")
    assert find(programs, "demo", "python3.14", "python3.13", "python3.12", "python3.11", "python3") == (
        0,
        "python3.11",
        "",
    )


def test_error_without_a_usable_python_lists_the_candidates(programs: Path) -> None:
    provide(programs, "g++", "")
    provide(programs, "python3.13", "echo 'shim: python3.13: command not found' >&2; exit 127")
    provide_python(programs, "python3.11", NO_VENV)
    provide_python(programs, "python3", OLD)
    code, out, err = find(programs, "demo", "python3.13", "python3.12", "python3.11", "python3")
    assert (code, out) == (1, "")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert err == (
        "error: ddim-host cannot be installed on this machine\n"
        "  why: no usable Python was found; tried:\n"
        "  python3.13: shim: python3.13: command not found\n"
        "  python3.12: not installed\n"
        f"  python3.11: it cannot create environments (Debian: apt-get install python{version}-venv)\n"
        "  python3: it is Python 3.10, and 3.11 or newer is needed\n"
        "  fix: install one of these, or choose another one: make demo PYTHON=/path/to/python3\n"
    )


def test_only_jittor_needs_headers_and_a_compiler(programs: Path) -> None:
    provide_python(programs, "python3", NO_HEADERS)
    code, out, err = find(programs, "install", "python3")
    assert (code, out) == (1, "")
    assert err.count("error: ") == 1
    assert "  python3: there is no /nowhere/Python.h, which Jittor compiles against (Debian: " in err
    assert "  why: there is no C++ compiler g++ (Debian: apt-get install g++)\n" in err
    assert "  fix: install the compiler, or choose another one: export cc_path=/path/to/g++\n" in err
    assert "  fix: PyTorch alone needs neither headers nor a compiler: make demo\n" in err
    code, out, err = find(programs, "demo", "python3")
    assert (code, out) == (0, "python3")
    assert err == (
        "note: there is no C++ compiler g++ (Debian: apt-get install g++); training takes twice as long\n"
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a folder with all that `make demo` reads, and without environments."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "tools"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def make(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "-C", str(clone), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_make_stops_with_that_message(programs: Path, clone: Path) -> None:
    """Nothing is created or downloaded before the message."""
    provide_python(programs, "python-old", OLD)
    done = make(clone, "demo", f"PYTHON={programs}/python-old")
    assert done.returncode == 2
    assert f"  {programs}/python-old: it is Python 3.10, and 3.11 or newer is needed\n" in done.stderr
    assert "pip" not in done.stdout.partition("\n")[2]


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "interrupted"])
def test_make_keeps_no_environment_of_another_python(finished: bool, programs: Path, clone: Path) -> None:
    ours = clone / ".venv-demo" / "bin"
    ours.mkdir(parents=True)
    provide(ours, "python", f'exec {sys.executable} "$@"')
    provide(ours, "ddim-host", "echo trained")
    provide(programs, "python-other", "echo Python 3.12.9 in /usr")
    if finished:
        (clone / ".venv-demo" / "installed").touch()
    done = make(clone, "demo", f"PYTHON={programs}/python-other")
    assert done.returncode == 2
    assert (
        f"error: .venv-demo already exists with another Python than {programs}/python-other\n" in done.stderr
    )
    assert f"{programs}/python-other is Python 3.12.9 in /usr\n" in done.stderr
    assert "fix: remove it first with `make clean-demo`, or leave out PYTHON=" in done.stderr
    assert done.stdout == ""
    if finished:
        for choice in ([f"PYTHON={sys.executable}"], []):
            assert make(clone, "demo", *choice).stdout.endswith("trained\n")
    assert make(clone, "clean-demo").returncode == 0
    assert not (clone / ".venv-demo").exists()
