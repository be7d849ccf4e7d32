"""The git commit of a checkout, found without running git; a damaged checkout is not an error."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ddim_host.system.files import read_bytes

if TYPE_CHECKING:
    from pathlib import Path

_MOST_BYTES = 16 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def checked_out_commit(folder: Path) -> str | None:
    """Return the commit that is checked out in a folder; None if it is not the root of a readable checkout.

    Uncommitted changes are not detected.

    Args:
        folder: The folder that contains `.git`, which is a folder or, in a worktree, a file with the path of
            a folder.
    """
    try:
        git = folder / ".git"
        if git.is_file():
            git = folder / _text(git).removeprefix("gitdir: ")
        head = _text(git / "HEAD")
        if head.startswith("ref: "):
            head = _commit_of(head.removeprefix("ref: "), git)
    except (OSError, ValueError):
        return None
    return head if _COMMIT.fullmatch(head) else None


def _commit_of(ref: str, git: Path) -> str:
    """Return the commit of a branch, from its own file or `packed-refs`; '' if the branch has none."""
    common = git / _text(git / "commondir") if (git / "commondir").exists() else git
    if (common / ref).is_file():
        return _text(common / ref)
    lines = (line.split(" ") for line in _text(common / "packed-refs").splitlines())
    return next((fields[0] for fields in lines if fields[1:] == [ref]), "")


def _text(path: Path) -> str:
    return read_bytes(path, _MOST_BYTES).decode().strip()
