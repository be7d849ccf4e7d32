"""Jittor's model factory keeps its contract; called in a process of its own by test_own_parts_contract.py."""

from __future__ import annotations

from ddim_host.plugin.loading import load_plugins
from ddim_host.testing import ModelFactoryContract
from ddim_jittor.plugin import unet

load_plugins("jittor")  # no other framework may be imported from now on


class TestJittor(ModelFactoryContract):
    part = unet
