"""The findings of a stage, rewritten after each one, so that a stage that is killed loses nothing."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from ddim_host.system.files import write_text
from tests.gpu.page import page

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

NOT_ENDED = "has not ended"
"""The problem of a stage that is running or was killed."""

_CHECK = "check.json"


class Findings:
    """Collects and writes the verdicts and figures of a stage.

    Args:
        out: The folder of results.
        stage: The stage's name.
    """

    def __init__(self, out: Path, stage: str) -> None:
        self._out, self._stage = out, stage
        self._started = time.monotonic()
        self._verdicts: list[dict[str, Any]] = []
        self._figures: dict[str, str] = {}
        self._write(NOT_ENDED)

    def judge(self, what: str, measured: float, limit: float) -> None:
        """Add a verdict that is good if the number is at most the limit."""
        self.add(what, bool(measured <= limit), f"{measured:.3g} (at most {limit:g})")

    def add(self, what: str, ok: bool, measured: str) -> None:
        """Add a verdict."""
        print(f"{what}: {'ok' if ok else 'BAD'}, {measured}", flush=True)
        self._verdicts.append({"what": what, "ok": ok, "measured": measured})
        self._write(NOT_ENDED)

    def figure(self, what: str, value: str) -> None:
        """Add a figure, or replace the one with the same name."""
        print(f"{what}: {value}", flush=True)
        self._figures[what] = value
        self._write(NOT_ENDED)

    def end(self) -> None:
        """Record that the stage has ended."""
        self._write("")

    def _write(self, problem: str) -> None:
        found = {
            "verdicts": self._verdicts,
            "figures": self._figures,
            "seconds": round(time.monotonic() - self._started, 1),
            "problem": problem,
        }
        save(self._out, self._stage, found)


def load(path: Path) -> dict[str, Any]:
    """Return the findings in a file, or none if it does not exist."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def save(out: Path, stage: str, found: dict[str, Any]) -> None:
    """Write the findings of one stage, and those of all stages as `check.json` and `check.md`."""
    _dump(out / f"{stage}.json", found)
    _dump_all(out, load(out / _CHECK) | {stage: found})


def forget(out: Path, stages: Iterable[str]) -> None:
    """Delete the findings of these stages from an earlier check; those of other stages are kept."""
    results = load(out / _CHECK)
    for stage in stages:
        results.pop(stage, None)
        (out / f"{stage}.json").unlink(missing_ok=True)
    _dump_all(out, results)


def _dump_all(out: Path, results: dict[str, Any]) -> None:
    _dump(out / _CHECK, results)
    write_text(out / "check.md", page(results))


def _dump(path: Path, found: dict[str, Any]) -> None:
    write_text(path, json.dumps(found, indent=1) + "\n")
