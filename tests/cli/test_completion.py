"""`ddim-host completion`: the words that bash, zsh and fish offer when the user presses Tab."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from ddim_host.cli.options import SHELLS
from tests.support.commands import TIMEOUT_SECONDS, finish
from tests.support.distributions import Site, losses

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.support.commands import Outcome, PythonCode

pytestmark = pytest.mark.process


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs, other folders and files."""
    folder = tmp_path_factory.mktemp("here")
    for run in ("runs/torch-digits-1", "runs/with space", "sweeps/1/a"):
        (folder / run).mkdir(parents=True)
        (folder / run / "config.toml").touch()
    (folder / "images" / "inner").mkdir(parents=True)
    (folder / "notes.toml").touch()
    (folder / ".hidden").mkdir()
    return folder


@pytest.fixture(scope="module")
def environment_with_plugin(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Put the command on PATH, with a third-party plugin that prints when it is imported."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "ddim-host"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m ddim_host "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    site = Site(tmp_path_factory.mktemp("site"))
    site.plugin("other-losses", f"print('hello')\n{losses('mine', 'l1')}")
    site.plugin("broken-losses", "raise RuntimeError")
    path = os.pathsep.join([str(folder), environment["PATH"]])
    return {**environment, **site.env, "PATH": path, "HOME": str(folder), "EDITOR": ""}


_ASK_BASH = r"""
eval "$(ddim-host completion bash)"
COMP_WORDBREAKS=$' \t\n"\'><=;|&(:'  # as in an interactive bash
for line in "$@"; do
    COMP_LINE=$line; COMP_POINT=${#line}; COMPREPLY=()
    _python_argcomplete ddim-host
    ( IFS='|'; echo "${COMPREPLY[*]}" )
done
"""

ANSWERS = {
    "ddim-host ru": "run ",
    "ddim-host pl": "plugins ",
    "ddim-host run --lo": "--loss|--loss-weighting",
    "ddim-host run --noise-schedule co": "cosine|cosine:",
    "ddim-host run --noise-schedule e": "explicit:",
    "ddim-host run --loss ": "balanced|huber|ddim-losses/l1|other-losses/l1|l2|mine|mse",
    "ddim-host run --loss=min": "mine ",
    # Bash treats the text after a colon or an equals sign as a separate word.
    "ddim-host run --loss huber:": "delta=",
    "ddim-host run --model unet:dropout=0,base": "0,base_channels=",
    "ddim-host run --model unet:scale_shift=": "true|false",
    "ddim-host run --data images:path=im": "images/",
    "ddim-host run --timestep-sampler im": "importance|importance:",
    "ddim-host sweep --solver heun --solver un": "unipc|unipc:",
    "ddim-host run --device ": "auto|cpu|cuda",
    "ddim-host run --clip ": "true|false",
    "ddim-host run --eta ": "",
    "ddim-host run --preset ": "paper-cifar10 ",
    "ddim-host run --config n": "notes.toml ",
    "ddim-host run --out .": ".hidden/",
    "ddim-host evaluate runs/x --features di": "digits_mlp ",
    "ddim-host evaluate runs/x --reference ": "train|test",
    "ddim-host plugins other": "other-losses ",
    "ddim-host doctor --plugin tor": "torch ",
    "ddim-host new-plugin x --kind sol": "solver ",
    "ddim-host new-plugin ": "-h|--help|--kind|--out",
    "ddim-host sample ": r"runs/torch-digits-1|runs/with\ space|sweeps/1/a",
    "ddim-host sample sw": "sweeps/1/a ",
    "ddim-host sample images/": "images/inner/",
    "ddim-host sample nowhere/": "",
    "ddim-host compare 'runs/w": "runs/with space",
    "ddim-host run --start-from runs/t": "runs/torch-digits-1 ",
    "ddim-host sample runs/torch-digits-1 --che": "--checkpoint ",
}
"""Typed line -> the words offered to bash, separated by bars."""


@pytest.fixture(scope="module")
def answers(environment_with_plugin: dict[str, str], here: Path) -> dict[str, str]:
    command = ["bash", "--norc", "-c", _ASK_BASH, "bash", *ANSWERS]
    done = finish(command, here, environment_with_plugin)
    assert done.code == 0, done.err
    return dict(zip(ANSWERS, done.out.splitlines(), strict=True))


@needs("bash")
@pytest.mark.parametrize("line", ANSWERS)
def test_bash_is_offered_the_possible_words(answers: dict[str, str], line: str) -> None:
    assert answers[line] == ANSWERS[line]


@needs("bash")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("ddim-host ru", "ddim-host run"),
        ("ddim-host run --loss huber:d", "ddim-host run --loss huber:delta="),
        ("ddim-host run --loss=huber:d", "ddim-host run --loss=huber:delta="),
        ("ddim-host run --noise-schedule co", "ddim-host run --noise-schedule cosine"),
        ("ddim-host sample runs/w", r"ddim-host sample runs/with\ space"),
    ],
)
def test_tab_completes_a_line_of_bash(
    environment_with_plugin: dict[str, str], here: Path, tmp_path: Path, typed: str, completed: str
) -> None:
    setup = tmp_path / "bashrc"
    setup.write_text("eval \"$(ddim-host completion bash)\"\nPS1='ready> '\n", encoding="utf-8")
    command = ["bash", "--noprofile", "--rcfile", str(setup), "-i"]
    assert press_tab(command, typed, here, environment_with_plugin) == shlex.split(completed)


