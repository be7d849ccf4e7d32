"""bf16 in Jittor, in a process that holds no other framework."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

from tests.support.commands import pass_tests
from tests.support.repository import ROOT


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(find_spec("jittor") is None, reason="Jittor is not installed")
def test_bf16() -> None:
    # The cache that all tests share: compiling Jittor takes minutes.
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    pass_tests("tests/support/jittor_bf16.py", cwd=ROOT, env=env, timeout=1800)
