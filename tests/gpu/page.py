"""The results of the check as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the verdicts and figures of all stages as one page.

    Args:
        results: By stage: `verdicts`, `figures`, `seconds`, `problem`, and `log` if it failed.
    """
    lines = ["# GPU check", ""]
    for name, found in results.items():
        lines += [f"## {name} ({found['seconds']} s)", ""]
        if found["problem"]:
            lines += [f"**It {found['problem']}.**", ""]
        if found.get("log"):
            lines += ["The end of its log:", "", "```", *found["log"], "```", ""]
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
