"""`doctor`: its findings and their fixes."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from tests.support.distributions import Site, losses

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.commands import Command, Outcome


def test_doctor_explains_how_to_get_the_fast_kernels(ddim_host: Command, tmp_path: Path) -> None:
    without = {"CXX": "no-such-compiler", "DDIM_HOST_CACHE": str(tmp_path)}
    missing = ddim_host("doctor", env=without)
    assert missing.code == 1
    assert re.search(r"FAIL  kernels for the CPU +.*there is no C\+\+ compiler no-such-compiler", missing.out)
    assert "fix: sudo apt-get install g++" in missing.out
    off = ddim_host("doctor", env={**without, "DDIM_HOST_KERNELS": "framework"})
    assert re.search(r"ok    kernels for the CPU +disabled by DDIM_HOST_KERNELS", off.out)
    for name in ("CIFAR-10", "MNIST", "Fashion-MNIST", "FID weights"):  # information, not a failure
        assert re.search(rf"ok    {name} +not in the cache yet; \d+ MB, downloaded once", off.out)


NETWORK = (
    "@hookimpl\ndef ddim_model_factories():\n    return {'unet': lambda spec, device, precision: None}\n"
)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("return 1 / 0", "FAIL  ddim_machine_checks  ZeroDivisionError: division by zero (ddim_own.py:7)"),
        ("raise SystemExit('bye')", "FAIL  ddim_machine_checks  SystemExit: bye (ddim_own.py:7)"),
        ("return [3]", "FAIL  ddim_machine_checks  it yielded a int, not a Check"),
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
    assert "fix: report it to the authors of ddim-own" in outcome.out


def test_doctor_checks_only_the_chosen_framework(site: Site, in_process: Callable[..., Outcome]) -> None:
    """Hooks that broken plugins registered before they failed are not called."""
    site.plugin("odd-parts", "@hookimpl\ndef ddim_machine_checks():\n    1 / 0\n" + losses("odd"))
    site.plugin("ddim-own", NETWORK, entry="own", group="frameworks")
    assert in_process("doctor", "--plugin", "own").out == "own (ddim-own 1.0)\n"


def test_json_has_the_content_of_the_text(ddim_host: Command) -> None:
    """The output is a single document with every line of the text, and the exit code is the same."""
    text = ddim_host("doctor", env={"DDIM_HOST_KERNELS": "framework"})
    found = ddim_host("doctor", "--json", env={"DDIM_HOST_KERNELS": "framework"})
    document = json.loads(found.out)
    assert found.code == text.code == (0 if document["ok"] else 1)
    lines = []
    for section in document["sections"]:
        lines.append(f"{section['name']} ({section['distribution']} {section['version']})")
        for check in section["checks"]:
            lines.append(f"{'ok' if check['ok'] else 'FAIL'} {check['name']} {check['detail']}")
            lines += [f"fix: {check['fix']}"] if check["fix"] and not check["ok"] else []
    shown = [" ".join(line.split()) for line in text.out.splitlines() if line]
    assert shown == [" ".join(line.split()) for line in lines]
    assert [section["name"] for section in document["sections"]] == ["host", "jittor", "torch"]
    names = {check["name"] for check in document["sections"][0]["checks"]}
    assert names >= {"Python", "NumPy", "processor", "memory", "cache folder", "kernels for the CPU"}
    for distribution in ("ddim-host", "ddim-torch", "ddim-losses", "numpy", "torch", "jittor"):
        assert document["versions"][distribution] == version(distribution)


def test_json_reports_failed_checks_and_fixes(site: Site, in_process: Callable[..., Outcome]) -> None:
    """The document stays valid even if the plugin prints during import and during its checks."""
    checks = "@hookimpl\ndef ddim_machine_checks():\n    print('checking')\n    return [3]"
    site.plugin("ddim-own", f"print('hello')\n{NETWORK}{checks}", entry="own", group="frameworks")
    outcome = in_process("doctor", "--plugin", "own", "--json")
    document = json.loads(outcome.out)
    assert (outcome.code, document["ok"]) == (1, False)
    assert (document["versions"]["ddim-own"], outcome.err) == ("1.0", "hello\nchecking\n")
    [section] = document["sections"]
    assert section == {
        "name": "own",
        "distribution": "ddim-own",
        "version": "1.0",
        "checks": [
            {
                "name": "ddim_machine_checks",
                "ok": False,
                "detail": "it yielded a int, not a Check",
                "fix": "report it to the authors of ddim-own",
            }
        ],
    }


@pytest.mark.parametrize(
    ("body", "code"), [("os.kill(os.getpid(), signal.SIGKILL)", -9), ("os.write(1, b'noise')", 0)]
)
def test_framework_without_a_readable_result_is_a_failed_check(
    site: Site, ddim_host: Command, body: str, code: int
) -> None:
    """A process that dies of a signal, as after a crash in native code, has a negative exit code."""
    checks = f"@hookimpl\ndef ddim_machine_checks():\n    import os, signal\n    {body}\n    return []"
    site.plugin("ddim-own", NETWORK + checks, entry="own", group="frameworks")
    alone = {"DDIM_HOST_DISABLE_PLUGINS": "ddim-torch,ddim-jittor", "DDIM_HOST_KERNELS": "framework"}
    outcome = ddim_host("doctor", env={**site.env, **alone})
    assert outcome.code == 1
    assert f"FAIL  own  its check exited with code {code} without a result" in outcome.out
    assert "fix: ddim-host doctor --plugin own shows why" in outcome.out
    document = json.loads(ddim_host("doctor", "--json", env={**site.env, **alone}).out)
    assert document["sections"][-1]["version"] == "1.0"
    assert not document["ok"]
