"""`doctor`: what it finds, and how to mend it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.distributions import Site, losses

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.commands import Command, Outcome


def test_doctor_says_how_to_get_the_fast_kernels(ddim_host: Command, tmp_path: Path) -> None:
    without = {"CXX": "no-such-compiler", "DDIM_HOST_CACHE": str(tmp_path)}
    missing = ddim_host("doctor", env=without)
    assert missing.code == 1
    assert re.search(r"FAIL  kernels for the CPU +.*there is no C\+\+ compiler no-such-compiler", missing.out)
    assert "fix: sudo apt-get install g++" in missing.out
    off = ddim_host("doctor", env={**without, "DDIM_HOST_KERNELS": "framework"})
    assert re.search(r"ok    kernels for the CPU +switched off by DDIM_HOST_KERNELS", off.out)
    for name in ("CIFAR-10", "MNIST", "Fashion-MNIST", "FID weights"):  # worth knowing, and no failure
        assert re.search(rf"ok    {name} +not in the cache yet; \d+ MB, downloaded once", off.out)


NETWORK = (
    "@hookimpl\ndef ddim_model_factories():\n    return {'unet': lambda spec, device, precision: None}\n"
)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("return 1 / 0", "FAIL  ddim_machine_checks  ZeroDivisionError: division by zero (ddim_own.py:7)"),
        ("raise SystemExit('bye')", "FAIL  ddim_machine_checks  SystemExit: bye (ddim_own.py:7)"),
        ("return [3]", "FAIL  ddim_machine_checks  it gave a int, not a Check"),
        ("return 3", "FAIL  ddim_machine_checks  TypeError: 'int' object is not iterable"),
    ],
)
def test_doctor_survives_a_framework_whose_checks_fail(
    site: Site, in_process: Callable[..., Outcome], body: str, found: str
) -> None:
    checks = f"@hookimpl\ndef ddim_machine_checks():\n    {body}"
    site.plugin("ddim-own", NETWORK + checks, entry="own", group="frameworks")
    outcome = in_process("doctor", "--plugin", "own")
    assert (outcome.code, outcome.err) == (1, "")
    assert found in outcome.out
    assert "fix: tell the authors of ddim-own" in outcome.out


def test_doctor_asks_the_chosen_framework_alone(site: Site, in_process: Callable[..., Outcome]) -> None:
    """Not those that others left behind before they turned out to be broken."""
    site.plugin("odd-parts", "@hookimpl\ndef ddim_machine_checks():\n    1 / 0\n" + losses("odd"))
    site.plugin("ddim-own", NETWORK, entry="own", group="frameworks")
    assert in_process("doctor", "--plugin", "own").out == "own (ddim-own 1.0)\n"
