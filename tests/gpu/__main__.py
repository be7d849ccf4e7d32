"""Check everything that a GPU is needed for, in one go: is it right, is it captured, how fast is it.

    python -m tests.gpu OUT
    python -m tests.gpu OUT --images cifar10/ --minutes 3      then also train on real images
    python -m tests.gpu OUT --device cpu --tiny                the same lines of code, without a GPU

Each stage is a process with a time limit, the most valuable first. `OUT/check.json` and `OUT/check.md` are
written again after each. The exit code is 1 if a verdict is bad or a stage failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.gpu.page import page
from tests.gpu.stages import STAGES, Options

_LOG_LINES = 12


def main() -> int:
    """Run the stages."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, to try the check itself")
    parser.add_argument("--images", type=Path, help="a folder of images to train on at the end")
    parser.add_argument("--minutes", type=float, default=2.0, help="how long to train on them")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--limit", type=float, default=480.0, help="seconds for all stages together")
    parser.add_argument("--one", choices=STAGES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    options = Options(given.out, given.device, given.tiny, given.images, given.minutes)
    if given.one:
        found = STAGES[given.one].run(options)
        _write(given.out / f"{given.one}.json", found)
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    return _run_stages(given.stages, options, given.limit)


def _run_stages(names: list[str], options: Options, limit: float) -> int:
    started, results = time.monotonic(), {}
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if options.device == "cpu":
        environment["TRITON_INTERPRET"] = "1"
    for name in names:
        left = limit - (time.monotonic() - started)
        if left < 10 or (name == "train" and options.images is None):
            continue
        log = options.out / f"{name}.log"
        arguments = [*sys.argv[1:], "--one", name]
        begun = time.monotonic()
        with log.open("wb") as stream:
            try:
                code = subprocess.run(
                    [sys.executable, "-m", "tests.gpu", *arguments],
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    timeout=min(STAGES[name].seconds, left),
                    check=False,
                ).returncode
                problem = f"ended with exit code {code}" if code else ""
            except subprocess.TimeoutExpired:
                problem = "ran out of its time"
        seconds = time.monotonic() - begun
        written = options.out / f"{name}.json"
        found: dict[str, Any] = json.loads(written.read_text("utf-8")) if written.exists() else {}
        text = log.read_text("utf-8", errors="replace")
        results[name] = {**found, "seconds": round(seconds, 1), "problem": problem}
        if problem:
            results[name]["log"] = text.splitlines()[-_LOG_LINES:]
        _write(options.out / "check.json", results)
        (options.out / "check.md").write_text(page(results), encoding="utf-8")
        print(f"{name}: {problem or 'done'}, {seconds:.0f} s", flush=True)
    text = page(results)
    print(text)
    return int(any(r["problem"] or not all(v["ok"] for v in r.get("verdicts", [])) for r in results.values()))


def _write(path: Path, found: object) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    raise SystemExit(main())
