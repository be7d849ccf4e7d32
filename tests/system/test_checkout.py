"""The commit of a checkout."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from ddim_host.system.checkout import checked_out_commit

if TYPE_CHECKING:
    from pathlib import Path

ONE, OTHER = "1" * 40, "ab" * 20


def checkout(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("files", "commit"),
    [
        ({".git/HEAD": f"{ONE}\n"}, ONE),
        ({".git/HEAD": "ref: refs/heads/a/b\n", ".git/refs/heads/a/b": f"{ONE}\n"}, ONE),
        (
            {
                ".git/HEAD": "ref: refs/heads/main\n",
                ".git/packed-refs": f"# pack-refs with:\n{OTHER} refs/heads/x\n{ONE} refs/heads/main\n",
            },
            ONE,
        ),
        (
            {
                ".git": "gitdir: main.git/worktrees/w\n",
                "main.git/worktrees/w/HEAD": "ref: refs/heads/w\n",
                "main.git/worktrees/w/commondir": "../..\n",
                "main.git/refs/heads/w": f"{ONE}\n",
            },
            ONE,
        ),
        ({"other": ""}, None),
        ({".git/HEAD": "ref: refs/heads/main\n"}, None),
        ({".git/HEAD": ""}, None),
        ({".git/HEAD": "ref: refs/heads/\0\n"}, None),
        ({".git/HEAD": "not a commit"}, None),
        ({".git": "gitdir: nowhere\n"}, None),
        ({".git": "\0"}, None),
        ({".git/HEAD/x": "a folder"}, None),
    ],
)
def test_commit_is_read_without_git(tmp_path: Path, files: dict[str, str], commit: str | None) -> None:
    assert checked_out_commit(checkout(tmp_path, files)) == commit


def test_bytes_that_are_not_text_are_no_commit(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_bytes(b"\xff\xfe")
    assert checked_out_commit(tmp_path) is None


@pytest.mark.process
@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_commit_is_that_of_git(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, capture_output=True, check=True)
        return done.stdout.decode().strip()

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message=first")
    assert checked_out_commit(tmp_path) == git("rev-parse", "HEAD")
    git("pack-refs", "--all")
    assert checked_out_commit(tmp_path) == git("rev-parse", "HEAD")
