"""Importing Jittor: what is checked before, what the user sees meanwhile, what is left behind.

Most tests import a stand-in for Jittor, in processes of their own: it is "compiled" in a moment and has the
bad habits of the real one. The tests marked slow import the real one and share one cold compile.
"""

from __future__ import annotations

import ctypes
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import textwrap
import time
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import ddim_host.errors
from ddim_host.errors import UserError
from ddim_jittor import machine
from ddim_jittor.environment import import_jittor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ddim_host.framework.checks import Check

SOURCES = [str(Path(module.__file__ or "").parents[1]) for module in (ddim_host.errors, machine)]


# --- What the machine must have -----------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "jittor"
    monkeypatch.setenv("DDIM_HOST_JITTOR_HOME", str(folder))
    return folder


def failed(device: str = "cpu") -> list[Check]:
    return [check for check in machine.checks(device) if not check.ok]


def fake_program(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_this_machine_passes_every_check(home: Path) -> None:
    assert failed() == []
    names = [check.name for check in machine.checks()]
    assert len(set(names)) == len(names) >= 7
    assert not home.exists()  # checks only look


def test_checks_do_not_import_jittor(home: Path) -> None:
    code = "from ddim_jittor.machine import checks; checks('cuda')"
    assert python(f"import sys; {code}; print('jittor_utils' in sys.modules)").stdout == "False\n"


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
    assert "python3.11-dev" in check.fix


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("distribution", "version", "detail", "fix"),
    [
        ("numpy", "2.1.0", "this is numpy 2.1.0", '"numpy>=1.26.4,<2"'),
        ("numpy", None, "numpy is not installed", '"numpy>=1.26.4,<2"'),
        ("jittor", None, "jittor is not installed", "jittor==1.3.11.0"),
    ],
)
def test_wrong_distributions(
    distribution: str, version: str | None, detail: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metadata.version

    def fake(name: str) -> str:
        if name != distribution:
            return real(name)
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

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
    assert str(gone) in check.detail


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


@pytest.fixture
def no_cuda(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "_CUDA_PLACES", ())
    for name in ("CUDA_HOME", "CUDA_PATH", "nvcc_path"):
        monkeypatch.delenv(name, raising=False)
    programs = tmp_path / "programs"
    fake_program(programs, "g++")
    monkeypatch.setenv("PATH", str(programs))
    real = ctypes.CDLL

    def no_driver(name: str | None) -> ctypes.CDLL:
        if name and "cuda" in name:
            raise OSError(f"{name}: cannot open shared object file")
        return real(name)

    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    return tmp_path


def test_what_cuda_needs_is_asked_for_one_by_one(no_cuda: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def details() -> list[str]:
        return [check.detail for check in failed("cuda")]

    nothing = details()
    assert nothing[0] == "there is no nvcc"
    assert len(nothing) == 3
    assert all("--device cpu" in check.fix or "first" in check.fix for check in failed("cuda"))

    nvcc = fake_program(no_cuda, "cuda/bin/nvcc")
    monkeypatch.setenv("CUDA_HOME", str(no_cuda / "cuda"))
    assert str(no_cuda / "cuda/lib64/libcudart.so") in details()[0]
    assert machine.find_nvcc() is None

    (no_cuda / "cuda/lib64").mkdir()
    (no_cuda / "cuda/lib64/libcudart.so").touch()
    assert machine.find_nvcc() == nvcc
    cudnn, driver = details()
    assert "cudnn.h" in cudnn
    assert "libcuda.so" in driver

    (no_cuda / "cuda/include").mkdir()
    (no_cuda / "cuda/include/cudnn.h").touch()
    assert ["libcuda.so" in detail for detail in details()] == [True]
    assert failed("auto") == failed("cpu") == []


def test_an_nvcc_without_its_library_does_not_hide_a_whole_one(
    no_cuda: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_program(no_cuda, "programs/nvcc")
    whole = fake_program(no_cuda, "cuda/bin/nvcc")
    (no_cuda / "cuda/lib64").mkdir()
    (no_cuda / "cuda/lib64/libcudart.so").touch()
    assert machine.find_nvcc() is None
    monkeypatch.setattr(machine, "_CUDA_PLACES", (str(whole),))
    assert machine.find_nvcc() == whole


def test_cuda_without_cuda_is_refused_before_anything_is_compiled(no_cuda: Path) -> None:
    with pytest.raises(UserError, match="there is no nvcc"):
        import_jittor("cuda")
    assert not machine.jittor_home().exists()


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


# --- The first compile, with a stand-in ---------------------------------------------------------------------

FAKE_UTILS = """
import os, ssl, sys
cache_path = os.path.join(os.environ["JITTOR_HOME"], ".cache/jittor", os.environ["cache_name"])
os.makedirs(cache_path, exist_ok=True)
ssl._create_default_https_context = ssl._create_unverified_context
sys.setrecursionlimit(10**6)
os.environ["cc_path"] = "g++"
class DelayProgress:
    def __init__(self, message, total): pass
    def update(self, index): pass
"""

FAKE_JITTOR = """
import ctypes, os, random, signal, subprocess, sys, time
from types import SimpleNamespace
import numpy as np
import jittor_utils
home, cache = os.environ["JITTOR_HOME"], jittor_utils.cache_path
for name in ("debug", "SKEY", "use_mkl"):
    assert name not in os.environ, name
assert os.environ["nvcc_path"] == "" and os.environ["FIX_TORCH_ERROR"] == "0"
assert os.path.exists(home + "/.cache/jittor/mkl/dnnl_lnx_2.2.0_cpu_gomp/lib/libmkldnn.so")
if os.environ.get("DISABLE_MULTIPROCESSING") == "1":
    assert os.path.exists(cache + "/core.so"), "it would compile in the user's process"
    exec(os.environ.get("FAKE_LOAD", ""))
else:
    worker = subprocess.Popen(["sleep", "100"])
    with open(home + "/processes", "a") as file:
        file.write(f"{os.getpid()} {worker.pid}\\n")
    print("noise on standard output", flush=True)
    print("noise on standard error", file=sys.stderr, flush=True)
    os.makedirs(cache + "/obj_files", exist_ok=True)
    exec(os.environ.get("FAKE_COMPILE", ""))
    progress = jittor_utils.DelayProgress("Compiling jittor_core", 3)
    for index in range(3):
        progress.update(index)
    time.sleep(0.5)
    open(cache + "/core.so", "w").close()
np.random.seed(0)
random.seed(0)
for number in (signal.SIGINT, signal.SIGCHLD):
    ctypes.CDLL(None).signal(int(number), ctypes.c_void_p(1))
sys.excepthook = lambda *args: None
has_cuda, flags = 0, SimpleNamespace(use_cuda=0)
"""

IMPORT = "from ddim_jittor.environment import import_jittor; jt = import_jittor('cpu')"
CATCH = f"""
    from ddim_host.errors import UserError
    try:
        {IMPORT}
    except UserError as error:
        print(error)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the stand-in on the path of the processes that `python` starts; gives its home."""
    for name, text in (("jittor_utils", FAKE_UTILS), ("jittor", FAKE_JITTOR)):
        (tmp_path / "fake" / name).mkdir(parents=True)
        (tmp_path / "fake" / name / "__init__.py").write_text(text)
    monkeypatch.setenv("DDIM_HOST_JITTOR_HOME", str(tmp_path / "compiled"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    for name in ("debug", "SKEY", "use_mkl"):
        monkeypatch.setenv(name, "1")
    return tmp_path / "compiled"


def start(code: str, *prefix: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    paths = [path for path in (os.environ.get("PYTHONPATH"), *SOURCES) if path]
    # Where the tests run in the background, Ctrl-C may be ignored, and that is inherited.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + textwrap.dedent(code)
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 60) -> subprocess.CompletedProcess[str]:
    out, err = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return finish(start(code))


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def compiles(home: Path) -> list[list[int]]:
    """For every compile that was begun, the processes that it consisted of."""
    try:
        return [[int(pid) for pid in line.split()] for line in (home / "processes").read_text().splitlines()]
    except FileNotFoundError:
        return []


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_first_import_announces_itself_and_the_second_is_silent(fake: Path) -> None:
    first = python(IMPORT)
    assert first.returncode == 0, first.stderr
    assert first.stdout == ""
    lines = first.stderr.splitlines()
    assert re.fullmatch(r"compiling Jittor, once on this machine .*: 0 s", lines[0])
    assert re.fullmatch(r"Jittor is compiled, in \d+ s", lines[-1])
    assert "noise" not in first.stderr
    second = python(IMPORT)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert len(compiles(fake)) == 1
    assert all(ended(pid) for pid in compiles(fake)[0])


def test_on_a_terminal_one_line_counts_the_files(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_COMPILE", "time.sleep(1.2)")
    monkeypatch.setenv("COLUMNS", "200")
    ours, theirs = pty.openpty()
    process = start(IMPORT, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 1000):
            shown += chunk
    except OSError:  # how a terminal says that the other side closed it
        pass
    os.close(ours)
    assert finish(process).returncode == 0
    updates = shown.decode().split("\r\x1b[2K")
    assert updates[1].endswith("0 s")
    assert updates[2].endswith("1 s")
    assert any("jittor_core: 3 of 3 files" in update for update in updates)
    assert re.fullmatch(r"Jittor is compiled, in \d s\s+", updates[-1])
    assert shown.count(b"\n") == 1


def test_a_new_version_is_compiled_again(fake: Path) -> None:
    assert python(IMPORT).returncode == 0
    [stamp] = fake.rglob("ddim-host-cpu")
    stamp.write_text("jittor 1.3.10.0\n")
    assert "is compiled" in python(IMPORT).stderr
    assert python(IMPORT).stderr == ""


def test_a_moved_cache_is_compiled_again(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert python(IMPORT).returncode == 0
    moved = fake.rename(fake.with_name("moved"))
    monkeypatch.setenv("DDIM_HOST_JITTOR_HOME", str(moved))
    assert "is compiled" in python(IMPORT).stderr
    assert python(IMPORT).stderr == ""


def test_two_at_once_compile_once_and_the_other_says_that_it_waits(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_COMPILE", "time.sleep(2)")
    first = start(IMPORT)
    wait_for(lambda: len(compiles(fake)) == 1)
    second = start(IMPORT)
    results = [finish(first), finish(second)]
    assert [result.returncode for result in results] == [0, 0], results
    assert len(compiles(fake)) == 1
    assert "waiting" not in results[0].stderr
    lines = results[1].stderr.splitlines()
    assert lines[0] == "waiting for another process that compiles Jittor: 0 s"
    assert re.fullmatch(r"the other process is done after \d s", lines[-1])
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("habit", "shown"),
    [
        ("raise RuntimeError('fatal error: no room on the device')", "fatal error: no room on the device"),
        ("print('error: give up', file=sys.stderr); os._exit(3)", "ended with exit code 3"),
        ("os.abort()", "killed by SIGABRT"),
        ("sys.exit(0)", "exit code 75"),  # "please rerun your command", for ever
    ],
)
def test_whatever_goes_wrong_is_one_error_that_names_the_log(
    habit: str, shown: str, fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_COMPILE", habit)
    result = python(CATCH)
    assert result.returncode == 0, result.stderr
    assert shown in result.stdout
    assert str(fake / "jittor.log") in result.stdout
    log = (fake / "jittor.log").read_text()
    assert "noise on standard output" in log
    assert "noise on standard error" in log
    monkeypatch.delenv("FAKE_COMPILE")
    assert python(IMPORT).returncode == 0


def test_jittor_may_ask_to_be_started_again(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_COMPILE", "if len(open(home + '/processes').readlines()) == 1: sys.exit(0)")
    assert python(IMPORT).returncode == 0
    assert len(compiles(fake)) == 2


def test_what_an_interrupted_compile_broke_is_removed(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_COMPILE", "open(cache + '/obj_files/half.o', 'w'); os.abort()")
    assert "SIGABRT" in python(CATCH).stdout
    monkeypatch.setenv("FAKE_COMPILE", "assert not os.path.exists(cache + '/obj_files/half.o')")
    assert python(IMPORT).returncode == 0


def test_a_failure_to_load_is_one_error_and_compiles_again(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert python(IMPORT).returncode == 0
    for habit in ("raise ImportError('undefined symbol: x')", "sys.exit('undefined symbol: x')"):
        monkeypatch.setenv("FAKE_LOAD", habit)
        result = python(CATCH)
        assert "undefined symbol: x" in result.stdout
        assert str(fake / "jittor.log") in result.stdout
        assert "undefined symbol: x" in (fake / "jittor.log").read_text()
        monkeypatch.delenv("FAKE_LOAD")
        assert "is compiled" in python(IMPORT).stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_ended_in_the_middle_it_leaves_nothing_running(
    number: signal.Signals, fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_COMPILE", "time.sleep(100)")
    process = start(IMPORT)
    wait_for(lambda: len(compiles(fake)) == 1)
    process.send_signal(number)
    result = finish(process)
    assert result.returncode == -number
    assert ("KeyboardInterrupt" in result.stderr) == (number == signal.SIGINT)
    [processes] = compiles(fake)
    wait_for(lambda: all(ended(pid) for pid in processes))
    monkeypatch.delenv("FAKE_COMPILE")
    assert python(IMPORT).returncode == 0


LEAVES_NO_TRACE = """
import json, os, random, ssl, subprocess, sys, threading
import numpy as np
def state():
    np_state = np.random.get_state()
    return {
        "environment": dict(os.environ),
        "numpy": (np_state[1].tolist(), *np_state[2:]), "python": random.getstate(),
        "recursion": sys.getrecursionlimit(), "tls": ssl._create_default_https_context,
        "exit": (sys.exit, sys.excepthook), "threads": threading.active_count(),
    }
before = state()
from ddim_jittor.environment import import_jittor
jt = import_jittor("cpu")
after = state()
changed = [name for name in before if before[name] != after[name]]
assert import_jittor("auto") is jt
assert not changed, changed
try:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000000): pass
    changed.append("Ctrl-C")
except KeyboardInterrupt:
    pass
child = subprocess.Popen(["sleep", "100"])
child.kill()
if child.wait() != -signal.SIGKILL:
    changed.append("waiting for children")
workers = open(f"/proc/self/task/{os.getpid()}/children").read()
if workers:
    changed.append("workers")
print(json.dumps(changed))
"""


def test_the_process_is_left_as_it_was(fake: Path) -> None:
    result = python(LEAVES_NO_TRACE)
    assert result.stdout == "[]\n", result.stderr
    result = python(LEAVES_NO_TRACE)  # now without a compile
    assert (result.stdout, result.stderr) == ("[]\n", "")


# --- The real Jittor, compiled once -------------------------------------------------------------------------

NO_NETWORK = """
import sys
def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "urllib.Request"):
        raise PermissionError(f"the test allows no network: {event} {args}")
sys.addaudithook(refuse)
"""

NO_OTHER_FRAMEWORK = """
import importlib.abc
class Guard(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("torch", "tensorflow", "jax", "paddle", "mindspore"):
            raise ModuleNotFoundError(name)
import sys
sys.meta_path.insert(0, Guard())
"""

CONVOLVE = """
import sys
import numpy as np
assert "torch" not in sys.modules
image = np.random.default_rng(0).normal(size=(2, 3, 5, 5)).astype(np.float32)
weight = np.random.default_rng(1).normal(size=(4, 3, 3, 3)).astype(np.float32)
windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3), (2, 3))
right = np.einsum("nchwij,ocij->nohw", windows, weight)
ours = jt.nn.conv2d(jt.array(image), jt.array(weight)).numpy()
assert np.abs(ours - right).max() < 1e-4
assert "mkl_conv" in str(dir(jt.compile_extern.mkl_ops))
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """One cold compile of the real Jittor, without network.

    The process that begins it is killed in the middle; of the next two one goes on and the other waits.
    """
    folder = tmp_path_factory.mktemp("jittor")
    (folder / "site").mkdir()
    (folder / "site/sitecustomize.py").write_text(NO_NETWORK)
    (folder / "user").mkdir()
    unshare = ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        unshare = []  # not allowed in most containers
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder / "user"))
        patch.setenv("DDIM_HOST_JITTOR_HOME", str(folder / "home"))
        patch.setenv("PYTHONPATH", str(folder / "site"))
        code = NO_OTHER_FRAMEWORK + LEAVES_NO_TRACE + CONVOLVE

        def objects() -> int:
            return len(list((folder / "home").rglob("obj_files/*.o")))

        killed = start(code, *unshare)
        wait_for(lambda: objects() > 10, 600)
        killed.kill()
        finish(killed)
        left = objects()
        both = [finish(process, 1800) for process in (start(code, *unshare), start(code, *unshare))]
        yield {
            "folder": folder,
            "left": left,
            # Either of the two may have been the first.
            "compiler": next((result for result in both if "is compiled" in result.stderr), None),
            "waiter": next((result for result in both if "is compiled" not in result.stderr), None),
            "later": finish(start(code, *unshare), 300),
        }


@pytest.mark.slow
def test_real_jittor_goes_on_after_a_killed_compile(real: dict[str, Any]) -> None:
    assert real["left"] > 10
    result = real["compiler"]
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr
    assert re.search(r"jittor_core: \d+ of \d+ files", result.stderr)


@pytest.mark.slow
def test_real_jittor_in_a_second_process_waits(real: dict[str, Any]) -> None:
    result = real["waiter"]
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr
    assert "waiting for another process that compiles Jittor" in result.stderr


@pytest.mark.slow
def test_real_jittor_starts_silently_afterwards(real: dict[str, Any]) -> None:
    later = real["later"]
    assert (later.returncode, later.stdout, later.stderr) == (0, "[]\n", "")


@pytest.mark.slow
def test_real_jittor_leaves_the_users_home_alone(real: dict[str, Any]) -> None:
    assert list((real["folder"] / "user").iterdir()) == []
