"""How many times faster one is than another: their calls in turn, in one run, as a table and as JSON.

    python -m tests.benchmarks.side_by_side out.json --frameworks torch jittor diffusers

Every round asks each of them for one call; see `tests.benchmarks.in_turn`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

from tests.benchmarks.in_turn import waiting
from tests.benchmarks.subjects import FRAMEWORKS, SIZES, subject

CALLS = ("training_step", "network_call", "sample")
_WARMUP_ROUNDS = {"training_step": 2, "network_call": 1, "sample": 1}


Seconds: TypeAlias = dict[str, dict[str, list[float]]]
"""By framework and call."""


def measure(frameworks: list[str], size: str, *, rounds: dict[str, int]) -> Seconds:
    """Call them in turn; the first calls are not counted."""
    found: Seconds = {name: {call: [] for call in CALLS} for name in frameworks}
    with ExitStack() as stack:
        subjects = {name: stack.enter_context(waiting(subject, name, size)) for name in frameworks}
        for call in CALLS:
            for done in range(-_WARMUP_ROUNDS[call], rounds[call]):
                for name, one in subjects.items():
                    seconds, _ = one.call(call)
                    print(
                        f"{size} {call} {name}: {seconds:.3f} s", "(warm-up)" if done < 0 else "", flush=True
                    )
                    if done >= 0:
                        found[name][call].append(seconds)
    return found


def table(size: str, found: Seconds, *, against: str) -> str:
    """Medians, and how many times faster than `against`, as Markdown."""
    lines = [f"| {size} | " + " | ".join(CALLS) + " |", "| --- " * (len(CALLS) + 1) + "|"]
    for name, calls in found.items():
        cells: list[Any] = []
        for call, seconds in calls.items():
            median = statistics.median(seconds)
            times = statistics.median(found[against][call]) / median
            cells.append(f"{median:.3f} s ({times:.2f} x)")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--frameworks", nargs="+", choices=FRAMEWORKS, default=["torch", "jittor", "diffusers"]
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    for call, default in zip(CALLS, (6, 8, 3), strict=True):
        name = "--" + call.replace("_", "-") + "s"
        parser.add_argument(name, type=int, default=default, metavar="ROUNDS", dest=call)
    options = parser.parse_args()
    against = "diffusers" if "diffusers" in options.frameworks else options.frameworks[0]
    results = {}
    for size in options.sizes:
        rounds = {call: max(1, getattr(options, call)) for call in CALLS}
        results[size] = measure(options.frameworks, size, rounds=rounds)
        print(table(size, results[size], against=against), flush=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
