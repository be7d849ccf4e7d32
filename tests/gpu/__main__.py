"""Check correctness, graph capture and speed on a GPU.

    python -m tests.gpu OUT
    python -m tests.gpu OUT --images cifar10/ --minutes 3      # also train on real images
    python -m tests.gpu OUT --device cpu --tiny                # the same code without a GPU

Each stage is a process with a time limit; the most important stages run first. `OUT/STAGE.json`,
`OUT/check.json` and `OUT/check.md` are rewritten after each verdict and figure, so nothing is lost if the
check is killed. Results of stages that do not run again are kept. The exit code is 1 if a verdict is bad or a
stage failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.gpu.findings import Findings, forget, load, save
from tests.gpu.stages import STAGES, Options

_LOG_LINES = 12
_LEAST_SECONDS = 10.0


def main() -> int:
    """Run the stages."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="use the smallest sizes, to test the check itself"
    )
    parser.add_argument("--images", type=Path, help="folder of images to train on in the last stage")
    parser.add_argument(
        "--minutes", type=float, default=2.0, help="minutes of training on these images (default: 2)"
    )
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument(
        "--limit", type=float, default=480.0, help="time limit of all stages in seconds (default: 480)"
    )
    parser.add_argument("--one", choices=STAGES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    options = Options(given.out, given.device, given.tiny, given.images, given.minutes)
    if given.one:
        findings = Findings(given.out, given.one)
        STAGES[given.one].run(options, findings)
        findings.end()
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    return _run_stages(given.stages, options, given.limit)


def _run_stages(names: list[str], options: Options, limit: float) -> int:
    started, passed = time.monotonic(), True
    forget(options.out, names)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if options.device == "cpu":
        environment["TRITON_INTERPRET"] = "1"
    for name in names:
        left = limit - (time.monotonic() - started)
        if name == "train" and options.images is None:
            continue
        if left < _LEAST_SECONDS:
            print(f"{name}: not started: the time limit is reached", flush=True)
            continue
        log = options.out / f"{name}.log"
        arguments = [*sys.argv[1:], "--one", name]
        stage_started = time.monotonic()
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
                problem = f"exited with code {code}" if code else ""
            except subprocess.TimeoutExpired:
                problem = "reached its time limit"
        seconds = time.monotonic() - stage_started
        found = {**load(options.out / f"{name}.json"), "seconds": round(seconds, 1), "problem": problem}
        if problem:
            found["log"] = log.read_text("utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        save(options.out, name, found)
        passed &= not problem and all(verdict["ok"] for verdict in found.get("verdicts", []))
        print(f"{name}: {problem or 'done'}, {seconds:.0f} s", flush=True)
    print((options.out / "check.md").read_text(encoding="utf-8"))
    return int(not passed)


if __name__ == "__main__":
    raise SystemExit(main())
