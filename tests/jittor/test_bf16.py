"""bf16 in Jittor, in a process that holds no other framework."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.support.repository import ROOT


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(find_spec("jittor") is None, reason="Jittor is not installed")
def test_bf16() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/support/jittor_bf16.py"],
        cwd=ROOT,
        # The cache that all tests share: compiling Jittor takes minutes.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
