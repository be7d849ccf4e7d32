"""The contract of model factories for Jittor, run by `test_contracts.py` in a separate process."""

from __future__ import annotations

import pytest

from ddim_host.plugin.loading import load_plugins
from ddim_host.testing import ModelFactoryContract
from ddim_jittor.plugin import unet

pytestmark = pytest.mark.process  # Jittor starts compilers

load_plugins("jittor")  # no other framework may be imported from now on


class TestJittor(ModelFactoryContract):
    part = unet
