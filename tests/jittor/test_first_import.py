"""The first import of Jittor: its output, the files left behind, and concurrent imports.

Most tests import a stand-in for Jittor in separate processes: it "compiles" in a moment and has the bad
habits of the real one. The tests marked slow import the real Jittor and share one cold compile.
"""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ddim_host.errors
from ddim_jittor import machine
from ddim_jittor.patches import NUMPY2, PYTHON313

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


pytestmark = pytest.mark.process

SOURCES = [str(Path(module.__file__ or "").parents[1]) for module in (ddim_host.errors, machine)]


def test_checks_do_not_import_jittor(home: Path) -> None:
    code = "from ddim_jittor.machine import checks; checks('cuda')"
    assert python(f"import sys; {code}; print('jittor_utils' in sys.modules)").stdout == "False\n"


# --- The first compile, with a stand-in ---------------------------------------------------------------------


FAKE_UTILS = """
import os, ssl, sys
python = "py%d.%d.%d" % sys.version_info[:3]
folders = f".cache/jittor/jt1/g++1/{python}/linux/cpu/path/{os.environ['cache_name']}"
cache_path = os.path.join(os.environ["JITTOR_HOME"], folders)
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
    """Put the stand-in on the path of the processes started by `python`; return its home."""
    for name, text in (("jittor_utils", FAKE_UTILS), ("jittor", FAKE_JITTOR)):
        (tmp_path / "fake" / name).mkdir(parents=True)
        (tmp_path / "fake" / name / "__init__.py").write_text(text)
    # With NumPy 2 or Python 3.13 a patched copy is imported, so the stand-in needs the text to replace.
    for patch in (*NUMPY2, *PYTHON313):
        file = tmp_path / "fake" / patch.file
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as stream:
            stream.write(f"# {patch.old}\n")
    monkeypatch.setenv("DDIM_HOST_JITTOR_HOME", str(tmp_path / "compiled"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    for name in ("debug", "SKEY", "use_mkl"):
        monkeypatch.setenv(name, "1")
    return tmp_path / "compiled"


def start(code: str, *prefix: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    paths = [path for path in (os.environ.get("PYTHONPATH"), *SOURCES) if path]
    # If the tests run in the background, Ctrl-C may be ignored, which child processes inherit.
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
        assert time.monotonic() < end, "the condition did not become true in time"
        time.sleep(0.05)


def compiles(home: Path) -> list[list[int]]:
    """Return the process ids of every compile that was started."""
    try:
        return [[int(pid) for pid in line.split()] for line in (home / "processes").read_text().splitlines()]
    except FileNotFoundError:
        return []


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_first_import_prints_progress_and_the_second_nothing(fake: Path) -> None:
    first = python(IMPORT)
    assert first.returncode == 0, first.stderr
    assert first.stdout == ""
    lines = first.stderr.splitlines()
    assert re.fullmatch(r"compiling Jittor, once per machine .*: 0 s", lines[0])
    assert re.fullmatch(r"compiled Jittor in \d+ s", lines[-1])
    assert "noise" not in first.stderr
    second = python(IMPORT)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert len(compiles(fake)) == 1
    assert all(ended(pid) for pid in compiles(fake)[0])


def test_doctor_says_whether_the_core_is_compiled(fake: Path) -> None:
    code = "from ddim_jittor.environment import compiled; print(compiled().detail)"
    assert python(code).stdout.startswith("not yet; ")
    assert python(IMPORT).returncode == 0
    assert python(code).stdout.startswith("the core for the CPU; ")


@pytest.mark.parametrize(("device", "left"), [("cpu", "None"), ("cuda", "0")])
def test_fp32_on_a_gpu_is_not_rounded_to_tf32(fake: Path, device: str, left: str) -> None:
    """The stand-in finds no GPU, but by then its libraries could have read the variable."""
    code = f"""
        import contextlib, os
        from ddim_host.errors import UserError
        from ddim_jittor import environment
        environment.require = lambda checks: None
        environment.find_nvcc = lambda: None
        with contextlib.suppress(UserError):
            environment.import_jittor({device!r})
        print(os.environ.get("NVIDIA_TF32_OVERRIDE"))
    """
    assert python(code).stdout == f"{left}\n"


def test_warnings_as_errors_do_not_stop_the_import(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Python warns about Jittor's sources whenever it compiles them to byte code.
    escape = r"eval(chr(34) + chr(92) + 'd' + chr(34))"
    monkeypatch.setenv("FAKE_LOAD", escape)
    done = python(f"import warnings; warnings.simplefilter('error'); {IMPORT}; print('imported'); {escape}")
    assert done.stdout == "imported\n", done.stderr
    assert "invalid escape sequence" in done.stderr, "the program's own filters are back"


def test_terminal_shows_one_line_of_progress(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_COMPILE", "time.sleep(1.2)")
    monkeypatch.setenv("COLUMNS", "200")
    ours, theirs = pty.openpty()
    process = start(IMPORT, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 1000):
            shown += chunk
    except OSError:  # the other side closed the terminal
        pass
    os.close(ours)
    assert finish(process).returncode == 0
    updates = shown.decode().split("\r\x1b[2K")
    assert updates[1].endswith("0 s")
    assert updates[2].endswith("1 s")
    assert any("jittor_core: 3 of 3 files" in update for update in updates)
    assert re.fullmatch(r"compiled Jittor in \d s\s+", updates[-1])
    assert shown.count(b"\n") == 1


def test_new_version_is_compiled_again(fake: Path) -> None:
    assert python(IMPORT).returncode == 0
    [stamp] = fake.rglob("ddim-host-cpu")
    stamp.write_text("jittor 1.3.10.0\n")
    assert "compiling Jittor" in python(IMPORT).stderr
    assert python(IMPORT).stderr == ""


def test_moved_cache_is_compiled_again(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert python(IMPORT).returncode == 0
    moved = fake.rename(fake.with_name("moved"))
    monkeypatch.setenv("DDIM_HOST_JITTOR_HOME", str(moved))
    assert "compiling Jittor" in python(IMPORT).stderr
    assert python(IMPORT).stderr == ""


def test_concurrent_imports_compile_once_and_the_second_waits(
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
    assert lines[0] == "waiting for another process to compile Jittor: 0 s"
    assert re.fullmatch(r"the other process finished after \d s", lines[-1])
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("habit", "shown"),
    [
        ("raise RuntimeError('fatal error: no room on the device')", "fatal error: no room on the device"),
        ("print('error: give up', file=sys.stderr); os._exit(3)", "exited with code 3"),
        ("os.abort()", "killed by SIGABRT"),
        ("sys.exit(0)", "exited with code 75"),  # "please rerun your command", forever
    ],
)
def test_failed_compile_is_one_error_that_names_the_log(
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


def test_jittor_may_request_a_restart(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_COMPILE", "if len(open(home + '/processes').readlines()) == 1: sys.exit(0)")
    assert python(IMPORT).returncode == 0
    assert len(compiles(fake)) == 2


def test_remains_of_an_interrupted_compile_are_removed(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_COMPILE", "open(cache + '/obj_files/half.o', 'w'); os.abort()")
    assert "SIGABRT" in python(CATCH).stdout
    monkeypatch.setenv("FAKE_COMPILE", "assert not os.path.exists(cache + '/obj_files/half.o')")
    assert python(IMPORT).returncode == 0


def test_failed_load_is_one_error_and_compiles_again(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert python(IMPORT).returncode == 0
    for habit in ("raise ImportError('undefined symbol: x')", "sys.exit('undefined symbol: x')"):
        monkeypatch.setenv("FAKE_LOAD", habit)
        result = python(CATCH)
        assert "undefined symbol: x" in result.stdout
        assert str(fake / "jittor.log") in result.stdout
        assert "undefined symbol: x" in (fake / "jittor.log").read_text()
        monkeypatch.delenv("FAKE_LOAD")
        assert "compiling Jittor" in python(IMPORT).stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_compile_leaves_no_process(
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
if any("/sources/" in folder for folder in sys.path):
    changed.append("path")
workers = open(f"/proc/self/task/{os.getpid()}/children").read()
if workers:
    changed.append("workers")
print(json.dumps(changed))
"""


