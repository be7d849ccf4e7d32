"""Findings of the GPU check are written to disk immediately."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.gpu.findings import Findings, forget, save

if TYPE_CHECKING:
    from pathlib import Path


def test_each_finding_is_written_immediately(tmp_path: Path) -> None:
    """A finding is in the stage's file and on the page, which says that the stage has not ended."""
    findings = Findings(tmp_path, "speed")
    assert "It has not ended" in (tmp_path / "check.md").read_text(encoding="utf-8")
    findings.figure("torch", "1 image/s, before the rounds")
    findings.judge("fp32: losses", 2.0, 1.0)
    findings.figure("torch", "3 images/s, median of 1 round")
    stage = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert stage["figures"] == {"torch": "3 images/s, median of 1 round"}
    assert stage["verdicts"] == [{"what": "fp32: losses", "ok": False, "measured": "2 (at most 1)"}]
    assert json.loads((tmp_path / "check.json").read_text(encoding="utf-8")) == {"speed": stage}
    text = (tmp_path / "check.md").read_text(encoding="utf-8")
    assert "| torch | 3 images/s, median of 1 round |" in text
    assert "| fp32: losses | **bad** | 2 (at most 1) |" in text
    findings.end()
    assert "It has not ended" not in (tmp_path / "check.md").read_text(encoding="utf-8")


def test_second_check_replaces_only_its_own_stages(tmp_path: Path) -> None:
    for stage in ("machine", "speed"):
        save(tmp_path, stage, {"figures": {"of": stage}, "seconds": 1.0, "problem": ""})
    forget(tmp_path, ["speed", "jittor"])
    assert not (tmp_path / "speed.json").exists()
    Findings(tmp_path, "jittor")
    found = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))
    assert list(found) == ["machine", "jittor"]
    assert found["machine"]["figures"] == {"of": "machine"}


def test_stage_out_of_time_is_shown_with_its_figures(tmp_path: Path) -> None:
    findings = {"figures": {"torch": "3 images/s"}, "seconds": 120.0, "log": ["warm-up diffusers"]}
    save(tmp_path, "speed", findings | {"problem": "reached its time limit"})
    text = (tmp_path / "check.md").read_text(encoding="utf-8")
    assert (
        text.index("It reached its time limit") < text.index("warm-up diffusers") < text.index("3 images/s")
    )
