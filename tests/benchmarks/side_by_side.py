"""Compare the speed of frameworks: their calls in turn, in one run, as a table and as JSON.

    python -m tests.benchmarks.side_by_side out.json --frameworks torch jittor diffusers

Every round makes one call of each; see `tests.benchmarks.in_turn`. Ratios are relative to the fastest peer at
that call: diffusers in fp32, in bf16 or compiled, or OpenVINO, which only samples.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tests.benchmarks.in_turn import waiting
from tests.benchmarks.subjects import FRAMEWORKS, INFERENCE_ONLY, SIZES, subject

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = ("training_step", "network_call", "sample")
_WARMUP_ROUNDS = {"training_step": 2, "network_call": 1, "sample": 1}


Seconds: TypeAlias = dict[str, dict[str, list[float]]]
"""Seconds of each call, by framework and method."""


def measure(
    frameworks: list[str],
    size: str,
    *,
    rounds: dict[str, int],
    batch_size: int | None,
    clock: Callable[[], float],
) -> tuple[Seconds, dict[str, float]]:
    """Call the frameworks in turn.

    Returns:
        The seconds of every call, and the seconds of each framework's first calls, which compile.
    """
    found: Seconds = {
        name: {call: [] for call in CALLS if call != "training_step" or name not in INFERENCE_ONLY}
        for name in frameworks
    }
    first = dict.fromkeys(frameworks, 0.0)
    with ExitStack() as stack:
        subjects = {
            name: stack.enter_context(waiting(subject, name, size, batch_size, clock=clock))
            for name in frameworks
        }
        for call in filter(rounds.get, CALLS):
            for done in range(-_WARMUP_ROUNDS[call], rounds[call]):
                for name, one in subjects.items():
                    if call not in found[name]:
                        continue
                    seconds, _ = one.call(call)
                    print(
                        f"{size} {call} {name}: {seconds:.3f} s", "(warm-up)" if done < 0 else "", flush=True
                    )
                    if done >= 0:
                        found[name][call].append(seconds)
                    else:
                        first[name] += seconds
    return found, first


def table(size: str, found: Seconds, first: dict[str, float]) -> str:
    """Return a Markdown table of medians, speed-ups over the fastest peer, and time of the first calls."""
    peers = [name for name in found if name.startswith(("diffusers", "openvino"))]
    header = [size, *CALLS, "first calls"]
    lines = ["| " + " | ".join(header) + " |", "| --- " * len(header) + "|"]
    for name, calls in found.items():
        cells = []
        for call in CALLS:
            if not calls.get(call):
                cells.append("-")
                continue
            median = statistics.median(calls[call])
            others = [statistics.median(found[peer][call]) for peer in peers if found[peer].get(call)]
            cells.append(f"{median:.3f} s" + (f" ({min(others) / median:.2f} x)" if others else ""))
        cells.append(f"{first[name]:.0f} s")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--frameworks",
        nargs="+",
        choices=FRAMEWORKS,
        default=["torch", "torch-bf16", "jittor", "diffusers", "diffusers-bf16", "diffusers-bf16-compiled"],
    )
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count processor time instead of elapsed time, for a machine shared with other processes; set "
        "OMP_NUM_THREADS=1",
    )
    parser.add_argument("--batch-size", type=int, help="images in a step and in a call (default: by size)")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    for call, default in zip(CALLS, (6, 8, 3), strict=True):
        name = "--" + call.replace("_", "-") + "s"
        parser.add_argument(
            name, type=int, default=default, metavar="ROUNDS", dest=call, help="0 skips this call"
        )
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    results = {}
    for size in options.sizes:
        rounds = {call: getattr(options, call) for call in CALLS}
        results[size], first = measure(
            options.frameworks, size, rounds=rounds, batch_size=options.batch_size, clock=clock
        )
        print(table(size, results[size], first), flush=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
