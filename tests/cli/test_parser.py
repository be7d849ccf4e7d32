"""Help, version and misuse: one error that points to the help, and no heavy imports."""

from __future__ import annotations

import importlib.metadata
import re
from typing import TYPE_CHECKING

import pytest

from ddim_host.experiment.settings import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.commands import Command, Outcome, PythonCode


# --- Help and imports ---------------------------------------------------------------------------------------


OPTIONS = """
--plugin --data --model --noise-schedule --timestep-sampler --loss --loss-weighting --timestep-subset --solver
--num-train-timesteps --steps --eta --epochs --train-steps --batch-size --lr --seed --device --precision
--out --config --resume --dry-run --observer
"""


def test_help_lists_every_command(ddim_host: Command) -> None:
    outcome = ddim_host("--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("usage: ddim-host")
    for command in ("run", "plugins"):
        assert f"\n    {command} " in outcome.out


def test_help_of_run_lists_every_option(in_process: Callable[..., Outcome]) -> None:
    outcome = in_process("run", "--help")
    assert (outcome.code, outcome.err) == (0, "")
    listed = {word for line in outcome.out.splitlines() for word in line.split() if line.startswith("  --")}
    assert {*OPTIONS.split(), *(setting.option for setting in SETTINGS.values())} <= listed


HEAVY = {
    "torch", "jittor", "tensorflow", "jax", "ddim_torch.plugin", "ddim_jittor",
    "scipy", "sklearn", "pandas", "matplotlib", "diffusers",
}  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("--version",), ("run", "--help"), ("plugins",), ("plugins", "--json"), ("run", "--loss")],
    ids=" ".join,
)
def test_no_heavy_module_is_imported_unnecessarily(python: PythonCode, arguments: tuple[str, ...]) -> None:
    code = (
        "import atexit, sys; atexit.register(lambda: print('modules:', *sys.modules, file=sys.stderr))\n"
        "from ddim_host.cli import main; main()"
    )
    modules = set(python(code, *arguments).err.rpartition("modules:")[2].split())
    assert "ddim_host.cli" in modules
    assert not HEAVY & (modules | {name.partition(".")[0] for name in modules})


def test_version(ddim_host: Command) -> None:
    outcome = ddim_host("--version")
    expected = (0, f"ddim-host {importlib.metadata.version('ddim-host')}\n", "")
    assert (outcome.code, outcome.out, outcome.err) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("train",),
        ("--plugin", "torch"),
        ("plugins", "one", "two"),
        ("run", "--eta"),
        ("run", "--epo", "3"),
        ("run", "x"),
    ],
    ids=" ".join,
)
def test_misuse_is_one_error_that_points_to_the_help(
    in_process: Callable[..., Outcome], arguments: tuple[str, ...]
) -> None:
    outcome = in_process(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("ddim-host: error: ")
    assert re.search(r"^  fix: (?:write `.+`; )?see `ddim-host( \w+)? --help`$", outcome.err, re.MULTILINE)
    assert len(outcome.err.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run --los mse", "`ddim-host run` does not accept '--los'; did you mean '--loss'?"),
        ("run --stepz=3", "`ddim-host run` does not accept '--stepz'; did you mean '--steps'?"),
        ("run x", "`ddim-host run` does not accept 'x'"),
        ("run x=y", "`ddim-host run` does not accept 'x=y'"),
        ("run -steps 5", "`ddim-host run` does not accept '-steps'; did you mean '--steps'?"),
        ("smaple", "COMMAND must be one of run, sample, "),
        ("run --eta", "argument --eta: expected one argument"),
    ],
)
def test_unknown_argument_is_reported_by_its_command(
    in_process: Callable[..., Outcome], arguments: str, message: str
) -> None:
    assert in_process(*arguments.split()).err.startswith(f"ddim-host: error: {message}")


def test_help_imports_no_heavy_module(python: PythonCode) -> None:
    code = (
        "import sys\n"
        "from ddim_host.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'numpy', 'torch', 'jittor', 'matplotlib', 'scipy', 'sklearn'} & {*sys.modules}\n"
    )
    done = python(code)
    assert done.code == 0, done.err
