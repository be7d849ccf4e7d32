"""The documentation is correct: commands run, code prints the documented output, links have targets."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from ddim_host.cli import command_line
from ddim_host.experiment.config_file import read_config_file
from ddim_host.experiment.defaults import default_model_parameters
from ddim_host.sweep.grid import read_grid
from ddim_host.system.cache import CACHE_VARIABLE, cache_folder
from docs._ext.source_lines import line_of
from tests.support.documentation import (
    CHINESE,
    NOT_IN_TESTS,
    PAGES,
    TRANSLATED,
    as_pattern,
    blocks_of,
    commands_of,
    toml_name,
    translation_of,
)
from tests.support.repository import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.documentation import Block, Command

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
WITH_COMMANDS = [block for block in BLOCKS if block.language in ("sh", "console")]
WITH_PYTHON = [page for page in PAGES if any(b.language == "python" for b in BLOCKS if b.page == page)]
TO_RUN = [page for page in PAGES if any(b.page == page and b.not_run is None for b in WITH_COMMANDS)]


def page_id(page: Path) -> str:
    return page.name


def block_id(block: Block) -> str:
    return block.where


# --- Checks without running a command --------------------------------------------------


def test_blocks_declare_their_language() -> None:
    languages = {block.language for block in BLOCKS if not block.language.startswith("{")}
    assert languages == {"sh", "console", "python", "toml", "text"}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"^    \S", re.sub(r"```.*?```", "", readme, flags=re.DOTALL), re.MULTILINE)


@pytest.mark.parametrize("block", WITH_COMMANDS, ids=block_id)
def test_blocks_are_excluded_only_for_a_known_reason(block: Block) -> None:
    reasons = [words for words in NOT_IN_TESTS if words in block.text]
    assert bool(reasons) == (block.not_run is not None), (block.where, block.not_run, reasons)


@pytest.mark.parametrize("block", WITH_COMMANDS, ids=block_id)
def test_commands_use_existing_options(block: Block) -> None:
    if block.text.startswith("#!"):
        return
    for command in commands_of(block):
        words = shlex.split(command.text)
        assert words[0] in {
            *(".", "ddim-host", "pip", "make", "python", "torchrun", "mpirun", "parallel", "sbatch"),
        }, block.where
        assert all((ROOT / word).is_dir() for word in words if word.startswith("plugins/")), block.where
        refused = any(text in command.output for text in ("error: argument", "does not accept"))
        if words[0] == "ddim-host" and not refused:
            command_line().parse_args(words[1:])


def test_references_to_code_have_targets() -> None:
    references = {
        reference
        for page in PAGES
        for reference in re.findall(r"\[`([^`]+)`\]\(\.\./([^)]+)\)", page.read_text(encoding="utf-8"))
    }
    assert len(references) > 40
    for reference, file in references:
        assert line_of(reference) >= 1
        assert reference.partition("::")[0] == file


@pytest.mark.parametrize(
    "reference",
    ["ddim_host/nowhere.py", "ddim_host/system/files.py::no", "ddim_host/plugin/data.py::TrainTest.no"],
)
def test_broken_reference_is_detected(reference: str) -> None:
    with pytest.raises(ValueError, match="no"):
        line_of(reference)


def anchors(page: Path) -> list[str]:
    """Return the anchors of headings in order, as GitHub and MyST generate them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