@needs("zsh")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("ddim-host ru", "ddim-host run"),
        ("ddim-host run --loss huber:d", "ddim-host run --loss huber:delta="),
        ("ddim-host run --noise-schedule co", "ddim-host run --noise-schedule cosine"),
        ("ddim-host sample runs/w", r"ddim-host sample runs/with\ space"),
    ],
)
def test_tab_completes_a_line_of_zsh(
    environment_with_plugin: dict[str, str], here: Path, tmp_path: Path, typed: str, completed: str
) -> None:
    (tmp_path / ".zshrc").write_text(
        "eval \"$(ddim-host completion zsh)\"\nPS1='ready> '\n", encoding="utf-8"
    )
    environment = {**environment_with_plugin, "ZDOTDIR": str(tmp_path)}
    assert press_tab(["zsh", "-d", "-i"], typed, here, environment) == shlex.split(completed)


@needs("fish")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("ddim-host ru", ["run"]),
        ("ddim-host run --los", ["--loss", "--loss-weighting"]),
        ("ddim-host run --loss m", ["mine", "mse"]),
        ("ddim-host run --loss huber:", ["huber:delta="]),
        ("ddim-host run --loss=hu", ["--loss=huber", "--loss=huber:"]),
        ("ddim-host sample runs/", ["runs/torch-digits-1", "runs/with space"]),
    ],
)
def test_fish_is_offered_the_possible_words(
    environment_with_plugin: dict[str, str], here: Path, line: str, offered: list[str]
) -> None:
    code = f"ddim-host completion fish | source; complete -C {shlex.quote(line)}"
    done = finish(["fish", "--no-config", "-c", code], here, environment_with_plugin)
    assert [text.partition("\t")[0] for text in done.out.splitlines()] == offered


@pytest.mark.parametrize("line", ["ddim-host ru", "ddim-host run --loss ", "ddim-host run --plugin "])
def test_completion_imports_no_framework(python: PythonCode, tmp_path: Path, line: str) -> None:
    code = (
        "import os, sys\n"
        "os._exit = lambda code: print(*{name.partition('.')[0] for name in sys.modules})\n"
        "from ddim_host.cli import main; main()"
    )
    answer = tmp_path / "answer"
    question = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    outcome = python(code, env={**question, "_ARGCOMPLETE_STDOUT_FILENAME": str(answer)})
    assert answer.read_text(encoding="utf-8")
    modules = outcome.out.split()
    assert "ddim_host" in modules
    assert not {"torch", "jittor", "scipy", "sklearn", "matplotlib"} & {*modules}


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_script_is_printed(in_process: Callable[..., Outcome], shell: str) -> None:
    outcome = in_process("completion", shell)
    assert (outcome.code, outcome.err) == (0, "")
    assert "ddim-host" in outcome.out


def test_unknown_shell_is_an_error(in_process: Callable[..., Outcome]) -> None:
    outcome = in_process("completion", "tcsh")
    assert (outcome.code, outcome.out) == (2, "")
    assert "SHELL must be one of bash, zsh, fish, not 'tcsh'" in outcome.err


def press_tab(command: Sequence[str], typed: str, cwd: Path, env: dict[str, str]) -> list[str]:
    """Type a line and Tab in an interactive shell; return the words of the completed line."""
    terminal, other_end = pty.openpty()
    with subprocess.Popen(
        command,
        cwd=cwd,
        env={**env, "TERM": "dumb"},
        stdin=other_end,
        stdout=other_end,
        stderr=other_end,
        start_new_session=True,
    ) as shell:
        os.close(other_end)
        try:
            read_until(terminal, "ready> ")
            # Ctrl-A and Ctrl-E move to the ends of the line, to make it a command that prints its words.
            os.write(terminal, f"{typed}\t\x01printf '[%s]\\n' \x05 end\r".encode())
            shown = read_until(terminal, "[end]")
        finally:
            shell.kill()
            os.close(terminal)
    return re.findall(r"^\[(.+)\]", shown.replace("\r", ""), re.MULTILINE)[:-1]


def read_until(terminal: int, text: str) -> str:
    shown, end = "", time.monotonic() + TIMEOUT_SECONDS
    while text not in shown:
        ready, _, _ = select.select([terminal], [], [], end - time.monotonic())
        assert ready, f"the shell did not answer: {shown}"
        shown += os.read(terminal, 4096).decode()
    return shown
