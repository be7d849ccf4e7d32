"""The fenced blocks of the documentation, and short forms of its commands for tests.

Three kinds of block are run. `sh` contains commands, one per line. `console` contains commands after `$ `,
each followed by its output (`...` stands for any lines). `python` is run in one namespace per page, and a
`text` block directly after it is its output. `toml` is read by the program that it configures. A comment
`<!-- not run: REASON -->` before a block excludes it from running.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.repository import ROOT

if TYPE_CHECKING:
    from pathlib import Path

CHINESE = ".zh-CN.md"

TRANSLATED = [
    page.with_name(page.name.removesuffix(CHINESE) + ".md")
    for folder in (ROOT, ROOT / "docs")
    for page in sorted(folder.glob(f"*{CHINESE}"))
]
"""Pages with a translation that has the same blocks, `NAME.zh-CN.md`."""

PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if not page.name.endswith(CHINESE)),
]
"""The English pages; their blocks are run."""


def translation_of(page: Path) -> Path:
    """Return the path of the Chinese translation of an English page."""
    return page.with_name(page.stem + CHINESE)


TINY = (
    "--train-steps 3 --batch-size 8 --test-images 8 --num-images 4 --steps 3 --lr-warmup-steps 0 "
    "--model unet:base_channels=8,num_groups=4"
)

SHORTER = {
    "run": TINY,
    "sweep": f"{TINY} --evaluate-samples 10 --evaluate-steps 2 --evaluate-eta 0 --evaluate-grids 4",
    "sample": "--num-images 4",
    "reconstruct": "--num-images 4 --steps 2",
    "optimize": "--steps 2,3,5,7,10 --teacher-steps 20 --images 4",
    "evaluate": "--samples 10 --steps 2 --eta 0 --seed 0",
}
"""Options appended to a documented command; the last of repeated options takes effect."""

NOT_IN_TESTS = (
    *("make ", "python -m tests.", "torchrun ", "mpirun ", "parallel ", "sbatch ", "#!/bin/sh"),
    *("pip install . ", "python -m pip install ", "python -m pip wheel "),
    "--data cifar10",
)
"""The only reasons to exclude a block: it installs, takes long, downloads, or needs a cluster."""

_FENCE = re.compile(r"^(`{3,})([\w{}-]*)(?: .*)?$")
_FILE = re.compile(r"^`([\w./]+)`.*\n\n(?:<!-- .+ -->\n\n)?```\w+\n([\s\S]*?)^```$", re.MULTILINE)
_MARKER = re.compile(r"^<!-- not run: (.+) -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: The page.
        line: The line of its fence.
            language: Text after the fence.
            text: Contents.
            not_run: Reason in a comment why the block is excluded, or None.
        follows: The language of the block before it.
    """

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None
    follows: str

    @property
    def where(self) -> str:
        return f"{self.page.name}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command and its documented output; empty if the documentation shows none."""

    text: str
    output: str

    @property
    def shortened(self) -> str:
        """The command as tests run it; unchanged if its output is shown or if it is a dry run."""
        words = self.text.split()
        if words[0] != "ddim-host" or self.output or "--dry-run" in words:
            return self.text
        return f"{self.text} {SHORTER.get(words[1], '')}".strip()


def blocks_of(page: Path) -> list[Block]:
    """Return all fenced blocks of a page."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    number, last_text = 0, ""
    while number < len(lines):
        opening = _FENCE.match(lines[number])
        if opening is None:
            last_text = lines[number].strip() or last_text
            number += 1
            continue
        end = next(n for n in range(number + 1, len(lines)) if lines[n].strip() == opening[1])
        marker = _MARKER.match(last_text)
        found.append(
            Block(
                page=page,
                line=number + 1,
                language=opening[2],
                text="\n".join(lines[number + 1 : end]),
                not_run=marker and marker[1],
                follows=found[-1].language if found else "",
            )
        )
        number, last_text = end + 1, ""
    return found


def files_of(page: Path) -> dict[str, str]:
    """Return the files that a page lists: each block after a line that begins with a quoted name."""
    return dict(_FILE.findall(page.read_text(encoding="utf-8")))


def toml_name(block: Block) -> str:
    """Return `pyproject.toml`, `sweep.toml` (if it has lists of values or an evaluation) or `run.toml`."""
    table = tomllib.loads(block.text)
    if "project" in table:
        return "pyproject.toml"
    several = "evaluate" in table or any(isinstance(value, list) for value in table.values())
    return "sweep.toml" if several else "run.toml"


def commands_of(block: Block) -> list[Command]:
    """Return the commands of a `sh` or `console` block, with continued lines joined."""
    text = re.sub(r"\\\n\s*", "", block.text)
    if block.language == "sh":
        return [Command(line, "") for line in text.splitlines() if line.strip()]
    commands: list[Command] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            commands.append(Command(line[2:], ""))
        else:
            last = commands.pop()
            commands.append(Command(last.text, f"{last.output}{line}\n"))
    return commands


def as_pattern(output: str) -> re.Pattern[str]:
    """Return a pattern for the documented output, in which `...` stands for anything."""
    return re.compile(re.escape(output.strip()).replace(re.escape("..."), "[\\s\\S]*"))