@pytest.mark.parametrize(
    "page", [*PAGES, *map(translation_of, TRANSLATED), ROOT / "CONTRIBUTING.md"], ids=page_id
)
def test_links_have_targets(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith(("https://", "#")):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name
        assert path.is_file(), (page.name, target)
        assert not anchor or anchor in anchors(path), (page.name, target)
        assert path.suffix != ".png" or path.stat().st_size < 150_000


EACH_TRANSLATION = pytest.mark.parametrize(
    "pair", [(page, translation_of(page)) for page in TRANSLATED], ids=lambda pair: pair[0].name
)


def without_blocks(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@EACH_TRANSLATION
def test_translations_have_the_same_blocks(pair: tuple[Path, Path]) -> None:
    english, chinese = ([(b.language, b.text, b.not_run) for b in blocks_of(page)] for page in pair)
    assert english == chinese


@EACH_TRANSLATION
@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(r"^#+(?= )", id="headings"),
        pytest.param(r"^(?:- |!\[)", id="lists-and-pictures"),
        # GitHub reads a formula only after a space or at the start of a line, not after a Chinese comma.
        pytest.param(r"(?<!\S)\${1,2}[^$]+\${1,2}", id="formulas"),
        pytest.param(r"\d+(?:[.,]\d+)*", id="numbers"),
        pytest.param(r"(`+)([\s\S]+?)\1(?!`)", id="code"),
    ],
)
def test_translations_have_the_same_structure_formulas_numbers_and_code(
    pair: tuple[Path, Path], pattern: str
) -> None:
    english, chinese = (re.findall(pattern, without_blocks(page), re.MULTILINE) for page in pair)
    if pattern.startswith("^"):
        assert english == chinese
    else:  # the order within a sentence may differ
        assert sorted(english) == sorted(chinese)


def in_chinese(page: Path, target: str) -> str:
    """Return the target of a link in the translation of a page: a Chinese page, if there is one."""
    name, mark, anchor = target.partition("#")
    english = (page.parent / name).resolve()
    if english not in TRANSLATED:
        return target
    chinese = translation_of(english)
    if anchor:
        anchor = anchors(chinese)[anchors(english).index(anchor)]
    return f"{name.removesuffix('.md')}{CHINESE}{mark}{anchor}"


@EACH_TRANSLATION
def test_translations_have_the_same_links(pair: tuple[Path, Path]) -> None:
    """The links between the languages of the README are exempt."""
    english, chinese = (re.findall(r"\]\(((?!README).+?)\)", without_blocks(page)) for page in pair)
    assert sorted(in_chinese(pair[0], target) for target in english) == sorted(chinese)


@EACH_TRANSLATION
def test_translations_have_tables_of_the_same_shape(pair: tuple[Path, Path]) -> None:
    english, chinese = (
        [line.count("|") for line in without_blocks(page).splitlines() if line.startswith("|")]
        for page in pair
    )
    assert english == chinese


