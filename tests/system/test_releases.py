"""The table of tested releases, and the notes on releases outside it."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from ddim_host.system.releases import TESTED, installed_releases, untested
from tests.support.repository import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.commands import Outcome

PROJECTS = [ROOT / "pyproject.toml", *sorted((ROOT / "plugins").glob("*/pyproject.toml"))]


@pytest.mark.parametrize(
    ("name", "version", "word"),
    [
        ("torch", "2.6.0", None),
        ("torch", "2.15.3+cu132", None),
        ("torch", "2.5.1", "older than"),
        ("torch", "2.16.0a0", "newer than"),
        ("torch", "3.0", "newer than"),
        ("Python", "3.13.9", None),
        ("Python", "3.14.0rc1", "newer than"),
        ("jittor", "1.3.11.0", None),
        ("jittor", "1.3.12.0", "newer than"),
        ("numpy", "of my own", "not comparable to"),
        ("something-else", "0.1", None),
    ],
)
def test_untested_release_is_noted(name: str, version: str, word: str | None) -> None:
    notes = untested({name: version})
    assert len(notes) == (word is not None)
    assert word is None or notes[0].startswith(f"{name} {version} is {word} the tested releases (")


def test_doctor_notes_untested_releases_without_failing(
    in_process: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDIM_HOST_KERNELS", "framework")
    monkeypatch.setenv("DDIM_HOST_DISABLE_PLUGINS", "ddim-torch,ddim-jittor")
    monkeypatch.setitem(TESTED, "numpy", ("0.1", "0.2"))
    outcome = in_process("doctor")
    assert outcome.code == 0
    line = r"ok +releases .*numpy \S+ is newer than the tested releases \(0.1 to 0.2\)"
    assert re.search(line, outcome.out)


def test_installed_releases_are_found() -> None:
    assert installed_releases().keys() >= {"Python", "numpy", "scikit-learn", "tomli-w"}


def oldest_allowed() -> list[tuple[str, Version]]:
    """Return the lower bounds of all requirements of this project's distributions."""
    texts = [text for path in PROJECTS for text in project_of(path)["dependencies"]]
    return [
        (requirement.name, Version(specifier.version))
        for requirement in map(Requirement, texts)
        for specifier in requirement.specifier
        if specifier.operator == ">="
    ]


def project_of(path: Path) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    return project


def oldest_installed_by_the_makefile() -> dict[str, Version]:
    text = (ROOT / "tests" / "lowest.txt").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    text += "".join(re.findall(r"^TORCH_LOWEST := (.+\n)", makefile, re.MULTILINE))
    text += "".join(re.findall(r"^JITTOR := .*?(jittor==\S+)", makefile, re.MULTILINE)) + "\n"
    return {name: Version(version) for name, version in re.findall(r"^([\w-]+)==(.+)$", text, re.MULTILINE)}


def test_oldest_allowed_releases_are_tested() -> None:
    allowed, installed = oldest_allowed(), oldest_installed_by_the_makefile()
    assert len(allowed) > 10
    for name, bound in allowed:
        assert installed[name].release[: len(bound.release)] == bound.release, name
        begin = Version(TESTED[name][0]).release
        assert bound.release[: len(begin)] == begin, name


@pytest.mark.parametrize("path", PROJECTS, ids=lambda path: path.parent.name)
def test_every_distribution_declares_the_tested_pythons(path: Path) -> None:
    oldest, newest = (int(version.partition(".")[2]) for version in TESTED["Python"])
    project = project_of(path)
    assert project["requires-python"] == f">=3.{oldest}"
    assert [name for name in project["classifiers"] if "Python :: 3." in name] == [
        f"Programming Language :: Python :: 3.{minor}" for minor in range(oldest, newest + 1)
    ]
    assert (path.parent / project["readme"]).is_file()
    assert (path.parent / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
