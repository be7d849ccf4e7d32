"""Shared fixtures: the command, in fresh processes and in this one; fake distributions; tiny runs."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from ddim_host.cli import main
from ddim_host.experiment.assembly import Experiment
from ddim_host.plugin.framework_guard import FRAMEWORK_ROOTS
from ddim_host.system.cache import cache_folder
from tests.support.commands import TIMEOUT_SECONDS, Outcome, Run, finish
from tests.support.distributions import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.support.commands import Command, PythonCode

pytest_plugins = ["tests.support.process_guard"]

# Without a GPU, Triton interprets its kernels. It reads this variable when the first test imports it.
if not Path("/dev/nvidia0").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Tests of values must not depend on the processor. Tests of bf16 ask for it.
os.environ.setdefault("DDIM_HOST_CPU_PRECISION", "fp32")

# Tests must not fail because the machine is busy.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of every process: one thread, so that processes do not compete, and a separate cache."""
    cache, compiled = tmp_path_factory.mktemp("cache"), cache_folder() / "kernels"
    compiled.mkdir(parents=True, exist_ok=True)
    (cache / "kernels").symlink_to(compiled)  # compiled once for all tests
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "110",
        "DDIM_HOST_CACHE": str(cache),
        # Compiling Jittor takes minutes, so its cache is shared with the user, too.
        "DDIM_HOST_JITTOR_HOME": os.environ.get("DDIM_HOST_JITTOR_HOME") or str(cache_folder() / "jittor"),
    }


@pytest.fixture(scope="session")
def python(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> PythonCode:
    def run(
        code: str,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Outcome:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return finish(command, tmp_path_factory.mktemp("cwd"), {**environment, **(env or {})}, timeout)

    return run


@pytest.fixture(scope="session")
def ddim_host(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Command:
    def run(*arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Outcome:
        command = [sys.executable, "-m", "ddim_host", *map(str, arguments)]
        folder = tmp_path_factory.mktemp("cwd") if cwd is None else cwd
        return finish(command, folder, {**environment, **(env or {})})

    return run


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Use one thread: in small networks on a busy machine, threads mostly wait for each other."""
    torch = importlib.import_module("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the loaded frameworks from this process, and remove the guard afterwards."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    for root in FRAMEWORK_ROOTS & sys.modules.keys():
        monkeypatch.delitem(sys.modules, root)


@pytest.fixture
def in_process(
    no_framework: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Outcome]:
    """Return the command, run in this process; it must exit before a framework is imported."""

    def import_framework(_: object) -> None:
        raise AssertionError("the command must exit before it builds a network")

    monkeypatch.setattr(Experiment, "build_model", import_framework)
    monkeypatch.setenv("DDIM_HOST_CACHE", str(tmp_path_factory.mktemp("cache")))

    def run(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return Outcome(caught.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Create a folder for fake distributions that this process finds too."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield Site(folder)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Options of a run that takes a few seconds."""
    size = "--model unet:base_channels=8,num_groups=4 --batch-size 8 --test-images 8 --num-images 4 --steps 3"
    length = "--train-steps 3 --lr-warmup-steps 0"
    return ["run", "--plugin", "torch", "--device", "cpu", *size.split(), *length.split()]


@pytest.fixture(scope="session")
def tiny_run(ddim_host: Command, tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the real command once; tests must not change the result."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    return Run(path, ddim_host(*tiny, "--out", path))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create twenty pictures of 8 x 8 pixels, two of them for testing; tests must not change them."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return folder


_SEVERAL_RUNS = """
import contextlib, io, json, sys, traceback
from ddim_host.cli import main
outcomes = {}
for name, arguments in json.loads(sys.argv[1]).items():
    out, err, code = io.StringIO(), io.StringIO(), 1
    sys.argv[1:] = arguments
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
        except Exception:
            traceback.print_exc()
    outcomes[name] = [code, out.getvalue(), err.getvalue()]
print(json.dumps(outcomes))
"""


@pytest.fixture(scope="session")
def several_runs(
    python: PythonCode, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., dict[str, Run]]:
    """Return a function that runs commands in sequence in one process, because importing torch takes seconds.

    It adds a missing `--out`, except for `evaluate` and `optimize`, which do not have this option.
    """

    def run(
        commands: Mapping[str, Sequence[str]],
        env: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> dict[str, Run]:
        folder = tmp_path_factory.mktemp("runs")
        paths: dict[str, Path] = {name: folder / name for name in commands}
        complete = {
            name: [*command]
            if "--out" in command or command[0] in ("evaluate", "optimize")
            else [*command, "--out", str(paths[name])]
            for name, command in commands.items()
        }
        done = python(_SEVERAL_RUNS, json.dumps(complete), env=env, timeout=timeout)
        assert done.code == 0, done.err
        outcomes = json.loads(done.out)
        return {name: Run(paths[name], Outcome(*outcomes[name])) for name in commands}

    return run
