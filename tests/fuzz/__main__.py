"""Fuzz every reader with damaged files.

    python -m tests.fuzz --inputs 10000
    python -m tests.fuzz --inputs 10000 --reader weights --seed 1

Each input must be read, or refused with a `UserError` that has a message. Raising anything else, taking too
long or too much memory, or writing elsewhere is a failure: the input is saved, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.fuzzing import fuzz, sandbox


def main() -> int:
    """Read the options, fuzz, and print the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--reader", help="fuzz only this reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--keep",
        type=Path,
        default=Path("fuzz-failures"),
        help="folder for failing inputs (default: fuzz-failures)",
    )
    options = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for reader in sandbox(Path(folder)):
            if options.reader in (None, reader.name):
                result = fuzz(reader, options.inputs, seed=options.seed, keep=options.keep)
                print(result, flush=True)
                failures += len(result.failures)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
