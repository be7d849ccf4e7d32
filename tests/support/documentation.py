"""The fenced blocks of the documentation, and how its commands are made short enough for tests.

Three kinds of block are run: `sh` holds commands, one a line; `console` holds commands after `$ ` and, below
a command, what it prints (`...` stands for any lines); `python` is run in one namespace for each page, and a
`text` block that is the next one after it is what it prints. `toml` is read by whatever it is for. A comment
`<!-- not run: REASON -->` before a block keeps it from being run.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.repository import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

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
"""What is appended to a command of the documentation: of two equal options the last one counts."""

NOT_IN_TESTS = (
    *("make ", "python -m tests.", "torchrun ", "mpirun ", "parallel ", "sbatch ", "#!/bin/sh"),
    "python -m pip install ",
    "--data cifar10",
)
"""What alone is a reason not to run a block: what installs, takes long, downloads, or needs a cluster."""

_FENCE = re.compile(r"^(`{3,})([\w{}-]*)(?: .*)?$")
_MARKER = re.compile(r"^<!-- not run: (.+) -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: The page.
        line: The line of its fence.
        language: What stands behind the fence.
        text: What is in it.
        not_run: Why it is not run, where a comment says so.
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
    """A command, and what it is said to print; nothing where that is left open."""

    text: str
    output: str

    @property
    def shortened(self) -> str:
        """The command as tests run it. One whose output is shown is run as it is, and so is a dry run."""
        words = self.text.split()
        if words[0] != "ddim-host" or self.output or "--dry-run" in words:
            return self.text
        return f"{self.text} {SHORTER.get(words[1], '')}".strip()


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
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


def toml_name(block: Block) -> str:
    """`pyproject.toml`; `sweep.toml` where a value is a list, or there is an evaluation; else `run.toml`."""
    table = tomllib.loads(block.text)
    if "project" in table:
        return "pyproject.toml"
    several = "evaluate" in table or any(isinstance(value, list) for value in table.values())
    return "sweep.toml" if several else "run.toml"


def commands_of(block: Block) -> list[Command]:
    """The commands of a block `sh` or `console`, with continued lines joined."""
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
    """Matches what is shown, where `...` stands for anything."""
    return re.compile(re.escape(output.strip()).replace(re.escape("..."), "[\\s\\S]*"))
