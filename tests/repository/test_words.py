"""Plain English: phrases that read as if translated, and the first words of docstrings."""

from __future__ import annotations

import ast
import re

from tests.support.repository import ROOT

PHRASES = {
    "to be had": "available",
    "nobody": "name who or what it is, or use the passive voice",
    "somebody": "name who or what it is",
    "whoever": "name who or what it is",
    "for want of": "because ... ran out",
    "given is": "write the value into the sentence: must be ..., not ...",
    "it takes: ": "must be ..., not ...",
    "goes? on with": "continue",
    "mends?": "fix, repair",
    "switched off": "disabled",
    "exists already": "already exists",
    "who wants to": "to ...",
    "sees? to it that": "make sure, check",
}
PHRASE = re.compile(r"\b(?:" + "|".join(PHRASES) + r")(?!\w)", re.IGNORECASE)
OPENING = re.compile(r"(?:What|Whether|Where|How|Of|Who|Whoever|Whose|Which|When|Why|Theirs)\b")


def written(*endings: str) -> list[str]:
    folders = ("ddim_host", "plugins", "examples", "tests", "tools", "docs")
    paths = [*ROOT.glob("*"), *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    names = {path.relative_to(ROOT).as_posix() for path in paths if path.is_file()}
    built = re.compile(r"(?:^|/)(?:\.|_build|build|dist|runs|sweeps|__pycache__)")
    return sorted(name for name in names if name.endswith(endings) and not built.search(name))


def docstrings(source: str) -> list[tuple[int, str]]:
    bodies = [getattr(node, "body", ()) for node in ast.walk(ast.parse(source))]
    return [
        (statement.lineno, statement.value.value)
        for body in bodies
        if isinstance(body, list)
        for statement in body
        if isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    ]


def test_text_has_no_translated_phrases() -> None:
    names = written(".py", ".md", ".jinja", ".html", ".toml", "Makefile")
    assert len(names) > 300
    names.remove("tests/repository/test_words.py")
    found = [
        f"{name}:{number}: {match.group()}"
        for name in names
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), start=1)
        for match in PHRASE.finditer(line)
    ]
    assert not found, "\n".join(found)


def test_docstrings_start_with_a_verb_or_a_noun_phrase() -> None:
    """The rule complements D401 of ruff, which checks functions only."""
    found = [
        f"{name}:{line}: {text.strip():.60}"
        for name in written(".py")
        if not name.startswith("tests/")
        for line, text in docstrings((ROOT / name).read_text(encoding="utf-8"))
        if OPENING.match(text.strip())
    ]
    assert not found, "\n".join(found)


def test_the_word_rules_detect_violations() -> None:
    assert PHRASE.search("the precision is not to be had on this machine")
    assert docstrings('def f():\n    """Whether it is."""\nx = 1\n"""What x is."""\n') == [
        (4, "What x is."),
        (2, "Whether it is."),
    ]
    assert OPENING.match("Whether it is.")
    assert not OPENING.match("Offset of the schedule.")