def test_import_leaves_the_process_unchanged(fake: Path) -> None:
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
    """A cold compile of the real Jittor, without network.

    The process that starts it is killed halfway; of the next two, one continues and the other waits.
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
            # Either process may have been the first.
            "compiler": next((result for result in both if "compiled Jittor in" in result.stderr), None),
            "waiter": next((result for result in both if "compiled Jittor in" not in result.stderr), None),
            "later": finish(start(code, *unshare), 300),
        }


@pytest.mark.slow
def test_real_jittor_continues_a_killed_compile(real: dict[str, Any]) -> None:
    assert real["left"] > 10
    result = real["compiler"]
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr
    assert re.search(r"jittor_core: \d+ of \d+ files", result.stderr)


@pytest.mark.slow
def test_real_jittor_waits_in_a_second_process(real: dict[str, Any]) -> None:
    result = real["waiter"]
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr
    assert "waiting for another process to compile Jittor" in result.stderr


@pytest.mark.slow
def test_real_jittor_imports_silently_once_compiled(real: dict[str, Any]) -> None:
    later = real["later"]
    assert (later.returncode, later.stdout, later.stderr) == (0, "[]\n", "")


@pytest.mark.slow
def test_real_jittor_writes_nothing_to_the_users_home(real: dict[str, Any]) -> None:
    assert list((real["folder"] / "user").iterdir()) == []