def test_every_seed_mistake_names_its_test() -> None:
    page = (ROOT / "docs" / "seed.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    tree = ast.parse((ROOT / "tests/end_to_end/test_seed_mistakes.py").read_text(encoding="utf-8"))
    assert named == {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def texts_in_the_source() -> str:
    """Return all texts of the program, with inserted values replaced by a mark."""
    texts = []
    for folder in ("ddim_host", "plugins"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
                elif isinstance(node, ast.JoinedStr):
                    values = [v.value if isinstance(v, ast.Constant) else "\0" for v in node.values]
                    texts.append("".join(map(str, values)))
    return "\n\n".join(texts)


def test_quoted_messages_exist_in_the_source() -> None:
    troubles = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    plugins = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    quoted = re.findall(
        r"^(`+)(.+?)\1[:,; ]", re.sub(r"```.*?```", "", troubles, flags=re.DOTALL), re.MULTILINE
    )
    quoted += re.findall(
        r"^\| (`+)(.+?)\1 \|", plugins.partition("## When something is wrong")[2], re.MULTILINE
    )
    assert len(quoted) > 15
    known = texts_in_the_source()
    for _, message in quoted:
        assert re.sub(r"'[^']*'", "\0", message) in known, message


def test_documented_network_parameters_equal_those_of_the_program() -> None:
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    table = page.partition("| parameter | what it is |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == [*default_model_parameters(32)]


def test_documented_environment_variables_exist() -> None:
    known = texts_in_the_source()
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    named = set(re.findall(r"DDIM_HOST_\w+", page))
    assert named >= {"DDIM_HOST_CACHE", "DDIM_HOST_KERNELS", "DDIM_HOST_DISABLE_PLUGINS"}
    assert all(name in known for name in named)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "toml"], ids=block_id)
def test_toml_blocks_are_valid(block: Block, tmp_path: Path) -> None:
    name, table = toml_name(block), tomllib.loads(block.text)
    path = tmp_path / name
    path.write_text(block.text, encoding="utf-8")
    if name == "pyproject.toml":
        [(group, entries)] = table["project"]["entry-points"].items()
        assert group in ("ddim_host.plugins", "ddim_host.frameworks")
        assert all(isinstance(module, str) for module in entries.values())
    elif name == "run.toml":
        assert read_config_file(path).request.plugin == "torch"
    else:
        assert read_grid(path).axes["plugin"] == ("torch", "jittor")


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON, ids=page_id)
def test_python_prints_the_shown_output(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "documentation"}
    printed = ""
    for block in blocks_of(page):
        if block.language == "python" and block.not_run is None:
            shown = io.StringIO()
            with contextlib.redirect_stdout(shown):
                exec(compile(block.text, block.where, "exec"), namespace)
            printed = shown.getvalue()
        elif block.language == "text" and block.follows == "python":
            assert printed.rstrip().splitlines() == block.text.rstrip().splitlines(), block.where


# --- Commands -----------------------------------------------------------------------------------------------


class Shell:
    """A shell in a scratch folder, with `ddim-host` and a `pip` that installs into that folder.

    All pages share the folder, so a page can use the results of the others. A command with shown output runs
    without the installed distributions, because they could change its output.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self.done: set[str] = set()
        programs, site = folder / "bin", folder / "site"
        programs.mkdir()
        pip = f"{sys.executable} -m pip --disable-pip-version-check --quiet"
        for name, text in {
            "ddim-host": f'exec {sys.executable} -m ddim_host "$@"',
            # Emulates `pip install -e FOLDER[EXTRA]` without changing the environment of the tests.
            "python": f'exec {sys.executable} "$@"',
            "pip": f'exec {pip} install --no-deps --target {site} "./${{3%[*}}"',
        }.items():
            path = programs / name
            path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
            path.chmod(0o755)
        self.modules = environment.get("PYTHONPATH", str(ROOT))
        self.environment = {
            **environment,
            CACHE_VARIABLE: str(cache_folder()),  # the user's cache, with Jittor's kernels
            "PATH": f"{programs}{os.pathsep}{environment['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(site), self.modules]),
        }

    def run(self, command: Command, where: str) -> None:
        if command.text in self.done:
            return
        done = subprocess.run(
            command.shortened,
            shell=True,
            cwd=self.folder,
            env=self.environment | ({"PYTHONPATH": self.modules} if command.output else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=3600.0,
        )
        wanted = 2 if "error: " in command.output else 0
        assert done.returncode == wanted, f"{where}: {command.shortened}\n{done.stdout}"
        assert as_pattern(command.output).fullmatch(done.stdout.strip()) or not command.output, (
            f"{where}: {command.shortened}\n{done.stdout}"
        )
        if not command.output:
            self.done.add(command.text)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Shell:
    return Shell(tmp_path_factory.mktemp("documentation"), environment)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("jittor") is None, reason="Jittor is not installed")
@pytest.mark.parametrize("page", TO_RUN, ids=page_id)
def test_commands_run(page: Path, shell: Shell) -> None:
    for block in blocks_of(page):
        if block.language == "toml":
            (shell.folder / toml_name(block)).write_text(block.text, encoding="utf-8")
        if block.language not in ("sh", "console") or block.not_run is not None:
            continue
        for command in commands_of(block):
            shell.run(command, block.where)


def test_excluded_blocks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    kept = [f"{block.where}: {block.not_run}" for block in BLOCKS if block.not_run is not None]
    with capsys.disabled():
        print("\nblocks of the documentation that are not run:", *kept, sep="\n  ")
    assert kept
