"""The check's results as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Put verdicts and figures of all stages on one page.

    Args:
        results: By stage: `verdicts`, `figures`, `seconds` and `problem`.
    """
    lines = ["# GPU check", ""]
    for name, found in results.items():
        lines += [f"## {name} ({found['seconds']} s)", ""]
        if found["problem"]:
            lines += [f"**It {found['problem']}.** The end of its log:", "", "```", *found["log"], "```", ""]
        verdicts = found.get("verdicts", [])
        if verdicts:
            lines += ["| | verdict | measured |", "| --- | --- | --- |"]
            lines += [
                f"| {v['what']} | {'ok' if v['ok'] else '**bad**'} | {v['measured']} |" for v in verdicts
            ]
            lines.append("")
        figures = found.get("figures", {})
        if figures:
            lines += ["| | |", "| --- | --- |"]
            lines += [f"| {what} | {value} |" for what, value in figures.items()]
            lines.append("")
    return "\n".join(lines)
